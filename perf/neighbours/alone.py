"""What one guest alone pays for the protection from neighbours: this checkout beside an earlier one.

    git worktree add ../before COMMIT && make -C ../before compiled && make compiled
    python -m perf.neighbours.alone ../before --placement auto --rounds 20

A daemon of each checkout runs all the time, with one guest each. A turn measures each figure of both, one
right after the other, ``--rounds`` times, and every second time in the other order. The aim is that nothing
is worse by more than 2 %. It counts as missed or met only if the whole interval of the median says so.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from perf import compiled, report
from perf import options as shared
from perf.lines import Lines, add_options, alternately, kinds_of
from perf.neighbours.measure import MTU, PLACEMENTS
from perf.peers import ROOT

BEFORE, AFTER = "before", "after"
AIM: Final = 0.98


def run(order: Sequence[str], options: argparse.Namespace) -> dict[str, list[report.Row]]:
    """Start a daemon of each checkout for each placement, and measure them in this order."""
    found: dict[str, list[report.Row]] = {end: [] for end in order}
    for peer in PLACEMENTS[options.placement]:
        with contextlib.ExitStack() as stack:
            ends = {}
            for end, checkout in ((BEFORE, options.before), (AFTER, ROOT)):
                place = stack.enter_context(shared.place(options))
                endpoint = stack.enter_context(shared.start(options, peer, place, MTU, checkout=checkout))
                ends[end] = stack.enter_context(Lines(place, endpoint.host_addr, options))
            rows = alternately(ends, order, options.measured, options.rounds)
            for end in order:
                found[end] += [(f"{peer}: {what}", *figures) for what, *figures in rows[end]]
    return found


def aim_of(what: str) -> float | None:
    """The least ratio of a row that is wanted: none of a 99th percentile, which says more of the machine."""
    return None if what.endswith("p99") else AIM


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="One guest alone, before and after.")
    parser.add_argument("before", type=Path, help="another checkout of this program, compiled as this one")
    parser.add_argument("--placement", choices=PLACEMENTS, default="both")
    shared.add(parser, seconds=1, repeat=2)
    add_options(parser)
    parser.set_defaults(rounds=10, congestion="reno")
    options = parser.parse_args(argv)
    options.measured = kinds_of(options, parser)
    options.before = options.before.resolve()
    options.parallel, options.udp = 1, False
    if bool(compiled.problem(options.before)) != bool(compiled.reason()):
        parser.error("one of the two checkouts is compiled, the other is not")
    samples = report.Samples()
    samples.take_turns((BEFORE, AFTER), options.repeat, lambda order: run(order, options))
    settings = shared.settings(options)
    if settings is not None:
        settings["before"] = report.commit(options.before)
    return samples.finish(
        "alone",
        settings,
        lambda figures: report.pairs(figures, BEFORE, AFTER, aim_of),
    )


if __name__ == "__main__":
    sys.exit(main())
