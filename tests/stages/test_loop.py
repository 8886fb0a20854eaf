"""The loop with workers that are scripts: who breathes, and when it looks for more before it sleeps."""

from collections.abc import Callable
from typing import Any

import pytest
import structlog

from pipeline.ipc.poller import Poller
from pipeline.stages import loop as loop_module
from pipeline.stages.loop import BUSY_GAP, Idle, Loop, Member

BUSY_POLL = 50e-6
LOOK = 1e-5
"""What one look takes on the clock of these tests."""


class Clock:
    """Stands still unless somebody waits or looks."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Scripted(Member):
    """A worker whose breaths have a given amount of work, then none."""

    log: structlog.typing.FilteringBoundLogger = structlog.get_logger()
    poller: Poller | None = None
    has_peers_outside = True

    def __init__(self, name: str, clock: Clock, work: list[int]) -> None:
        self.name = name
        self.clock = clock
        self.work = work
        self.running = True
        self.paused = False
        self.woken = False
        self.sleeps = self.breaths = self.looks = 0
        self.idle = Idle()
        self.input_at_look = 0
        """Which look finds an input, from 1; none if 0."""
        self.prewakes: list[bool] = []
        """What the worker says to each question whether it was prewoken; False when it has nothing to say."""

    def breathe(self, now: float) -> int:
        self.breaths += 1
        self.woken = False
        return self.work.pop(0) if self.work else 0

    def may_sleep(self) -> float:
        return 0.0 if self.woken else 1.0

    def announce(self) -> None:
        self.announced = True

    def inputs_ready(self) -> bool:
        self.looks += 1
        self.clock.now += LOOK
        return self.looks == self.input_at_look

    def awake(self) -> None:
        self.announced = False

    def prewoken(self) -> bool:
        return self.prewakes.pop(0) if self.prewakes else False

    def hold(self, seconds: float) -> None:
        raise AssertionError("nobody pauses")

    def check_parent(self) -> None:
        raise AssertionError("only a process asks")

    def end(self) -> None:
        raise AssertionError("only a process ends")


class Waiting:
    """The waiter of the process: each wait takes some time; the last one ends the loop."""

    def __init__(self, clock: Clock, gaps: list[float], stop: Callable[[], None]) -> None:
        self.clock = clock
        self.gaps = gaps
        self.stop = stop
        self.waits = 0

    def post(self) -> None:
        raise AssertionError("nobody rings here")

    def wait(self, timeout: float) -> bool:
        self.waits += 1
        self.clock.now += self.gaps.pop(0) if self.gaps else timeout
        if not self.gaps:
            self.stop()
        return True

    def close(self) -> None:
        raise AssertionError("not ours to close")


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(loop_module, "monotonic", clock)
    return clock


def run(clock: Clock, worker: Scripted, gaps: list[float], busy_poll: float = BUSY_POLL) -> Waiting:
    """Turn on until the gaps are over."""

    def stop() -> None:
        loop.running = False

    waiting = Waiting(clock, gaps, stop)
    loop = Loop(waiting, [worker], busy_poll=busy_poll)
    loop.run_turns()
    return waiting


def test_after_a_sleep_only_those_breathe_that_were_woken(clock: Clock) -> None:
    quiet, busy = Scripted("a", clock, []), Scripted("b", clock, [1])
    loop = Loop(Waiting(clock, [0.1, 0.1], lambda: None), [quiet, busy])
    loop.sleep()
    assert loop.slept
    busy.woken = True
    assert loop.turn([], everyone=False) == 1
    assert (quiet.breaths, busy.breaths) == (0, 1)
    # What one worker leaves for another is a reason not to sleep.
    quiet.woken = True
    loop.sleep()
    assert not loop.slept


def test_when_a_deadline_has_come_all_breathe(clock: Clock) -> None:
    workers = [Scripted("a", clock, []), Scripted("b", clock, [])]
    loop = Loop(Waiting(clock, [1.0], lambda: None), workers)
    loop.sleep()
    loop.turn([], everyone=False)
    assert [worker.breaths for worker in workers] == [1, 1]


def test_those_of_the_way_back_breathe_again_after_work(clock: Clock) -> None:
    there, back = Scripted("a", clock, [0, 0]), Scripted("b", clock, [1, 0])
    loop = Loop(Waiting(clock, [0.1], lambda: None), [there, back], back=[there])
    assert loop.turn([]) == 1
    assert (there.breaths, back.breaths) == (2, 1)


def test_work_after_a_long_gap_is_followed_by_sleep_at_once(clock: Clock) -> None:
    worker = Scripted("a", clock, [1, 1])
    run(clock, worker, [BUSY_GAP * 2, BUSY_GAP * 2])
    # One look of each sleep: the one after the announcement.
    assert worker.looks == worker.sleeps == 2


def test_work_soon_after_work_is_followed_by_looks_for_a_bounded_time(clock: Clock) -> None:
    worker = Scripted("a", clock, [1, 1, 0])
    run(clock, worker, [BUSY_GAP / 2, 1.0])
    looks = worker.looks - worker.sleeps
    assert BUSY_POLL / LOOK <= looks <= BUSY_POLL / LOOK + 1


def test_an_input_that_a_look_finds_saves_the_sleep(clock: Clock) -> None:
    worker = Scripted("a", clock, [1, 1, 1])
    worker.input_at_look = 3
    run(clock, worker, [BUSY_GAP / 2, 1.0])
    assert not worker.work
    assert worker.sleeps == 2


def test_without_busy_polling_no_look_is_wasted(clock: Clock) -> None:
    worker = Scripted("a", clock, [1, 1, 0])
    run(clock, worker, [BUSY_GAP / 2, 1.0], busy_poll=0.0)
    assert worker.looks == worker.sleeps


def test_a_prewake_is_followed_by_looks_though_there_was_no_work(clock: Clock) -> None:
    worker = Scripted("a", clock, [])
    worker.prewakes = [False, True]
    run(clock, worker, [1.0, 1.0])
    looks = worker.looks - worker.sleeps
    assert BUSY_POLL / LOOK <= looks <= BUSY_POLL / LOOK + 1


def test_a_prewake_while_it_looks_makes_it_look_on(clock: Clock) -> None:
    worker = Scripted("a", clock, [1, 1, 0])
    worker.prewakes = [False, False, True]
    run(clock, worker, [BUSY_GAP / 2, 1.0])
    assert worker.looks - worker.sleeps == pytest.approx(3 + BUSY_POLL / LOOK, abs=1)


def test_prewakes_without_end_do_not_keep_it_from_its_deadlines(clock: Clock) -> None:
    worker = Scripted("a", clock, [1, 1, 0])
    worker.prewakes = [True] * 100_000
    run(clock, worker, [BUSY_GAP / 2, 1.0])
    assert worker.prewakes
    assert worker.looks < 4 * BUSY_GAP / LOOK


def test_without_busy_polling_a_prewake_is_no_reason_to_look(clock: Clock) -> None:
    worker = Scripted("a", clock, [1, 1, 0])
    worker.prewakes = [True] * 10
    run(clock, worker, [BUSY_GAP / 2, 1.0], busy_poll=0.0)
    assert worker.looks == worker.sleeps


def test_an_idle_loop_never_looks_longer(clock: Clock) -> None:
    worker = Scripted("a", clock, [])
    waiting = run(clock, worker, [0.1] * 20)
    assert worker.looks == worker.sleeps == waiting.waits == 20


def test_sleeping_and_looking_in_vain_are_idle_time(clock: Clock) -> None:
    worker = Scripted("a", clock, [1, 1, 0])
    began = clock.now
    run(clock, worker, [BUSY_GAP / 2, 1.0])
    # Only the looks right before the sleeps, after the announcement, belong to neither.
    assert worker.idle.seconds == pytest.approx(clock.now - began, abs=3 * LOOK)
    assert worker.idle.seconds > 1.0


def test_workers_of_one_process_are_idle_together(clock: Clock) -> None:
    workers = [Scripted("a", clock, []), Scripted("b", clock, [])]
    Loop(Waiting(clock, [0.25], lambda: None), workers).sleep()
    assert [worker.idle.seconds for worker in workers] == pytest.approx([0.25, 0.25], abs=3 * LOOK)


@pytest.mark.parametrize("work", [[], [1] * 1000])
def test_signals_are_looked_for_before_each_sleep_and_under_load(
    clock: Clock, monkeypatch: pytest.MonkeyPatch, work: list[int]
) -> None:
    worker, looks = Scripted("one", clock, work), []

    def look() -> int:
        # Whoever rings rings from the announcement on, so a look before it may be one too early.
        looks.append(bool(work) or worker.announced)
        loop.running = False
        return 0

    monkeypatch.setattr(loop_module, "check_signals", look)
    waiting = Waiting(clock, [], lambda: None)
    loop = Loop(waiting, [worker])
    loop.run_turns()
    assert looks == [True]
    assert waiting.waits == 0
    assert worker.breaths < 10


def test_what_busy_polling_finds_is_for_workers_that_nobody_has_woken(clock: Clock) -> None:
    first, second = Scripted("first", clock, [1, 1]), Scripted("second", clock, [0, 0, 1])
    first.has_peers_outside = False
    breaths: list[int] = []

    def stop() -> None:
        breaths.append(second.breaths)
        loop.running = False

    class Stirs(Waiting):
        def wait(self, timeout: float) -> bool:
            first.woken = True
            return super().wait(timeout)

    loop = Loop(Stirs(clock, [BUSY_GAP / 2, 1.0], stop), [first, second], busy_poll=BUSY_POLL)
    first.woken = True
    loop._due_at = clock.now + 10.0
    # The look before the first sleep is in vain, that while busy-polling after it finds something.
    second.input_at_look = 2
    loop.run_turns()
    assert breaths == [1]


class EdgePoller:
    """A poller with one event, which it reports once."""

    def __init__(self) -> None:
        self.rung = False
        self.waiting = [(7, 1)]
        self.delivered: list[tuple[int, int]] = []

    def poll(self, timeout: float, most: int) -> list[tuple[int, int]]:
        events, self.waiting = self.waiting, []
        return events

    def dispatch(self, events: list[tuple[int, int]]) -> None:
        self.delivered += events


class Pausing(Scripted):
    """A worker that is asked to pause in its second breath, and goes on after it was held once."""

    def __init__(self, clock: Clock) -> None:
        super().__init__("pausing", clock, [1, 1, 1, 1])
        self.held = 0

    def breathe(self, now: float) -> int:
        self.breaths += 1
        if self.breaths == 2:
            self.paused, self.running = True, False
        if self.breaths == 4:
            self.running = False
        return 1

    def hold(self, seconds: float) -> None:
        self.held += 1
        self.paused, self.running = False, True

    def check_parent(self) -> None:
        """The supervisor is there."""

    def end(self) -> None:
        """The process ends."""


def test_an_event_that_was_polled_before_a_pause_is_delivered_after_it(
    clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Loop, "_take_signals", lambda _self: None)
    poller: Any = EdgePoller()
    worker = Pausing(clock)
    worker.poller = poller
    Loop(Waiting(clock, [1.0], lambda: None), [worker]).run()
    assert worker.held == 1
    assert worker.breaths == 4
    # The loop polls after the breath that paused. The socket will not report the same again.
    assert poller.delivered == [(7, 1)]
