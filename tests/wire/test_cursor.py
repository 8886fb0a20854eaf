"""The bounded reader."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.wire.cursor import Cursor
from pipeline.wire.errors import WireError


def test_reads_bytes_in_turn() -> None:
    cursor = Cursor(memoryview(bytes(range(10))), 1, 9, "why")
    assert (cursor.u8(), cursor.u8(), cursor.take(5)) == (1, 2, b"\x03\x04\x05\x06\x07")
    assert (cursor.off, cursor.remaining) == (8, 1)
    assert cursor.take(1) == b"\x08"
    assert cursor.take(0) == b""


def test_reading_after_the_end_raises_the_given_reason() -> None:
    cursor = Cursor(b"abcd", 0, 4, "why")
    cursor.skip(4)
    with pytest.raises(WireError) as caught:
        cursor.u8()
    assert caught.value.reason == "why"


@pytest.mark.parametrize("off, end", [(0, 5), (3, 2), (-1, 2), (5, 5)])
def test_bounds_outside_the_buffer_are_refused(off: int, end: int) -> None:
    with pytest.raises(WireError):
        Cursor(b"abcd", off, end, "why")


@pytest.mark.parametrize("count", [-1, 5])
def test_take_and_skip_refuse_impossible_counts_and_read_nothing(count: int) -> None:
    cursor = Cursor(b"abcd", 0, 4, "why")
    with pytest.raises(WireError):
        cursor.take(count)
    with pytest.raises(WireError):
        cursor.skip(count)
    assert cursor.remaining == 4


@given(st.binary(max_size=40), st.lists(st.integers(-2, 20), max_size=10))
def test_never_leaves_its_bounds(data: bytes, counts: list[int]) -> None:
    cursor = Cursor(b"<" + data + b">", 1, 1 + len(data), "why")
    got = b""
    for count in counts:
        try:
            got += cursor.take(count)
        except WireError:
            assert count < 0 or count > cursor.remaining
    assert data.startswith(got)
