"""UDP headers."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.wire import checksum, ip, ipv4, udp
from pipeline.wire.errors import WireError
from tests.support.frames import GUEST, REMOTE, udp_frame
from tests.support.fuzz import addrs, mutations, parsed, u16, windows
from tests.support.offload import left_out


@given(u16, u16, st.integers(8, 60), u16, st.binary(max_size=5))
def test_parse_gives_back_what_was_built(src: int, dst: int, length: int, check: int, extra: bytes) -> None:
    datagram = b"-" + udp.build(src, dst, length, check) + bytes(length - 8) + extra
    assert udp.parse(memoryview(datagram), 1, len(datagram)) == (src, dst, length, check)


@given(addrs, addrs, u16, u16, st.binary(max_size=50))
def test_the_checksum_made_is_the_one_verified(
    src: int, dst: int, src_port: int, dst_port: int, payload: bytes
) -> None:
    words = checksum.word_sum(payload)
    datagram = udp.build_checked(src, dst, src_port, dst_port, len(payload), words) + payload + b"padding"
    header = udp.parse(datagram, 0, len(datagram))
    assert header.checksum != 0
    udp.verify(datagram, 0, header, src, dst)
    damaged = bytearray(datagram)
    damaged[1] ^= 1
    with pytest.raises(WireError, match="udp_datagram_dropped_bad_checksum"):
        udp.verify(bytes(damaged), 0, header, src, dst)


def test_a_sum_that_gives_checksum_zero_is_sent_as_all_ones() -> None:
    total = checksum.fold(checksum.pseudo_header(1, 2, ipv4.PROTO_UDP, 10) + 3 + 4 + 10)
    payload = (0xFFFF - total).to_bytes(2, "big")
    header = udp.build_checked(1, 2, 3, 4, 2, checksum.word_sum(payload))
    assert header[6:8] == b"\xff\xff"
    udp.verify(header + payload, 0, udp.parse(header + payload, 0, 10), 1, 2)


def test_a_datagram_without_checksum_is_not_verified() -> None:
    datagram = udp.build(1, 2, 12) + b"data"
    udp.verify(datagram, 0, udp.parse(datagram, 0, 12), ip.MAPPED | 5, ip.MAPPED | 6)
    with pytest.raises(WireError, match="udp_datagram_dropped_no_checksum"):
        udp.verify(datagram, 0, udp.parse(datagram, 0, 12), 5, 6)


def test_an_empty_datagram_is_one() -> None:
    assert udp.parse(udp.build(1, 2, 8), 0, 8).length == udp.HEADER_LEN


@given(windows(40))
def test_any_bytes_are_a_header_or_refused_by_name(window: tuple[memoryview, int, int]) -> None:
    view, off, end = window
    header = parsed(udp.parse, view, off, end)
    if header is not None:
        assert 8 <= header.length <= end - off


@given(mutations(udp.build(1000, 53, 12, 0) + b"data"))
def test_damaged_headers_stay_within_their_bounds(data: bytes) -> None:
    header = parsed(udp.parse, data, 0, len(data))
    if header is not None:
        assert 8 <= header.length <= len(data)
        parsed(udp.verify, data, 0, header, 1, 2)


@pytest.mark.parametrize("length, reason", [(7, "bad_length"), (0, "bad_length"), (13, "bad_length")])
def test_impossible_lengths_have_their_reason(length: int, reason: str) -> None:
    with pytest.raises(WireError, match=f"udp_datagram_dropped_{reason}"):
        udp.parse(udp.build(1, 2, length) + b"data", 0, 12)


def test_a_header_cut_short_is_truncated() -> None:
    with pytest.raises(WireError, match="udp_datagram_dropped_truncated"):
        udp.parse(bytes(7), 0, 7)


def test_a_checksum_that_was_left_to_the_card_is_right() -> None:
    datagram = left_out(udp_frame(b"x" * 99))[34:]
    udp.verify(b"--" + datagram, 2, udp.parse(datagram, 0, len(datagram)), GUEST, REMOTE)
    with pytest.raises(WireError, match="udp_datagram_dropped_bad_checksum"):
        udp.verify(datagram, 0, udp.parse(datagram, 0, len(datagram)), GUEST, REMOTE + 1)
