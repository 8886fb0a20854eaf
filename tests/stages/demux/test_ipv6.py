"""IPv6 on the link as demux does it: the gateway, its services, and what guests may say to each other."""

from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.engines.neighbors.addresses import Ipv6Addresses
from pipeline.engines.neighbors.table import REACHABLE_TIME
from pipeline.engines.router_advertiser import MAX_INTERVAL
from pipeline.records import kinds
from pipeline.records.flows import Ends
from pipeline.records.guests import LinkNotice
from pipeline.records.services import ServiceDatagram
from pipeline.topology import DEMUX
from pipeline.wire import ethernet, icmpv6, ip, ipv4, ipv6, udp
from tests.stages.demux.test_guard import Card
from tests.support import bursts
from tests.support.configured import changed
from tests.support.frames import GATEWAY_MAC
from tests.support.fuzz import mutations
from tests.support.ipv6 import (
    advertisement,
    icmp_frame,
    ping,
    router_solicitation,
    solicitation,
    udp_frame,
)
from tests.support.one_process import OneProcess
from tests.wire.test_icmpv6 import options

PREFIX = "fd12:3456:789a:1::/64"
NET = ip.network(PREFIX)[0]
ADDRESSES = Ipv6Addresses(NET, GATEWAY_MAC, gateway=NET | 1, host=NET | 0xFE)
GATEWAY, LINK_LOCAL = ADDRESSES.gateway, ADDRESSES.link_local
MACS = {1: bytes.fromhex("5a94ef000001"), 2: bytes.fromhex("5a94ef000002")}
LOCAL = {link: ipv6.link_local(mac) for link, mac in MACS.items()}
GLOBAL = {link: NET | addr & (1 << 64) - 1 for link, addr in LOCAL.items()}
TAKEN = "neighbor_claim_refused_address_taken"
OWN = "neighbor_claim_refused_gateway_address"


class Rig(OneProcess):
    """Demux is real, the guests of two links are the test's."""

    def __init__(self, **settings: Any) -> None:
        on = {
            "ipv6_enabled": "on",
            "ipv6_prefix": PREFIX,
            "ipv6_gateway": ADDRESSES.gateway,
            "ipv6_host": ADDRESSES.host,
        }
        super().__init__((DEMUX,), played={"ingress": Card}, **(on | settings))
        card = self.neighbours["ingress"]
        assert isinstance(card, Card)
        self.card = card
        for link in MACS:
            card.push(DEMUX, LinkNotice.pack(kinds.LINK_UP, link, link))
        self.settle()
        self.card.sent.clear()

    def send(self, link: int, *frames: bytes) -> list[bytes]:
        """Frames from a link, through GRO. Returns what any guest gets."""
        bursts.push(self.card, link, frames)
        self.settle()
        return [frame for _, _, frame in self.take()]

    def take(self) -> list[tuple[int, int, bytes]]:
        sent, self.card.sent = self.card.sent, []
        return sent

    def meet(self) -> None:
        """Both guests have shown their addresses."""
        for link, mac in MACS.items():
            for src in (LOCAL[link], GLOBAL[link]):
                self.send(link, ping(src, GATEWAY, mac))

    def count(self, name: str) -> int:
        return self.counter(DEMUX, name)

    def known(self) -> set[int]:
        return set(self.stages[DEMUX].neighbors.snapshot())

    def leave(self) -> None:
        """All guests go, and nothing of them may be left."""
        for link in MACS:
            self.card.push(DEMUX, LinkNotice.pack(kinds.LINK_DOWN, link, link))
        self.at_home()


@pytest.fixture
def rig() -> Iterator[Rig]:
    with Rig() as made:
        yield made
        made.leave()


def message_of(frame: bytes) -> tuple[ipv6.Header, icmpv6.Message]:
    header = ipv6.parse(frame, 14, len(frame))
    return header, icmpv6.parse(frame, 54, len(frame), header.src, header.dst)


def discovery_of(frame: bytes) -> icmpv6.Discovery:
    header, _ = message_of(frame)
    return icmpv6.parse_discovery(frame, 54, len(frame), header)


# --- the gateway ----------------------------------------------------------------------------


@pytest.mark.parametrize("addr", [GATEWAY, LINK_LOCAL, NET])
def test_pings_of_the_gateways_addresses_are_answered(rig: Rig, addr: int) -> None:
    (reply,) = rig.send(1, ping(GLOBAL[1], addr, MACS[1], data=b"x" * 1400))
    header, message = message_of(reply)
    assert (header.src, header.dst, header.hop_limit) == (addr, GLOBAL[1], 64)
    assert (message.type, message.rest) == (icmpv6.ECHO_REPLY, 7 << 16 | 1)
    assert reply[62:] == b"x" * 1400
    assert rig.count("icmp_echo_answered") == 1


def test_pings_and_solicitations_have_the_rate_of_answers_of_ipv4() -> None:
    with Rig(max_answers_per_second=3) as rig:
        frames = [ping(GLOBAL[1], GATEWAY, MACS[1], seq=number) for number in range(5)]
        got = rig.send(1, *frames, solicitation(GATEWAY, LOCAL[1], MACS[1]))
        assert len([frame for frame in got if frame[6:12] == GATEWAY_MAC]) == 3
        assert rig.count("demux_message_dropped_rate_limit") == 3
        rig.leave()


def test_a_question_for_the_gateway_is_answered_and_teaches_the_guests_address(rig: Rig) -> None:
    frames = rig.send(1, solicitation(GATEWAY, LOCAL[1], MACS[1]))
    answer = discovery_of(frames[-1])
    assert (answer.kind, answer.target, answer.mac) == (136, GATEWAY, GATEWAY_MAC)
    assert rig.known() == {LOCAL[1]}


@pytest.mark.parametrize("src", [LOCAL[1], 0])
def test_a_guest_that_asks_for_a_router_gets_an_advertisement_alone(rig: Rig, src: int) -> None:
    rig.send(1, router_solicitation(src, MACS[1]))
    assert rig.count("router_advertisements_sent") == len(MACS) + 1
    bursts.push(rig.card, 1, [router_solicitation(src, MACS[1])])
    rig.settle()
    ours = [(link, frame) for link, _, frame in rig.take() if frame[6:12] == GATEWAY_MAC]
    assert [(link, frame[:6]) for link, frame in ours] == [(1, MACS[1])]
    assert message_of(ours[0][1])[1].type == icmpv6.ROUTER_ADVERTISEMENT
    assert 38 in options(ours[0][1][54:]), "the prefix of NAT64, which auto has"


def test_each_link_hears_an_advertisement_at_its_start_and_all_do_again_later(rig: Rig) -> None:
    rig.card.push(DEMUX, LinkNotice.pack(kinds.LINK_UP, 3, 3))
    rig.settle()
    assert [link for link, _, _ in rig.take()] == [3]
    rig.advance(MAX_INTERVAL + 1.0)
    assert {message_of(frame)[1].type for _, _, frame in rig.take()} == {icmpv6.ROUTER_ADVERTISEMENT}
    rig.card.push(DEMUX, LinkNotice.pack(kinds.LINK_DOWN, 3, 3))


def test_a_changed_search_list_is_advertised_at_once(rig: Rig) -> None:
    stage = rig.stages[DEMUX]
    stage.reload(rig.config)
    rig.settle()
    assert rig.take() == []
    stage.reload(changed(rig.config, dns_search_domains=("new.example",)))
    rig.settle()
    ((_, _, frame),) = rig.take()
    assert b"\x03new\x07example\0" in frame


def test_a_fragmented_question_of_discovery_is_ignored(rig: Rig) -> None:
    message = icmpv6.build_solicitation(GATEWAY, MACS[1], LOCAL[1], GATEWAY)
    payload = ipv6.build_fragment(ipv6.PROTO_ICMPV6, 0, False, 1) + message
    header = ethernet.header(GATEWAY_MAC, MACS[1], ethernet.TYPE_IPV6)
    assert rig.send(1, header + ipv6.build(len(payload), 44, 255, LOCAL[1], GATEWAY) + payload) == []
    assert rig.count("nd_message_dropped_malformed") == 1


# --- services -------------------------------------------------------------------------------------


def test_a_question_to_the_name_server_and_its_answer(rig: Rig) -> None:
    assert rig.send(1, udp_frame(b"question", GLOBAL[1], GATEWAY, MACS[1])) == []
    (asked,) = rig.neighbours["resolver"].take(kinds.SERVICE_DATAGRAM)
    ends = Ends.of(asked.key)
    assert (ends.guest_addr, ends.remote_addr, ends.remote_port) == (GLOBAL[1], GATEWAY, 53)
    for length in (6, 1452, 1453, 4000):
        answer = bytes(number % 251 for number in range(length))
        frames = answered(rig, asked.key, answer)
        payload = b""
        for frame in frames:
            assert (frame[:6], len(frame) - 14 <= 1500) == (MACS[1], True)
            header = ipv6.parse(frame, 14, len(frame))
            upper = ipv6.walk(frame, 54, len(frame), header.next_header)
            assert (header.src, header.dst, upper.proto) == (GATEWAY, GLOBAL[1], ipv4.PROTO_UDP)
            assert upper.frag_off == len(payload)
            assert upper.more == (frame is not frames[-1])
            payload += frame[upper.off :]
        assert len(frames) == 1 + (length > 1452) + (length > 2000)
        found = udp.parse(payload, 0, len(payload))
        udp.verify(payload, 0, found, GATEWAY, GLOBAL[1])
        assert payload[udp.HEADER_LEN :] == answer


def answered(rig: Rig, key: bytes, payload: bytes) -> list[bytes]:
    """The frames in which a guest gets the resolver's answer."""
    resolver = rig.neighbours["resolver"]
    slot = resolver.fill(payload)
    resolver.push(DEMUX, ServiceDatagram.pack(1, key, slot, 256, len(payload)))
    rig.settle()
    return [frame for _, _, frame in rig.take()]


@pytest.mark.parametrize(
    ("frame", "cause"),
    [
        (udp_frame(b"x", GLOBAL[1], GATEWAY, MACS[1], dport=54), "nat_flow_refused_gateway_port"),
        (udp_frame(b"x", GLOBAL[1], LINK_LOCAL, MACS[1], dport=54), "nat_flow_refused_gateway_port"),
        (udp_frame(b"x", GLOBAL[1], GATEWAY, MACS[1], dport=67), "nat_flow_refused_gateway_port"),
        (udp_frame(b"x", 0, GATEWAY, MACS[1]), "ipv6_packet_dropped_no_route"),
    ],
)
def test_other_datagrams_reach_no_service(rig: Rig, frame: bytes, cause: str) -> None:
    assert rig.send(1, frame) == []
    assert rig.count(cause) == 1
    assert rig.neighbours["resolver"].take(kinds.SERVICE_DATAGRAM) == []


def test_without_the_name_server_its_address_takes_no_question() -> None:
    with Rig(disable=("dns",)) as rig:
        rig.send(1, udp_frame(b"x", GLOBAL[1], GATEWAY, MACS[1]))
        assert rig.count("nat_flow_refused_dns_off") == 1
        rig.leave()


# --- between guests -----------------------------------------------------------------------------


def forged() -> list[tuple[str, bytes, str]]:
    """What guest 1 sends to guest 2 to take another's place."""
    mac, to, dst = MACS[1], MACS[2], LOCAL[2]
    outside = 0x2001 << 112 | 9
    mapped = ip.parse_ipv4("192.168.127.2")
    return [
        ("ping-as-the-gateway", ping(GATEWAY, dst, mac, to), OWN),
        ("ping-as-the-gateways-link-local", ping(LINK_LOCAL, dst, mac, to), OWN),
        ("ping-as-the-other", ping(GLOBAL[2], dst, mac, to), TAKEN),
        ("ping-from-outside", ping(outside, dst, mac, to), "switch_frame_dropped_outside_source"),
        ("ping-from-a-mapped-address", ping(mapped, dst, mac, to), "ipv6_packet_dropped_bad_address"),
        ("na-for-the-gateway", advertisement(GATEWAY, LOCAL[1], mac, to, dst), OWN),
        ("na-for-the-other", advertisement(GLOBAL[2], LOCAL[1], mac, to, dst), TAKEN),
        (
            "na-that-moves-the-gateways-mac",
            advertisement(LOCAL[1], LOCAL[1], mac, to, dst, named=GATEWAY_MAC),
            "nd_message_dropped_foreign_sender",
        ),
        (
            "ns-that-names-the-others-mac",
            solicitation(GLOBAL[2], LOCAL[1], mac, named=to),
            "nd_message_dropped_foreign_sender",
        ),
        ("ns-as-the-gateway", solicitation(GLOBAL[2], LINK_LOCAL, mac), OWN),
        (
            "router-advertisement",
            icmp_frame(icmpv6.build(134, 0, 0, LOCAL[1], dst, bytes(8)), LOCAL[1], dst, mac, to),
            "switch_frame_dropped_route_message",
        ),
    ]


@pytest.mark.parametrize(("name", "frame", "cause"), forged(), ids=[name for name, _, _ in forged()])
def test_no_guest_takes_anothers_place(rig: Rig, name: str, frame: bytes, cause: str) -> None:
    rig.meet()
    before = rig.count(cause)
    assert frame not in rig.send(1, frame), name
    assert rig.count(cause) == before + 1


def test_honest_packets_pass_between_guests(rig: Rig) -> None:
    rig.meet()
    frames = [
        ping(GLOBAL[1], GLOBAL[2], MACS[1], MACS[2]),
        ping(LOCAL[1], LOCAL[2], MACS[1], MACS[2]),
        solicitation(GLOBAL[2], LOCAL[1], MACS[1]),
        solicitation(NET | 0x77, 0, MACS[1]),
        advertisement(GLOBAL[1], GLOBAL[1], MACS[1], MACS[2], GLOBAL[2]),
    ]
    for frame in frames:
        assert frame in rig.send(1, frame)


def test_a_station_on_a_bridge_may_speak_for_another_one_of_its_link(rig: Rig) -> None:
    rig.meet()
    behind = bytes.fromhex("5a94ef0000aa")
    rig.send(1, ping(ipv6.link_local(behind), GATEWAY, behind))
    addr = NET | 0xAA
    frame = advertisement(addr, LOCAL[1], MACS[1], MACS[2], LOCAL[2], named=behind)
    assert frame in rig.send(1, frame)
    question = solicitation(GLOBAL[2], addr, MACS[1], named=behind)
    assert question in rig.send(1, question)
    found = rig.stages[DEMUX].neighbors.get(addr)
    assert (found.mac, found.link) == (behind, 1)
    # The gateway answers only who speaks for itself, as with ARP.
    assert rig.count("nd_message_dropped_foreign_sender") == 1


def test_an_address_moves_to_a_guest_whose_claim_the_owner_does_not_answer(rig: Rig) -> None:
    rig.meet()
    claim = advertisement(GLOBAL[2], GLOBAL[2], MACS[1], ipv6.group_mac(ipv6.ALL_NODES), ipv6.ALL_NODES)
    (question,) = rig.send(1, claim)
    assert question[:6] == MACS[2]
    assert discovery_of(question).target == GLOBAL[2]
    rig.advance(2.0)
    announced = [discovery_of(frame) for _, but, frame in rig.take() if but == 1]
    assert [(each.kind, each.target, each.mac) for each in announced] == [(136, GLOBAL[2], MACS[1])]
    assert rig.stages[DEMUX].neighbors.get(GLOBAL[2]).link == 1


def test_an_owner_that_answers_keeps_its_address(rig: Rig) -> None:
    rig.meet()
    rig.send(1, ping(GLOBAL[2], GATEWAY, MACS[1]))
    rig.send(2, advertisement(GLOBAL[2], GLOBAL[2], MACS[2], GATEWAY_MAC, LINK_LOCAL))
    rig.advance(2.0)
    assert rig.stages[DEMUX].neighbors.get(GLOBAL[2]).link == 2


def test_a_guest_that_is_not_known_is_asked_for_in_its_group(rig: Rig) -> None:
    rig.stages[DEMUX].neighbors.resolve(GLOBAL[2], rig.now)
    rig.send(1, ping(GLOBAL[1], GATEWAY, MACS[1]))
    rig.advance(4.0)
    asked = [frame for _, _, frame in rig.take() if frame[:2] == b"\x33\x33"]
    assert {discovery_of(frame).target for frame in asked} == {GLOBAL[2]}


# --- duplicates -------------------------------------------------------------------------------------


def test_a_guest_that_wants_a_live_guests_address_is_told_even_if_it_hears_no_other_guest() -> None:
    with Rig(guests="isolated") as rig:
        rig.meet()
        bursts.push(rig.card, 1, [solicitation(GLOBAL[2], 0, MACS[1])])
        rig.settle()
        ((link, _, frame),) = rig.take()
        found = discovery_of(frame)
        assert (link, found.kind, found.target, found.mac) == (1, 136, GLOBAL[2], MACS[2])
        assert rig.count("nd_duplicates_reported") == 1
        # Its own address is none.
        assert rig.send(1, solicitation(GLOBAL[1], 0, MACS[1])) == []
        rig.leave()


def test_after_a_long_silence_the_owner_is_asked_first() -> None:
    with Rig(guests="isolated") as rig:
        rig.meet()
        rig.advance(REACHABLE_TIME + 1.0)
        rig.take()
        (question,) = rig.send(1, solicitation(GLOBAL[2], 0, MACS[1]))
        assert (question[:6], discovery_of(question).target) == (MACS[2], GLOBAL[2])
        rig.leave()


def test_a_guest_that_wants_the_gateways_address_is_told(rig: Rig) -> None:
    frames = rig.send(1, solicitation(GATEWAY, 0, MACS[1]))
    assert discovery_of(frames[-1]).mac == GATEWAY_MAC


# --- off, and hostile -----------------------------------------------------------------------------


def test_while_it_is_off_frames_pass_or_are_dropped_as_before() -> None:
    with Rig(ipv6_enabled="off", ipv6_prefix="", ipv6_gateway=0, ipv6_host=0) as rig:
        assert rig.count("router_advertisements_sent") == 0
        assert rig.send(1, ping(GLOBAL[1], GATEWAY, MACS[1])) == []
        assert rig.count("demux_frame_dropped_unknown_ethertype") == 1
        rig.send(2, ping(GLOBAL[2], GATEWAY, MACS[2]))
        frame = ping(0x2001 << 112 | 5, GLOBAL[2], MACS[1], MACS[2])
        assert rig.send(1, frame) == [frame]
        assert rig.send(1, router_solicitation(LOCAL[1], MACS[1])) == [router_solicitation(LOCAL[1], MACS[1])]
        assert rig.known() == set()
        rig.leave()


HOSTILE = [
    solicitation(GATEWAY, LOCAL[1], MACS[1]),
    advertisement(GLOBAL[1], LOCAL[1], MACS[1], GATEWAY_MAC, LINK_LOCAL),
    router_solicitation(LOCAL[1], MACS[1]),
    udp_frame(b"question", GLOBAL[1], GATEWAY, MACS[1]),
    ping(GLOBAL[1], GLOBAL[2], MACS[1], MACS[2]),
]


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.sampled_from(HOSTILE).flatmap(mutations), min_size=1, max_size=12))
def test_damaged_frames_do_no_harm_and_leave_nothing(rig: Rig, frames: list[bytes]) -> None:
    rig.send(1, *[frame for frame in frames if len(frame) >= ethernet.HEADER_LEN])
    assert rig.stages[DEMUX].neighbors.get(GATEWAY) is None
    assert GATEWAY not in rig.known()
