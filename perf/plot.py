"""Draws bar charts of figures: a panel for each row, a bar for each peer, whiskers from min to max."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from perf.peers import AGENT, AGENT_AUTO, PIPELINE_AUTO, TAP, TAP_AUTO
from perf.report import Figure

COLOURS = {
    "pipeline": "#1f4e79",
    PIPELINE_AUTO: "#2e75b6",
    AGENT: "#548235",
    AGENT_AUTO: "#a9d18e",
    TAP: "#7f6000",
    TAP_AUTO: "#bf9000",
    "passt": "#a6a6a6",
    "slirp4netns": "#c9c9c9",
}
OTHER = "#8faadc"


def bars(title: str, figures: Sequence[Figure], path: Path) -> None:
    """Write the chart as a PNG. ImportError without matplotlib."""
    matplotlib: Any = importlib.import_module("matplotlib")
    matplotlib.use("Agg")
    pyplot: Any = importlib.import_module("matplotlib.pyplot")
    rows = list(dict.fromkeys(figure.what for figure in figures))
    if not rows:
        return
    panels: Any
    chart, panels = pyplot.subplots(1, len(rows), figsize=(2.6 * len(rows) + 0.6, 3.4), squeeze=False)
    for panel, what in zip(panels[0], rows, strict=True):
        shown = [figure for figure in figures if figure.what == what]
        names = [figure.peer for figure in shown]
        medians = [figure.median for figure in shown]
        errors = [
            [figure.median - min(figure.samples) for figure in shown],
            [max(figure.samples) - figure.median for figure in shown],
        ]
        colours = [COLOURS.get(name, OTHER) for name in names]
        panel.bar(names, medians, yerr=errors, color=colours, error_kw={"lw": 0.8})
        panel.set_title(f"{what}\n{shown[0].unit}", fontsize=8)
        panel.tick_params(axis="x", rotation=60, labelsize=7)
        panel.tick_params(axis="y", labelsize=7)
        for side in ("top", "right"):
            panel.spines[side].set_visible(False)
    chart.suptitle(title, fontsize=10)
    chart.tight_layout()
    chart.savefig(path, dpi=110)
    pyplot.close(chart)
