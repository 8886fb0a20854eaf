"""How many connections each guest of a tcp worker may have: with real connections, without rings."""

from pipeline.config.limits import Limits
from pipeline.engines.tcp.segment import Segment
from pipeline.stages.tcp import guests as limits_of
from pipeline.stages.tcp.flow import Flow
from pipeline.stages.tcp.guests import Guests
from pipeline.wire.tcp import ACK
from tests.support.flows import flow_of, flow_with, half_open_connection


def guests(**changed: int) -> Guests:
    limits = {
        "max_tcp_flows": 100,
        "max_tcp_flows_per_guest": 50,
        "max_half_open_per_guest": 10,
        "max_syns_per_second": 1000,
    }
    return Guests(Limits(**limits | changed))


def test_syns_over_the_rate_are_refused_and_the_bucket_fills_again() -> None:
    of = guests(max_syns_per_second=5)
    guest = of.get(1)
    assert [of.refuses_syn(guest, 10.0) for _ in range(6)] == [""] * 5 + [limits_of.SYN_RATE]
    assert of.refuses_syn(guest, 10.3) == ""
    assert of.refuses_syn(of.get(2), 10.3) == ""


def test_half_open_connections_count_until_their_handshake_is_over() -> None:
    of = guests(max_half_open_per_guest=2)
    guest = of.get(1)
    flows = [flow_of(guest, number) for number in range(2)]
    for flow in flows:
        of.add(flow)
    assert of.too_many_half_open(guest)
    flows[0].opened()
    flows[0].opened()
    assert not of.too_many_half_open(guest)
    of.remove(flows[1])
    assert (guest.half_open, guest.flows, of.flows) == ({}, 1, 1)


def half_open(of: Guests, link: int, count: int) -> list[Flow]:
    """Connections whose hosts have answered, and their guest has not."""
    flows = [flow_with(half_open_connection(), of.get(link), number) for number in range(count)]
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
        flow.opened()
    assert of.half_open_to_end(of.get(1)) is None, "the only one of another guest"


def test_one_with_a_socket_of_the_right_worker_ends_and_not_the_one_that_asks() -> None:
    of = guests()
    elsewhere = flow_with(half_open_connection(), of.get(1), 100, egress=1)
    of.add(elsewhere)
    flows = [elsewhere, *half_open(of, 1, 3)]
    flows[1].host.forget()
    assert of.half_open_to_end(of.get(1), egress=0, but=flows[2]) is flows[3]
    assert of.half_open_to_end(of.get(1), egress=1, but=flows[2]) is flows[0]
    assert of.half_open_to_end(of.get(1), egress=2) is None


def test_connections_are_counted_for_each_guest_and_in_all() -> None:
    of = guests(max_tcp_flows=3, max_tcp_flows_per_guest=2, max_half_open_per_guest=50)
    for link in (1, 1, 2):
        of.add(flow_of(of.get(link)))
    assert of.full(of.get(1)) == limits_of.TOO_MANY_FLOWS_OF_GUEST
    assert of.full(of.get(3)) == limits_of.TOO_MANY_FLOWS
