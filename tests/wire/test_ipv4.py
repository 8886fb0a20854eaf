"""IPv4 headers and addresses."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.wire import checksum, ip, ipv4
from pipeline.wire.errors import WireError
from tests.support.fuzz import addrs, mutations, parsed, u8, u16, windows

VALID = ipv4.build(
    28, 7, 64, ipv4.PROTO_UDP, ip.from_ipv4(0xC0A87F02), ip.from_ipv4(0x08080808), flags=ipv4.FLAG_DF
) + bytes(8)


def with_checksum(header: bytearray) -> bytes:
    header[10:12] = b"\0\0"
    header[10:12] = checksum.checksum(header[: (header[0] & 15) * 4]).to_bytes(2, "big")
    return bytes(header)


@given(
    st.integers(0, 200), u16, u8, u8, addrs, addrs, st.integers(0, 3), st.integers(0, 0x1FFF), u8,
    st.binary(max_size=8),
)  # fmt: skip
def test_parse_gives_back_what_was_built(
    length: int, ident: int, ttl: int, proto: int, src: int, dst: int, flags: int, frag: int, tos: int,
    padding: bytes,
) -> None:  # fmt: skip
    total_len = ipv4.HEADER_LEN + length
    header = ipv4.build(total_len, ident, ttl, proto, src, dst, flags=flags, frag_off=frag * 8, tos=tos)
    assert checksum.verify(header)
    packet = b"---" + header + bytes(length) + padding
    want = ipv4.Header(20, tos, total_len, ident, flags, frag * 8, ttl, proto, src, dst)
    assert ipv4.parse(memoryview(packet), 3, len(packet)) == want


@given(u16, u16, u8, u8, addrs, addrs)
def test_the_checksum_field_is_never_the_negative_zero(
    total_len: int, ident: int, ttl: int, proto: int, src: int, dst: int
) -> None:
    header = ipv4.build(total_len, ident, ttl, proto, src, dst)
    bare = header[:10] + b"\0\0" + header[12:]
    assert int.from_bytes(header[10:12], "big") == checksum.checksum(bare)


@given(windows(80))
def test_any_bytes_are_a_header_or_refused_by_name(window: tuple[memoryview, int, int]) -> None:
    parsed(ipv4.parse, *window)


@given(mutations(VALID), st.booleans())
def test_damaged_headers_are_refused_or_within_their_bounds(data: bytes, fix: bool) -> None:
    if fix and len(data) >= 20:
        data = with_checksum(bytearray(data))
    header = parsed(ipv4.parse, data, 0, len(data))
    if header is not None:
        assert 20 <= header.ihl <= header.total_len <= len(data)
        assert header.frag_off % 8 == 0


def test_options_are_skipped() -> None:
    packet = with_checksum(
        bytearray(b"\x46" + VALID[1:3] + b"\x20" + VALID[4:20] + b"\x94\x04\0\0" + VALID[20:])
    )
    header = ipv4.parse(packet, 0, len(packet))
    assert (header.ihl, header.total_len) == (24, 32)


@pytest.mark.parametrize(
    "where, value, reason",
    [
        (0, 0x65, "ipv4_packet_dropped_bad_version"),
        (0, 0x44, "ipv4_packet_dropped_bad_length"),
        (0, 0x48, "ipv4_packet_dropped_bad_length"),
        (3, 19, "ipv4_packet_dropped_bad_length"),
        (3, 29, "ipv4_packet_dropped_truncated"),
        (8, 63, "ipv4_packet_dropped_bad_checksum"),
    ],
)
def test_each_defect_has_its_reason(where: int, value: int, reason: str) -> None:
    data = bytearray(VALID)
    data[where] = value
    with pytest.raises(WireError, match=f"^{reason}$"):
        ipv4.parse(bytes(data), 0, len(data))


def test_a_header_cut_short_is_truncated() -> None:
    with pytest.raises(WireError, match="ipv4_packet_dropped_truncated"):
        ipv4.parse(VALID, 0, 19)


@given(addrs)
def test_address_text_comes_back(addr: int) -> None:
    assert ip.parse_ipv4(ip.text(addr)) == addr


@pytest.mark.parametrize(
    "text", ["", "1.2.3", "1.2.3.4.5", "1.2.3.256", "01.2.3.4", "1.2.3.-4", "1.2.3.4 ", "a.b.c.d", "1..3.4",
             "1.2.3.0004", "\u0661.2.3.4", "::1", "1.2.3.4\n"]
)  # fmt: skip
def test_other_text_is_no_address(text: str) -> None:
    with pytest.raises(ValueError, match="invalid IP address"):
        ip.parse_ipv4(text)


@pytest.mark.parametrize(
    "text, multicast, loopback, link_local",
    [
        ("223.255.255.255", False, False, False),
        ("224.0.0.1", True, False, False),
        ("239.255.255.255", True, False, False),
        ("240.0.0.0", False, False, False),
        ("127.0.0.1", False, True, False),
        ("126.255.255.255", False, False, False),
        ("169.254.169.254", False, False, True),
        ("169.253.0.1", False, False, False),
    ],
)
def test_kinds_of_addresses(text: str, multicast: bool, loopback: bool, link_local: bool) -> None:
    addr = ip.parse_ipv4(text)
    assert ip.is_multicast(addr) == multicast
    assert ip.is_loopback(addr) == loopback
    assert ip.is_link_local(addr) == link_local
