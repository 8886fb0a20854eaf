"""Runs all measurements, this program and its peers in turns, and writes perf/RESULTS.md: ``make perf``.

It measures throughput (TCP and UDP), round trips and open flows with short samples, for this program in both
placements and over both kinds of link. From the lines that this appended to perf/results it writes
perf/RESULTS.md, and a chart (PNG) for each group. Only the charts need matplotlib.

    python -m perf.suite            about twenty minutes
    python -m perf.suite --quick    one sample of everything
"""

from __future__ import annotations

import argparse
import datetime
import importlib.util
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from perf import flows, guests, iperf, latency, plot, report
from perf.neighbours import measure as neighbours
from perf.neighbours import table as neighbours_table
from perf.peers import AGENT, AGENT_AUTO, PIPELINE_AUTO, VHOST, installed

PAGE = Path(__file__).resolve().parent / "RESULTS.md"
COMPARED = report.RESULTS / "compared.md"
"""Tables that the suite does not measure, kept by hand: they end the page."""


class Part(NamedTuple):
    """One run of a measurement."""

    title: str
    results: str
    run: Callable[[list[str]], int]
    arguments: tuple[str, ...]
    ours: tuple[str, ...]
    seconds: str = ""
    """Of its samples, where they are not the suite's."""
    table: Callable[[Sequence[report.Figure]], str] | None = None
    """Its own table; it has no chart then."""


BOTH = ("pipeline", PIPELINE_AUTO)
RENO = ("--congestion", "reno")
"""A congestion control that paces (bbr) chooses a rate itself. With Reno the programs limit the rate."""
PARTS = (
    Part(
        "TCP throughput, MTU 1500", "iperf", iperf.main, ("--mtu", "1500"), (*BOTH, AGENT, AGENT_AUTO, VHOST)
    ),
    Part("TCP throughput, MTU 65520", "iperf", iperf.main, ("--mtu", "65520"), (*BOTH, VHOST)),
    Part(
        "TCP throughput, MTU 1500, Reno",
        "iperf",
        iperf.main,
        ("--mtu", "1500", *RENO),
        (*BOTH, AGENT, AGENT_AUTO),
    ),
    Part("TCP throughput, MTU 65520, Reno", "iperf", iperf.main, ("--mtu", "65520", *RENO), BOTH),
    Part("UDP, 1400 bytes", "iperf", iperf.main, ("--mtu", "1500", "--udp", "--length", "1400"), BOTH),
    Part("UDP, 64 bytes", "iperf", iperf.main, ("--mtu", "1500", "--udp", "--length", "64"), BOTH),
    Part("Round trips, idle", "latency", latency.main, ("--load", "none"), BOTH),
    Part("Round trips beside a bulk stream", "latency", latency.main, ("--load", "down"), BOTH),
    Part("Open flows", "flows", flows.main, ("--counts", "1,1000", "--idle-seconds", "5"), BOTH),
    Part("Several guests at once", "guests", guests.main, ("--counts", "3"), BOTH),
    Part(
        "Beside a guest that attacks",
        "neighbours",
        neighbours.main,
        ("--rounds", "4"),
        BOTH,
        seconds="0.2",
        table=neighbours_table.table,
    ),
)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="All measurements, side by side with the peers.")
    parser.add_argument("--quick", action="store_true", help="one short sample of everything")
    parser.add_argument("--repeat", type=int, default=3, help="turns; the median counts")
    parser.add_argument("--only", default="", help="words of the titles to run, comma-separated")
    options = parser.parse_args(argv)
    seconds, repeat = ("1", 1) if options.quick else ("1.5", options.repeat)
    others = [peer for peer in installed() if peer != "pipeline"]
    status = 0
    page = [_head(others, seconds, repeat)]
    for part in PARTS:
        if options.only and not any(word in part.title for word in options.only.split(",")):
            continue
        known = len(_lines(part.results))
        turns = 1 if part.run is flows.main else repeat
        arguments = [*part.arguments, "--seconds", part.seconds or seconds, "--repeat", str(turns)]
        peers = ",".join([*part.ours, *others])
        status |= part.run([*arguments, "--peers", peers])
        figures = read(part.results, known)
        page.append(f"## {part.title}\n\n`python -m perf.{part.results} {' '.join(arguments)}`\n")
        page.append((part.table or report.table)(figures) + "\n")
        if part.table is None and importlib.util.find_spec("matplotlib") is not None:
            name = part.title.lower().replace(",", "").replace(" ", "-")
            plot.bars(part.title, figures, report.RESULTS / f"{name}.png")
            page.append(f"![{part.title}](results/{name}.png)\n")
    if COMPARED.exists():
        page.append(COMPARED.read_text())
    PAGE.write_text("\n".join(page))
    print(f"wrote {PAGE}", file=sys.stderr)
    return status


def _head(others: list[str], seconds: str, repeat: int) -> str:
    machine = report.machine()
    words = ", ".join(f"{key} {value}" for key, value in machine.items())
    today = datetime.datetime.now(datetime.UTC).date()
    return (
        f"# Results\n\nWritten by `make perf` on {today} at commit {report.commit()}: {words}.\n"
        f"Peers: {', '.join(others) or 'none'}. Samples of {seconds} s, median of {repeat}; what each row\n"
        "means is in perf/README.md. A ratio over 1 means that this program is better.\n\n"
        f"`pipeline` is `-placement separate` on QEMU's framing, `{PIPELINE_AUTO}` the other placement,\n"
        f"`{AGENT}` this program's own guest agent over /connect with offload.\n"
    )


def _lines(name: str) -> list[str]:
    path = report.RESULTS / f"{name}.jsonl"
    return path.read_text().splitlines() if path.exists() else []


def read(name: str, known: int) -> list[report.Figure]:
    """The figures in a results file after its first ``known`` lines."""
    figures = []
    for line in _lines(name)[known:]:
        record: dict[str, Any] = json.loads(line)
        better = record["unit"] not in ("µs", "MiB", "KiB", "%")
        samples = tuple(record["samples"])
        extra = {key: value for key, value in record.items() if key not in report.COLUMNS}
        figures.append(report.Figure(record["what"], record["peer"], record["unit"], samples, better, extra))
    return figures


if __name__ == "__main__":
    sys.exit(main())
