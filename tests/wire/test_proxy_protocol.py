"""PROXY headers, byte by byte as the protocol's document has them."""

import pytest

from pipeline.wire import proxy_protocol

V4 = bytes([192, 168, 0, 1]), bytes([192, 168, 0, 11])
V6 = bytes.fromhex("20010db8000000000000000000000001"), bytes(15) + b"\1"


def test_version_1_is_a_line_of_text() -> None:
    line = proxy_protocol.build(1, V4[0], 56324, V4[1], 443)
    assert line == b"PROXY TCP4 192.168.0.1 192.168.0.11 56324 443\r\n"
    line = proxy_protocol.build(1, V6[0], 1, V6[1], 65535)
    assert line == b"PROXY TCP6 2001:db8:0:0:0:0:0:1 0:0:0:0:0:0:0:1 1 65535\r\n"
    assert len(line) <= 107


@pytest.mark.parametrize(("ends", "family"), [(V4, 0x11), (V6, 0x21)])
def test_version_2_is_binary(ends: tuple[bytes, bytes], family: int) -> None:
    header = proxy_protocol.build(2, ends[0], 0x1234, ends[1], 0x5678)
    assert header[:12] == b"\r\n\r\n\0\r\nQUIT\n"
    assert header[12:14] == bytes([0x21, family])
    assert int.from_bytes(header[14:16], "big") == len(header) - 16 == 2 * len(ends[0]) + 4
    assert header[16:] == ends[0] + ends[1] + b"\x12\x34\x56\x78"


def test_ends_without_addresses_are_unknown() -> None:
    assert proxy_protocol.build_unknown(1) == b"PROXY UNKNOWN\r\n"
    assert proxy_protocol.build_unknown(2) == b"\r\n\r\n\0\r\nQUIT\n\x21\x00\x00\x00"
