"""Runs the daemon for a test in the host namespace, and checks at its end that nothing is left.

    with Daemon(network) as daemon: ...

starts `gvtap-pipeline start` with a control socket (with /connect) and a QEMU socket, both in the network's
directory. The end of the block stops it with SIGTERM, and asserts:

- soon after the end of the traffic, all slots are free;
- the daemon ends within 2 s with status 0;
- its sockets are gone, and /dev/shm is as before;
- its log has no errors, except for guests that left.
"""

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from perf import compiled
from perf.processes import own_cpu_seconds
from pipeline.control.metrics.families import SUPERVISOR, writers
from pipeline.daemon import placement
from pipeline.topology import Layout
from tests.support import quick_start, violations
from tests.support.metrics import counted
from tests.support.netns import Namespace, Network, new_shared_memory, shared_memory, wait_for

READY = "waiting for clients..."
READY_SECONDS = 10.0
STOP_SECONDS = 10.0
REST_SECONDS = 10.0


class Daemon:
    """One run of the daemon."""

    def __init__(
        self,
        network: Network,
        *flags: str,
        name: str = "daemon",
        ssh_port: int = -1,
        system: str = "",
        plain: bool = False,
        ipv4_only: bool = True,
        fresh: bool = False,
    ) -> None:
        """flags: further flags. ssh_port: port of the default ssh forward. system, plain: see program().

        ipv4_only: without a flag -ipv6, guests have no IPv6, although that is not the default. fresh: run the
        command as it stands (tests.support.quick_start).
        """
        self.network = network
        self.namespace: Namespace = network.host
        self.socket = network.directory / f"{name}.sock"
        self.qemu_socket = network.directory / f"{name}-qemu.sock"
        self.log_path = network.directory / f"{name}.log"
        self.flags = [
            *("-listen", f"unix://{self.socket}", "-listen-qemu", f"unix://{self.qemu_socket}"),
            *("-ssh-port", str(ssh_port), *flags),
        ]
        if ipv4_only and "-ipv6" not in flags:
            self.flags += ["-ipv6", "off"]
        self.command = program(system, plain=plain)
        self.fresh = fresh
        self.start_seconds = 0.0
        self.expect_errors = False
        """A test sets this if it provokes log lines of level error or worse."""
        self._process: subprocess.Popen[bytes] | quick_start.Process | None = None
        self._shared_memory: set[str] = set()

    def start(self) -> None:
        """Start the daemon, and wait until its log says that it is ready."""
        self._shared_memory = shared_memory()
        began = time.monotonic()
        with self.log_path.open("wb") as log:
            self._process = launch(
                self.namespace, self.command, self.flags, self.fresh,
                stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            )  # fmt: skip
        wait_for(self._is_ready, "the daemon is ready", READY_SECONDS, 0.01)
        self.start_seconds = time.monotonic() - began

    def _is_ready(self) -> bool:
        if self.process.poll() is not None:
            raise AssertionError(f"the daemon ended with {self.process.returncode}\n{self.log_text()}")
        return bool(self.events(READY))

    @property
    def process(self) -> "subprocess.Popen[bytes] | quick_start.Process":
        """The supervisor's process."""
        assert self._process is not None, "not started"
        return self._process

    @property
    def layout(self) -> Layout:
        """The layout that the flags ask for."""
        return Layout(
            self._number("-slots", 512), self._number("-tcp-workers", 1), self._number("-egress-workers", 1)
        )

    def _number(self, flag: str, default: int) -> int:
        return int(self.flags[self.flags.index(flag) + 1]) if flag in self.flags else default

    def workers(self) -> dict[str, int]:
        """Pids of the first worker processes by name: the supervisor's children, in the order of their start.

        If workers share processes, the names are those of the processes. The nursery comes last.
        """
        *children, _ = children_of(self.process.pid)
        kind = self.flags[self.flags.index("-placement") + 1] if "-placement" in self.flags else "separate"
        names = [group.name for group in placement.plan(kind, self.layout, os.cpu_count() or 1)]
        assert len(children) == len(names), f"{len(children)} children for the workers {names}"
        return dict(zip(names, children, strict=True))

    def processes(self) -> dict[str, int]:
        """Pids of the worker processes by name, as the API lists them. Some may be successors."""
        status, content = self.api("/status")
        assert status == 200
        return {row["process"]: row["pid"] for row in json.loads(content)["workers"]}

    # --- logs -------------------------------------------------------------------------

    def log_text(self) -> str:
        """The whole log so far."""
        return self.log_path.read_text(errors="replace")

    def log(self) -> list[dict[str, Any]]:
        """The lines of the log. A line that is not a JSON object fails the test."""
        lines = []
        for text in self.log_text().splitlines():
            try:
                line = json.loads(text)
            except ValueError:
                raise AssertionError(f"not a JSON line in the log: {text!r}\n{self.log_text()}") from None
            assert isinstance(line, dict), text
            lines.append(line)
        return lines

    def events(self, event: str) -> list[dict[str, Any]]:
        """The log lines of one event. An incomplete last line is ignored."""
        found = []
        for text in self.log_text().splitlines():
            try:
                line = json.loads(text)
            except ValueError:
                continue
            if line.get("event") == event:
                found.append(line)
        return found

    # --- control endpoint ---------------------------------------------------------------

    def api(self, path: str, body: object = None, method: str = "POST") -> tuple[int, bytes]:
        """GET path, or POST body as JSON. Returns status and body of the answer.

        method: another one for the body.
        """
        connection = http.client.HTTPConnection("localhost", timeout=10.0)
        connection.sock = socket.socket(socket.AF_UNIX)
        connection.sock.settimeout(10.0)
        connection.sock.connect(str(self.socket))
        if body is None:
            connection.request("GET", path)
        else:
            connection.request(method, path, json.dumps(body), {"Content-Type": "application/json"})
        response = connection.getresponse()
        content = response.read()
        connection.close()
        return response.status, content

    def expose(self, local: str, remote: str, protocol: str = "tcp") -> None:
        """Open a forward from ``local`` on the host to ``remote`` in the guest."""
        answer = self.api(
            "/services/forwarder/expose", {"local": local, "remote": remote, "protocol": protocol}
        )
        assert answer == (200, b""), answer

    # --- the end ------------------------------------------------------------------------

    def stop(self) -> None:
        """Stop the daemon, and assert what the module's docstring lists."""
        if self.process.poll() is not None:
            raise AssertionError(f"ended early with {self.process.returncode}\n{self.log_text()}")
        self.wait_for_free_slots()
        self.check_counters()
        workers = self.processes()
        began = time.monotonic()
        self.process.send_signal(signal.SIGTERM)
        try:
            status = self.process.wait(STOP_SECONDS + 5.0)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"SIGTERM did not end the daemon\n{self.log_text()}") from None
        seconds = time.monotonic() - began
        assert status == 0, f"status {status}\n{self.log_text()}"
        assert seconds < STOP_SECONDS, f"stopping took {seconds:.2f} s\n{self.log_text()}"
        self.check_remains(workers)
        if not self.expect_errors:
            bad = errors(self.log())
            assert not bad, bad

    def check_remains(self, workers: dict[str, int]) -> None:
        """Assert that sockets, workers and shared memory are gone. workers: their former pids by name."""
        left = [path for path in (self.socket, self.qemu_socket) if path.exists()]
        assert not left, f"still there: {left}"
        assert not new_shared_memory(self._shared_memory)
        alive = [name for name, pid in workers.items() if Path(f"/proc/{pid}").exists()]
        assert not alive, f"workers still there: {alive}"

    def wait_for_free_slots(self) -> None:
        """Wait until all slots are free and no reference is out. Fails after a while.

        The gauges may be a second old. Connections that a test has closed need a moment too.
        """
        pools = {home: span.slot_count for home, span in self.layout.pools.items()}
        free: dict[str, int] = {}
        refs: dict[str, int] = {}

        def at_rest() -> bool:
            nonlocal free, refs
            free, refs = self.gauge("worker_slots_free"), self.gauge("worker_slot_refs_out")
            return {home: free.get(home) for home in pools} == pools and not any(refs.values())

        try:
            wait_for(at_rest, "all slots are home", REST_SECONDS, 0.1)
        except AssertionError as error:
            raise AssertionError(f"{error}: {free} free of {pools}, references out: {refs}") from None

    def gauge(self, name: str) -> dict[str, int]:
        """The values of a counter by worker, from /metrics."""
        return counted(self.api("/metrics")[1].decode())[name]

    def check_counters(self) -> None:
        """Assert that each worker counted only what WRITERS says it may count."""
        roles = {node.name: node.role for node in self.layout.nodes} | {SUPERVISOR: SUPERVISOR}
        wrong = [
            f"{worker} counted {name}"
            for name, values in counted(self.api("/metrics")[1].decode()).items()
            for worker, value in values.items()
            if value and roles[worker] not in writers(name)
        ]
        assert not wrong, wrong

    def cpu_seconds(self) -> dict[str, float]:
        """User plus system time of each worker process and of the supervisor so far."""
        return {
            name: own_cpu_seconds(pid)
            for name, pid in {**self.workers(), "supervisor": self.process.pid}.items()
        }

    def __enter__(self) -> "Daemon":
        try:
            self.start()
        except BaseException:
            # One that is late would be in the way of the next test.
            self.kill()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self.stop()
            else:
                sys.stderr.write(self.log_text())
        finally:
            self.kill()

    def kill(self) -> None:
        """Clean up after a failure, so that the next test is not affected."""
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            self._process.wait()
        for path in (self.socket, self.qemu_socket):
            path.unlink(missing_ok=True)


def children_of(pid: int) -> list[int]:
    """The processes that this one has forked, oldest first."""
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def errors(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Log lines of level error or worse, except gvproxy's about guests that left."""
    bad = [line for line in lines if line["level"] in ("error", "critical")]
    return [line for line in bad if line.get("kind") != "original-guest-gone"]


def launch(
    namespace: Namespace, command: Sequence[str], flags: Sequence[str], fresh: bool = False, **options: Any
) -> "subprocess.Popen[bytes] | quick_start.Process":
    """Start a daemon. A command that is not the usual one, or a fresh one, runs as it stands."""
    argv = [*command, "start", *flags]
    if not fresh and list(command) in (violations.program(), violations.program(plain=True)):
        return namespace.start(quick_start.WATCHED, argv, **options)
    if fresh or command != compiled.command("gvtap-pipeline"):
        return namespace.popen(argv, **options)
    return namespace.start(quick_start.DAEMON, argv, **options)


def program(system: str = "", *, plain: bool = False) -> list[str]:
    """The command line of gvtap-pipeline in this environment. It is compiled if that is available.

    system: another system to act (tests.support.other_system), always with plain sources. The default is the
    environment variable GVTAP_TEST_SYSTEM, so that all tests can run as on that system. With
    GVTAP_TEST_VIOLATIONS see tests.support.violations.
    """
    if recording := violations.program(plain=plain):
        return recording
    if system := system or os.environ.get("GVTAP_TEST_SYSTEM", ""):
        return [sys.executable, "-m", "tests.support.other_system", system, "run"]
    return compiled.command("gvtap-pipeline", plain=plain)


def is_compiled(pid: int) -> bool:
    """Whether this process has loaded the compiled data path."""
    return "pipeline_stages__mypyc" in Path(f"/proc/{pid}/maps").read_text()
