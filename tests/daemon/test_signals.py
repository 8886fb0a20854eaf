"""Signals and the manager of services: what a running daemon does with them."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.lone_daemon import LoneDaemon
from tests.support.netns import wait_for

UNITS = Path(__file__).resolve().parents[2] / "contrib" / "systemd"


def test_sigint_ends_a_daemon_that_a_script_started_in_the_background(tmp_path: Path) -> None:
    daemon = LoneDaemon(tmp_path)
    words = " ".join(f"'{word}'" for word in daemon.command)
    daemon.command = ["sh", "-c", f"{words} & echo $! > {tmp_path}/pid; wait $!"]
    daemon.start()
    try:
        daemon.wait_until_ready()
        os.kill(int((tmp_path / "pid").read_text()), signal.SIGINT)
        assert daemon.process.wait(10) == 0
        assert not daemon.socket.exists()
    finally:
        daemon.kill()


def test_sigusr1_has_every_process_reopen_the_log(tmp_path: Path) -> None:
    log, old = tmp_path / "log", tmp_path / "log.1"
    with LoneDaemon(tmp_path, "-log-file", str(log), "-debug") as daemon:
        log.rename(old)
        daemon.process.send_signal(signal.SIGUSR1)
        wait_for(lambda: log.exists() and "log reopened" in log.read_text(), "the new log", 10)
        pids = [daemon.process.pid, *workers(daemon.process.pid)]
        assert len(pids) > 2

        def all_moved() -> bool:
            return all(str(log) in open_files(pid) and str(old) not in open_files(pid) for pid in pids)

        wait_for(all_moved, "all processes have the new log", 10)
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert lines[-1]["event"] == "stopped"


def test_a_log_that_cannot_be_reopened_stays(tmp_path: Path) -> None:
    directory = tmp_path / "logs"
    directory.mkdir()
    log = directory / "log"
    with LoneDaemon(tmp_path, "-log-file", str(log)) as daemon:
        moved = tmp_path / "moved"
        directory.rename(moved)
        daemon.process.send_signal(signal.SIGUSR1)
        wait_for(lambda: "cannot be opened again" in (moved / "log").read_text(), "the error", 10)


def test_sigusr2_means_nothing(tmp_path: Path) -> None:
    with LoneDaemon(tmp_path) as daemon:
        for pid in (daemon.process.pid, *workers(daemon.process.pid)):
            os.kill(pid, signal.SIGUSR2)
        wait_for(lambda: '"SIGUSR2"' in daemon.errors(), "the line", 10)
        assert daemon.ask(b"GET /leases HTTP/1.0\r\n\r\n").startswith(b"HTTP/1.0 200")


def test_workers_have_names_in_ps(tmp_path: Path) -> None:
    with LoneDaemon(tmp_path) as daemon:
        names = {Path(f"/proc/{pid}/comm").read_text().strip() for pid in workers(daemon.process.pid)}
        roles = ("ingress", "demux", "tcp0", "egress0", "resolver", "listen")
        assert names == {f"gvtap-{role}" for role in roles}


def test_a_manager_hears_ready_alive_and_stopping(tmp_path: Path) -> None:
    path = tmp_path / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(path))
        manager.settimeout(10)
        env = {**os.environ, "NOTIFY_SOCKET": str(path), "WATCHDOG_USEC": "100000"}
        with LoneDaemon(tmp_path, env=env) as daemon:
            assert manager.recv(100) == b"READY=1"
            assert [manager.recv(100), manager.recv(100)] == [b"WATCHDOG=1"] * 2
            os.kill(daemon.process.pid, signal.SIGSTOP)
            manager.settimeout(0.5)
            with pytest.raises(TimeoutError):
                drain(manager)
            os.kill(daemon.process.pid, signal.SIGCONT)
        manager.settimeout(10)
        while (heard := manager.recv(100)) == b"WATCHDOG=1":
            continue
        assert heard == b"STOPPING=1"


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd-analyze")
@pytest.mark.parametrize("name", ["gvtap-pipeline.service", "gvtap-pipeline@.service"])
def test_systemd_takes_the_units(name: str, tmp_path: Path) -> None:
    text = (UNITS / name).read_text()
    # The program need not be installed here. verify checks that it is.
    unit = tmp_path / name.replace("@", "@one")
    unit.write_text(text.replace("/usr/local/bin/gvtap-pipeline", sys.executable))
    unit.write_text(unit.read_text().replace("Documentation=man:gvtap-pipeline(1)\n", ""))
    done = subprocess.run(["systemd-analyze", "verify", "--man=no", unit], capture_output=True, text=True)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def drain(sock: socket.socket) -> None:
    while True:
        sock.recv(100)


def workers(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def open_files(pid: int) -> list[str]:
    return [os.readlink(path) for path in Path(f"/proc/{pid}/fd").iterdir()]
