"""Errors and echo replies of the gateway over IPv6 (RFC 4443). IPv4: test_icmp."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.engines import icmp as engine
from pipeline.engines.reassembly import Reassembler
from pipeline.wire import icmp, icmp_messages, icmpv6, ip, ipv4, ipv6
from pipeline.wire.errors import HeaderError, WireError
from pipeline.wire.ip_header import IpHeader
from tests.support.fragments import ENDS, V6, ipv6_fragment, put
from tests.support.fuzz import mutations, parsed

GATEWAY, GUEST, FAR = 0xFD00 << 112 | 1, 0xFD00 << 112 | 2, 0x2001_0DB8 << 96 | 8
GROUP, LOCAL = 0xFF02 << 112 | 0xFB, ipv6.link_local(bytes(6))
GATEWAY4, GUEST4 = ip.parse_ipv4("192.168.127.1"), ip.parse_ipv4("192.168.127.2")
BROADCAST = ip.parse_ipv4("192.168.127.255")
UDP = ipv4.PROTO_UDP


def packet(payload: bytes, proto: int = UDP, src: int = GUEST, dst: int = FAR, hops: int = 5) -> bytes:
    return ipv6.build(len(payload), proto, hops, src, dst) + payload


def options(next_header: int) -> bytes:
    return bytes((next_header, 0)) + bytes(6)


def errors(per_second: float = 100.0, burst: float = 50.0, gateway: int = GATEWAY) -> engine.IcmpErrors:
    return engine.IcmpErrors(GATEWAY4, BROADCAST, per_second, burst, gateway)


def read(error: engine.Error | None) -> tuple[int, int, int]:
    """Type, code and rest of an error whose checksum is right and whose packet is no longer than 1280."""
    assert error is not None
    assert error.proto == 58
    assert 40 + len(error.message) <= 1280
    found = icmpv6.parse(error.message, 0, len(error.message), error.src, error.dst)
    return found.type, found.code, found.rest


# --- errors --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "want"),
    [
        (icmp.NET_UNREACHABLE, (1, 0, 0)),
        (icmp.HOST_UNREACHABLE, (1, 3, 0)),
        (icmp.ADMINISTRATIVELY_PROHIBITED, (1, 1, 0)),
        (icmp.PORT_UNREACHABLE, (1, 4, 0)),
        (icmp.FRAGMENTATION_NEEDED, (2, 0, 1400)),
        (icmp.PROTOCOL_UNREACHABLE, (4, 1, 6)),
    ],
)
def test_rfc_4443_3_1_to_3_4_each_refusal_has_its_message(code: int, want: tuple[int, int, int]) -> None:
    about = packet(b"12345678rest")
    error = errors().unreachable(b"-" + about, 1, 1.0, code, mtu=1400)
    assert read(error) == want
    assert error is not None
    assert (error.src, error.dst, error.message[8:]) == (GATEWAY, GUEST, about)


def test_rfc_4443_3_2_the_mtu_is_1280_at_least() -> None:
    error = errors().unreachable(packet(bytes(1400)), 0, 1.0, icmp.FRAGMENTATION_NEEDED, mtu=576)
    assert read(error) == (2, 0, 1280)


@pytest.mark.parametrize("code", [0, 1])
def test_rfc_4443_3_3_time_exceeded(code: int) -> None:
    about = packet(b"12345678rest")
    error = errors().time_exceeded(about, 0, 1.0, code)
    assert read(error) == (3, code, 0)
    assert error is not None
    assert error.message[8:] == about


def test_rfc_4443_3_4_the_pointer_is_where_the_unknown_protocol_is_named() -> None:
    for headers in range(3):
        before = options(60) * (headers - 1) + options(132) if headers else b""
        about = b"--" + packet(before + b"12345678", proto=60 if headers else 132)
        _, _, pointer = read(errors().unreachable(about, 2, 1.0, icmp.PROTOCOL_UNREACHABLE))
        assert about[2 + pointer] == 132
        assert pointer == (6 if not headers else 32 + 8 * headers)


@pytest.mark.parametrize(
    ("data", "want"),
    [
        (ipv6_fragment(bytes(9), 0, True), (4, 0, 4)),
        (ipv6_fragment(bytes(9), 8, True), (4, 0, 4)),
        (ipv6_fragment(bytes(16), 65528, False), (4, 0, 42)),
        (ipv6_fragment(bytes(8), 0, True, proto=ipv4.PROTO_TCP), (4, 3, 0)),
        (ipv6_fragment(bytes((60, 1)) + bytes(6), 0, True, proto=60), (4, 3, 0)),
    ],
)
def test_rfc_8200_4_5_the_sender_of_a_wrong_fragment_is_told(data: bytes, want: tuple[int, int, int]) -> None:
    with pytest.raises(HeaderError) as caught:
        put(Reassembler(), data)
    error = errors().parameter_problem(b"?" + data, 1, 1.0, caught.value)
    assert read(error) == want
    assert error is not None
    assert (error.dst, error.message[8:]) == (ENDS[V6][0], data)


def test_rfc_8200_4_5_a_packet_that_never_becomes_whole_is_reported_with_its_first_fragment() -> None:
    target = Reassembler()
    first = ipv6_fragment(bytes(16), 0, True, chain=options(44))
    put(target, first)
    put(target, ipv6_fragment(bytes(16), 32, False))
    (expired,) = target.expire(60.0)
    error = errors().time_exceeded(expired.packet, 0, 60.0, icmp.REASSEMBLY_EXCEEDED)
    assert read(error) == (3, 1, 0)
    assert error is not None
    assert error.message[8:] == first


@given(st.integers(0, 3000))
def test_rfc_4443_2_4_c_as_much_is_quoted_as_fits(length: int) -> None:
    about = packet(bytes(n & 255 for n in range(length)))
    error = errors().unreachable(about + b"padding of the frame", 0, 1.0, icmp.PORT_UNREACHABLE)
    read(error)
    assert error is not None
    assert error.message[8:] == about[:1232]


def test_rfc_4443_2_2_the_source_is_the_gateways_address_or_the_one_that_was_addressed() -> None:
    about = packet(b"12345678", dst=LOCAL)
    for src, want in ((None, GATEWAY), (LOCAL, LOCAL)):
        error = errors().unreachable(about, 0, 1.0, icmp.PORT_UNREACHABLE, src=src)
        assert read(error) == (1, 4, 0)
        assert error is not None
        assert error.src == want


# --- when none is sent ---------------------------------------------------------------------------

PROBLEM = HeaderError("ipv6_fragment_dropped_bad_length", ipv6.WRONG_FIELD, 4)
OPTION = HeaderError("ipv6_fragment_dropped_bad_length", ipv6.UNKNOWN_OPTION, 42)


def answers(about: bytes) -> list[engine.Error | None]:
    """Every error about a packet."""
    made = errors()
    return [
        *(made.unreachable(about, 0, 1.0, code) for code in (0, 1, 2, 3, 13)),
        *(made.time_exceeded(about, 0, 1.0, code) for code in (0, 1)),
        made.parameter_problem(about, 0, 1.0, PROBLEM),
        made.unreachable(about, 0, 1.0, icmp.FRAGMENTATION_NEEDED, mtu=1300),
        made.parameter_problem(about, 0, 1.0, OPTION),
    ]


def test_an_ordinary_packet_and_a_ping_may_be_answered_with_any_error() -> None:
    ping = icmpv6.build(icmpv6.ECHO_REQUEST, 0, 7, GUEST, FAR)
    for about in (packet(b"12345678"), packet(ping, 58), packet(b"", 59)):
        assert None not in answers(about)


@pytest.mark.parametrize("kind", [1, 2, 3, 4, 100, 127, icmpv6.REDIRECT])
@pytest.mark.parametrize("headers", range(3))
def test_rfc_4443_2_4_e_1_and_2_none_about_an_error_or_a_redirect(kind: int, headers: int) -> None:
    message = icmpv6.build(kind, 0, 0, GUEST, FAR, packet(b"12345678"))
    before = options(60) * (headers - 1) + options(58) if headers else b""
    about = packet(before + message, 60 if headers else 58)
    assert not any(answers(about))


@pytest.mark.parametrize("proto", [58, 60])
def test_rfc_4443_2_4_e_1_none_about_a_fragment_that_may_be_of_an_error(proto: int) -> None:
    message = icmpv6.build(1, 0, 0, GUEST, FAR, bytes(40))
    part = options(58) + message if proto == 60 else message
    first = packet(ipv6.build_fragment(proto, 0, True, 7) + part, 44)
    assert not any(answers(first))
    later = packet(ipv6.build_fragment(58, 48, False, 7) + bytes(8), 44)
    assert not any(answers(later))
    assert not any(answers(packet(b"", 58)))
    other = packet(ipv6.build_fragment(UDP, 48, False, 7) + bytes(8), 44)
    assert any(answers(other))


def test_rfc_4443_2_4_e_3_about_a_group_only_too_big_and_unknown_option() -> None:
    found = answers(packet(b"12345678", dst=GROUP))
    assert [answer is not None for answer in found] == [False] * 8 + [True] * 2
    assert [read(answer) for answer in found[-2:]] == [(2, 0, 1300), (4, 2, 42)]


@pytest.mark.parametrize("src", [0])
def test_rfc_4443_2_4_e_6_none_to_a_source_that_is_no_single_host(src: int) -> None:
    assert not any(answers(packet(b"12345678", src=src)))


def test_rfc_4443_2_4_e_6_none_to_a_group() -> None:
    with pytest.raises(WireError, match="ipv6_packet_dropped_bad_address"):
        answers(packet(b"12345678", src=GROUP))


def test_rfc_4443_2_4_f_both_families_share_one_bucket() -> None:
    limited = errors(per_second=2.0, burst=3.0)
    about4 = ipv4.build(28, 7, 5, UDP, GUEST4, ip.parse_ipv4("8.8.8.8")) + b"12345678"

    def sent(now: float, tries: int) -> int:
        pairs = [
            limited.unreachable(about, 0, now, icmp.HOST_UNREACHABLE)
            for about in (packet(b"12345678"), about4)
            for _ in range(tries)
        ]
        return sum(error is not None for error in pairs)

    assert sent(100.0, 2) == 3
    assert limited.suppressed == 1
    assert sent(100.5, 2) == 1
    assert limited.suppressed == 4


def test_what_may_not_be_sent_takes_nothing_of_the_rate() -> None:
    limited = errors(per_second=1.0, burst=1.0)
    assert limited.unreachable(packet(b"12345678", src=0), 0, 1.0, icmp.HOST_UNREACHABLE) is None
    assert limited.suppressed == 0
    assert limited.unreachable(packet(b"12345678"), 0, 1.0, icmp.HOST_UNREACHABLE) is not None


def test_while_ipv6_is_off_there_are_no_errors_about_it() -> None:
    off = errors(gateway=0)
    assert off.unreachable(packet(b"12345678"), 0, 1.0, icmp.HOST_UNREACHABLE) is None
    assert off.time_exceeded(packet(b"12345678"), 0, 1.0, 0, src=GATEWAY) is None


OFFENDERS = [
    packet(b"12345678"),
    packet(options(58) + icmpv6.build(1, 0, 0, GUEST, FAR, bytes(8)), 60),
    ipv6_fragment(bytes(16), 0, True),
    ipv4.build(28, 7, 5, UDP, GUEST4, ip.parse_ipv4("8.8.8.8")) + b"12345678",
]


@given(st.sampled_from(OFFENDERS).flatmap(mutations), st.sampled_from((0, 1, 2, 3, 4, 13)))
def test_damaged_offenders_get_an_error_of_their_family_or_are_refused_by_name(
    about: bytes, code: int
) -> None:
    if not about:
        return
    error = parsed(errors().unreachable, about, 0, 1.0, code)
    if error is not None and error.proto == 58:
        assert read(error)[0] < 128
        assert about[0] >> 4 != 4
        assert not ip.is_ipv4(error.dst)
    elif error is not None:
        assert ip.is_ipv4(error.dst)


# --- flows, MTUs and pings --------------------------------------------------------------------------


@pytest.mark.parametrize("proto", [ipv4.PROTO_TCP, UDP])
def test_an_error_can_be_made_about_a_flow_alone(proto: int) -> None:
    about = engine.quote_flow(GUEST, FAR, proto, 4000, 443, 0x01020304)
    assert about[40:44] == bytes.fromhex("0fa001bb")
    assert about[44:] == bytes.fromhex("01020304" if proto == ipv4.PROTO_TCP else "00080000")
    error = errors().unreachable(about, 0, 1.0, icmp.HOST_UNREACHABLE)
    assert read(error) == (1, 3, 0)
    assert error is not None
    found = icmpv6.parse_quoted(error.message, 0, len(error.message))
    assert found[1:6] == (proto, GUEST, FAR, 4000, 443)


def quoted(total_len: int) -> icmp.Quoted:
    return icmp.Quoted(total_len, ipv4.PROTO_TCP, GATEWAY, GUEST, 443, 4000, 1)


@pytest.mark.parametrize(("told", "total"), [(1280, 1281), (1280, 1500), (1499, 1500), (9000, 65575)])
def test_rfc_8201_4_the_mtu_of_a_hop_is_what_it_says(told: int, total: int) -> None:
    assert engine.next_hop_mtu(told, quoted(total)) == told


@pytest.mark.parametrize(
    ("told", "total"), [(0, 1500), (68, 1500), (1279, 1500), (1500, 1500), (1280, 1280), (0xFFFFFFFF, 1500)]
)
def test_rfc_8201_4_a_message_with_an_mtu_below_1280_is_discarded(told: int, total: int) -> None:
    with pytest.raises(WireError, match="icmp_error_dropped_bad_mtu"):
        engine.next_hop_mtu(told, quoted(total))


@pytest.mark.parametrize(
    ("kind", "code", "src", "dst", "want"),
    [
        (128, 0, GUEST, GATEWAY, True),
        (128, 0, LOCAL, GATEWAY, True),
        (128, 1, GUEST, GATEWAY, False),
        (129, 0, GUEST, GATEWAY, False),
        (8, 0, GUEST, GATEWAY, False),
        (128, 0, GUEST, FAR, False),
        (128, 0, 0, GATEWAY, False),
        (128, 0, 1, GATEWAY, False),
        (128, 0, GROUP, GATEWAY, False),
    ],
)
def test_rfc_4443_4_2_only_echo_requests_of_hosts_to_own_addresses_are_answered(
    kind: int, code: int, src: int, dst: int, want: bool
) -> None:
    sent = IpHeader(src, dst, 58, 64, 0, True, 0, 8)
    message = icmp_messages.parse(icmpv6.build(kind, code, 7, src, dst), sent)
    assert engine.is_answerable_echo(message, src, dst, {GATEWAY}) is want
