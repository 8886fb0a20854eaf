"""IPv6 packets of guests to other hosts: demux routes, answers and refuses them as those of IPv4."""

from collections.abc import Iterator

import pytest

from pipeline.records import kinds
from pipeline.records.flows import Ends
from pipeline.records.icmp import EchoError
from pipeline.stages.demux.discovery import LOOK_EVERY_S
from pipeline.system import ipv6_route
from pipeline.topology import DEMUX
from pipeline.wire import checksum, dhcpv6, ethernet, icmp, icmpv6, ip, ipv4, ipv6, tcp
from tests.stages.demux.test_ipv6 import GATEWAY, GLOBAL, LINK_LOCAL, LOCAL, MACS, Rig, message_of
from tests.support.frames import GATEWAY_MAC, udp_frame6
from tests.support.ipv6 import ping, router_solicitation, udp_frame

OUTSIDE = ip.parse("2001:db8::1")
ROUTED = bytes((ipv4.PROTO_UDP, 0, 0, 1)) + bytes(12)


@pytest.fixture
def rig() -> Iterator[Rig]:
    with Rig() as made:
        yield made
        made.leave()


def packet(src: int, dst: int, proto: int, payload: bytes, hop_limit: int = 64) -> bytes:
    """A frame of guest 1 to the gateway's MAC."""
    header = ethernet.header(GATEWAY_MAC, MACS[1], ethernet.TYPE_IPV6)
    return header + ipv6.build(len(payload), proto, hop_limit, src, dst) + payload


@pytest.mark.parametrize(
    ("src", "dst", "proto", "payload"),
    [
        (LOCAL[1], OUTSIDE, ipv4.PROTO_TCP, bytes(20)),
        (GLOBAL[1], LOCAL[2], ipv4.PROTO_UDP, bytes(8)),
        (0, OUTSIDE, ipv4.PROTO_UDP, bytes(8)),
    ],
    ids=["link-local source", "link-local destination", "no source"],
)
def test_packets_that_no_router_forwards_are_dropped(
    rig: Rig, src: int, dst: int, proto: int, payload: bytes
) -> None:
    told = [(1, 2, 0)] if src == LOCAL[1] else []
    assert errors_of(rig.send(1, packet(src, dst, proto, payload))) == told
    assert rig.count("ipv6_packet_dropped_no_route") == 1


@pytest.mark.parametrize("dst", [GATEWAY, OUTSIDE])
def test_source_routes_are_not_followed(rig: Rig, dst: int) -> None:
    rig.meet()
    told = errors_of(rig.send(1, packet(GLOBAL[1], dst, 43, ROUTED)))
    assert told == [(icmpv6.PARAMETER_PROBLEM, ipv6.WRONG_FIELD, 42)]
    assert rig.count("ipv6_packet_dropped_source_route") == 1


@pytest.mark.parametrize("proto", [ipv4.PROTO_TCP, ipv4.PROTO_UDP, icmpv6.PROTO_ICMPV6])
@pytest.mark.parametrize("dst", [GATEWAY, OUTSIDE])
def test_an_unknown_option_is_answered_whatever_comes_after_it(rig: Rig, proto: int, dst: int) -> None:
    rig.meet()
    option = bytes((proto, 0, 0x9E, 4)) + bytes(4)
    told = errors_of(rig.send(1, packet(GLOBAL[1], dst, 60, option + tcp_segment(GLOBAL[1], dst))))
    assert told == [(icmpv6.PARAMETER_PROBLEM, ipv6.UNKNOWN_OPTION, 42)]
    assert rig.count("ipv6_packet_dropped_unknown_option") == 1
    assert not rig.neighbours["tcp0"].take(kinds.TCP_RANGE)


@pytest.mark.parametrize("option", [b"\x63\x04" + bytes(4), b"\x8b\x04" + bytes(4), bytes(6)])
@pytest.mark.parametrize("proto", [0, 60])
def test_options_of_packets_for_groups_of_guests_are_not_the_gateways(
    rig: Rig, option: bytes, proto: int
) -> None:
    rig.meet()
    mdns = ip.parse("ff02::fb")
    frame = packet(GLOBAL[1], mdns, proto, bytes((ipv4.PROTO_UDP, 0)) + option + bytes(8))
    frame = ipv6.group_mac(mdns) + frame[6:]
    assert rig.send(1, frame) == [frame], "the switch gives it to the other guests, and nobody answers"
    assert rig.count("ipv6_packet_dropped_unknown_option") == 0
    assert rig.stages[DEMUX].held()["links_with_bad_frames"] == 0


def test_a_guest_that_has_no_address_beyond_the_link_is_told(rig: Rig) -> None:
    rig.send(1, ping(LOCAL[1], GATEWAY, MACS[1]))
    (frame,) = rig.send(1, packet(LOCAL[1], OUTSIDE, ipv4.PROTO_TCP, bytes(20)))
    header, message = message_of(frame)
    assert (message.type, message.code) == (icmpv6.UNREACHABLE, icmpv6.BEYOND_SCOPE)
    assert (header.src, header.dst) == (LINK_LOCAL, LOCAL[1])


def test_wrong_headers_in_anothers_name_cause_no_answer(rig: Rig) -> None:
    rig.meet()
    head = ipv6.build_fragment(ipv4.PROTO_TCP, 0, True, 9)
    for src, told in ((GLOBAL[2], []), (GLOBAL[1], [(icmpv6.PARAMETER_PROBLEM, 3, 0)])):
        assert errors_of(rig.send(1, packet(src, OUTSIDE, 44, head + bytes(8)))) == told


def test_questions_for_all_dhcp_servers_beyond_the_rate_are_not_flooded() -> None:
    with Rig(max_dhcp_messages_per_second=5) as rig:
        rig.meet()
        to = ethernet.header(ipv6.group_mac(dhcpv6.ALL_SERVERS), MACS[1], ethernet.TYPE_IPV6)
        solicit = bytes((1, 0, 0, 1))
        frame = udp_frame6(solicit, src=LOCAL[1], dst=dhcpv6.ALL_SERVERS, dport=547, eth_header=to)
        flooded = rig.send(1, *[frame] * 100)
        refused = rig.count("dhcp_message_dropped_rate_limit")
        assert refused > 50
        assert len(flooded) == 100 - refused
        rig.leave()


def test_a_look_that_fails_for_lack_of_descriptors_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    answers: list[bool | None] = [True, None]
    monkeypatch.setattr(ipv6_route, "exists", lambda outbound: answers.pop(0))
    with Rig(ipv6_enabled="auto") as rig:
        rig.advance(LOOK_EVERY_S + 1.0)
        assert answers == []
        assert rig.take() == []
        rig.leave()


@pytest.mark.parametrize("port", [546, 68])
def test_no_guest_poses_as_a_dhcp_server_in_datagrams_that_are_merged(rig: Rig, port: int) -> None:
    rig.meet()
    frame = udp_frame(b"reply", GLOBAL[1], GLOBAL[2], MACS[1], dport=port)
    frame = MACS[2] + frame[6:]
    passed = [] if port == 546 else [frame]
    assert rig.send(1, frame) == passed
    assert rig.count("switch_frame_dropped_dhcp_server") == (port == 546)


def errors_of(frames: list[bytes]) -> list[tuple[int, int, int]]:
    """Type, code and the rest of the ICMPv6 messages among the frames that guests get."""
    found = [message_of(frame) for frame in frames]
    return [(message.type, message.code, message.rest) for _, message in found if message.type < 128]


def test_unknown_protocols_are_answered_with_where_they_stand(rig: Rig) -> None:
    rig.meet()
    frames = rig.send(1, packet(GLOBAL[1], OUTSIDE, 132, bytes(12)))
    assert errors_of(frames) == [(icmpv6.PARAMETER_PROBLEM, ipv6.UNKNOWN_NEXT_HEADER, 6)]
    assert rig.count("ipv6_packet_dropped_unknown_protocol") == 1


def test_a_hop_limit_that_runs_out_is_answered_and_the_gateway_is_no_hop(rig: Rig) -> None:
    rig.meet()
    frame = udp_frame(b"x", GLOBAL[1], OUTSIDE, MACS[1], dport=7)
    frame = frame[:21] + b"\x01" + frame[22:]
    assert errors_of(rig.send(1, frame)) == [(icmpv6.TIME_EXCEEDED, 0, 0)]
    assert rig.count("ipv6_packet_dropped_hop_limit_exceeded") == 1
    own = udp_frame(b"x", GLOBAL[1], GATEWAY, MACS[1])
    rig.send(1, own[:21] + b"\x01" + own[22:])
    assert len(rig.neighbours["resolver"].take(kinds.SERVICE_DATAGRAM)) == 1


def test_a_datagram_to_another_host_is_a_flow_of_egress(rig: Rig) -> None:
    assert rig.send(1, udp_frame(b"hello", GLOBAL[1], OUTSIDE, MACS[1], dport=7)) == []
    (sent,) = rig.neighbours["egress0"].take(kinds.UDP_DATA)
    ends = Ends.of(sent.key)
    assert (ends.guest_addr, ends.remote_addr, ends.remote_port) == (GLOBAL[1], OUTSIDE, 7)
    assert rig.count("udp_flows") == 1


def test_a_datagram_in_fragments_is_made_whole(rig: Rig) -> None:
    whole = udp_frame(bytes(3000), GLOBAL[1], OUTSIDE, MACS[1], dport=7)[54:]
    for begin, end in ((1448, 2896), (0, 1448), (2896, len(whole))):
        head = ipv6.build_fragment(ipv4.PROTO_UDP, begin, end < len(whole), 9)
        assert rig.send(1, packet(GLOBAL[1], OUTSIDE, 44, head + whole[begin:end])) == []
    (sent,) = rig.neighbours["egress0"].take(kinds.UDP_DATA)
    assert sent.length == 3000


def test_a_fragment_of_a_wrong_length_is_answered(rig: Rig) -> None:
    rig.meet()
    head = ipv6.build_fragment(ipv4.PROTO_UDP, 0, True, 9)
    frames = rig.send(1, packet(GLOBAL[1], OUTSIDE, 44, head + bytes(15)))
    assert errors_of(frames) == [(icmpv6.PARAMETER_PROBLEM, ipv6.WRONG_FIELD, 4)]


def test_a_segment_with_extension_headers_reaches_its_shard(rig: Rig) -> None:
    options = bytes((ipv4.PROTO_TCP, 0, 1, 4, 0, 0, 0, 0))
    segment = tcp_segment(GLOBAL[1], OUTSIDE)
    rig.send(1, packet(GLOBAL[1], OUTSIDE, 60, options + segment))
    (run,) = rig.neighbours["tcp0"].take(kinds.TCP_RANGE)
    assert Ends.of(run.key).remote_addr == OUTSIDE
    assert run.header_len == 14 + 40 + 20


def tcp_segment(src: int, dst: int) -> bytes:
    """A SYN from port 40000 to port 80."""
    head = bytearray(tcp.FIXED.pack(40000, 80, 1, 0, 5 << 4, tcp.SYN, 65535, 0, 0))
    total = checksum.word_sum(head, checksum.pseudo_header(src, dst, ipv4.PROTO_TCP, len(head)))
    head[16:18] = checksum.finish(total).to_bytes(2, "big")
    return bytes(head)


def test_a_ping_of_another_host_goes_to_egress_and_its_reply_comes_back(rig: Rig) -> None:
    assert rig.send(1, ping(GLOBAL[1], OUTSIDE, MACS[1])) == []
    (asked,) = rig.neighbours["egress0"].take(kinds.ICMP_ECHO)
    assert (asked.guest_addr, asked.remote_addr) == (GLOBAL[1], OUTSIDE)
    assert (asked.identifier, asked.sequence) == (7, 1)
    assert asked.hops_left == 63
    answer = EchoError(GLOBAL[1], OUTSIDE, 7, 1, icmp.TIME_EXCEEDED, 0, OUTSIDE | 0xFF, 0)
    rig.neighbours["egress0"].push(DEMUX, answer.pack())
    rig.settle()
    ((_, _, frame),) = rig.take()
    header, message = message_of(frame)
    assert (header.src, message.type) == (OUTSIDE | 0xFF, icmpv6.TIME_EXCEEDED)


def test_egress_knows_which_addresses_are_one_guests(rig: Rig) -> None:
    rig.meet()
    known = {record.fields.guest_addr for record in rig.neighbours["egress0"].take(kinds.NEIGHBOR)}
    assert known == {*LOCAL.values(), *GLOBAL.values()}


@pytest.mark.parametrize(
    ("mode", "has_route", "lifetime"), [("on", False, 1800), ("auto", True, 1800), ("auto", False, 0)]
)
def test_the_gateway_is_a_default_router_if_it_shall_be(
    monkeypatch: pytest.MonkeyPatch, mode: str, has_route: bool, lifetime: int
) -> None:
    monkeypatch.setattr(ipv6_route, "exists", lambda outbound: has_route)
    with Rig(ipv6_enabled=mode) as rig:
        frame = rig.send(1, router_solicitation(LOCAL[1], MACS[1]))[-1]
        assert message_of(frame)[1].rest & 0xFFFF == lifetime
        rig.leave()


def test_guests_are_told_when_the_host_loses_its_route_and_when_the_daemon_ends(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    answers = [True, False, True]
    monkeypatch.setattr(ipv6_route, "exists", lambda outbound: answers.pop(0))
    with Rig(ipv6_enabled="auto") as rig:
        lifetimes = []
        for _ in range(2):
            rig.advance(LOOK_EVERY_S + 1.0)
            lifetimes += [message_of(frame)[1].rest & 0xFFFF for _, _, frame in rig.take()]
        assert lifetimes == [0, 1800]
        assert rig.stages[DEMUX].on_control({"op": "withdraw_route"}, []) == {}
        rig.settle()
        ((_, _, frame),) = rig.take()
        assert message_of(frame)[1].rest & 0xFFFF == 0
        rig.leave()
