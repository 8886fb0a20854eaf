"""Writes the results of measurements: JSON lines for programs, and a table with ratios for people.

A figure is a list of samples. A sample of 0 is an error, not a figure: a failed measurement raises
MeasurementError, and the script ends with a non-zero status.
"""

from __future__ import annotations

import contextlib
import datetime
import json
import math
import os
import platform
import statistics
import subprocess
import sys
import timeit
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from perf import compiled
from perf.peers import PeerError

RESULTS = Path(__file__).resolve().parent / "results"
_BEYOND = 0.05
"""How probable it may be that a median is outside of its interval."""
MET, MISSED, OPEN = "met", "MISSED", "open"
"""Whether an aim is reached: see reached()."""
COLUMNS = frozenset(
    {"what", "peer", "unit", "min", "median", "max", "samples", "date", "commit", "machine", "settings"}
)
"""What every line of a results file has; anything else is a figure's `extra`."""


class MeasurementError(RuntimeError):
    """A measurement failed, and has no figure."""


class Figure(NamedTuple):
    """All samples of one row for one peer."""

    what: str  # the row: "tcp up mtu 1500"
    peer: str
    unit: str
    samples: tuple[float, ...]
    higher_is_better: bool = True
    extra: dict[str, object] = {}  # noqa: RUF012 - read only

    @property
    def median(self) -> float:
        return statistics.median(self.samples)


def commit(checkout: Path = RESULTS) -> str:
    """The short commit hash of what is measured, with "+" if the tree has changes."""
    done = subprocess.run(
        ["git", "describe", "--always", "--dirty=+"], cwd=checkout, capture_output=True, text=True
    )
    return done.stdout.strip() or "unknown"


def _loop_ns() -> float:
    """Nanoseconds of one turn of an empty loop: a measure of this core and this build of the interpreter."""
    count = 10**6
    return min(timeit.repeat("pass", number=count, repeat=3)) / count * 1e9


def machine() -> dict[str, object]:
    """What figures depend on besides the program: cores, kernel, interpreter and so on."""
    return {
        "cores": len(os.sched_getaffinity(0)),
        "arch": platform.machine(),
        "kernel": platform.release().split("-")[0],
        "python": platform.python_version() + (" of the system" if sys.base_prefix == "/usr" else ""),
        "loop": f"{_loop_ns():.0f} ns",
        "data path": compiled.data_path(),
        "congestion": Path("/proc/sys/net/ipv4/tcp_congestion_control").read_text().strip(),
        "load": round(os.getloadavg()[0], 2),
    }


def write(name: str, figures: Iterable[Figure], settings: dict[str, object]) -> Path:
    """Append a JSON line for each figure to perf/results/<name>.jsonl. Returns the path."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.jsonl"
    common = {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "commit": commit(),
        "machine": machine(),
        "settings": settings,
    }
    with open(path, "a") as out:
        for figure in figures:
            record = {
                "what": figure.what,
                "peer": figure.peer,
                "unit": figure.unit,
                "min": _short(min(figure.samples)),
                "median": _short(figure.median),
                "max": _short(max(figure.samples)),
                "samples": [_short(sample) for sample in figure.samples],
                **figure.extra,
                **common,
            }
            out.write(json.dumps(record) + "\n")
    return path


def _short(value: float) -> float:
    return float(f"{value:.4g}")


def table(figures: Sequence[Figure], base: str = "pipeline") -> str:
    """A Markdown table: a column of medians for each peer, and a column of ratios of `base` to each other.

    A ratio over 1 means that `base` is better, also in rows where lower figures are better.
    """
    peers = list(dict.fromkeys(figure.peer for figure in figures))
    others = [peer for peer in peers if peer != base] if base in peers else []
    cells = {(figure.what, figure.peer): figure for figure in figures}
    header = ["", "unit", *peers, *(f"{base} vs {other}" for other in others)]
    rows = []
    for what in dict.fromkeys(figure.what for figure in figures):
        mine = cells.get((what, base))
        unit = next(figure.unit for figure in figures if figure.what == what)
        row = [what, unit]
        for peer in peers:
            cell = cells.get((what, peer))
            row.append("-" if cell is None else f"{_short(cell.median):g}")
        for other in others:
            theirs = cells.get((what, other))
            if mine is None or theirs is None or mine.median <= 0 or theirs.median <= 0:
                row.append("-")
            else:
                ratio = mine.median / theirs.median
                row.append(f"{ratio if mine.higher_is_better else 1 / ratio:.2f}")
        rows.append(row)
    return grid(header, rows, left=(0, 1))


def grid(header: Sequence[str], rows: Sequence[Sequence[str]], left: Sequence[int]) -> str:
    """A Markdown table whose columns line up in the text too. left: the columns that begin at the left."""
    rule = ["---" if i in left else "---:" for i in range(len(header))]
    lines = [header, rule, *rows]
    widths = [max(len(row[i]) for row in lines) for i in range(len(header))]
    return "\n".join(
        "| "
        + " | ".join(
            cell.ljust(width) if i in left else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        + " |"
        for row in lines
    )


def interval(values: Sequence[float]) -> tuple[float, float] | None:
    """Two of these values between which the median of what they are drawn from is with at least 95 %.

    They are the n-th smallest and the n-th largest (binomial distribution). None for fewer than six values.
    """
    ordered, count = sorted(values), len(values)
    outside, rank = 0.0, 0
    while 2 * (outside + math.comb(count, rank) / 2**count) <= _BEYOND:
        outside += math.comb(count, rank) / 2**count
        rank += 1
    return (ordered[rank - 1], ordered[-rank]) if rank else None


def reached(values: Sequence[float], aim: float, *, at_most: bool = False) -> str:
    """MET or MISSED if the whole interval of the median says so, else OPEN. Few values leave it open.

    aim: the least median that is wanted. at_most: the largest one.
    """
    ends = interval(values)
    if ends is None:
        return OPEN
    low, high = (-ends[1], -ends[0]) if at_most else ends
    aim = -aim if at_most else aim
    return MET if low >= aim else MISSED if high < aim else OPEN


def pairs(
    figures: Sequence[Figure],
    first: str,
    second: str,
    aim_of: Callable[[str], float | None],
) -> str:
    """Medians of two that were measured in turns, the median of the turns' ratios, and whether it is enough.

    Beside the ratio stands where it is with 95 %, if there are enough turns to say so. This decides whether a
    row is what is wanted, see reached().

    A ratio over 1 means that ``second`` is better. aim_of: the least ratio of a row, None for any.
    """
    rows = []
    cells = {(figure.what, figure.peer): figure for figure in figures}
    for what in dict.fromkeys(figure.what for figure in figures):
        one, other = cells[what, first], cells[what, second]
        ratios = [
            b / a if one.higher_is_better else a / b for a, b in zip(one.samples, other.samples, strict=True)
        ]
        ratio = statistics.median(ratios)
        ends = interval(ratios)
        between = f"{ends[0]:.2f} to {ends[1]:.2f}" if ends else ""
        aim = aim_of(what)
        verdict = "" if aim is None else f"{aim:.2f}: {reached(ratios, aim)}"
        medians = (f"{figure.median:.4g}" for figure in (one, other))
        rows.append([what, one.unit, *medians, f"{ratio:.3f}", between, verdict])
    return grid(["", "unit", first, second, "ratio of the turns", "with 95 %", "at least"], rows, left=(0, 1))


Row = tuple[str, str, float, bool]
"""What was measured, its unit, the value, and whether higher is better."""


class Samples:
    """Collects samples, grouped by row and peer, in the order in which they are measured."""

    def __init__(self) -> None:
        self.failures: list[str] = []
        self._found: dict[tuple[str, str], tuple[list[float], str, bool, dict[str, object]]] = {}

    def add(
        self,
        what: str,
        peer: str,
        unit: str,
        value: float,
        *,
        higher_is_better: bool = True,
        may_be_zero: bool = False,
        extra: dict[str, object] | None = None,
    ) -> None:
        """Add a sample. Raises MeasurementError if it is impossible: zero, negative or not a number."""
        if not (value > 0 or may_be_zero):
            raise MeasurementError(f"{peer}: {what}: {value} {unit} is not a figure")
        entry = self._found.setdefault((what, peer), ([], unit, higher_is_better, extra or {}))
        entry[0].append(value)

    def put(self, figure: Figure) -> None:
        """Take a figure with all its samples, which may be zero."""
        found = (list(figure.samples), figure.unit, figure.higher_is_better, figure.extra)
        self._found[figure.what, figure.peer] = found

    @contextlib.contextmanager
    def attempt(self) -> Iterator[None]:
        """Note a failure in the block, and go on with the other figures. See finish()."""
        try:
            yield
        except (MeasurementError, PeerError) as problem:
            self.failures.append(str(problem))
            print(f"failed: {problem}", file=sys.stderr, flush=True)

    def take_turns(
        self, pair: tuple[str, str], repeat: int, run: Callable[[Sequence[str]], Mapping[str, Sequence[Row]]]
    ) -> None:
        """Measure two peers in turns, every second turn in the other order.

        run: measures the peers in the order that it gets, and returns their rows.
        """
        for turn in range(repeat):
            with self.attempt():
                found = run(pair if turn % 2 == 0 else pair[::-1])
                for peer in pair:
                    words = ", ".join(f"{what} {value:.4g}" for what, _, value, _ in found[peer])
                    print(f"[{turn + 1}/{repeat}] {peer}: {words}", file=sys.stderr, flush=True)
                    for what, unit, value, better in found[peer]:
                        self.add(what, peer, unit, value, higher_is_better=better)

    def finish(
        self,
        name: str,
        settings: dict[str, object] | None,
        render: Callable[[Sequence[Figure]], str] = table,
    ) -> int:
        """Print the table, and append to perf/results unless settings is None. Returns the exit status."""
        figures = self.figures()
        print(render(figures))
        if settings is not None and figures:
            print(f"appended to {write(name, figures, settings)}", file=sys.stderr)
        if self.failures:
            print(f"{len(self.failures)} failed", file=sys.stderr)
        return 1 if self.failures or not figures else 0

    def figures(self) -> list[Figure]:
        return [
            Figure(what, peer, unit, tuple(values), better, extra)
            for (what, peer), (values, unit, better, extra) in self._found.items()
        ]
