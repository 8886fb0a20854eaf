"""A signal ends the daemon in order whenever it comes: from its first trace in the system to its last."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from tests.support import quick_start
from tests.support.daemon import Daemon, launch, program
from tests.support.netns import INTERNET_ADDR, Network, new_shared_memory, shared_memory, wait_for

pytestmark = pytest.mark.e2e

ENDS = pytest.mark.parametrize(
    "number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP], ids=lambda number: number.name
)
DELAYS = (0.0, 0.02, 0.05, 0.1, 0.2)
"""Seconds from the pid in its file to the signal: from the start's first steps until it is ready."""

AT_A_PLACE = quick_start.Program("tests.support.signal_at_a_place:main", quick_start.DAEMON.modules)


@pytest.fixture(autouse=True)
def signals_heard() -> Iterator[None]:
    """Children hear of SIGHUP and SIGINT even if the tests run under nohup or in the background."""
    before = {number: signal.signal(number, signal.SIG_DFL) for number in (signal.SIGHUP, signal.SIGINT)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


class Run:
    """One start, in a session of its own so that a whole group can be told, and what it leaves."""

    def __init__(self, network: Network, *flags: str, place: Sequence[str] = ()) -> None:
        """place: the words of signal_at_a_place.py."""
        self.before = shared_memory()
        self.daemon = Daemon(network, *flags, name="early")
        self.pid_file: Path = network.directory / "early.pid"
        flags = (*self.daemon.flags, "-pid-file", str(self.pid_file))
        with self.daemon.log_path.open("wb") as log:
            options = {"stdin": subprocess.DEVNULL, "stdout": log, "stderr": log, "start_new_session": True}
            if place:
                argv = [sys.executable, "-m", "tests.support.signal_at_a_place", *place, "start", *flags]
                self.process = network.host.start(AT_A_PLACE, argv, **options)
            else:
                self.process = launch(network.host, program(), flags, **options)

    def has_pid(self) -> bool:
        return self.pid_file.exists() and bool(self.pid_file.read_text())

    def check_end(self, what: object) -> None:
        """In order, with its status, and nothing is left."""
        try:
            status = self.process.wait(10)
            text = self.daemon.log_text()
            assert status == 0, f"{what}: status {status}\n{text}"
            assert "Traceback" not in text, f"{what}: {text}"
            assert "Exception ignored" not in text, f"{what}: {text}"
            bad = [line for line in self.daemon.log() if line["level"] in ("error", "critical")]
            assert not bad, f"{what}: {bad}"
            left = [
                path for path in (self.pid_file, self.daemon.socket, self.daemon.qemu_socket) if path.exists()
            ]
            assert not left, f"{what}: left behind: {left}"
            assert not new_shared_memory(self.before), what
            wait_for(self._group_is_gone, f"{what}: workers are gone", 2)
        finally:
            if not self._group_is_gone():
                os.killpg(self.process.pid, signal.SIGKILL)
                self.process.wait()
            self.pid_file.unlink(missing_ok=True)

    def _group_is_gone(self) -> bool:
        try:
            os.killpg(self.process.pid, 0)
        except ProcessLookupError:
            return True
        return False


@ENDS
@pytest.mark.parametrize(
    "place",
    [
        ("pipeline.daemon.own_files", "OwnFiles.write_pid", "before"),
        ("pipeline.daemon.own_files", "OwnFiles.write_pid", "after"),
        ("pipeline.daemon.processes", "start", "before"),
        ("pipeline.daemon.processes", "start", "after"),
        ("pipeline.daemon.supervisor", "ControlPlane", "before"),
        ("pipeline.daemon.supervisor", "Supervisor.release", "before"),
    ],
    ids=lambda place: f"{place[2]} {place[1]}",
)
def test_a_signal_during_the_start_ends_it_in_order(
    network: Network, number: signal.Signals, place: tuple[str, str, str]
) -> None:
    run = Run(network, place=(*place, str(int(number))))
    if place[1] == "Supervisor.release":
        # The end itself: it is on its way when the second signal comes.
        wait_for(run.daemon.qemu_socket.exists, "it runs")
        run.process.terminate()
    run.check_end(place)
    assert run.daemon.events("signal caught")


@ENDS
@pytest.mark.parametrize("whom", ["supervisor", "everybody"])
def test_a_signal_soon_after_the_pid_file_is_there_ends_it_in_order(
    network: Network, number: signal.Signals, whom: str
) -> None:
    for delay in DELAYS:
        run = Run(network)
        wait_for(run.has_pid, "the pid", every=0.0005)
        time.sleep(delay)
        if whom == "supervisor":
            run.process.send_signal(number)
        else:
            os.killpg(run.process.pid, number)
        run.check_end(delay)


# With a file, SIGHUP would be a reload.
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda number: number.name)
def test_a_signal_waits_for_no_name_server(network: Network, number: signal.Signals, tmp_path: Path) -> None:
    file = tmp_path / "slow.yaml"
    file.write_text(
        'stack: {forwards: {"a.example:9001": "192.168.127.2:1", "b.example:9002": "192.168.127.2:2"}}'
    )
    with network.internet.call(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as silent:
        silent.bind((INTERNET_ADDR, 53))
        silent.settimeout(10)
        run = Run(network, "-config", str(file))
        assert b"\1a\7example" in silent.recv(512)
        run.process.send_signal(number)
        began = time.monotonic()
        run.check_end("a name is looked up")
        assert time.monotonic() - began < 2
    assert run.daemon.events("signal caught")


def test_workers_inherit_neither_a_mask_nor_the_supervisors_handlers(network: Network) -> None:
    with Daemon(network) as daemon:
        pipes = pipes_of(daemon.process.pid)
        # Both ends are its own: not those that tell it of a worker's end.
        (own,) = {pipe for pipe in pipes if pipes.count(pipe) == 2}
        for name, pid in daemon.workers().items():
            # The daemon is ready when it serves, which may be before each worker's loop runs.
            wait_for(lambda pid=pid: not signals_of(pid)["SigBlk"], f"{name} blocks no signal")
            found = signals_of(pid)
            assert {signal.SIGINT, signal.SIGHUP} <= found["SigIgn"], name
            assert {signal.SIGTERM, signal.SIGQUIT} <= found["SigCgt"], name
            assert own not in pipes_of(pid), f"{name} has the pipe of the supervisor's signals"


def signals_of(pid: int) -> dict[str, set[signal.Signals]]:
    """What a process blocks, ignores and has handlers for."""
    status = Path(f"/proc/{pid}/status").read_text()
    return {
        key: {number for number in signal.Signals if int(mask, 16) >> number - 1 & 1}
        for key, mask in re.findall(r"^(SigBlk|SigIgn|SigCgt):\t(\w+)$", status, re.MULTILINE)
    }


def pipes_of(pid: int) -> list[str]:
    """The pipes of a process' descriptors."""
    names = [os.readlink(fd) for fd in Path(f"/proc/{pid}/fd").iterdir()]
    return [name for name in names if name.startswith("pipe:")]
