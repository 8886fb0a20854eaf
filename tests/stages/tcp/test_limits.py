"""What connections of a tcp worker may take: with real connections, without rings."""

from types import SimpleNamespace
from typing import Any

from pipeline.engines.tcp import actions
from pipeline.engines.tcp.config import TcpConfig
from pipeline.engines.tcp.connection import Connection
from pipeline.engines.tcp.segment import Segment
from pipeline.stages.tcp import limits as tcp_limits
from pipeline.stages.tcp.flow import Flow
from pipeline.stages.tcp.limits import FLOOR, MIN_WINDOW, Guest, Guests, OutOfOrder
from pipeline.wire.tcp import ACK, SYN

MIB = 1 << 20
CONFIG = TcpConfig()


def guests(**changed: int) -> Guests:
    limits: dict[str, Any] = {
        "max_tcp_flows": 100,
        "max_tcp_flows_per_guest": 50,
        "max_half_open_per_guest": 10,
        "max_syns_per_second": 1000,
        "max_receive_memory": 8 * MIB,
        "max_receive_memory_per_guest": 4 * MIB,
        "mtu": 1500,
    }
    return Guests(SimpleNamespace(**{**limits, **changed}))


def half_open_connection() -> Connection:
    syn = Segment(100, 0, SYN, 65535, 0, None, 0, 0, False, (), 1460, 7, True)
    conn = Connection.passive(CONFIG, syn, 500, 0.0)
    conn.on_connected(0.0)
    conn.transmit(0.0, 1)
    return conn


def flow_of(guest: Guest, number: int = 1) -> Flow:
    """A connection that is open."""
    conn = half_open_connection()
    conn.on_segment(Segment(101, 501, ACK, 65535, 0, None, 0, 0, False), 0.0)
    conn.transmit(0.0, 1)
    conn.take_actions()
    return Flow(conn, (1, 2, number), number, 0, guest)


def data(at: int, length: int, slot: int) -> Segment:
    buf = (slot, 0, 0, length)
    return Segment(101 + at, 501, ACK, 65535, length, buf, 0, 0, False)


def test_syns_over_the_rate_are_refused_and_the_bucket_fills_again() -> None:
    of = guests(max_syns_per_second=5)
    guest = of.get(1)
    assert [of.refuses_syn(guest, 10.0) for _ in range(6)] == [""] * 5 + [tcp_limits.SYN_RATE]
    assert of.refuses_syn(guest, 10.3) == ""
    assert of.refuses_syn(of.get(2), 10.3) == ""


def test_half_open_connections_count_until_their_handshake_is_over() -> None:
    of = guests(max_half_open_per_guest=2)
    guest = of.get(1)
    flows = [flow_of(guest, number) for number in range(2)]
    for flow in flows:
        of.add(flow)
    assert of.too_many_half_open(guest)
    of.opened(flows[0])
    of.opened(flows[0])
    assert not of.too_many_half_open(guest)
    of.remove(flows[1])
    assert (guest.half_open, guest.flows, of.flows) == ({}, 1, 1)


def half_open(of: Guests, link: int, count: int) -> list[Flow]:
    """Connections whose hosts have answered, and their guest has not."""
    flows = [Flow(half_open_connection(), (1, 2, number), number, 0, of.get(link)) for number in range(count)]
    for flow in flows:
        of.add(flow)
    return flows


def test_a_connection_that_was_completed_in_this_burst_does_not_end_for_another() -> None:
    of = guests()
    completed, waits = half_open(of, 1, 2)
    completed.conn.on_segment(Segment(101, 501, ACK, 65535, 0, None, 0, 0, False), 0.0)
    assert completed.half_open
    assert of.half_open_to_end(of.get(1)) is waits


def test_the_oldest_half_open_connection_of_the_guest_with_most_ends_for_another() -> None:
    of = guests()
    hog, other = half_open(of, 1, 5), half_open(of, 2, 2)
    assert of.half_open_to_end(of.get(3)) is hog[0]
    assert of.half_open_to_end(of.get(2)) is hog[0]
    assert of.half_open_to_end(of.get(1)) is hog[0]
    assert of.half_open_to_end(of.get(2), others=False) is other[0]
    assert of.half_open_to_end(of.get(3), others=False) is None


def test_a_guest_takes_no_half_open_connection_of_one_that_has_hardly_more() -> None:
    of = guests()
    mine = half_open(of, 1, 2)
    half_open(of, 2, 3)
    assert of.half_open_to_end(of.get(1)) is mine[0]
    half_open(of, 4, 1)
    of.remove(mine[0])
    of.remove(mine[1])
    for flow in list(of.get(2).half_open):
        of.opened(flow)
    assert of.half_open_to_end(of.get(1)) is None, "the only one of another guest"


def test_one_with_a_socket_of_the_right_worker_ends_and_not_the_one_that_asks() -> None:
    of = guests()
    flows = half_open(of, 1, 4)
    flows[0].egress = 1
    flows[1].host_open = False
    assert of.half_open_to_end(of.get(1), egress=0, but=flows[2]) is flows[3]
    assert of.half_open_to_end(of.get(1), egress=1, but=flows[2]) is flows[0]
    assert of.half_open_to_end(of.get(1), egress=2) is None


def test_connections_are_counted_for_each_guest_and_in_all() -> None:
    of = guests(max_tcp_flows=3, max_tcp_flows_per_guest=2, max_half_open_per_guest=50)
    for link in (1, 1, 2):
        of.add(flow_of(of.get(link)))
    assert of.full(of.get(1)) == tcp_limits.TOO_MANY_FLOWS_OF_GUEST
    assert of.full(of.get(3)) == tcp_limits.TOO_MANY_FLOWS


def test_the_smallest_window_takes_two_packets_of_any_mtu() -> None:
    of = guests(mtu=65520)
    flow = flow_of(of.get(1))
    of.add(flow)
    of.charge(flow, 4 * MIB, 0.0)
    assert flow.conn.rcv.limit == 2 * 65520


def test_windows_shrink_with_the_memory_that_is_left_and_grow_again() -> None:
    of = guests()
    guest = of.get(1)
    flow = flow_of(guest)
    of.add(flow)
    of.charge(flow, MIB // 2, 0.0)
    assert flow.conn.rcv.limit == CONFIG.max_receive_window
    of.charge(flow, MIB, 0.0)
    assert guest.pressed
    assert flow.conn.rcv.limit == (4 * MIB - MIB - MIB // 2) // 8
    of.charge(flow, 5 * MIB // 2, 0.0)
    assert of.fits(flow, 101, MIB) == FLOOR
    assert flow.conn.rcv.limit == MIN_WINDOW
    of.taken(flow, 4 * MIB, 0.0)
    assert of.fits(flow, 101, MIB) == MIB
    assert flow.conn.rcv.limit == CONFIG.max_receive_window


def test_one_guest_that_fills_its_part_leaves_the_rest_to_others() -> None:
    of = guests()
    hog, honest = of.get(1), of.get(2)
    flow = flow_of(hog)
    of.add(flow)
    of.charge(flow, 4 * MIB, 0.0)
    assert of.fits(flow, 101, MIB) == FLOOR
    other = flow_of(honest)
    of.add(other)
    of.charge(other, MIB, 0.0)
    assert of.fits(other, 101, MIB) == MIB


def test_near_the_end_a_connection_may_hold_a_share_of_what_is_left_and_what_came_before_needs_no_room() -> (
    None
):
    of = guests()
    guest = of.get(1)
    hog, flow = flow_of(guest, 1), flow_of(guest, 2)
    of.add(hog)
    of.add(flow)
    of.charge(hog, 4 * MIB - 80_000, 0.0)
    assert of.fits(flow, 101, 60_000) == 10_000
    flow.conn.on_segment(data(0, 9_000, 5), 0.0)
    assert of.fits(flow, 9_101, 60_000) == 1_000
    assert of.fits(flow, 8_101, 60_000) == 2_000
    assert of.fits(flow, 20_101, 60_000) == 0
    flow.conn.on_segment(data(9_000, 9_000, 6), 0.0)
    assert of.fits(flow, 18_101, 60_000) == 0
    assert of.fits(flow, 101, 18_000) == 18_000


def test_what_an_ended_connection_held_is_free_again() -> None:
    of = guests()
    flow = flow_of(of.get(1))
    of.add(flow)
    flow.conn.on_segment(data(0, 1000, 5), 0.0)
    delivered = sum(a.length for a in flow.conn.take_actions() if isinstance(a, actions.Deliver))
    of.charge(flow, delivered, 0.0)
    of.remove(flow)
    assert (of.held_bytes, of.get(1).held_bytes) == (0, 0)


def test_the_guest_that_holds_most_slots_out_of_order_loses_its_oldest() -> None:
    of = guests()
    held: OutOfOrder[Flow] = OutOfOrder(16, 1000)
    honest, hog = flow_of(of.get(1), 1), flow_of(of.get(2), 2)
    newer = flow_of(of.get(2), 3)
    lost: list[Flow] = []
    slot = 100
    honest.conn.on_segment(data(10, 1, slot), 0.0)
    lost += held.note(honest)
    for flow in (hog, newer):
        for number in range(8):
            slot += 1
            flow.conn.on_segment(data(10 + 2 * number, 1, slot), 0.0)
            lost += held.note(flow)
    assert lost == [hog]
    assert not hog.conn.reassembly.ranges
    assert honest.conn.reassembly.ranges
    assert newer.conn.reassembly.ranges
    discarded = [a for a in hog.conn.take_actions() if isinstance(a, actions.Discard)]
    assert len(discarded) == 8


def test_many_ranges_in_few_slots_are_no_reason_to_lose_any() -> None:
    of = guests()
    held: OutOfOrder[Flow] = OutOfOrder(16, 1000)
    flow = flow_of(of.get(1))
    for number in range(100):
        flow.conn.on_segment(data(10 + 2 * number, 1, number % 4), 0.0)
        assert held.note(flow) == []
    assert len(flow.conn.reassembly.ranges) == 100


def test_the_guest_that_holds_most_ranges_loses_its_oldest_however_few_slots_they_are_in() -> None:
    of = guests()
    held: OutOfOrder[Flow] = OutOfOrder(16, 100)
    honest = flow_of(of.get(1), 1)
    hogs = [flow_of(of.get(2), number) for number in range(2, 12)]
    lost: list[Flow] = []
    for flow, count in [(honest, 30), *((hog, 20) for hog in hogs)]:
        for number in range(count):
            flow.conn.on_segment(data(10 + 2 * number, 1, number % 4), 0.0)
            lost += held.note(flow)
            assert sum(len(each.conn.reassembly.ranges) for each in (honest, *hogs)) <= 100
    assert lost == hogs[: len(lost)]
    assert len(lost) >= 7
    assert len(honest.conn.reassembly.ranges) == 30
    for flow in (honest, *hogs):
        held.forget(flow)
    assert held._ranges == 0


def test_data_that_were_lost_are_taken_when_they_come_again() -> None:
    flow = flow_of(guests().get(1))
    flow.conn.on_segment(data(1000, 1000, 1), 0.0)
    flow.conn.forget_out_of_order()
    flow.conn.take_actions()
    flow.conn.on_segment(data(0, 1000, 2), 0.0)
    flow.conn.on_segment(data(1000, 1000, 3), 0.0)
    delivered = [a.length for a in flow.conn.take_actions() if isinstance(a, actions.Deliver)]
    assert delivered == [1000, 1000]
