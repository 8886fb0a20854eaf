"""Measures how long one call of a function takes. The micro-benchmarks share it."""

import argparse
import json
import statistics
from collections.abc import Callable, Sequence
from time import perf_counter


def spread_us(work: Callable[[], object], rounds: int, calls: int) -> dict[str, float]:
    """Microseconds a call: min, median and max over ``rounds`` rounds of ``calls`` calls each."""
    work()
    figures = []
    for _ in range(rounds):
        began = perf_counter()
        for _ in range(calls):
            work()
        figures.append((perf_counter() - began) / calls * 1e6)
    return spread(figures)


def spread(figures: Sequence[float]) -> dict[str, float]:
    """Min, median and max, to two digits."""
    return {
        "min": round(min(figures), 2),
        "median": round(statistics.median(figures), 2),
        "max": round(max(figures), 2),
    }


def report(benchmark: str, description: str | None, cases: dict[str, Callable[[], object]]) -> int:
    """Measure the cases in turns, and print one JSON line. Returns the exit status."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--calls", type=int, default=1000, help="calls a round")
    args = parser.parse_args()
    figures = {name: spread_us(work, args.rounds, args.calls) for name, work in cases.items()}
    print(json.dumps({"benchmark": benchmark, "unit": "us", **figures}))
    return 0
