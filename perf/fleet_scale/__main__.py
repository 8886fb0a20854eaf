"""Measures what a fleet costs: three real NATS servers, and simulated daemons with guests.

    python -m perf.fleet_scale --hosts 25,50,100,200 --guests 20
    python -m perf.fleet_scale --hosts 2 --absent 2000 --guests 100     keys and beats of absent hosts

A line of the table is a figure; a column is a size. docs/scale.md says what follows from the figures.
Everything runs in a network namespace of its own. The daemons are real agents with real sessions, many in a
process (perf.fleet_scale.daemons). So the times until something is known everywhere are upper bounds: on real
hosts the daemons work at the same time.
"""

from __future__ import annotations

import argparse
import sys

from perf import options as shared
from perf import report
from perf.fleet_scale.measure import run
from perf.namespaces import enter_new


def render(figures: list[report.Figure]) -> str:
    """The table: one column for each size."""
    sizes = list(dict.fromkeys(figure.peer for figure in figures))
    cells = {(figure.what, figure.peer): figure for figure in figures}
    rows = []
    for what in dict.fromkeys(figure.what for figure in figures):
        unit = next(figure.unit for figure in figures if figure.what == what)
        values = (cells.get((what, size)) for size in sizes)
        rows.append([what, unit, *("-" if cell is None else f"{cell.median:.4g}" for cell in values)])
    return report.grid(["", "unit", *sizes], rows, left=(0, 1))


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="What a fleet costs, by its size.")
    parser.add_argument("--hosts", default="25,50,100", help="simulated daemons; several sizes with commas")
    parser.add_argument(
        "--absent", type=int, default=0, help="further hosts of which there are only keys and beats"
    )
    parser.add_argument("--guests", type=int, default=20, help="guests of each host")
    parser.add_argument(
        "--pace", type=float, default=20.0, help="guests that start in a second, on all hosts"
    )
    parser.add_argument(
        "--named", action=argparse.BooleanOptionalAction, default=True, help="guests have names"
    )
    parser.add_argument("--processes", type=int, default=2, help="processes for the daemons")
    parser.add_argument("--rest", type=float, default=30.0, help="seconds at rest; 0: not measured")
    parser.add_argument("--ttl", type=float, default=90.0, help="seconds until a silent host is left out")
    parser.add_argument(
        "--singles", type=int, default=10, help="guests that start and move one after the other"
    )
    parser.add_argument(
        "--lift-limits", action="store_true", help="as if the limits of keys and hosts were higher"
    )
    parser.add_argument("--no-write", action="store_true", help="do not append to perf/results")
    options = parser.parse_args(argv)
    enter_new()
    samples = report.Samples()
    sizes = [int(each) for each in str(options.hosts).split(",")]
    for size in sizes:
        options.hosts = size
        peer = f"{size + options.absent} x {options.guests}"
        print(f"{peer}:", file=sys.stderr, flush=True)
        with samples.attempt():
            for found in run(options):
                samples.add(found.what, peer, found.unit, found.value, may_be_zero=True)
    options.hosts = sizes
    return samples.finish("fleet-scale", shared.settings(options), render)


if __name__ == "__main__":
    sys.exit(main())
