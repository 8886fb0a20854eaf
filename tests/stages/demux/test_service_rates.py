"""How often a guest may ask DNS and DHCP: as often as it can while it is alone, else at its rate."""

from collections.abc import Iterator

import pytest

from pipeline.records import kinds
from pipeline.records.flows import flow_key
from pipeline.records.frames import Frame
from pipeline.records.guests import LinkNotice, Neighbor
from pipeline.records.udp import HEADERS_LEN, UdpRange
from pipeline.stages.demux.service_rates import ACTIVE_S
from pipeline.topology import DEMUX
from pipeline.wire import ethernet, ip, ipv4, udp
from tests.support.frames import GATEWAY_MAC
from tests.support.one_process import OneProcess

GATEWAY = ip.parse_ipv4("192.168.127.1")
FLOODS, QUIET = 5, 6
"""Two links."""
DNS_BURST, DHCP_BURST = 50, 5
"""What may come at once, with the rates of Rig."""


def mac_of(link: int) -> bytes:
    return b"\x02\0\0\0\0" + bytes((link,))


def addr_of(link: int) -> int:
    return ip.parse_ipv4(f"192.168.127.{10 + link}")


class Rig(OneProcess):
    """Demux is real; the test is the guests and the resolver."""

    def __init__(self, guests: dict[int, int], **limits: int) -> None:
        """guests: the number of the guest of each link."""
        super().__init__((DEMUX,), max_dns_queries_per_second=100, max_dhcp_messages_per_second=10, **limits)
        self.ingress = self.neighbours["ingress"]
        self.guests = guests
        for link in guests:
            self.connect(link)
        self.answered()

    def connect(self, link: int) -> None:
        """A link comes, and sends something."""
        self.ingress.push(DEMUX, LinkNotice.pack(kinds.LINK_UP, link, self.guests[link]))
        self.send(link, ip.parse_ipv4("8.8.8.8"), 99)

    def send(self, link: int, remote: int, port: int, *, mac: bytes = GATEWAY_MAC, count: int = 1) -> None:
        """Datagrams of one flow, merged by GRO."""
        src = 0 if remote == ip.BROADCAST else addr_of(link)
        one = ethernet.header(mac, mac_of(link), ethernet.TYPE_IPV4) + bytes(28) + b"question"
        slot = self.ingress.fill(one * count)
        run = UdpRange(
            slot=slot,
            off=256 + HEADERS_LEN,
            length=8 * count,
            stride=len(one) if count > 1 else 0,
            piece_size=8,
            link=link,
            key=flow_key(src, 4000, remote, port),
            vnet=False,
        )
        self.ingress.push(DEMUX, run.pack())
        self.settle()

    def answered(self) -> int:
        """How many datagrams have reached the resolver."""
        return len(self.neighbours["resolver"].take(kinds.SERVICE_DATAGRAM))

    def ask(self, link: int, count: int = 1) -> int:
        """DNS queries of a guest, one after the other; how many reach the resolver."""
        for _ in range(count):
            self.send(link, GATEWAY, 53)
        return self.answered()

    def discover(self, link: int, count: int) -> int:
        """DHCP messages of a guest; how many reach the resolver."""
        for _ in range(count):
            self.send(link, ip.BROADCAST, 67, mac=ethernet.BROADCAST)
        return self.answered()

    def leave(self, *links: int) -> None:
        for link in links:
            self.ingress.push(DEMUX, LinkNotice.pack(kinds.LINK_DOWN, link, self.guests[link]))
        self.settle()


@pytest.fixture
def rig() -> Iterator[Rig]:
    with Rig({FLOODS: 1, QUIET: 2}) as rig:
        yield rig
        rig.leave(*rig.guests)
        rig.at_home()


def test_a_guest_alone_asks_as_often_as_it_can(rig: Rig) -> None:
    rig.now += ACTIVE_S
    assert rig.ask(FLOODS, 300) == 300
    assert rig.discover(FLOODS, 100) == 100


def test_beside_an_active_guest_a_flood_is_cut_to_its_rate(rig: Rig) -> None:
    assert rig.ask(FLOODS, 300) == DNS_BURST
    assert rig.counter(DEMUX, "dns_query_dropped_rate_limit") == 300 - DNS_BURST
    rig.now += 0.1
    assert rig.ask(FLOODS, 300) == 10
    # The other guest has a rate of its own, and DHCP another one.
    assert rig.ask(QUIET, 10) == 10
    assert rig.discover(FLOODS, 100) == DHCP_BURST
    assert rig.counter(DEMUX, "dhcp_message_dropped_rate_limit") == 100 - DHCP_BURST


def test_the_resolver_hears_whether_other_guests_are_active(rig: Rig) -> None:
    rig.send(FLOODS, GATEWAY, 53)
    rig.now += ACTIVE_S
    rig.send(FLOODS, GATEWAY, 53)
    crowded = [each.crowded for each in rig.neighbours["resolver"].take(kinds.SERVICE_DATAGRAM)]
    assert crowded == [True, False]


def test_a_guest_whose_packets_go_past_demux_is_active(rig: Rig) -> None:
    for _ in range(10):
        rig.now += 1.0
        heard = Neighbor.pack(kinds.HEARD, addr_of(QUIET), mac_of(QUIET), QUIET)
        rig.ingress.push(DEMUX, heard)
        rig.settle()
        assert rig.ask(FLOODS, 60) == DNS_BURST


def test_datagrams_that_came_together_pass_together_and_later_ones_pay(rig: Rig) -> None:
    rig.send(FLOODS, GATEWAY, 53, count=100)
    assert rig.answered() == 100
    assert rig.ask(FLOODS, 10) == 0
    rig.send(FLOODS, GATEWAY, 53, count=100)
    assert rig.counter(DEMUX, "dns_query_dropped_rate_limit") == 110
    rig.now += 0.6
    assert rig.ask(FLOODS, 100) == 10


def test_a_guest_that_reconnects_has_no_more_than_before(rig: Rig) -> None:
    assert rig.ask(FLOODS, 60) == DNS_BURST
    for _ in range(3):
        rig.leave(FLOODS)
        rig.connect(FLOODS)
        assert rig.ask(FLOODS, 20) == 0
    rig.now += 1.0
    rig.leave(QUIET)
    rig.connect(QUIET)
    assert rig.ask(FLOODS, 60) == DNS_BURST


def test_what_exceeds_a_rate_counts_as_bad_frames(rig: Rig) -> None:
    rig.ask(FLOODS, DNS_BURST + 64)
    assert [(bad.link, bad.frames) for bad in rig.ingress.take(kinds.MISBEHAVED)] == [(FLOODS, 32)] * 2


def test_a_flood_of_broadcasts_to_the_dhcp_server_does_not_reach_other_guests(rig: Rig) -> None:
    rig.ingress.take()
    rig.discover(FLOODS, 100)
    assert len(rig.ingress.take(kinds.FRAME_OUT)) == DHCP_BURST


def test_frames_that_gro_leaves_alone_have_the_same_rate(rig: Rig) -> None:
    for _ in range(100):
        body = udp.build(4000, 53, 16) + b"question"
        header = ipv4.build(ipv4.HEADER_LEN + len(body), 0, 64, ipv4.PROTO_UDP, addr_of(FLOODS), GATEWAY)
        frame = ethernet.header(GATEWAY_MAC, mac_of(FLOODS), ethernet.TYPE_IPV4) + header + body
        slot = rig.ingress.fill(frame)
        rig.ingress.push(DEMUX, Frame(FLOODS, slot, 256, len(frame), vnet=False).pack())
        rig.settle()
    assert rig.answered() == DNS_BURST


def test_questions_to_other_servers_are_flows_as_all_others(rig: Rig) -> None:
    rig.ask(FLOODS, DNS_BURST)
    for _ in range(10):
        rig.send(FLOODS, ip.parse_ipv4("8.8.8.8"), 53)
    assert len(rig.neighbours["egress0"].take(kinds.UDP_DATA)) >= 10


def test_links_of_one_peer_have_one_rate_and_are_not_others_to_each_other() -> None:
    with Rig({FLOODS: 1, QUIET: 2, 7: 1}) as rig:
        assert rig.ask(FLOODS, 30) + rig.ask(7, 30) == DNS_BURST
        rig.now += ACTIVE_S
        assert rig.ask(FLOODS, 200) + rig.ask(7, 200) == 400
        # The rate is the guest's, however often its links come and go.
        rig.send(QUIET, GATEWAY, 99)
        assert rig.ask(7, 200) == DNS_BURST
        rig.leave(7)
        assert rig.ask(FLOODS, 10) == 0
        rig.leave(FLOODS)
        rig.ingress.push(DEMUX, LinkNotice.pack(kinds.LINK_UP, FLOODS, 1))
        assert rig.ask(FLOODS, 10) == 0
        rig.now += 1.0
        assert rig.ask(FLOODS, 200) == DNS_BURST
        rig.leave(FLOODS, QUIET)
        rig.at_home()


def test_a_guest_alone_has_a_rate_if_there_is_one_for_that() -> None:
    with Rig({FLOODS: 1}, max_dns_queries_alone_per_second=20) as rig:
        assert rig.ask(FLOODS, 300) == 10
        assert rig.counter(DEMUX, "dns_query_dropped_rate_limit") == 290
        rig.now += 0.25
        assert rig.ask(FLOODS, 300) == 5
        assert rig.discover(FLOODS, 100) == 100
        rig.leave(FLOODS)
        rig.at_home()
