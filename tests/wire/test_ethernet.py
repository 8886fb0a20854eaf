"""Ethernet headers and the text of MAC addresses."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.wire import ethernet
from pipeline.wire.errors import WireError
from tests.support.fuzz import macs, parsed, u16, windows


@given(macs, macs, u16, st.binary(max_size=20))
def test_parse_gives_back_what_was_built(dst: bytes, src: bytes, ethertype: int, payload: bytes) -> None:
    frame = b"xyz" + ethernet.header(dst, src, ethertype) + payload
    assert ethernet.parse_header(memoryview(frame), 3, len(frame)) == (dst, src, ethertype)


@given(windows(40))
def test_any_bytes_are_a_header_or_a_runt(window: tuple[memoryview, int, int]) -> None:
    view, off, end = window
    got = parsed(ethernet.parse_header, view, off, end)
    assert (got is None) == (end - off < ethernet.HEADER_LEN or end > len(view))


@pytest.mark.parametrize("length", [0, 1, 12, 13])
def test_runts_are_refused(length: int) -> None:
    with pytest.raises(WireError, match="link_frame_dropped_runt"):
        ethernet.parse_header(bytes(length), 0, length)


@pytest.mark.parametrize(
    "text", ["5a:94:ef:e4:0c:dd", "5A:94:EF:E4:0C:DD", "5a-94-ef-e4-0c-dd", "5A-94-ef-e4-0C-dd"]
)
def test_mac_text_is_read_in_either_case_and_separator(text: str) -> None:
    assert ethernet.mac_parse(text) == bytes.fromhex("5a94efe40cdd")


@given(macs)
def test_mac_text_comes_back(mac: bytes) -> None:
    assert ethernet.mac_parse(ethernet.mac_text(mac)) == mac


@pytest.mark.parametrize(
    "text",
    ["", "5a:94:ef:e4:0c", "5a:94:ef:e4:0c:dd:00", "5a:94-ef:e4:0c:dd", "5a94efe40cdd", "5a:94:ef:e4:0c:dg",
     " 5a:94:ef:e4:0c:dd", "5a:94:ef:e4:0c:dd\n", "5:a9:4e:fe:40:cd"],
)  # fmt: skip
def test_other_text_is_no_mac(text: str) -> None:
    with pytest.raises(ValueError, match="invalid MAC address"):
        ethernet.mac_parse(text)


def test_group_addresses_have_the_first_bit_set() -> None:
    assert ethernet.is_group(ethernet.BROADCAST)
    assert ethernet.is_group(bytes.fromhex("01005e000001"))
    assert not ethernet.is_group(bytes.fromhex("5a94efe40cdd"))
