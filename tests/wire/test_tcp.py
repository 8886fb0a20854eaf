"""TCP headers."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.wire import tcp, tcp_options
from pipeline.wire.errors import WireError
from tests.support import tcp_segments
from tests.support.frames import GUEST, REMOTE, tcp_frame
from tests.support.fuzz import addrs, mutations, parsed, u8, u16, u32, windows
from tests.support.offload import left_out

OPTIONS = st.sampled_from([b"", tcp_options.build(True, 1, 2), tcp_options.build_syn(1460, 7, True, True, 5)])
VALID = tcp_segments.header(4000, 80, 1, 2, tcp.ACK, 100, tcp_options.build(True, 3, 4)) + b"data"


@given(u16, u16, u32, u32, u8, u16, u16, u16, OPTIONS, st.binary(max_size=10))
def test_parse_gives_back_what_was_built(
    src_port: int, dst_port: int, seq: int, ack: int, flags: int, wnd: int, check: int, urgent: int,
    options: bytes, payload: bytes,
) -> None:  # fmt: skip
    built = tcp_segments.header(src_port, dst_port, seq, ack, flags, wnd, options, check, urgent)
    segment = b"--" + built + payload
    header = tcp.parse(memoryview(segment), 2, len(segment))
    want = (src_port, dst_port, seq, ack, 20 + len(options), flags, wnd, check, urgent)
    assert header == want
    assert segment[2 + header.header_len :] == payload


@given(addrs, addrs, u16, u16, u32, u32, u8, u16, OPTIONS, st.binary(max_size=41), st.integers(0, 500))
def test_a_whole_segment_verifies_and_a_damaged_one_does_not(
    src: int, dst: int, src_port: int, dst_port: int, seq: int, ack: int, flags: int, wnd: int,
    options: bytes, payload: bytes, where: int,
) -> None:  # fmt: skip
    segment = tcp_segments.segment(src, dst, src_port, dst_port, seq, ack, flags, wnd, options, payload)
    tcp.verify(memoryview(segment), 0, len(segment), src, dst)
    damaged = bytearray(segment)
    damaged[where % len(damaged)] ^= 0x10
    with pytest.raises(WireError, match="tcp_segment_dropped_bad_checksum"):
        tcp.verify(bytes(damaged), 0, len(damaged), src, dst)


@given(windows(80))
def test_any_bytes_are_a_header_or_refused_by_name(window: tuple[memoryview, int, int]) -> None:
    view, off, end = window
    header = parsed(tcp.parse, view, off, end)
    if header is not None:
        assert 20 <= header.header_len <= end - off


@given(mutations(VALID))
def test_damaged_headers_stay_within_their_bounds(data: bytes) -> None:
    header = parsed(tcp.parse, data, 0, len(data))
    if header is not None:
        assert 20 <= header.header_len <= len(data)
        parsed(tcp_options.parse, data, tcp.HEADER_LEN, header.header_len)


@pytest.mark.parametrize("offset", [0x00, 0x40, 0xA0, 0xF0])
def test_a_data_offset_before_the_header_or_behind_the_end_has_its_reason(offset: int) -> None:
    data = bytearray(VALID)
    data[12] = offset
    with pytest.raises(WireError, match="tcp_segment_dropped_bad_offset"):
        tcp.parse(bytes(data), 0, len(data))


def test_a_header_cut_short_is_truncated() -> None:
    with pytest.raises(WireError, match="tcp_segment_dropped_truncated"):
        tcp.parse(VALID, 0, 19)


def test_a_checksum_that_was_left_to_the_card_is_right() -> None:
    frame = tcp_frame(5, b"x" * 99)
    segment = left_out(frame)[34:]
    tcp.verify(b"--" + segment, 2, 2 + len(segment), GUEST, REMOTE)
    with pytest.raises(WireError, match="tcp_segment_dropped_bad_checksum"):
        tcp.verify(segment, 0, len(segment), GUEST, REMOTE + 1)
    with pytest.raises(WireError, match="tcp_segment_dropped_bad_checksum"):
        tcp.verify(segment, 0, len(segment) - 1, GUEST, REMOTE)
