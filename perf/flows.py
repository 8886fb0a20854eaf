"""Measures what open TCP connections cost: memory, idle CPU, and the speed of one more connection.

Rows for each number of open, idle connections, for this program and its peers in turns:
  opened            connections opened a second, 64 at a time, until that number was open
  memory            of the program and its children (PSS); `memory a flow` is the growth since the first row
  idle CPU          percent of one core while nothing is sent
  tcp up / down     throughput of one more connection (iperf3)
  round trip p50    of 1 byte on one more connection

    python -m perf.flows --counts 1,100,1000,10000 --seconds 2 --idle-seconds 5 --repeat 1
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time

from perf import iperf, processes, report
from perf import options as shared
from perf.latency import exchange
from perf.namespaces import Process, World
from perf.peers import ROOT, Endpoint

SETTLE = 1.0  # seconds between the last connection and the first measurement


class Holders:
    """The two processes that keep connections open: one accepts them, the other opens them."""

    def __init__(self, place: World, host_addr: str) -> None:
        self._accepting = self._spawn(place, "host", ["accept", "127.0.0.1"])
        assert self._accepting.popen.stdout is not None
        port = self._accepting.popen.stdout.readline().decode().strip()
        self._opening = self._spawn(place, "guest", ["open", host_addr, port])

    def _spawn(self, place: World, where: str, argv: list[str]) -> Process:
        namespace = place.host if where == "host" else place.guest
        argv = [sys.executable, "-m", "perf.holder", *argv]
        pipe = subprocess.PIPE
        return namespace.spawn(argv, pipe, stdin=pipe, stderr=pipe, cwd=ROOT)

    def open(self, count: int) -> dict[str, float]:
        """Open connections until `count` are open. Returns the JSON object of perf.holder."""
        process = self._opening.popen
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdin.write(f"{count}\n".encode())
        process.stdin.flush()
        line = process.stdout.readline()
        if not line:
            raise report.MeasurementError(process.stderr.read().decode().strip())
        result: dict[str, float] = json.loads(line)
        return result

    def stop(self) -> None:
        for process in (self._opening, self._accepting):
            process.stop(0.5)
            if process.popen.stderr is not None:
                process.popen.stderr.close()


def measure(place: World, endpoint: Endpoint, options: argparse.Namespace, samples: report.Samples) -> None:
    """Measure all rows of one peer once."""
    holders = Holders(place, endpoint.host_addr)
    server = place.host.spawn(
        [sys.executable, "-m", "perf.exchange", "serve", "127.0.0.1"], subprocess.PIPE, cwd=ROOT
    )
    first: tuple[int, int] | None = None
    try:
        assert server.popen.stdout is not None
        port = server.popen.stdout.readline().decode().split()[0]
        for count in [int(text) for text in options.counts.split(",")]:
            beside = f" with {count} open"
            opened = holders.open(count)
            if count >= 100:
                samples.add(f"opened{beside}", endpoint.peer, "1/s", opened["per_second"])
            time.sleep(SETTLE)
            memory = processes.memory_bytes(endpoint.pid)
            samples.add(f"memory{beside}", endpoint.peer, "MiB", memory / 2**20, higher_is_better=False)
            if first is None:
                first = (count, memory)
            elif count >= 1000:
                each = (memory - first[1]) / (count - first[0]) / 1024
                samples.add(
                    f"memory a flow{beside}",
                    endpoint.peer,
                    "KiB",
                    each,
                    higher_is_better=False,
                    may_be_zero=True,
                )
            before = processes.cpu_seconds(endpoint.pid)
            time.sleep(options.idle_seconds)
            percent = 100 * (processes.cpu_seconds(endpoint.pid) - before) / options.idle_seconds
            samples.add(
                f"idle CPU{beside}", endpoint.peer, "%", percent, higher_is_better=False, may_be_zero=True
            )
            result = exchange(place, "tcp", (endpoint.host_addr, port), options.seconds / 2)
            what = f"round trip p50{beside}"
            samples.add(what, endpoint.peer, "µs", result["p50_us"], higher_is_better=False)
            for direction in ("up", "down"):
                value, unit, _ = iperf.measure(place, endpoint.host_addr, direction, options)
                samples.add(f"tcp {direction}{beside}", endpoint.peer, unit, value)
            print(
                f"{endpoint.peer}{beside}: opened {opened}, {memory >> 20} MiB", file=sys.stderr, flush=True
            )
    finally:
        server.stop(0.5)
        holders.stop()


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="What open flows cost this program and its peers.")
    parser.add_argument("--counts", default="1,100,1000,10000", help="comma-separated, growing")
    parser.add_argument("--idle-seconds", type=float, default=5)
    parser.add_argument("--mtu", type=int, default=1500)
    shared.add(parser, seconds=2, repeat=1)
    options = parser.parse_args(argv)
    options.parallel, options.udp = 1, False
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))  # of all processes started here
    samples = report.Samples()
    for _ in range(options.repeat):
        for peer in shared.peers(options):
            with (
                samples.attempt(),
                shared.place(options) as place,
                shared.start(options, peer, place, options.mtu) as endpoint,
            ):
                for namespace in place:
                    namespace.run("sh", "-c", "echo 10000 65000 > /proc/sys/net/ipv4/ip_local_port_range")
                    namespace.run("sh", "-c", "echo 4096 > /proc/sys/net/core/somaxconn")
                measure(place, endpoint, options, samples)
    return samples.finish("flows", shared.settings(options))


if __name__ == "__main__":
    sys.exit(main())
