"""A link to other hosts, as demux treats it: many stations behind one link, and a gateway apart from them."""

from collections.abc import Iterator

import pytest

from pipeline.engines.switch import ANSWER_SECONDS
from pipeline.records import kinds
from pipeline.records.dials import Dial
from pipeline.records.frames import ALL_LINKS
from pipeline.records.guests import LinkNotice, Tunnel
from pipeline.topology import DEMUX
from pipeline.wire import arp, ethernet, icmp, ip, ipv4
from tests.stages.demux.test_guard import Card
from tests.support import bursts
from tests.support.attempts import GATEWAY, Station, arp_frame, honest, ping
from tests.support.frames import GATEWAY_MAC, tcp_frame
from tests.support.one_process import OneProcess

LOCAL, FAR, NEAR = (
    Station(bytes((0x5A, 0x94, 0xEF, 0, 0, number)), GATEWAY + number) for number in (1, 2, 3)
)
UNKNOWN = bytes((0x5A, 0x94, 0xEF, 0, 0, 99))
MTU = 1450
TUNNEL = 2
"""The number of the link. FAR and others are behind it, LOCAL is on link 1, NEAR on link 3."""


class Rig(OneProcess):
    """Demux is real. Links 1 and 3 are guests of this host, and link 2 leads to other hosts."""

    def __init__(self, **settings: object) -> None:
        super().__init__((DEMUX,), played={"ingress": Card}, ipv6_enabled="off", **settings)
        card = self.neighbours["ingress"]
        assert isinstance(card, Card)
        self.card = card
        for link in (1, 2, 3):
            card.push(DEMUX, LinkNotice.pack(kinds.LINK_UP, link, link))
        card.push(DEMUX, Tunnel.pack(TUNNEL, MTU))
        for link, station in ((1, LOCAL), (TUNNEL, FAR), (3, NEAR)):
            self.send(link, arp_frame(arp.REQUEST, station, station.mac, ethernet.BROADCAST, GATEWAY + 200))
        self.card.sent.clear()

    def send(self, link: int, *frames: bytes) -> None:
        """One burst of frames from a link, through GRO."""
        assert not bursts.push(self.card, link, frames)
        self.settle()

    def sent(self) -> list[tuple[int, int, bytes]]:
        """(link, excepted link, frame) of all frames since the last call."""
        sent, self.card.sent = self.card.sent, []
        return sent

    def leave(self) -> None:
        for link in (1, 2, 3):
            self.card.push(DEMUX, LinkNotice.pack(kinds.LINK_DOWN, link, link))
        self.at_home()


@pytest.fixture
def rig() -> Iterator[Rig]:
    with Rig() as made:
        yield made
        made.leave()


def large(dst: Station, size: int, dst_mac: bytes | None = None) -> bytes:
    """A packet of this size, from LOCAL, that must not be cut and that no card cuts."""
    body = icmp.build(icmp.ECHO_REQUEST, 0, 1, bytes(size - ipv4.HEADER_LEN - 8))
    header = ipv4.build(size, 1, 64, ipv4.PROTO_ICMP, LOCAL.addr, dst.addr, flags=ipv4.FLAG_DF)
    return ethernet.header(dst_mac or dst.mac, LOCAL.mac, ethernet.TYPE_IPV4) + header + body


def test_frames_between_hosts_pass_in_both_directions(rig: Rig) -> None:
    out = ping(LOCAL.addr, FAR.addr, LOCAL.mac, FAR.mac)
    rig.send(1, out)
    assert rig.sent() == [(TUNNEL, 0, out)]
    back = ping(FAR.addr, LOCAL.addr, FAR.mac, LOCAL.mac)
    rig.send(TUNNEL, back)
    assert rig.sent() == [(1, 0, back)]


def test_a_frame_for_an_unknown_station_goes_to_other_hosts_and_never_back(rig: Rig) -> None:
    out = ping(LOCAL.addr, GATEWAY + 99, LOCAL.mac, UNKNOWN)
    rig.send(1, out)
    assert rig.sent() == [(TUNNEL, 0, out)]
    rig.send(TUNNEL, ping(FAR.addr, GATEWAY + 99, FAR.mac, UNKNOWN))
    assert rig.sent() == []
    assert rig.counter(DEMUX, "switch_frame_dropped_unknown_destination") == 1
    assert rig.card.take(kinds.MISBEHAVED) == [], "other hosts send such frames to all"


def test_the_gateway_answers_nothing_that_comes_through_the_tunnel(rig: Rig) -> None:
    question = arp_frame(arp.REQUEST, FAR, FAR.mac, ethernet.BROADCAST, GATEWAY)
    rig.send(TUNNEL, question)
    assert rig.sent() == [(ALL_LINKS, TUNNEL, question)]
    rig.send(TUNNEL, honest(FAR, LOCAL)["dhcp-discover"])
    assert [link for link, _, _ in rig.sent()] == [ALL_LINKS]
    rig.send(TUNNEL, ping(FAR.addr, GATEWAY, FAR.mac, ethernet.BROADCAST))
    assert [frame[:6] for _, _, frame in rig.sent()] == [ethernet.BROADCAST]
    assert rig.neighbours["resolver"].take(kinds.SERVICE_DATAGRAM) == []
    assert rig.counter(DEMUX, "icmp_echo_answered") == 0


@pytest.mark.parametrize("size", [MTU, MTU + 1])
def test_a_packet_that_is_too_long_is_reported_to_its_sender(rig: Rig, size: int) -> None:
    frame = large(FAR, size)
    rig.send(1, frame)
    sent = rig.sent()
    if size <= MTU:
        assert sent == [(TUNNEL, 0, frame)]
        return
    ((link, _, error),) = sent
    assert link == 1
    header = ipv4.parse(error, ethernet.HEADER_LEN, len(error))
    assert (header.src, header.dst) == (GATEWAY, LOCAL.addr)
    message = icmp.parse(memoryview(error), ethernet.HEADER_LEN + header.ihl, len(error))
    assert (message.type, message.code) == (icmp.UNREACHABLE, icmp.FRAGMENTATION_NEEDED)
    assert message.rest & 0xFFFF == MTU
    assert rig.counter(DEMUX, "vxlan_packet_dropped_too_big") == 1


def test_packets_between_guests_of_this_host_may_be_longer(rig: Rig) -> None:
    frame = large(NEAR, 1500)
    rig.send(1, frame)
    assert rig.sent() == [(3, 0, frame)]


def test_a_run_of_segments_that_are_too_long_is_reported_once(rig: Rig) -> None:
    header = ethernet.header(FAR.mac, LOCAL.mac, ethernet.TYPE_IPV4)
    frames = [
        tcp_frame(number * 1460, bytes(1460), src=LOCAL.addr, dst=FAR.addr, eth_header=header, ident=number)
        for number in range(9)
    ]
    rig.send(1, *frames)
    assert [link for link, _, _ in rig.sent()] == [1]
    assert rig.counter(DEMUX, "vxlan_packet_dropped_too_big") == 9


def test_another_mtu_counts_from_then_on(rig: Rig) -> None:
    rig.card.push(DEMUX, Tunnel.pack(TUNNEL, 1300))
    rig.send(1, large(FAR, 1301))
    assert [link for link, _, _ in rig.sent()] == [1]


def test_the_owner_of_a_mac_is_asked_through_the_tunnel_without_the_gateways_addresses(rig: Rig) -> None:
    stolen = Station(FAR.mac, LOCAL.addr)
    rig.send(1, ping(LOCAL.addr, NEAR.addr, stolen.mac, NEAR.mac))
    ((link, _, question),) = rig.sent()
    assert link == TUNNEL
    dst, src, _ = ethernet.parse_header(question, 0, len(question))
    message = arp.parse(question, ethernet.HEADER_LEN, len(question))
    assert (dst, message.tpa, message.spa) == (FAR.mac, FAR.addr, ip.from_ipv4(0))
    assert src == message.sha
    assert src not in (GATEWAY_MAC, LOCAL.mac, FAR.mac, NEAR.mac)
    # The station answers, so the MAC stays where it is.
    rig.send(TUNNEL, arp_frame(arp.REPLY, FAR, FAR.mac, src, ip.from_ipv4(0)))
    rig.advance(2 * ANSWER_SECONDS)
    out = ping(NEAR.addr, FAR.addr, NEAR.mac, FAR.mac)
    rig.sent()
    rig.send(3, out)
    assert rig.sent() == [(TUNNEL, 0, out)]


def test_a_station_that_has_moved_here_is_reached_here(rig: Rig) -> None:
    moved = arp_frame(arp.REQUEST, FAR, FAR.mac, ethernet.BROADCAST, FAR.addr)
    rig.send(1, moved)
    rig.advance(2 * ANSWER_SECONDS)
    rig.send(1, moved)
    rig.sent()
    out = ping(NEAR.addr, FAR.addr, NEAR.mac, FAR.mac)
    rig.send(3, out)
    assert rig.sent() == [(1, 0, out)]


def test_the_host_connects_to_no_guest_of_another_host(rig: Rig) -> None:
    egress = rig.neighbours["egress0"]
    egress.push(DEMUX, Dial.pack(1 << 31, FAR.addr, 80))
    egress.push(DEMUX, Dial.pack(1 << 31 | 1, LOCAL.addr, 80))
    rig.settle()
    assert [record.flow for record in egress.take(kinds.DIAL_FAILED)] == [1 << 31]
    assert [record.flow for record in rig.neighbours["tcp0"].take(kinds.DIAL_ROUTED)] == [1 << 31 | 1]


def test_the_tunnel_may_have_more_stations_than_a_guest(rig: Rig) -> None:
    most = rig.config.limits.max_macs_per_guest
    for number in range(most + 20):
        mac = bytes((2, 0, 0, 1, number >> 8, number & 255))
        rig.send(TUNNEL, ethernet.header(LOCAL.mac, mac, 0x1234) + bytes(46))
    assert rig.counter(DEMUX, "switch_mac_dropped_table_full") == 0
    assert len(rig.sent()) == most + 20


def test_a_guest_has_a_rate_of_frames_that_go_to_all_hosts() -> None:
    with Rig(max_floods_per_second=3) as rig:
        # Its first question, in the constructor, was one.
        question = arp_frame(arp.REQUEST, LOCAL, LOCAL.mac, ethernet.BROADCAST, GATEWAY + 200)
        for _ in range(10):
            rig.send(1, question)
        assert [link for link, _, _ in rig.sent()] == [ALL_LINKS] * 2
        assert rig.counter(DEMUX, "vxlan_packet_dropped_flood_rate") == 8
        rig.send(1, arp_frame(arp.REQUEST, LOCAL, LOCAL.mac, ethernet.BROADCAST, GATEWAY))
        assert [link for link, _, _ in rig.sent()] == [1], "the gateway answers it nevertheless"
        rig.send(3, arp_frame(arp.REQUEST, NEAR, NEAR.mac, ethernet.BROADCAST, GATEWAY + 200))
        assert [link for link, _, _ in rig.sent()] == [ALL_LINKS], "others have a rate of their own"
        for _ in range(10):
            rig.send(TUNNEL, arp_frame(arp.REQUEST, FAR, FAR.mac, ethernet.BROADCAST, GATEWAY + 200))
        assert [link for link, _, _ in rig.sent()] == [ALL_LINKS] * 10, "they are no datagrams of this host"
        rig.leave()
