"""The usual figures of one guest: bulk rates both ways, round trips of TCP and UDP, and short connections.

Two ends are measured *alternately*: a figure of the one, then the same figure of the other. So a slow second
of the machine counts for both.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Final, Self

from perf import iperf, latency, report
from perf.namespaces import World
from perf.peers import LOOPBACK, ROOT

BULK: Final = {"tcp up": "up", "tcp down": "down"}
ROUND_TRIPS: Final = ("tcp", "udp")
CONNECTIONS: Final = "crr"
STATED: Final = "http"
"""Connections that state a name; only where Lines has one."""
KINDS: Final = (*BULK, *ROUND_TRIPS, CONNECTIONS)


class Lines:
    """Measures one guest, whose daemon runs."""

    def __init__(
        self,
        place: World,
        host_addr: str,
        options: argparse.Namespace,
        *,
        bind: str = LOOPBACK,
        name: str = "",
    ) -> None:
        """host_addr: leads the guest to ``bind`` on the host. name: the host's, for STATED."""
        self._place = place
        self._host_addr = host_addr
        self._options = options
        self._bind = bind
        self._name = name

    def __enter__(self) -> Self:
        argv = [sys.executable, "-m", "perf.exchange", "serve", self._bind]
        self._server = self._place.host.spawn(argv, subprocess.PIPE, cwd=ROOT)
        assert self._server.popen.stdout is not None
        tcp, crr, udp = self._server.popen.stdout.readline().decode().split()
        self._ports = {"tcp": tcp, "udp": udp, CONNECTIONS: crr, STATED: crr}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.stop(0.5)

    def rows(self, kind: str) -> list[report.Row]:
        """One measurement, which may give several rows. Raises MeasurementError."""
        if kind in BULK:
            value, unit, _ = iperf.measure(
                self._place, self._host_addr, BULK[kind], self._options, bind=self._bind
            )
            return [(kind, unit, value, True)]
        host = self._name if kind == STATED else self._host_addr
        result = latency.exchange(self._place, kind, (host, self._ports[kind]), self._options.seconds)
        if kind in ROUND_TRIPS:
            return [(f"{kind} round trip {p}", "µs", result[f"{p}_us"], False) for p in ("p50", "p99")]
        what = "connect-request-close" + (", Host" if kind == STATED else "")
        return [(what, "1/s", result["per_second"], True)]


def alternately(
    ends: Mapping[str, Lines], order: Sequence[str], kinds: Sequence[str] = KINDS, rounds: int = 1
) -> dict[str, list[report.Row]]:
    """Measure each kind at all ends, in this order, then the next kind. Raises MeasurementError.

    rounds: how often each kind is measured before the next, every second time in the other order.
    """
    found: dict[str, list[report.Row]] = {end: [] for end in order}
    for kind in kinds:
        for turn in range(rounds):
            for end in order if turn % 2 == 0 else order[::-1]:
                try:
                    found[end] += ends[end].rows(kind)
                except report.MeasurementError as error:
                    raise report.MeasurementError(f"{end}: {error}") from None
    return found


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add what `alternately` can be told."""
    parser.add_argument("--rounds", type=int, default=1, help="samples of each figure in one turn")
    parser.add_argument("--kinds", default=",".join(KINDS), help="what to measure, comma-separated")


def kinds_of(options: argparse.Namespace, parser: argparse.ArgumentParser) -> list[str]:
    """The kinds that were asked for. The parser ends the program if one is unknown."""
    kinds = str(options.kinds).split(",")
    for kind in kinds:
        if kind not in KINDS:
            parser.error(f"--kinds: {kind!r} is none of {', '.join(KINDS)}")
    return kinds
