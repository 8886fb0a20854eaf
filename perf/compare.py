"""What a change costs: two checkouts of this program in turns, in one run on one machine.

    git worktree add ../before COMMIT && make -C ../before compiled && make compiled
    python -m perf.compare ../before . --rounds 5

Each round measures every row in both checkouts, one right after the other, so that a slow minute of the
machine hits both. The rows are the round trip in one process, iperf3 over QEMU's framing and
connect-request-close, in both placements. The table has the medians, their ratio, and the median of the
ratios of the rounds. A ratio over 1 means that the second checkout is better.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from pipeline.config.model import PLACEMENTS

ROW = re.compile(r"\| (?P<what>[^|]+?) +\| (?P<unit>[^|]+?) +\| +(?P<value>[\d.]+) \|")
"""A row of a table with one peer, as the measurements print it."""
ALONE = ("--peers", "pipeline", "--repeat", "1", "--no-write")

Samples = dict[tuple[str, str], list[float]]
"""By row and unit, one sample for each round."""


def environment(checkout: Path) -> dict[str, str]:
    """The compiled data path of a checkout comes first, for what runs inside the measuring process."""
    return {**os.environ, "PYTHONPATH": f"{checkout / 'build' / 'compiled'}:{checkout}"}


def output(checkout: Path, module: str, *words: str) -> str:
    """Run a measurement of a checkout; what it prints. CalledProcessError if it fails."""
    command = [sys.executable, "-P", "-m", module, *words]
    done = subprocess.run(
        command, cwd=checkout, env=environment(checkout), stdout=subprocess.PIPE, check=True, text=True
    )
    return done.stdout


def rows(table: str) -> Iterator[tuple[str, str, float]]:
    """Name, unit and value of each row of a table with one peer."""
    for match in ROW.finditer(table):
        yield match["what"], match["unit"], float(match["value"])


def round_trips(printed: str) -> Iterator[tuple[str, str, float]]:
    """The medians that perf.micro.round_trip prints."""
    line = next(line for line in printed.splitlines() if line.startswith("{"))
    found = json.loads(line)
    for kind in ("tcp", "udp"):
        yield f"{kind} round trip, CPU of one process", "µs", found[kind]["median"]


def sample(checkout: Path, seconds: str) -> Iterator[tuple[str, str, float]]:
    """Every row once."""
    yield from round_trips(output(checkout, "perf.micro.round_trip"))
    for placement in PLACEMENTS:
        words = (*ALONE, "--seconds", seconds, "--daemon-option=-placement", f"--daemon-option={placement}")
        tables = (
            output(checkout, "perf.iperf", *words),
            output(checkout, "perf.latency", "--load", "none", "--kinds", "crr", *words),
        )
        for what, unit, value in rows("".join(tables)):
            yield f"{what}, {placement}", unit, value


def table(before: Samples, after: Samples) -> str:
    """The comparison as Markdown."""
    lines = [
        "| | unit | before | after | ratio | of the rounds |",
        "| --- | --- | ---: | ---: | ---: | ---: |",
    ]
    for (what, unit), first in before.items():
        second = after[what, unit]
        old, new = statistics.median(first), statistics.median(second)
        better = (lambda a, b: a / b) if unit == "µs" else (lambda a, b: b / a)
        rounds = statistics.median(better(a, b) for a, b in zip(first, second, strict=True))
        lines.append(f"| {what} | {unit} | {old:.4g} | {new:.4g} | {better(old, new):.2f} | {rounds:.2f} |")
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Two checkouts of this program, in turns.")
    parser.add_argument("before", type=Path)
    parser.add_argument("after", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", default="2", help="length of each sample")
    options = parser.parse_args(argv)
    found: tuple[Samples, Samples] = {}, {}
    for number in range(options.rounds):
        for samples, checkout in zip(found, (options.before, options.after), strict=True):
            for what, unit, value in sample(checkout.resolve(), options.seconds):
                samples.setdefault((what, unit), []).append(value)
            print(f"round {number + 1} of {options.rounds}: {checkout}", file=sys.stderr, flush=True)
    print(table(*found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
