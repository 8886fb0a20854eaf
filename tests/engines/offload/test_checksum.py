"""The numpy sums say what the plain ones say, for every length, alignment and stride."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.engines.offload import checksum as checksum_np
from pipeline.wire import checksum

BYTES = st.one_of(
    st.binary(max_size=3000),
    st.builds(lambda byte, n: bytes([byte]) * n, st.sampled_from([0, 1, 0xFF]), st.integers(0, 3000)),
)


@given(data=BYTES, off=st.integers(0, 9), initial=st.integers(0, 1 << 20))
def test_a_sum_over_one_buffer_is_the_plain_one(data: bytes, off: int, initial: int) -> None:
    view = memoryview(bytes(off) + data)
    assert checksum_np.checksum(view, off, len(data), initial) == checksum.checksum(data, initial)
    assert checksum_np.verify(view, off, len(data), initial) == checksum.verify(data, initial)


@pytest.mark.parametrize("length", [0, 1, 511, 512, 513, 514, 65534, 65535, 131071, 131072])
@pytest.mark.parametrize("off", [0, 1, 2])
def test_the_longest_and_heaviest_buffers_do_not_overflow(length: int, off: int) -> None:
    view = memoryview(b"\xff" * (length + off))
    assert checksum_np.checksum(view, off, length) == checksum.checksum(view[off:])


@given(data=st.binary(min_size=2, max_size=2000), initial=st.integers(0, 0xFFFFF))
def test_a_buffer_with_its_checksum_in_it_verifies(data: bytes, initial: int) -> None:
    body = bytearray(data[: len(data) // 2 * 2])
    body[0:2] = bytes(2)
    body[0:2] = checksum_np.checksum(memoryview(body), 0, len(body), initial).to_bytes(2, "big")
    assert checksum_np.verify(memoryview(body), 0, len(body), initial)
    body[-1] ^= 0x10
    assert not checksum_np.verify(memoryview(body), 0, len(body), initial)


@given(
    data=st.binary(min_size=400, max_size=4000),
    off=st.integers(0, 5),
    count=st.integers(1, 12),
    length=st.integers(1, 60),
    gap=st.integers(0, 5),
)
def test_row_sums_are_the_sums_of_the_pieces(
    data: bytes, off: int, count: int, length: int, gap: int
) -> None:
    view = memoryview(data.ljust(off + count * (length + gap), b"\x5a"))
    stride = length + gap
    pieces = [view[begin : begin + length] for begin in range(off, off + count * stride, stride)]
    wanted = [int.from_bytes(piece, "little") % 0xFFFF for piece in pieces]
    assert (checksum_np.row_sums(view, off, stride, count, length) % 0xFFFF).tolist() == wanted


def test_rows_that_leave_the_buffer_are_refused() -> None:
    with pytest.raises((ValueError, TypeError)):
        checksum_np.row_sums(memoryview(bytes(100)), 0, 60, 2, 60)


@given(st.binary(min_size=20, max_size=1200), st.integers(0, 3), st.integers(0, 9), st.integers(1, 0x5FFFA))
def test_a_checksum_is_completed_where_the_pseudo_header_stands_and_nowhere_else(
    data: bytes, off: int, field: int, pseudo: int
) -> None:
    at = off + 2 * field
    held = checksum.fold(pseudo).to_bytes(2, "big")
    view = bytearray(b"z" * off + data)
    view[at : at + 2] = held
    for change in (1, 0x80):
        wrong = bytearray(view)
        wrong[at] ^= change
        before = bytes(wrong)
        assert not checksum_np.complete_partial(wrong, off, len(data), pseudo, at)
        assert wrong == before
    assert checksum_np.complete_partial(view, off, len(data), pseudo, at)
    assert checksum.verify(bytes(view[off:]), pseudo)
    assert bytes(view[:off]) == b"z" * off
