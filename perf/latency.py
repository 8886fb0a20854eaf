"""Measures round trips between a guest and the host's loopback, for this program and its peers in turns.

Rows: the round trip of 1 byte over TCP and over UDP (p50 and p99 in µs), and the number of connections a
second that are opened, used for one exchange and closed. Each is measured on an idle link, and beside a bulk
TCP stream (iperf3) up or down. The rate of this stream is a row too. The client is in Python and adds about
10 µs to each round trip, the same for all peers.

    python -m perf.latency --load none,up,down --seconds 2 --repeat 5
"""

from __future__ import annotations

import argparse
import contextlib
import json
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from perf import options as shared
from perf import report
from perf.exchange import CLIENTS
from perf.iperf import await_listener
from perf.namespaces import World
from perf.peers import ROOT

LONG = 600  # seconds; the stream is ended before
SETTLE = 0.5  # seconds a bulk stream has run before round trips are measured beside it
PORT = 5202


@contextlib.contextmanager
def bulk(place: World, host_addr: str, load: str) -> Iterator[Callable[[], int]]:
    """Run a TCP stream up or down during the block, or none for "none". Yields a counter of its bytes."""
    if load == "none":
        yield lambda: 0
        return
    argv = ["iperf3", "--port", str(PORT)]
    server = place.host.spawn([*argv, "--server", "--one-off", "--bind", "127.0.0.1"])
    client = None
    try:
        await_listener(place, PORT)
        reverse = ["--reverse"] if load == "down" else []
        client = place.guest.spawn([*argv, "--client", host_addr, "--time", str(LONG), *reverse])
        time.sleep(SETTLE)
        counts = Path(f"/proc/{client.popen.pid}/io")
        moved = re.compile(r"^rchar: (\d+)" if load == "down" else r"^wchar: (\d+)", re.MULTILINE)
        yield lambda: int(moved.findall(counts.read_text())[0])
        if not client.alive():
            raise report.MeasurementError(f"the bulk stream ended early, status {client.stop()}")
    finally:
        if client is not None:
            client.stop(0.5)
        server.stop(0.5)


def exchange(place: World, kind: str, address: tuple[str, str], seconds: float) -> dict[str, Any]:
    """Run one client of perf.exchange in the guest."""
    argv = [sys.executable, "-m", "perf.exchange", kind, *address, str(seconds)]
    client = place.guest.spawn(argv, subprocess.PIPE, cwd=ROOT)
    try:
        out, _ = client.popen.communicate(timeout=seconds + 30)
    except subprocess.TimeoutExpired:
        raise report.MeasurementError(f"{kind}: the client did not end") from None
    finally:
        client.stop(0.5)
    try:
        result: dict[str, Any] = json.loads(out)
    except ValueError:
        raise report.MeasurementError(f"{kind}: {out.decode()[-300:]}") from None
    return result


def measure(
    place: World, peer: str, host_addr: str, options: argparse.Namespace, samples: report.Samples
) -> None:
    """Measure all rows of one peer once."""
    server = place.host.spawn(
        [sys.executable, "-m", "perf.exchange", "serve", "127.0.0.1"], subprocess.PIPE, cwd=ROOT
    )
    try:
        assert server.popen.stdout is not None
        ports = dict(zip(("tcp", "crr", "udp"), server.popen.stdout.readline().decode().split(), strict=True))
        for load in options.load.split(","):
            beside = "" if load == "none" else f" beside bulk {load}"
            for kind in options.kinds.split(","):
                with samples.attempt():
                    with bulk(place, host_addr, load) as moved:
                        before, began = moved(), time.monotonic()
                        result = exchange(place, kind, (host_addr, ports[kind]), options.seconds)
                        rate = (moved() - before) * 8e-9 / (time.monotonic() - began)
                    print(f"{peer} {kind}{beside}: {result}, bulk {rate:.2f}", file=sys.stderr, flush=True)
                    add(samples, peer, kind, beside, result)
                    if load != "none":
                        samples.add(f"bulk {load} beside {kind}", peer, "Gbit/s", rate)
    finally:
        server.stop(0.5)


def add(samples: report.Samples, peer: str, kind: str, beside: str, result: dict[str, Any]) -> None:
    """Add the rows of one client's result."""
    extra = {"count": result["count"], "lost": result["lost"], "max_us": result["max_us"]}
    if kind == "crr":
        samples.add(f"connect-request-close{beside}", peer, "1/s", result["per_second"], extra=extra)
        return
    for part in ("p50", "p99"):
        what = f"{kind} round trip {part}{beside}"
        samples.add(what, peer, "µs", result[f"{part}_us"], higher_is_better=False, extra=extra)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Round trips through this program and its peers, in turns.")
    parser.add_argument("--load", default="none,up,down", help="comma-separated: none, up, down")
    parser.add_argument("--kinds", default="tcp,udp,crr", help="comma-separated: tcp, udp, crr")
    parser.add_argument("--mtu", type=int, default=1500)
    shared.add(parser, seconds=3, repeat=3)
    options = parser.parse_args(argv)
    if not set(options.kinds.split(",")) <= set(CLIENTS):
        parser.error(f"--kinds: one of {', '.join(CLIENTS)}")
    samples = report.Samples()
    for _ in range(options.repeat):
        for peer in shared.peers(options):
            with (
                samples.attempt(),
                shared.place(options) as place,
                shared.start(options, peer, place, options.mtu) as endpoint,
            ):
                measure(place, peer, endpoint.host_addr, options, samples)
    return samples.finish("latency", shared.settings(options))


if __name__ == "__main__":
    sys.exit(main())
