"""What perf.neighbours found: figures with everything that was measured, and a table for each placement.

A figure is one quantity of one attack. Its samples are those beside the attack, one for each round. `extra`
has the others of the same rounds: `control` beside the sender alone, `alone` those of the guest alone.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple

from perf.report import MET, MISSED, OPEN, Figure, MeasurementError, grid, interval, reached

BULK = ("up", "down")
DELAY = ("p50", "p99")
FRAMES = "frames"
SHARE_AIM: Final = 0.8
"""The least part of its control's rate that the guest is to keep."""
DELAY_AIM: Final = 3.0
"""The 99th percentile of its round trips is to be at most this many times that of the control."""
_HEADER = (
    *("", "frames/s"),
    *(word for name in BULK for word in (f"{name} %", "of control", "with 95 %")),
    *(word for name in DELAY for word in (f"{name} µs", "times", "with 95 %")),
    *("aims", "CPU, % of a core"),
)


class Turn(NamedTuple):
    """One sample: what the guest measured, what the sender sent, and percent of a core by process."""

    guest: Mapping[str, float]
    sender: Mapping[str, float]
    cpu: Mapping[str, float]


class Rounds(NamedTuple):
    """The samples of each kind; those of the same round have the same place."""

    attacked: list[Turn]
    controls: list[Turn]
    alone: list[Turn]


def figures(line: str, peer: str, rounds: Rounds) -> list[Figure]:
    """All figures of one attack. MeasurementError if the guest alone moved nothing."""
    made = []
    for name in (*BULK, *DELAY):
        bulk = name in BULK
        key, unit, scale = (name, "Gbit/s", 8e-9) if bulk else (f"{name}_us", "µs", 1.0)
        attacked, control, alone = ([turn.guest[key] * scale for turn in turns] for turns in rounds)
        if not min(alone) > 0:
            raise MeasurementError(f"{peer}: {line}: the guest alone has {name} {min(alone)}")
        extra: dict[str, object] = {"alone": alone, "control": control}
        made.append(Figure(f"{line}: {name}", peer, unit, tuple(attacked), bulk, extra))
    sent = tuple(turn.sender["frames_per_second"] for turn in rounds.attacked)
    extra = {
        "control": [turn.sender["frames_per_second"] for turn in rounds.controls],
        "cpu": _medians([turn.cpu for turn in rounds.attacked]),
        "control_cpu": _medians([turn.cpu for turn in rounds.controls]),
    }
    return [*made, Figure(f"{line}: {FRAMES}", peer, "1/s", sent, True, extra)]


def _medians(turns: Sequence[Mapping[str, float]]) -> dict[str, float]:
    names = dict.fromkeys(name for turn in turns for name in turn)
    return {name: round(statistics.median(turn.get(name, 0.0) for turn in turns), 1) for name in names}


def table(found: Sequence[Figure]) -> str:
    """Markdown: for each peer a table with a row for each attack.

    Percentages are of the guest alone, the median over all lines of the peer. `of control` and `times` are
    the medians of the rounds' ratios. See verdict() for the aims.
    """
    parts = []
    for peer in dict.fromkeys(figure.peer for figure in found):
        cells = {figure.what: figure for figure in found if figure.peer == peer}
        lines = dict.fromkeys(what.rpartition(": ")[0] for what in cells)
        alone = {name: _alone(cells, name) for name in (*BULK, *DELAY)}
        words = ", ".join(f"{name} {_number(value)} {_unit(name)}" for name, value in alone.items())
        rows = [_row(line, cells, alone) for line in lines]
        parts.append(f"{peer}; the guest alone: {words}\n\n{grid(_HEADER, rows, left=(0, len(_HEADER) - 1))}")
    return "\n\n".join(parts)


def verdict(ratios: Mapping[str, Sequence[float]]) -> str:
    """Which aims of a row are missed, which are still open, or that all are met.

    ratios: of the rounds, by the name of the quantity. An aim is missed or met only if the whole interval in
    which the median is (with 95 %) says so. Few rounds leave it open.
    """
    names: dict[str, list[str]] = {MISSED: [], OPEN: []}
    for name, values in ratios.items():
        judged = reached(values, SHARE_AIM) if name in BULK else reached(values, DELAY_AIM, at_most=True)
        names.setdefault(judged, []).append(name)
    return "; ".join(f"{word} {', '.join(names[word])}" for word in (MISSED, OPEN) if names[word]) or MET


def _alone(cells: Mapping[str, Figure], name: str) -> float:
    found = [figure for what, figure in cells.items() if what.endswith(f": {name}")]
    return statistics.median(statistics.median(_floats(figure.extra["alone"])) for figure in found)


def _row(line: str, cells: Mapping[str, Figure], alone: Mapping[str, float]) -> list[str]:
    frames = cells[f"{line}: {FRAMES}"]
    row = [line, f"{frames.median:.0f}"]
    ratios = {}
    for name in (*BULK, *DELAY):
        figure = cells[f"{line}: {name}"]
        found = ratios[name] = _ratios(figure)
        row.append(f"{100 * figure.median / alone[name]:.0f}" if name in BULK else _number(figure.median))
        row.append(f"{statistics.median(found):.2f}" if found else "-")
        ends = interval(found)
        row.append(f"{ends[0]:.2f} to {ends[1]:.2f}" if ends else "")
    del ratios["p50"]
    row.append(verdict(ratios))
    cpu: Any = frames.extra["cpu"]
    busy = sorted(cpu.items(), key=lambda item: -item[1])
    row.append(", ".join(f"{name} {percent:.0f}" for name, percent in busy if percent >= 1))
    return row


def _ratios(figure: Figure) -> list[float]:
    """Of each round in which the control moved anything."""
    controls: Iterable[float] = _floats(figure.extra["control"])
    return [mine / control for mine, control in zip(figure.samples, controls, strict=True) if control]


def _floats(value: Any) -> list[float]:
    """Older results have one figure of the guest alone."""
    return [float(each) for each in (value if isinstance(value, list) else [value])]


def _number(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def _unit(name: str) -> str:
    return "Gbit/s" if name in BULK else "µs"
