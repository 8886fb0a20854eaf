"""Rates of counters, from two polls."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.client.top.rates import Rates


def test_a_rate_is_the_growth_over_the_time_between_two_polls() -> None:
    rates: Rates[str] = Rates()
    rates.take(10.0, {"a": 100, "b": 5})
    assert rates.of("a") is None
    rates.take(12.5, {"a": 350, "b": 5})
    assert (rates.of("a"), rates.of("b"), rates.of("c")) == (100.0, 0.0, None)


def test_a_counter_that_begins_again_has_no_rate() -> None:
    rates: Rates[str] = Rates()
    rates.take(1.0, {"a": 100})
    rates.take(2.0, {"a": 30})
    assert rates.of("a") is None
    rates.take(3.0, {"a": 40})
    assert rates.of("a") == 10.0


def test_a_key_that_was_missing_once_begins_again() -> None:
    rates: Rates[str] = Rates()
    rates.take(1.0, {"a": 100})
    rates.take(2.0, {})
    rates.take(3.0, {"a": 200})
    assert rates.of("a") is None


def test_a_counter_that_is_listed_late_grew_from_nothing() -> None:
    rates: Rates[str] = Rates(missing=0.0)
    rates.take(1.0, {})
    assert rates.of("a") is None
    rates.take(3.0, {"a": 10})
    assert rates.of("a") == 5.0


def test_polls_of_one_time_are_one_poll() -> None:
    rates: Rates[str] = Rates()
    rates.take(1.0, {"a": 100})
    rates.take(1.0, {"a": 200})
    rates.take(2.0, {"a": 300})
    assert rates.of("a") == 200.0


def test_after_forget_the_next_poll_is_the_first() -> None:
    rates: Rates[str] = Rates()
    rates.take(1.0, {"a": 100})
    rates.forget()
    rates.take(2.0, {"a": 300})
    assert rates.of("a") is None


@given(st.lists(st.tuples(st.floats(0, 1e6), st.dictionaries(st.text(max_size=2), st.integers(0, 1 << 64)))))
def test_no_rate_is_negative(polls: list[tuple[float, dict[str, int]]]) -> None:
    rates: Rates[str] = Rates()
    for at, values in polls:
        rates.take(at, values)
        assert all((rate := rates.of(key)) is None or rate >= 0 for key in values)
        assert rates.of("never there") is None


def test_a_rate_over_a_long_gap_is_its_mean() -> None:
    rates: Rates[str] = Rates()
    rates.take(0.0, {"a": 0})
    rates.take(600.0, {"a": 6000})
    assert rates.of("a") == pytest.approx(10.0)
