"""The timing wheel beside a plain sorted list, and how little it does for each call."""

import sys
import weakref
from collections.abc import Callable
from math import inf, nan
from random import Random
from types import FrameType
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from pipeline.engines import timing_wheel
from pipeline.engines.timing_wheel import TICKS_A_SECOND, TimingWheel

TICK = 1 / TICKS_A_SECOND
HOURS = 3600.0
NOW = 1e6
"""A clock that has run for days, as the monotonic one has."""

ticks = st.one_of(
    *(st.integers(0, 1 << bits).map(lambda n: n * TICK) for bits in (3, 9, 17, 25)),
    # The edges of slots of each level, where a digit is carried.
    st.tuples(st.integers(1, 4), st.integers(1, 3), st.integers(-1, 1)).map(
        lambda edge: ((edge[1] << 8 * edge[0]) + edge[2]) * TICK
    ),
)
spans = st.one_of(ticks, *(st.floats(0, scale) for scale in (TICK, 0.3, 90.0, 3 * HOURS, 1e7)))
"""Lengths of time: whole ticks and others, from nothing to months."""


# --- when a timer comes ---------------------------------------------------------------


class WheelModel(RuleBasedStateMachine):
    """The wheel beside a sorted list of (time, key)."""

    @initialize(start=st.one_of(st.just(0.0), ticks, st.floats(0, 1e8)))
    def begin(self, start: float) -> None:
        self.now = start
        self.wheel: TimingWheel[int] = TimingWheel()
        self.list: list[tuple[float, int]] = []

    def forget(self, key: int) -> None:
        self.list = [entry for entry in self.list if entry[1] != key]

    @rule(key=st.integers(0, 9), after=spans)
    def schedule(self, key: int, after: float) -> None:
        self.wheel.schedule(key, self.now + after)
        self.forget(key)
        self.list = sorted([*self.list, (self.now + after, key)])

    @rule(key=st.integers(0, 9), before=spans)
    def schedule_in_the_past(self, key: int, before: float) -> None:
        at = self.now - before
        self.wheel.schedule(key, at)
        self.forget(key)
        self.list = sorted([*self.list, (at, key)])

    @rule(key=st.integers(0, 9))
    def cancel(self, key: int) -> None:
        self.wheel.cancel(key)
        self.forget(key)

    @rule(after=spans)
    def advance(self, after: float) -> None:
        self.now += after
        expired = self.wheel.advance(self.now)
        assert len(expired) == len(set(expired))
        assert {key for at, key in self.list if at + TICK <= self.now} <= set(expired), "late"
        assert set(expired) <= {key for at, key in self.list if at <= self.now}, "early"
        self.list = [entry for entry in self.list if entry[1] not in expired]
        assert self.wheel.deadline() > self.now, "who sleeps until then would not sleep"

    @rule()
    def advance_to_the_deadline(self) -> None:
        if self.list:
            self.advance(max(self.wheel.deadline() - self.now, 0.0))

    @rule(before=spans)
    def advance_into_the_past(self, before: float) -> None:
        """Nothing is early then either, and nothing is lost."""
        now = max(self.now - before, 0.0)
        expired = self.wheel.advance(now)
        assert set(expired) <= {key for at, key in self.list if at <= now}
        self.list = [entry for entry in self.list if entry[1] not in expired]

    @invariant()
    def both_agree(self) -> None:
        assert len(self.wheel) == len(self.list)
        assert all(key in self.wheel for _, key in self.list)
        if self.list:
            assert self.wheel.deadline() <= max(self.list[0][0], self.now) + TICK, "the first would be late"
        else:
            assert self.wheel.deadline() == inf


TestWheelModel = WheelModel.TestCase
TestWheelModel.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)


@given(start=st.floats(0, 1e8), afters=st.lists(spans, max_size=30))
def test_who_sleeps_until_each_deadline_gets_all_in_time(start: float, afters: list[float]) -> None:
    wheel: TimingWheel[int] = TimingWheel()
    wheel.advance(start)
    at = [start + after for after in afters]
    for key, when in enumerate(at):
        wheel.schedule(key, when)
    wakes = 0
    while (now := wheel.deadline()) < inf:
        wakes += 1
        for key in wheel.advance(now):
            assert at[key] <= now <= at[key] + TICK or at[key] <= start
    assert not len(wheel)
    assert wakes <= 6 * len(at), "months have five digits"


@given(st.floats(0, 1e9), st.floats(0, 1e9))
def test_a_timer_is_never_early_by_rounding(at: float, now: float) -> None:
    wheel: TimingWheel[str] = TimingWheel()
    wheel.schedule("key", at)
    if wheel.advance(now):
        assert now >= at
    else:
        assert now < at + TICK
        assert wheel.advance(at + TICK) == ["key"]


def test_a_timer_that_is_due_comes_at_once() -> None:
    wheel: TimingWheel[str] = TimingWheel()
    wheel.advance(NOW)
    wheel.schedule("now", NOW)
    wheel.schedule("long ago", 5.0)
    assert wheel.deadline() <= NOW
    assert sorted(wheel.advance(NOW)) == ["long ago", "now"]
    assert wheel.deadline() == inf


def test_a_timer_moves_both_ways() -> None:
    wheel: TimingWheel[str] = TimingWheel()
    wheel.advance(NOW)
    wheel.schedule("key", NOW + 2 * HOURS)
    wheel.schedule("key", NOW + 0.04)
    assert len(wheel) == 1
    assert wheel.advance(NOW + 0.041) == ["key"]
    assert wheel.advance(NOW + 3 * HOURS) == []
    wheel.schedule("key", NOW + 4 * HOURS)
    wheel.schedule("key", NOW + 5 * HOURS)
    assert wheel.advance(NOW + 4.5 * HOURS) == []
    assert wheel.advance(NOW + 5.1 * HOURS) == ["key"]


def test_a_time_that_never_comes_is_refused_and_changes_nothing() -> None:
    wheel: TimingWheel[str] = TimingWheel()
    wheel.schedule("key", 1.0)
    with pytest.raises(OverflowError):
        wheel.schedule("key", inf)
    with pytest.raises(ValueError, match="NaN"):
        wheel.schedule("key", nan)
    assert wheel.advance(1.0) == ["key"]


# --- what it costs --------------------------------------------------------------------


class Key:
    """Counts how often it is looked up."""

    hashed = 0

    def __hash__(self) -> int:
        Key.hashed += 1
        return id(self)


def lines(call: Callable[[], object]) -> int:
    """How many lines of the wheel's module run in call, loops and comprehensions included."""
    count = 0

    def trace(frame: FrameType, event: str, _argument: Any) -> Any:
        nonlocal count
        if frame.f_code.co_filename != timing_wheel.__file__:
            return None
        count += event == "line"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        call()
    finally:
        sys.settrace(before)
    return count


def crowd(count: int) -> TimingWheel[Key]:
    """Timers as connections have them: half wait for their keep-alive, half for less than ten seconds."""
    rng = Random(1)
    wheel: TimingWheel[Key] = TimingWheel()
    wheel.advance(NOW)
    for i in range(count):
        wheel.schedule(Key(), NOW + rng.uniform(0.001, 10.0) + (2 * HOURS if i % 2 else 0.0))
    return wheel


@pytest.mark.parametrize("count", [1_000, 100_000])
def test_many_timers_cost_no_scan(count: int) -> None:
    wheel = crowd(count)
    late, soon = Key(), Key()
    wheel.schedule(late, NOW + 2 * HOURS)
    Key.hashed = 0
    calls: list[Callable[[], object]] = [
        lambda: wheel.schedule(soon, NOW + 0.0001),
        lambda: wheel.schedule(late, NOW + 0.0005),
        lambda: wheel.schedule(late, NOW + 1.5),
        wheel.deadline,
        lambda: wheel.cancel(soon),
        lambda: wheel.cancel(soon),
        lambda: wheel.advance(NOW),
    ]
    assert max(lines(call) for call in calls) <= 40
    assert Key.hashed <= 8 * len(calls)


def test_each_timer_is_touched_once_a_level_until_it_expires() -> None:
    count = 100_000
    Key.hashed = 0
    wheel = crowd(count)
    left, wakes = count, 0
    while (now := wheel.deadline()) < inf:
        left -= len(wheel.advance(now))
        wakes += 1
    assert left == 0
    # Three to put it in, four for each of at most two levels that it moves down, three to let it go.
    assert Key.hashed <= 14 * count
    assert wakes <= 2 * (10 * TICKS_A_SECOND + 200), "one for each tick with a timer, some for slots above"


def test_a_jump_of_ten_hours_looks_at_no_tick_between() -> None:
    wheel: TimingWheel[Key] = TimingWheel()
    wheel.advance(NOW)
    assert lines(lambda: wheel.advance(NOW + 10 * HOURS)) <= 20
    for after in (0.04, 1.0, 60.0, 2 * HOURS, 30 * HOURS):
        wheel.schedule(Key(), NOW + 10 * HOURS + after)
    assert lines(lambda: wheel.advance(NOW + 20 * HOURS)) <= 150
    assert len(wheel) == 1
    wheel = crowd(10_000)
    expired: list[Key] = []
    assert lines(lambda: expired.extend(wheel.advance(NOW + 10 * HOURS))) <= 15 * 10_000
    assert len(expired) == 10_000


def test_nothing_holds_a_key_that_expired_or_was_cancelled() -> None:
    wheel: TimingWheel[Key] = TimingWheel()
    wheel.advance(NOW)
    keys = [Key() for _ in range(9)]
    seen = [weakref.ref(key) for key in keys]
    for i, key in enumerate(keys):
        wheel.schedule(key, NOW + 2 * HOURS)
        if i % 3:
            wheel.schedule(key, NOW + 0.04 * i)
    for key in keys[::2]:
        wheel.cancel(key)
    assert set(wheel.advance(NOW + 1.0)) == {keys[1], keys[5], keys[7]}
    assert [key in wheel for key in keys] == [i == 3 for i in range(9)]
    del key, keys
    assert [ref() is not None for ref in seen] == [i == 3 for i in range(9)]
