"""Sequence arithmetic across the wrap."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.engines.tcp import seq

TOP = 0xFFFFFFFF
words = st.integers(0, TOP)


@pytest.mark.parametrize(
    "a, b, distance",
    [
        (0, 0, 0),
        (1, 0, 1),
        (0, 1, -1),
        (0, TOP, 1),
        (TOP, 0, -1),
        (5, TOP - 4, 10),
        (0x7FFFFFFF, 0, 0x7FFFFFFF),
        (0x80000000, 0, -0x80000000),
        (0, 0x80000000, -0x80000000),
    ],
)
def test_diff_is_the_short_way_round(a: int, b: int, distance: int) -> None:
    assert seq.diff(a, b) == distance


@pytest.mark.parametrize(
    "a, b, before", [(0, 1, True), (1, 0, False), (7, 7, False), (TOP, 0, True), (0, TOP, False)]
)
def test_lt_agrees_with_diff_at_the_wrap(a: int, b: int, before: bool) -> None:
    assert seq.lt(a, b) is before


@given(words, words)
def test_lt_is_diff_below_zero(a: int, b: int) -> None:
    assert seq.lt(a, b) == (seq.diff(a, b) < 0)


@given(st.integers(0, 1 << 40), st.integers(-(1 << 31), (1 << 31) - 1))
def test_unwrap_finds_the_position_near_a_known_one(near: int, offset: int) -> None:
    position = near + offset
    assert seq.unwrap(position & TOP, near) == position
