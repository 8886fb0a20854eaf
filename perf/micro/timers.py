"""Measures what a timer costs in the timing wheel and in a heap: nanoseconds a timer, one JSON line.

step      a turn of the stage in which no timer is due, and the question how long to sleep
later     the deadline of a connection moves later: only a comparison, in both
earlier   a connection that waits for its keep-alive (2 h) gets a deadline in 40 ms; the old entry is void
churn     a connection begins with a timer of 1 s, and ends (arm and cancel)
expire    EXPIRING connections with deadlines within ten seconds, in steps of 1 ms: arm and expiry
jump      the same, with all deadlines in one step
mix       what connections do in three seconds, in steps of 1 ms: 20 deadlines of a busy tenth move, two
          connections end, two begin, and an entry that comes early is set again; nanoseconds a change
longest   the longest call to arm while all connections move to an earlier deadline, again and again (at
          times the heap drops its void entries, and a dictionary grows)

Each is measured with --idle further connections that wait for their keep-alive. Run from the root of the
repository: ``python -m perf.micro.timers``.
"""

import argparse
import gc
import heapq
import json
import random
import statistics
import sys
from collections.abc import Callable
from time import perf_counter

from pipeline.engines.timing_wheel import TimingWheel

CALLS = 20_000
EXPIRING = 10_000
KEEPALIVE = 7200.0
SPARE = 1024


class Flow:
    """A connection: its deadline, and the time for which its timer is set."""

    __slots__ = ("deadline", "timer_at")

    def __init__(self, deadline: float) -> None:
        self.deadline = deadline
        self.timer_at = float("inf")


class Wheel:
    """The timers of the tcp worker, as pipeline/stages/tcp/flow.py sets them."""

    def __init__(self, flows: int) -> None:
        self.flows = flows
        self.timers: TimingWheel[Flow] = TimingWheel()

    def arm(self, flow: Flow) -> None:
        at = flow.deadline
        if at < flow.timer_at:
            flow.timer_at = at
            self.timers.schedule(flow, at)

    def expire(self, now: float, again: bool = False) -> int:
        """Returns how many connections were due. again: set all again, those that were due to keep-alive."""
        count = 0
        for flow in self.timers.advance(now):
            flow.timer_at = float("inf")
            count += flow.deadline <= now
            if again:
                self.again(flow, now)
        return count

    def again(self, flow: Flow, now: float) -> None:
        if flow.deadline <= now:
            flow.deadline = now + KEEPALIVE
        self.arm(flow)

    def step(self, now: float) -> float:
        if self.timers.deadline() <= now:
            raise SystemExit("early")
        return self.timers.deadline()

    def remove(self, flow: Flow) -> None:
        self.timers.cancel(flow)
        flow.timer_at = -1.0


class Heap:
    """A heap. Void entries stay until their time comes, or until there are too many."""

    def __init__(self, flows: int) -> None:
        self.flows = flows
        self.timers: list[tuple[float, int, Flow]] = []
        self.serial = 0

    def arm(self, flow: Flow) -> None:
        at = flow.deadline
        if at < flow.timer_at:
            flow.timer_at = at
            self.serial += 1
            heapq.heappush(self.timers, (at, self.serial, flow))
            if len(self.timers) > 2 * self.flows + SPARE:
                self.timers = [entry for entry in self.timers if entry[0] == entry[2].timer_at]
                heapq.heapify(self.timers)

    def expire(self, now: float, again: bool = False) -> int:
        """As Wheel.expire."""
        count = 0
        while self.timers and self.timers[0][0] <= now:
            at, _, flow = heapq.heappop(self.timers)
            if at != flow.timer_at:
                continue
            flow.timer_at = float("inf")
            count += flow.deadline <= now
            if again:
                self.again(flow, now)
        return count

    def again(self, flow: Flow, now: float) -> None:
        if flow.deadline <= now:
            flow.deadline = now + KEEPALIVE
        self.arm(flow)

    def step(self, now: float) -> float:
        if self.timers and self.timers[0][0] <= now:
            raise SystemExit("early")
        return self.timers[0][0] if self.timers else float("inf")

    def remove(self, flow: Flow) -> None:
        flow.timer_at = -1.0


Timers = Wheel | Heap


def filled(kind: type[Wheel] | type[Heap], idle: int) -> tuple[Timers, list[Flow]]:
    """Timers at the time 0, with ``idle`` connections that wait for their keep-alive."""
    timers = kind(idle)
    flows = [Flow(KEEPALIVE + i / idle) for i in range(idle)]
    for flow in flows:
        timers.arm(flow)
    timers.expire(0.0)
    return timers, flows


def step(timers: Timers, flows: list[Flow]) -> tuple[float, int]:
    began = perf_counter()
    for i in range(CALLS):
        timers.step(i * 1e-9)
    return perf_counter() - began, CALLS


def later(timers: Timers, flows: list[Flow]) -> tuple[float, int]:
    for flow in flows:
        flow.deadline += 1.0
    began = perf_counter()
    for flow in flows:
        timers.arm(flow)
    return perf_counter() - began, len(flows)


def earlier(timers: Timers, flows: list[Flow]) -> tuple[float, int]:
    for i, flow in enumerate(flows):
        flow.deadline = 0.04 + i * 1e-6
    began = perf_counter()
    for flow in flows:
        timers.arm(flow)
    return perf_counter() - began, len(flows)


def churn(timers: Timers, flows: list[Flow]) -> tuple[float, int]:
    """Connections begin and end. A hundred live at a time."""
    coming = [Flow(1.0 + i * 1e-4) for i in range(CALLS)]
    began = perf_counter()
    for i, flow in enumerate(coming):
        timers.arm(flow)
        if i >= 100:
            timers.remove(coming[i - 100])
    return perf_counter() - began, CALLS


def expire(timers: Timers, flows: list[Flow]) -> tuple[float, int]:
    rng = random.Random(1)
    coming = [Flow(rng.random() * 10) for _ in range(EXPIRING)]
    timers.flows += EXPIRING
    count = 0
    began = perf_counter()
    for flow in coming:
        timers.arm(flow)
    for ms in range(10_002):
        count += timers.expire(ms * 1e-3)
    took = perf_counter() - began
    if count != EXPIRING:
        raise SystemExit(f"{count} expired instead of {EXPIRING}")
    return took, EXPIRING


def jump(timers: Timers, flows: list[Flow]) -> tuple[float, int]:
    rng = random.Random(1)
    coming = [Flow(rng.random() * 10) for _ in range(EXPIRING)]
    timers.flows += EXPIRING
    for flow in coming:
        timers.arm(flow)
    began = perf_counter()
    count = timers.expire(3600.0)
    took = perf_counter() - began
    if count != EXPIRING:
        raise SystemExit(f"{count} expired instead of {EXPIRING}")
    return took, EXPIRING


def mix(timers: Timers, flows: list[Flow]) -> tuple[float, int]:
    rng = random.Random(1)
    busy = max(len(flows) // 10, 1)
    turns = [
        ([rng.randrange(busy) for _ in range(20)], [rng.randrange(len(flows)) for _ in range(2)])
        for _ in range(3000)
    ]
    began = perf_counter()
    for ms, (changed, over) in enumerate(turns):
        now = ms * 1e-3
        timers.expire(now, again=True)
        for i in changed:
            flows[i].deadline = now + 0.2
            timers.arm(flows[i])
        for i in over:
            timers.remove(flows[i])
            flows[i] = Flow(now + 1.0)
            timers.arm(flows[i])
    return perf_counter() - began, len(turns) * 22


def longest(timers: Timers, flows: list[Flow]) -> tuple[float, int]:
    worst = 0.0
    for seconds in (60.0, 10.0, 1.0, 0.04):
        for i, flow in enumerate(flows):
            flow.deadline = seconds + i * 1e-6
            began = perf_counter()
            timers.arm(flow)
            worst = max(worst, perf_counter() - began)
    return worst, 1


Case = Callable[[Timers, list[Flow]], tuple[float, int]]
CASES: tuple[Case, ...] = (step, later, earlier, churn, expire, jump, mix, longest)


def main() -> int:
    """Measure both in turns, and print the line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--idle", type=int, default=10_000, help="connections that wait for their keep-alive")
    args = parser.parse_args()
    figures: dict[str, list[float]] = {}
    for _ in range(args.rounds):
        for case in CASES:
            for kind in (Wheel, Heap):
                timers, flows = filled(kind, args.idle)
                gc.collect()
                gc.disable()
                took, calls = case(timers, flows)
                gc.enable()
                figures.setdefault(f"{case.__name__}_{kind.__name__.lower()}", []).append(took / calls * 1e9)
    spread = {
        name: {"min": round(min(each)), "median": round(statistics.median(each)), "max": round(max(each))}
        for name, each in figures.items()
    }
    print(json.dumps({"benchmark": "micro/timers", "unit": "ns", "idle": args.idle, **spread}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
