"""How many connections each guest of a tcp worker may have: with real connections, without rings."""

from pipeline.config.limits import Limits
from pipeline.engines.tcp.segment import Segment
from pipeline.stages.tcp import guests as limits_of
from pipeline.stages.tcp.flow import FROM_DEMUX, FROM_INGRESS, Flow
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
    link = of.link(1)
    guest = link.guest
    assert [of.refuses_syn(guest, 10.0) for _ in range(6)] == [""] * 5 + [limits_of.SYN_RATE]
    assert of.refuses_syn(guest, 10.3) == ""
    assert of.refuses_syn(of.link(2).guest, 10.3) == ""


def test_half_open_connections_count_until_their_handshake_is_over() -> None:
    of = guests(max_half_open_per_guest=2)
    link = of.link(1)
    guest = link.guest
    flows = [flow_of(link, number) for number in range(2)]
    for flow in flows:
        of.add(flow)
    assert of.too_many_half_open(guest)
    flows[0].opened(0.0)
    flows[0].opened(0.0)
    assert not of.too_many_half_open(guest)
    of.remove(flows[1])
    assert (guest.half_open, len(guest.flows), of.flows) == ({}, 1, 1)


def half_open(of: Guests, link: int, count: int) -> list[Flow]:
    """Connections whose hosts have answered, and their guest has not."""
    flows = [flow_with(half_open_connection(), of.link(link), number) for number in range(count)]
    for flow in flows:
        of.add(flow)
    return flows


def test_a_connection_that_was_completed_in_this_burst_does_not_end_for_another() -> None:
    of = guests()
    completed, waits = half_open(of, 1, 2)
    completed.conn.on_segment(Segment(101, 501, ACK, 65535, 0, None, 0, 0, False), 0.0)
    assert completed.half_open
    assert of.half_open_to_end(of.link(1).guest) is waits


def test_the_oldest_half_open_connection_of_the_guest_with_most_ends_for_another() -> None:
    of = guests()
    hog, other = half_open(of, 1, 5), half_open(of, 2, 2)
    assert of.half_open_to_end(of.link(3).guest) is hog[0]
    assert of.half_open_to_end(of.link(2).guest) is hog[0]
    assert of.half_open_to_end(of.link(1).guest) is hog[0]
    assert of.half_open_to_end(of.link(2).guest, others=False) is other[0]
    assert of.half_open_to_end(of.link(3).guest, others=False) is None


def test_a_guest_takes_no_half_open_connection_of_one_that_has_hardly_more() -> None:
    of = guests()
    mine = half_open(of, 1, 2)
    half_open(of, 2, 3)
    assert of.half_open_to_end(of.link(1).guest) is mine[0]
    half_open(of, 4, 1)
    of.remove(mine[0])
    of.remove(mine[1])
    for flow in list(of.link(2).guest.half_open):
        flow.opened(0.0)
    assert of.half_open_to_end(of.link(1).guest) is None, "the only one of another guest"


def test_one_with_a_socket_of_the_right_worker_ends_and_not_the_one_that_asks() -> None:
    of = guests()
    elsewhere = flow_with(half_open_connection(), of.link(1), 100, egress=1)
    of.add(elsewhere)
    flows = [elsewhere, *half_open(of, 1, 3)]
    flows[1].host.forget()
    assert of.half_open_to_end(of.link(1).guest, egress=0, but=flows[2]) is flows[3]
    assert of.half_open_to_end(of.link(1).guest, egress=1, but=flows[2]) is flows[0]
    assert of.half_open_to_end(of.link(1).guest, egress=2) is None


def test_connections_are_counted_for_each_guest_and_in_all() -> None:
    of = guests(max_tcp_flows=3, max_tcp_flows_per_guest=2, max_half_open_per_guest=50)
    for link in (1, 1, 2):
        of.add(flow_of(of.link(link)))
    assert of.full(of.link(1).guest) == limits_of.TOO_MANY_FLOWS_OF_GUEST
    assert of.full(of.link(3).guest) == limits_of.TOO_MANY_FLOWS


def opened(of: Guests, link: int, count: int) -> list[Flow]:
    """Established connections of a guest."""
    flows = [flow_of(of.link(link), number) for number in range(count)]
    for flow in flows:
        of.add(flow)
    return flows


def test_a_guest_below_its_share_may_take_from_the_guest_with_most() -> None:
    of = guests(max_tcp_flows=12)
    hog, other = of.link(1).guest, of.link(2).guest
    opened(of, 1, 8)
    opened(of, 2, 4)
    newcomer = of.link(3).guest
    assert of.most_above_share(newcomer) is hog
    assert of.most_above_share(other) is hog, "two have connections, so its share is six"
    mine = opened(of, 3, 4)
    assert of.most_above_share(newcomer) is None
    assert of.most_above_share(hog) is None
    for flow in mine:
        of.remove(flow)
    for flow in list(hog.flows)[6:]:
        of.remove(flow)
    assert of.most_above_share(other) is None, "nobody is above"


def test_the_connection_from_which_the_guest_sent_nothing_for_longest_is_found_by_one_look() -> None:
    of = guests()
    flows = opened(of, 1, 5)
    guest = of.link(1).guest
    for flow, at in zip(flows, (3.0, 1.0, 5.0, 2.0, 4.0), strict=True):
        flow.conn.probing.heard(at)
    assert guest.longest_silent() is flows[1]
    of.remove(flows[1])
    flows[3].conn.probing.heard(9.0)
    assert guest.longest_silent() is flows[0], "one that has sent since is not silent"
    of.remove(flows[0])
    of.remove(flows[4])
    assert guest.longest_silent() is flows[2]
    of.remove(flows[2])
    assert guest.longest_silent() is flows[3], "a second look"
    of.remove(flows[3])
    assert guest.longest_silent() is None


def test_links_of_one_guest_are_counted_together_and_it_is_gone_with_the_last() -> None:
    of = guests()
    for link in (1, 2):
        of.link_up(link, 7, FROM_INGRESS)
        of.link_up(link, 7, FROM_DEMUX)
    flow = flow_of(of.link(1))
    of.add(flow)
    assert of.link(2).guest is flow.guest
    assert of.link_down(1, FROM_INGRESS) is None
    assert of.link_down(1, FROM_DEMUX) is flow.link
    assert flow.link.gone
    assert (len(of), of.links) == (1, 1)
    of.link_down(2, FROM_DEMUX)
    of.link_down(2, FROM_INGRESS)
    assert len(of) == 1, "its connection is there"
    of.remove(flow)
    assert (len(of), of.links) == (0, 0)


def test_a_link_whose_up_only_one_has_reported_is_gone_with_the_down_of_that_one() -> None:
    of = guests()
    of.link_up(1, 7, FROM_INGRESS)
    assert of.link_down(1, FROM_INGRESS) is not None
    assert of.link_down(1, FROM_DEMUX) is None, "it is unknown by now"
    assert len(of) == 0


def test_a_link_stays_without_reporters_until_their_successors_report_it() -> None:
    of = guests()
    of.link_up(1, 7, FROM_INGRESS)
    of.link_up(1, 7, FROM_DEMUX)
    assert of.link_down(1, FROM_INGRESS | FROM_DEMUX, stays=True) is None
    assert not of.link(1).gone
    of.link_up(1, 7, FROM_INGRESS)
    assert of.link_down(1, FROM_INGRESS) is not None
