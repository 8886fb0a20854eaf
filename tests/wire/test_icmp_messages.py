"""ICMP of both families in one set of types: what is read, and what is written."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.wire import icmp, icmp_messages, icmpv6, ip, ip_header, ipv4, ipv6
from tests.support.fuzz import u16

PAIRS = [
    (ip.parse("192.168.127.2"), ip.parse("192.168.127.1")),
    (ip.parse("fd00::2"), ip.parse("fd00::1")),
]
"""A guest and the gateway."""


def packet(src: int, dst: int, proto: int, message: bytes) -> tuple[bytes, ip_header.IpHeader]:
    """The packet with this message, after two other bytes, and its headers."""
    whole = b"--" + ip_header.build(len(message), 1, proto, src, dst) + message
    return whole, ip_header.parse(whole, 2, len(whole))


@pytest.mark.parametrize(("guest", "gateway"), PAIRS, ids=["IPv4", "IPv6"])
@given(ident=u16, number=u16, data=st.binary(max_size=60))
def test_a_reply_mirrors_the_request(guest: int, gateway: int, ident: int, number: int, data: bytes) -> None:
    rest = ident << 16 | number
    proto, request = icmp_messages.build_echo(icmp.ECHO_REQUEST, rest, guest, gateway, data)
    view, header = packet(guest, gateway, proto, request)
    assert header.is_icmp
    found = icmp_messages.parse(view, header)
    assert (found.type, found.code, found.rest) == (icmp.ECHO_REQUEST, 0, rest)
    _, reply = icmp_messages.build_echo(icmp.ECHO_REPLY, found.rest, gateway, guest, data)
    view, header = packet(gateway, guest, proto, reply)
    assert icmp_messages.parse(view, header)._replace(checksum=0) == (icmp.ECHO_REPLY, 0, 0, rest)
    assert view[header.begin + 8 :] == data


@pytest.mark.parametrize(
    ("kind", "code", "wanted"),
    [
        (icmpv6.UNREACHABLE, 0, (icmp.UNREACHABLE, icmp.NET_UNREACHABLE)),
        (icmpv6.UNREACHABLE, 1, (icmp.UNREACHABLE, icmp.ADMINISTRATIVELY_PROHIBITED)),
        (icmpv6.UNREACHABLE, 2, (icmp.UNREACHABLE, icmp.HOST_UNREACHABLE)),
        (icmpv6.UNREACHABLE, 3, (icmp.UNREACHABLE, icmp.HOST_UNREACHABLE)),
        (icmpv6.UNREACHABLE, 4, (icmp.UNREACHABLE, icmp.PORT_UNREACHABLE)),
        (icmpv6.PACKET_TOO_BIG, 0, (icmp.UNREACHABLE, icmp.FRAGMENTATION_NEEDED)),
        (icmpv6.TIME_EXCEEDED, 1, (icmp.TIME_EXCEEDED, icmp.REASSEMBLY_EXCEEDED)),
        (icmpv6.PARAMETER_PROBLEM, 0, (icmp.PARAMETER_PROBLEM, 0)),
        (icmpv6.PARAMETER_PROBLEM, 1, (icmp.UNREACHABLE, icmp.PROTOCOL_UNREACHABLE)),
        (icmpv6.ECHO_REPLY, 0, (icmp.ECHO_REPLY, 0)),
        (icmp.ECHO_REQUEST, 0, (icmp_messages.UNKNOWN, 0)),
        (130, 0, (icmp_messages.UNKNOWN, 0)),
    ],
)
def test_rfc_7915_5_2_types_and_codes_are_those_of_icmp(
    kind: int, code: int, wanted: tuple[int, int]
) -> None:
    assert icmp_messages.translated(kind, code) == wanted


def test_a_next_hop_mtu_is_at_most_that_of_the_longest_ipv4_packet() -> None:
    src, dst = PAIRS[1]
    view, header = packet(
        src, dst, ipv6.PROTO_ICMPV6, icmpv6.build(icmpv6.PACKET_TOO_BIG, 0, 1 << 20, src, dst)
    )
    assert icmp_messages.parse(view, header).rest == 0xFFFF


@pytest.mark.parametrize(("src", "dst"), PAIRS, ids=["IPv4", "IPv6"])
def test_headers_of_both_families_say_the_same(src: int, dst: int) -> None:
    view, header = packet(src, dst, ipv4.PROTO_UDP, bytes(12))
    assert (header.src, header.dst, header.proto, header.hops_left) == (src, dst, ipv4.PROTO_UDP, 64)
    assert header.begin == 2 + ip_header.shortest(dst)
    assert header.end == header.begin + 12 == len(view)
    assert not header.is_icmp
