"""ICMPv6 errors on the wire (RFC 4443 section 3)."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.wire import icmp, icmpv6, ip, ipv4, ipv6
from pipeline.wire.errors import WireError
from tests.support.fuzz import mutations, parsed, u16, u32, windows

SRC, DST = 0xFD00 << 112 | 1, 0xFD00 << 112 | 2
TCP = ipv4.PROTO_TCP
L4 = bytes.fromhex("1f40 9c40 89abcdef")
QUOTE = ipv6.build(1460, TCP, 63, SRC, DST) + L4
WANT = icmp.Quoted(1500, TCP, SRC, DST, 8000, 40000, 0x89ABCDEF)


def options(next_header: int, units: int = 0) -> bytes:
    return bytes((next_header, units)) + bytes(6 + 8 * units)


def too_big(quote: bytes) -> bytes:
    return icmpv6.build_error(icmp.Says(icmpv6.PACKET_TOO_BIG, 0, 1400), quote, DST, SRC)


def chain(headers: bytes, first: int, l4: bytes = L4) -> bytes:
    return ipv6.build(len(headers) + 1460, first, 63, SRC, DST) + headers + l4


def test_rfc_4443_3_types_and_codes_have_their_numbers() -> None:
    assert (
        icmpv6.UNREACHABLE,
        icmpv6.PACKET_TOO_BIG,
        icmpv6.TIME_EXCEEDED,
        icmpv6.PARAMETER_PROBLEM,
    ) == (1, 2, 3, 4)
    assert (
        icmpv6.NO_ROUTE,
        icmpv6.PROHIBITED,
        icmpv6.ADDRESS_UNREACHABLE,
        icmpv6.PORT_UNREACHABLE,
        icmpv6.SOURCE_POLICY_FAILED,
        icmpv6.REJECT_ROUTE,
    ) == (0, 1, 3, 4, 5, 6)
    assert (icmpv6.HOPS_EXCEEDED, icmpv6.REASSEMBLY_EXCEEDED) == (
        icmp.TTL_EXCEEDED,
        icmp.REASSEMBLY_EXCEEDED,
    )
    assert (ipv6.WRONG_FIELD, ipv6.UNKNOWN_NEXT_HEADER, ipv6.UNKNOWN_OPTION) == (0, 1, 2)


@pytest.mark.parametrize(
    ("code", "want"),
    [
        (icmp.NET_UNREACHABLE, (1, 0, 0)),
        (icmp.HOST_UNREACHABLE, (1, 3, 0)),
        (icmp.PORT_UNREACHABLE, (1, 4, 0)),
        (icmp.NET_PROHIBITED, (1, 1, 0)),
        (icmp.HOST_PROHIBITED, (1, 1, 0)),
        (icmp.ADMINISTRATIVELY_PROHIBITED, (1, 1, 0)),
        (icmp.FRAGMENTATION_NEEDED, (2, 0, 1400)),
        (icmp.PROTOCOL_UNREACHABLE, (4, 1, 48)),
        (5, (1, 0, 0)),
        (12, (1, 0, 0)),
    ],
)
def test_each_code_of_icmp_has_its_message(code: int, want: tuple[int, int, int]) -> None:
    assert icmpv6.unreachable(code, 1400, 48) == want


@pytest.mark.parametrize(("mtu", "want"), [(0, 1280), (68, 1280), (1279, 1280), (1280, 1280), (9000, 9000)])
def test_rfc_8200_5_no_hop_has_a_smaller_mtu_than_1280(mtu: int, want: int) -> None:
    assert icmpv6.unreachable(icmp.FRAGMENTATION_NEEDED, mtu, 0).rest == want


@given(st.binary(max_size=1400), u32)
def test_rfc_4443_2_4_c_an_error_quotes_what_fits_into_1280_bytes(quote: bytes, rest: int) -> None:
    message = icmpv6.build_error(icmp.Says(4, 1, rest), quote, SRC, DST)
    found = icmpv6.parse(message, 0, len(message), SRC, DST)
    assert (found.type, found.code, found.rest) == (4, 1, rest)
    assert message[8:] == quote[:1232]
    assert ipv6.HEADER_LEN + len(message) <= 1280


@pytest.mark.parametrize(
    ("kind", "want"), [(0, True), (1, True), (127, True), (128, False), (129, False), (137, True)]
)
def test_rfc_4443_2_1_types_below_128_are_errors(kind: int, want: bool) -> None:
    assert icmpv6.is_error(kind) is want


# --- quotes ------------------------------------------------------------------------------------


@pytest.mark.parametrize("rest", [b"", b"more", bytes(1400)])
def test_rfc_4443_2_4_d_an_error_tells_the_segment_that_it_is_about(rest: bytes) -> None:
    message = b"-" + too_big(QUOTE + rest)
    assert icmpv6.parse_quoted(memoryview(message), 1, len(message)) == WANT


def test_extension_headers_before_the_segment_are_skipped() -> None:
    for headers, first in (
        (options(TCP), 60),
        (options(43, 3) + options(TCP), 60),
        (ipv6.build_fragment(TCP, 0, True, 7), 44),
        (options(44) + ipv6.build_fragment(60, 0, True, 7) + options(TCP), 0),
    ):
        message = too_big(chain(headers, first))
        want = WANT._replace(total_len=1500 + len(headers))
        assert icmpv6.parse_quoted(message, 0, len(message)) == want


MAPPED = ip.parse_ipv4("192.168.127.2")
UNTOLD = {
    "empty": b"",
    "short": QUOTE[:-1],
    "no-header": QUOTE[:39],
    "version-4": b"\x45" + QUOTE[1:],
    "later-fragment": chain(ipv6.build_fragment(TCP, 8, True, 7), 44),
    "routed": chain(bytes((TCP, 0, 0, 1)) + bytes(4), 43),
    "cut-in-a-header": chain(options(TCP, 9), 60)[:60],
    "too-many-headers": chain(options(60) * 8 + options(TCP), 60),
    "long-header": chain(bytes((TCP, 255)) + bytes(6), 60),
    "fragment-in-fragment": chain(ipv6.build_fragment(44, 0, True, 7) * 2, 44),
    "from-ipv4": ipv6.build(1460, TCP, 63, MAPPED, DST) + L4,
    "to-ipv4": ipv6.build(1460, TCP, 63, SRC, MAPPED) + L4,
}


@pytest.mark.parametrize("quote", UNTOLD.values(), ids=UNTOLD.keys())
def test_an_error_that_does_not_tell_has_its_reason(quote: bytes) -> None:
    message = too_big(quote)
    with pytest.raises(WireError, match="icmp_error_dropped_bad_quote"):
        icmpv6.parse_quoted(message, 0, len(message))


@given(st.sampled_from([QUOTE, chain(options(44) + ipv6.build_fragment(TCP, 0, True, 7), 0)]), st.data())
def test_damaged_quotes_are_read_or_refused_by_name(quote: bytes, data: st.DataObject) -> None:
    message = data.draw(mutations(too_big(quote)))
    found = parsed(icmpv6.parse_quoted, message, 0, len(message))
    if found is not None:
        assert not ip.is_ipv4(found.src)
        assert not ip.is_ipv4(found.dst)


@given(windows(200))
def test_any_bytes_are_a_quote_or_refused_by_name(window: tuple[memoryview, int, int]) -> None:
    parsed(icmpv6.parse_quoted, *window)


@given(u16, u16, u32, u16)
def test_a_quote_is_read_as_it_was_built(src_port: int, dst_port: int, seq: int, length: int) -> None:
    l4 = (src_port << 48 | dst_port << 32 | seq).to_bytes(8, "big")
    message = too_big(ipv6.build(length, TCP, 1, SRC, DST) + l4)
    found = icmpv6.parse_quoted(message, 0, len(message))
    assert found == (40 + length, TCP, SRC, DST, src_port, dst_port, seq)
