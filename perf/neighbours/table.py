"""What perf.neighbours found: figures with everything that was measured, and a table for each placement.

A figure is one quantity of one attack. Its samples are those beside the attack. What belongs to it is in
`extra`: `control` has the samples beside the sender alone, `alone` is the guest's own figure just before.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from perf.report import Figure, MeasurementError, grid

BULK = ("up", "down")
DELAY = ("p50", "p99")
FRAMES = "frames"
_HEADER = (
    *("", "frames/s"),
    *(word for name in BULK for word in (f"{name} %", "control %", "of control")),
    *(word for name in DELAY for word in (f"{name} µs", "control µs", "times")),
    "CPU, % of a core",
)


class Turn(NamedTuple):
    """One sample: what the guest measured, what the sender sent, and percent of a core by process."""

    guest: Mapping[str, float]
    sender: Mapping[str, float]
    cpu: Mapping[str, float]


def figures(
    line: str, peer: str, alone: Turn, attacked: Sequence[Turn], controls: Sequence[Turn]
) -> list[Figure]:
    """All figures of one attack. MeasurementError if the guest alone moved nothing."""
    made = []
    for name in (*BULK, *DELAY):
        bulk = name in BULK
        key, unit, scale = (name, "Gbit/s", 8e-9) if bulk else (f"{name}_us", "µs", 1.0)
        if not alone.guest[key] > 0:
            raise MeasurementError(f"{peer}: {line}: the guest alone has {name} {alone.guest[key]}")
        extra: dict[str, object] = {
            "alone": alone.guest[key] * scale,
            "control": [turn.guest[key] * scale for turn in controls],
        }
        samples = tuple(turn.guest[key] * scale for turn in attacked)
        made.append(Figure(f"{line}: {name}", peer, unit, samples, bulk, extra))
    sent = tuple(turn.sender["frames_per_second"] for turn in attacked)
    extra = {
        "control": [turn.sender["frames_per_second"] for turn in controls],
        "cpu": _medians([turn.cpu for turn in attacked]),
        "control_cpu": _medians([turn.cpu for turn in controls]),
    }
    return [*made, Figure(f"{line}: {FRAMES}", peer, "1/s", sent, True, extra)]


def _medians(turns: Sequence[Mapping[str, float]]) -> dict[str, float]:
    names = dict.fromkeys(name for turn in turns for name in turn)
    return {name: round(statistics.median(turn.get(name, 0.0) for turn in turns), 1) for name in names}


def table(found: Sequence[Figure]) -> str:
    """Markdown: for each peer a table with a row for each attack.

    Percentages are of the guest alone, the median over all lines of the peer. `of control` and `times` are
    ratios of the medians beside the attack and beside the control.
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


def _alone(cells: Mapping[str, Figure], name: str) -> float:
    found = [figure for what, figure in cells.items() if what.endswith(f": {name}")]
    return statistics.median(_floats(figure.extra["alone"])[0] for figure in found)


def _row(line: str, cells: Mapping[str, Figure], alone: Mapping[str, float]) -> list[str]:
    frames = cells[f"{line}: {FRAMES}"]
    row = [line, f"{frames.median:.0f}"]
    for name in (*BULK, *DELAY):
        figure = cells[f"{line}: {name}"]
        control = statistics.median(_floats(figure.extra["control"]))
        ratio = f"{figure.median / control:.2f}" if control else "-"
        if name in BULK:
            row += [f"{100 * each / alone[name]:.0f}" for each in (figure.median, control)]
        else:
            row += [_number(each) for each in (figure.median, control)]
        row.append(ratio)
    cpu: Any = frames.extra["cpu"]
    busy = sorted(cpu.items(), key=lambda item: -item[1])
    row.append(", ".join(f"{name} {percent:.0f}" for name, percent in busy if percent >= 1))
    return row


def _floats(value: Any) -> list[float]:
    return [float(each) for each in (value if isinstance(value, list) else [value])]


def _number(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def _unit(name: str) -> str:
    return "Gbit/s" if name in BULK else "µs"
