"""Measures what it costs to observe the daemon: throughput and round trips, observed and not, in turns.

*Observed* means all of this at once:
  -flow-log     a line for each flow that ends
  /metrics      one scrape a second, from the endpoint of -metrics
  /events       a subscriber to all kinds
  /capture      one capture with a filter (--filter); the default fits none of the flows that are measured
  the web page  what its overview and its list of flows ask for, once a second

*Alone* is the same program without these. A turn measures both, one right after the other, and every second
turn in the other order. The readers run on the same machine, so their CPU is part of the cost. A ratio over 1
means that the observed daemon is better, also in rows where lower figures are better.

    python -m perf.observing --seconds 2 --repeat 9
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import socket
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

from perf import options as shared
from perf import report
from perf.lines import KINDS, Lines

ALONE, OBSERVED = "alone", "observed"
SPACING = 1.0  # seconds between two scrapes, and between two polls of the page
PAGE = ("/status", "/traffic", "/flows?limit=300")
"""What pipeline/control/web/static asks for. There is no browser, since its own CPU is not the cost."""
PATIENCE = 10.0  # seconds for an answer of the daemon
AIMS = {"tcp up": 0.97, "tcp down": 0.97, "tcp round trip p50": 0.95, "udp round trip p50": 0.95}
"""The least ratio of a row that is wanted. connect-request-close has none: each is a line of the flow log."""


class Observers:
    """Everything that looks at the daemon: threads of this process, which sleep until something comes."""

    def __init__(self, directory: Path, capture_filter: str) -> None:
        """directory: where the daemon's sockets are. Raises MeasurementError, OSError."""
        self._ends = threading.Event()
        self._faults: list[str] = []
        api, targets = directory / "api.sock", ("/events", f"/capture?{capture_filter}")
        self._streams = {target: request(api, target) for target in targets}
        self._read_bytes = dict.fromkeys(targets, 0)
        self._threads = [threading.Thread(target=self._read, args=(target,)) for target in targets]
        self._polled = dict.fromkeys(("/metrics", *PAGE), 0)
        polls = ((directory / "metrics.sock", ("/metrics",)), (api, PAGE))
        self._threads += [threading.Thread(target=self._poll, args=words) for words in polls]
        for thread in self._threads:
            thread.start()

    def _read(self, target: str) -> None:
        _, answer = self._streams[target]
        with contextlib.suppress(OSError, http.client.HTTPException):
            while piece := answer.read1(1 << 16):
                self._read_bytes[target] += len(piece)
        if not self._ends.is_set():
            self._faults.append(f"{target} has ended")

    def _poll(self, path: Path, targets: Sequence[str]) -> None:
        while not self._ends.wait(SPACING):
            for target in targets:
                try:
                    sock, answer = request(path, target)
                    with sock, answer:
                        self._polled[target] += len(answer.read())
                except (OSError, http.client.HTTPException, report.MeasurementError) as error:
                    self._faults.append(f"{target}: {error}")
                    return

    def stop(self) -> None:
        """End all. Raises MeasurementError if something was not observed."""
        self._ends.set()
        for sock, _ in self._streams.values():
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()
        for sock, answer in self._streams.values():
            answer.close()
            sock.close()
        read = self._read_bytes | self._polled
        faults = self._faults + [f"nothing came from {target}" for target in read if not read[target]]
        if faults:
            raise report.MeasurementError(f"not observed: {', '.join(faults)}")


def request(path: Path, target: str) -> tuple[socket.socket, http.client.HTTPResponse]:
    """The answer to GET on a unix socket, whose body has not been read. MeasurementError unless it is 200."""
    sock = socket.socket(socket.AF_UNIX)
    sock.settimeout(PATIENCE)
    sock.connect(str(path))
    connection = http.client.HTTPConnection("localhost")
    connection.sock = sock
    connection.request("GET", target)
    answer = connection.getresponse()
    if answer.status != 200:
        raise report.MeasurementError(f"{target}: {answer.status} {answer.read(300)!r}")
    sock.settimeout(None)
    return sock, answer


@contextlib.contextmanager
def observed(directory: Path, capture_filter: str) -> Iterator[None]:
    """Observe during the block the daemon that has the flags(). Raises MeasurementError if that failed."""
    observers = Observers(directory, capture_filter)
    try:
        yield
    finally:
        observers.stop()
    if not (directory / "flows.log").read_text():
        raise report.MeasurementError("the flow log is empty")


def flags(directory: Path) -> list[str]:
    """Those of a daemon that is observed."""
    return [
        *("-services", f"unix://{directory}/api.sock"),
        *("-metrics", f"unix://{directory}/metrics.sock"),
        *("-flow-log", str(directory / "flows.log")),
    ]


def run(how: str, options: argparse.Namespace) -> list[report.Row]:
    """Start a daemon, ALONE or OBSERVED, and measure it."""
    with contextlib.ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="perf-")))
        extra = flags(directory) if how == OBSERVED else []
        settings = argparse.Namespace(**{**vars(options), "daemon_option": [*options.daemon_option, *extra]})
        place = stack.enter_context(shared.place(settings))
        (peer,) = shared.LINKS[options.link]
        endpoint = stack.enter_context(shared.start(settings, peer, place, options.mtu))
        if how == OBSERVED:
            stack.enter_context(observed(directory, options.filter))
        with Lines(place, endpoint.host_addr, options) as lines:
            return [row for kind in KINDS for row in lines.rows(kind)]


def table(figures: Sequence[report.Figure]) -> str:
    """Medians, the median of the turns' ratios, and whether it is what is wanted."""
    return report.pairs(figures, ALONE, OBSERVED, AIMS.get)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="What it costs to observe this program.")
    parser.add_argument("--mtu", type=int, default=1500)
    parser.add_argument("--filter", default="port=53", help="of the capture, as in /capture?...")
    shared.add(parser, seconds=2, repeat=5)
    options = parser.parse_args(argv)
    if options.peers != "auto" or options.link == "both":
        parser.error("only this program is measured, on one --link: qemu or agent")
    options.parallel, options.udp = 1, False
    samples = report.Samples()
    samples.take_turns(
        (ALONE, OBSERVED), options.repeat, lambda order: {how: run(how, options) for how in order}
    )
    return samples.finish("observing", shared.settings(options), table)


if __name__ == "__main__":
    sys.exit(main())
