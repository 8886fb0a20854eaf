"""The table of UDP flows."""

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from pipeline.engines.flows import PortAllocator
from pipeline.engines.udp import IDLE, UdpFlow, UdpFlows
from pipeline.records.flows import FLOW_FROM_EGRESS as FROM_EGRESS
from pipeline.records.flows import Ends, FlowKey, flow_key

GATEWAY = 1
GUEST = 10
INF = float("inf")


def table(**changes: int | float) -> UdpFlows:
    return UdpFlows(PortAllocator(first=50000, last=50009), **changes)  # type: ignore[arg-type]


def sent(flows: UdpFlows, key: FlowKey, now: float) -> UdpFlow:
    """A guest sends a datagram. The last byte of its address is the number of its link and its guest."""
    guest = Ends.of(key).guest_addr
    return flows.on_guest_datagram(key, guest, guest, now)


def dialled(flows: UdpFlows, owner: int, number: int, guest: int, port: int, now: float) -> UdpFlow | None:
    """A datagram comes from a forwarded port for a port of the guest."""
    flow = flows.on_host_datagram(owner, number, now)
    return flow or flows.on_dial(owner, number, flow_key(guest, port, GATEWAY, 0), guest, guest, now)


def numbers(flows: list[UdpFlow]) -> list[int]:
    return [flow.number for flow in flows]


def test_datagrams_of_one_4_tuple_are_one_flow() -> None:
    flows = table()
    first = sent(flows, flow_key(GUEST, 4000, 99, 53), 0.0)
    assert sent(flows, flow_key(GUEST, 4000, 99, 53), 10.0) is first
    assert first.key == flow_key(GUEST, 4000, 99, 53)
    others = [(GUEST, 4001, 99, 53), (GUEST, 4000, 98, 53), (GUEST, 4000, 99, 54), (11, 4000, 99, 53)]
    got = {first.number} | {sent(flows, flow_key(*key), 10.0).number for key in others}
    assert len(got) == 5
    assert all(0 < number < FROM_EGRESS for number in got)


def test_the_owner_is_an_egress_shard_and_both_are_used() -> None:
    flows = table(egress_count=2)
    owners = {sent(flows, flow_key(GUEST, port, 99, 53), 0.0).owner for port in range(64)}
    assert owners == {0, 1}


@pytest.mark.parametrize("direction", ["guest", "host"])
def test_traffic_in_either_direction_renews_a_flow(direction: str) -> None:
    flows = table()
    flow = sent(flows, flow_key(GUEST, 4000, 99, 53), 0.0)
    if direction == "guest":
        sent(flows, flow_key(GUEST, 4000, 99, 53), 50.0)
    else:
        assert flows.on_host_datagram(flow.owner, flow.number, 50.0) is flow
    assert flows.deadline() == 50.0 + IDLE
    assert flows.expire(IDLE + 49.0) == 0
    assert flows.expire(IDLE + 50.0) == 1
    assert numbers(flows.take_closed()) == [flow.number]
    assert flows.take_closed() == []
    assert flows.on_host_datagram(flow.owner, flow.number, 141.0) is None
    assert sent(flows, flow_key(GUEST, 4000, 99, 53), 141.0).number != flow.number


def test_expiry_takes_the_idle_and_leaves_the_busy() -> None:
    flows = table()
    idle = [sent(flows, flow_key(GUEST, port, 99, 53), port / 100) for port in range(5)]
    sent(flows, flow_key(GUEST, 2, 99, 53), 60.0)
    assert flows.deadline() == IDLE
    assert flows.expire(IDLE + 1.0) == 4
    assert numbers(flows.take_closed()) == [idle[0].number, idle[1].number, idle[3].number, idle[4].number]
    assert len(flows) == 1
    assert flows.expire(60.0 + IDLE) == 1
    assert flows.deadline() == INF


def test_a_guest_at_its_bound_loses_its_own_flow_that_is_idle_for_longest() -> None:
    flows = table(max_per_guest=3)
    other = sent(flows, flow_key(11, 1, 99, 53), 0.0)
    first, second, _ = (sent(flows, flow_key(GUEST, port, 99, 53), port) for port in (1, 2, 3))
    sent(flows, flow_key(GUEST, 1, 99, 53), 5.0)
    sent(flows, flow_key(GUEST, 4, 99, 53), 6.0)
    assert numbers(flows.take_closed()) == [second.number]
    assert flows.evicted == 1
    assert flows.on_host_datagram(first.owner, first.number, 6.0) is first
    assert flows.on_host_datagram(other.owner, other.number, 6.0) is other


def test_a_full_table_loses_the_flow_that_is_idle_for_longest() -> None:
    flows = table(max_flows=2)
    oldest = sent(flows, flow_key(11, 1, 99, 53), 0.0)
    sent(flows, flow_key(12, 1, 99, 53), 1.0)
    sent(flows, flow_key(13, 1, 99, 53), 2.0)
    assert numbers(flows.take_closed()) == [oldest.number]
    assert len(flows) == 2


def test_a_full_table_loses_a_flow_of_the_guest_with_most() -> None:
    flows = table(max_flows=4)
    sent(flows, flow_key(11, 1, 99, 53), 0.0)
    hog = [sent(flows, flow_key(12, port, 99, 53), 1.0 + port) for port in range(3)]
    sent(flows, flow_key(13, 1, 99, 53), 5.0)
    assert numbers(flows.take_closed()) == [hog[0].number]
    sent(flows, flow_key(12, 9, 99, 53), 6.0)
    assert numbers(flows.take_closed()) == [hog[1].number], "nobody has more than the one who asks"
    assert flows.sums() == {11: 1, 12: 2, 13: 1}


def test_addresses_of_one_guest_share_its_limit() -> None:
    flows = table(max_per_guest=3)
    for addr in range(10):
        flows.on_guest_datagram(flow_key(addr, 1, 99, 53), 5, 7, addr)
    assert flows.sums() == {7: 3}


def test_a_flow_goes_on_over_the_link_on_which_its_guest_is_back() -> None:
    flows = table()
    flow = flows.on_guest_datagram(flow_key(GUEST, 1, 99, 53), 5, 7, 0.0)
    flows.adopt(flow, 6, 8)
    flows.forget_link(5, 7)
    assert (len(flows), flows.sums()) == (1, {8: 1})
    flows.forget_link(6, 8)
    flows.adopt(flow, 5, 7)
    assert (len(flows), flows.sums()) == (0, {})


def test_a_flood_of_new_ports_keeps_the_table_at_its_bound() -> None:
    flows = table(max_per_guest=16)
    for port in range(1000):
        sent(flows, flow_key(GUEST, port, 99, 53), 0.0)
    assert len(flows) == 16
    assert flows.evicted == len(flows.take_closed()) == 984


def test_a_dialled_flow_gets_a_port_of_the_gateway_and_its_answers_find_it() -> None:
    flows = table()
    flow = dialled(flows, 1, FROM_EGRESS | 7, GUEST, 53, 0.0)
    assert flow is not None
    assert (flow.guest_addr, flow.guest_port, flow.remote_addr, flow.owner) == (GUEST, 53, GATEWAY, 1)
    assert 50000 <= flow.remote_port <= 50009
    assert sent(flows, flow_key(GUEST, 53, GATEWAY, flow.remote_port), 1.0) is flow
    assert dialled(flows, 1, FROM_EGRESS | 7, GUEST, 53, 2.0) is flow


def test_shards_may_use_the_same_number_for_different_flows() -> None:
    flows = table()
    one = dialled(flows, 0, FROM_EGRESS | 1, GUEST, 53, 0.0)
    two = dialled(flows, 1, FROM_EGRESS | 1, GUEST, 53, 0.0)
    assert one is not None
    assert two is not None
    assert one.remote_port != two.remote_port
    flows.close(0, FROM_EGRESS | 1)
    assert flows.on_host_datagram(0, FROM_EGRESS | 1, 0.0) is None
    assert flows.on_host_datagram(1, FROM_EGRESS | 1, 0.0) is two


def test_ports_come_back_with_their_flows() -> None:
    flows = table()
    for n in range(10):
        assert dialled(flows, 0, FROM_EGRESS | n, GUEST, 53, 0.0) is not None
    assert dialled(flows, 0, FROM_EGRESS | 10, GUEST, 53, 0.0) is None
    assert dialled(flows, 0, FROM_EGRESS | 11, GUEST, 54, 0.0) is not None
    assert flows.expire(IDLE) == 11
    assert dialled(flows, 0, FROM_EGRESS | 10, GUEST, 53, 100.0) is not None


def test_a_port_the_guest_itself_talks_to_is_not_chosen_and_not_lost() -> None:
    ports = PortAllocator(first=50000, last=50001)
    flows = UdpFlows(ports)
    sent(flows, flow_key(GUEST, 53, GATEWAY, 50000), 0.0)
    flow = dialled(flows, 0, FROM_EGRESS | 1, GUEST, 53, 0.0)
    assert flow is not None
    assert flow.remote_port == 50001
    assert dialled(flows, 0, FROM_EGRESS | 2, GUEST, 53, 0.0) is None
    assert ports.in_use() == 1


def test_closing_is_silent_and_may_come_twice() -> None:
    flows = table()
    flow = sent(flows, flow_key(GUEST, 1, 99, 53), 0.0)
    flows.close(flow.owner, flow.number)
    flows.close(flow.owner, flow.number)
    assert (len(flows), flows.take_closed()) == (0, [])


def test_a_guest_that_goes_closes_its_flows_and_no_others() -> None:
    flows = table()
    mine = [sent(flows, flow_key(GUEST, port, 99, 53), 0.0).number for port in range(3)]
    sent(flows, flow_key(11, 1, 99, 53), 0.0)
    flows.forget_link(GUEST, GUEST)
    flows.forget_link(GUEST, GUEST)
    assert numbers(flows.take_closed()) == mine
    assert len(flows) == 1


class Flows(RuleBasedStateMachine):
    """Against a model that keeps, for each key, when it was last seen."""

    def __init__(self) -> None:
        super().__init__()
        self.flows = UdpFlows(PortAllocator(first=50000, last=50003), 2, 5.0, 3, 5)
        self.live: dict[tuple[int, int], UdpFlow] = {}
        self.now = 0.0

    @rule(step=st.floats(0, 4))
    def wait(self, step: float) -> None:
        self.now += step

    @rule(guest=st.integers(10, 12), port=st.integers(1, 3), remote=st.integers(50000, 50001))
    def from_guest(self, guest: int, port: int, remote: int) -> None:
        flow = sent(self.flows, flow_key(guest, port, GATEWAY, remote), self.now)
        self.live[flow.owner, flow.number] = flow

    @rule(owner=st.integers(0, 1), n=st.integers(0, 3), guest=st.integers(10, 12))
    def dial(self, owner: int, n: int, guest: int) -> None:
        # A number belongs to one guest for as long as it lives.
        known = self.live.get((owner, FROM_EGRESS | n))
        target = known.guest_addr if known else guest
        flow = dialled(self.flows, owner, FROM_EGRESS | n, target, 1, self.now)
        if flow is not None:
            assert known is None or flow is known
            self.live[flow.owner, flow.number] = flow

    @rule(data=st.data())
    def close(self, data: st.DataObject) -> None:
        if self.live:
            owner, number = data.draw(st.sampled_from(sorted(self.live)))
            self.flows.close(owner, number)
            del self.live[owner, number]

    @rule()
    def expire(self) -> None:
        self.flows.expire(self.now)
        for flow in self.flows.take_closed():
            del self.live[flow.owner, flow.number]
        assert all(flow.last_seen + 5.0 > self.now for flow in self.live.values())

    @rule(guest=st.integers(10, 12))
    def forget(self, guest: int) -> None:
        self.flows.forget_link(guest, guest)

    @invariant()
    def agrees_with_the_model(self) -> None:
        for flow in self.flows.take_closed():
            del self.live[flow.owner, flow.number]
        assert len(self.flows) == len(self.live) <= 5
        for guest in range(10, 13):
            assert sum(flow.guest_addr == guest for flow in self.live.values()) <= 3
        keys = [flow.key for flow in self.live.values()]
        assert len(keys) == len(set(keys))
        first = min((flow.last_seen for flow in self.live.values()), default=INF)
        assert self.flows.deadline() == first + 5.0


TestFlows = Flows.TestCase
TestFlows.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


def test_a_flow_that_is_finished_is_told_to_its_owner_and_makes_room() -> None:
    flows = table()
    flow = sent(flows, flow_key(GUEST, 4000, 99, 53), 0.0)
    flows.finish(flow)
    assert len(flows) == 0
    assert flows.take_closed() == [flow]
    assert sent(flows, flow_key(GUEST, 4000, 99, 53), 1.0) is not flow


def test_with_full_cone_all_flows_of_a_guests_port_have_one_owner() -> None:
    flows = UdpFlows(PortAllocator(0), 4, full_cone=True)
    owners = {
        port: {sent(flows, flow_key(GUEST, port, remote, remote), 0.0).owner for remote in range(1, 40)}
        for port in range(5000, 5040)
    }
    assert {len(found) for found in owners.values()} == {1}
    assert len(set().union(*owners.values())) == 4
