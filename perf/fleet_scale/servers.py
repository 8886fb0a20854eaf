"""A cluster of real NATS servers on loopback, for measurements: what they do and what they need.

Each server writes its figures to its monitoring port (``/varz``, ``/connz``, ``/jsz``). What they cost comes
from /proc: the resident memory and the processor time of each process.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from perf.namespaces import Process
from perf.report import MeasurementError

PROGRAM = "nats-server"
COUNT = 3
CLIENT_PORT = 4222
ROUTE_PORT = 6222
MONITOR_PORT = 8222
STARTS_S = 20.0
DAEMONS = "gvtap-pipeline host-"
"""How the names of connections begin that are of simulated daemons (perf.fleet_scale.daemons)."""
_TICKS = os.sysconf("SC_CLK_TCK")


class Usage(NamedTuple):
    """What the servers have used until now: messages and bytes to clients, and seconds of processors."""

    at: float
    messages: int
    payload_bytes: int
    """Headers and contents of the messages to clients."""
    loopback_bytes: int
    """All that went over the loopback: to clients and from them, and between the servers."""
    cpu_seconds: float

    def since(self, before: Usage) -> Usage:
        """What was used between two looks."""
        return Usage(*(late - early for late, early in zip(self, before, strict=True)))


class Servers:
    """The cluster. Its ports are free, since the measurement has a network namespace of its own."""

    def __init__(self, count: int, directory: Path) -> None:
        self.numbers = range(count)
        self._directory = directory
        routes = ", ".join(f"nats-route://127.0.0.1:{ROUTE_PORT + each}" for each in self.numbers)
        self._logs = [directory / f"{number}.log" for number in self.numbers]
        for number in self.numbers:
            together = (
                f'cluster {{ name: fleet, listen: "127.0.0.1:{ROUTE_PORT + number}", routes: [{routes}] }}\n'
                if count > 1
                else ""
            )
            (directory / f"{number}.conf").write_text(
                f'server_name: n{number}\nlisten: "127.0.0.1:{CLIENT_PORT + number}"\n'
                f'http: "127.0.0.1:{MONITOR_PORT + number}"\n'
                f'jetstream {{ store_dir: "{directory / str(number)}" }}\n{together}'
            )
        self._processes: list[Process] = []

    @property
    def url(self) -> str:
        """What ``-fleet`` gets."""
        return "nats://" + ",".join(f"127.0.0.1:{CLIENT_PORT + number}" for number in self.numbers)

    def start(self) -> None:
        """Start all, and wait until they take connections and JetStream has a leader."""
        for number, path in zip(self.numbers, self._logs, strict=True):
            with path.open("ab") as log:
                argv = [PROGRAM, "-c", str(self._directory / f"{number}.conf")]
                self._processes.append(Process(argv, log))
        deadline = time.monotonic() + STARTS_S
        while not all(self._is_ready(number) for number in self.numbers):
            if time.monotonic() > deadline or not all(process.alive() for process in self._processes):
                raise MeasurementError(f"NATS does not start: {self._logs[0].read_text()[-2000:]}")
            time.sleep(0.1)

    def _is_ready(self, number: int) -> bool:
        try:
            socket.create_connection(("127.0.0.1", CLIENT_PORT + number), 1.0).close()
            found = self._ask(number, "jsz")
        except OSError:
            return False
        return len(self.numbers) == 1 or bool(found.get("meta_cluster", {}).get("leader"))

    def stop(self) -> None:
        """End all of them."""
        for process in self._processes:
            process.stop()

    def _ask(self, number: int, what: str) -> dict[str, Any]:
        with urllib.request.urlopen(f"http://127.0.0.1:{MONITOR_PORT + number}/{what}", timeout=20) as answer:
            found: dict[str, Any] = json.load(answer)
            return found

    def memory(self) -> list[int]:
        """Bytes of resident memory of each server."""
        return [resident(process.pid) for process in self._processes]

    def stored(self) -> int:
        """Bytes of the files of the first server."""
        return sum(path.stat().st_size for path in (self._directory / "0").rglob("*") if path.is_file())

    def usage(self) -> Usage:
        """What was used until now."""
        at = time.monotonic()
        connections = [
            each
            for number in self.numbers
            for each in self._ask(number, "connz?limit=100000").get("connections", [])
            if each.get("name", "").startswith(DAEMONS)
        ]
        return Usage(
            at,
            sum(each["out_msgs"] for each in connections),
            sum(each["out_bytes"] for each in connections),
            _loopback(),
            sum(processor_seconds(process.pid) for process in self._processes),
        )


def resident(pid: int) -> int:
    """Bytes of memory of a process that are its own (Pss)."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) * 1024
    raise MeasurementError(f"process {pid} has no memory")


def processor_seconds(pid: int) -> float:
    """Seconds of processors that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


def _loopback() -> int:
    for line in Path("/proc/net/dev").read_text().splitlines():
        name, _, rest = line.partition(":")
        if name.strip() == "lo":
            return int(rest.split()[0])
    raise MeasurementError("there is no loopback")


@contextlib.contextmanager
def running(count: int = COUNT) -> Iterator[Servers]:
    """The cluster. Its files are in memory if /dev/shm has room, so that the disk is not measured."""
    if shutil.which(PROGRAM) is None:
        raise MeasurementError(f"{PROGRAM} is not installed")
    with tempfile.TemporaryDirectory(prefix="perf-fleet-scale-") as name:
        servers = Servers(count, Path(name))
        try:
            servers.start()
            yield servers
        finally:
            servers.stop()
