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


TAGS = st.lists(
    st.tuples(st.sampled_from([0x8100, 0x88A8, 0x0800]), st.sampled_from([0, 0xE000, 0x1000, 5, 0xFFF])),
    max_size=4,
)


@given(TAGS, st.integers(0, 3), st.sampled_from([0, 12]), st.integers(0, 80))
def test_priority_tags_and_no_other_bytes_are_removed(
    tags: list[tuple[int, int]], off: int, before: int, size: int
) -> None:
    addresses = bytes(range(1, 13))
    parts = [kind.to_bytes(2, "big") + control.to_bytes(2, "big") for kind, control in tags]
    frame = (addresses + b"".join(parts) + b"\x08\x06" + b"payload" * 8)[:size]
    head = b"\xee" * off + b"\xdd" * before
    view = memoryview(bytearray(head + frame + b"\xcc" * 3))
    removed = ethernet.remove_priority_tags(view, len(head), len(frame), before)
    expected = 0
    for kind, control in tags[:2]:
        if kind == 0x0800 or control & 0xFFF or len(frame) < 12 + expected + 6:
            break
        expected += 4
    assert removed == expected
    assert bytes(view[-3:]) == b"\xcc" * 3
    begin = len(head) + removed
    assert bytes(view[begin : begin + len(frame) - removed]) == frame[:12] + frame[12 + removed :]
    assert bytes(view[begin - before : begin]) == b"\xdd" * before


@pytest.mark.parametrize(
    "text, found",
    [
        ("0800", (0x0800, 14)), ("8100000586dd", (0x86DD, 18)), ("88a80001810000050800", (0x0800, 22)),
        ("8100000081000000810000000800", (0, 26)), ("81000000", (0, 16)), ("08", (0, 13)), ("", (0, 12)),
    ],
)  # fmt: skip
def test_the_network_header_is_found_after_two_tags_at_most(text: str, found: tuple[int, int]) -> None:
    frame = bytes(12) + bytes.fromhex(text)
    assert ethernet.network_header(frame, 0, len(frame)) == found
    assert ethernet.network_header(b"xyz" + frame + b"\x08\0", 3, 3 + len(frame)) == (found[0], found[1] + 3)


@pytest.mark.parametrize("text", ["01:00:5e:00:00:01", "ff:ff:ff:ff:ff:ff", "00:00:00:00:00:00", "5a:94", ""])
def test_no_machine_has_the_address_of_a_group_or_of_zeros(text: str) -> None:
    with pytest.raises(ValueError, match="MAC address"):
        ethernet.machine_mac_parse(text)


def test_a_made_up_address_is_local_and_of_one_machine() -> None:
    assert ethernet.machine_mac_parse("5A-94-ef-e4-0c-ee") == bytes.fromhex("5a94efe40cee")
    for first in range(256):
        made = ethernet.local_mac(bytes((first, 1, 2, 3, 4, 5)))
        assert (made[0] & 3, made[0] & 0xFC, made[1:]) == (2, first & 0xFC, bytes((1, 2, 3, 4, 5)))
