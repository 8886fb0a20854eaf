"""Counts by key."""

import pytest

from pipeline.engines import tally


def test_a_key_is_kept_while_it_has_something() -> None:
    counts: dict[str, int] = {}
    tally.add(counts, "a", 1)
    tally.add(counts, "a", 2)
    tally.add(counts, "b", 1)
    assert counts == {"a": 3, "b": 1}
    tally.add(counts, "a", -2)
    tally.add(counts, "b", -1)
    assert counts == {"a": 1}


def test_nothing_is_taken_from_a_key_that_has_none() -> None:
    counts = {"a": 1}
    with pytest.raises(KeyError):
        tally.add(counts, "b", -1)
    assert counts == {"a": 1}
