"""Signals and the manager of services: what a running daemon does with them."""

import json
import os
import signal
import socket
import subprocess
import time
from pathlib import Path

import pytest

from pipeline.config.choices import AUTO, SEPARATE
from pipeline.daemon.placement import plan
from pipeline.topology import Layout
from tests.support.lone_daemon import LoneDaemon
from tests.support.netns import wait_for


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


def test_sigusr2_means_nothing_to_workers(tmp_path: Path) -> None:
    with LoneDaemon(tmp_path) as daemon:
        for pid in workers(daemon.process.pid):
            os.kill(pid, signal.SIGUSR2)
        daemon.process.send_signal(signal.SIGUSR1)
        wait_for(lambda: "log reopened" in daemon.errors(), "the line", 10)
        assert events(daemon, "worker died") == []
        assert daemon.ask(b"GET /leases HTTP/1.0\r\n\r\n").startswith(b"HTTP/1.0 200")


@pytest.mark.parametrize(
    ("kind", "names"),
    [
        (SEPARATE, {"ingress", "demux", "tcp0", "egress0", "resolver", "listen"}),
        (AUTO, {group.name for group in plan(AUTO, Layout(64, 1, 1), os.cpu_count() or 1)}),
    ],
)
def test_workers_have_names_in_ps(tmp_path: Path, kind: str, names: set[str]) -> None:
    with LoneDaemon(tmp_path, "-placement", kind) as daemon:
        pid = str(daemon.process.pid)
        shown = subprocess.run(
            ["ps", "-o", "comm=", "--ppid", pid], capture_output=True, text=True, check=True
        )
        assert set(shown.stdout.split()) == {f"gvtap-{name}" for name in (*names, "nursery")}


def test_without_a_file_sighup_ends_it(tmp_path: Path) -> None:
    with LoneDaemon(tmp_path, preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_DFL)) as daemon:
        daemon.process.send_signal(signal.SIGHUP)
        assert daemon.process.wait(10) == 0
        assert not daemon.socket.exists()
        daemon.stop = lambda: None  # type: ignore[method-assign]  # it has ended


def test_with_a_file_sighup_reloads_although_nohup_has_it_ignored(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("egress-policy: {default: deny}")
    flags = ("-config", str(path))
    with LoneDaemon(
        tmp_path, *flags, preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN)
    ) as daemon:
        path.write_text("log-level: debug")
        daemon.process.send_signal(signal.SIGHUP)
        line = wait_for(lambda: events(daemon, "configuration reloaded"), "the reload", 10)[0]
        assert line["changed"] == "log-level, egress-policy"
    # Every process has the new level: workers say so at their end.
    assert {line["worker"] for line in events(daemon, "worker stopped")} >= {"ingress", "tcp0", "resolver"}


def test_signals_during_a_reload_cause_one_more_with_the_last_file(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.touch()
    with LoneDaemon(tmp_path, "-config", str(path)) as daemon:
        for count in range(20):
            path.write_text(f"limits: {{max-tcp-flows: {count + 1}}}")
            daemon.process.send_signal(signal.SIGHUP)
        path.write_text("egress-policy: {default: deny}")
        daemon.process.send_signal(signal.SIGHUP)

        def settled() -> bool:
            return any(
                "egress-policy" in line["changed"] for line in events(daemon, "configuration reloaded")
            )

        wait_for(settled, "the last file counts", 20)


def test_a_file_that_can_be_read_only_once_is_not_read_again(tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    daemon = LoneDaemon(tmp_path, "-config", str(fifo))
    daemon.start()
    try:
        fifo.write_text("log-level: info")
        daemon.wait_until_ready()
        daemon.process.send_signal(signal.SIGHUP)
        found = wait_for(lambda: events(daemon, "configuration not reloaded: nothing has changed"), "it", 10)
        assert found[0]["error"].endswith("it is a FIFO (allowed: a regular file)")
        daemon.stop()
    finally:
        daemon.kill()


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


def test_a_manager_hears_of_a_reload(tmp_path: Path) -> None:
    path, config = tmp_path / "notify", tmp_path / "config.yaml"
    config.touch()
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(path))
        manager.settimeout(10)
        env = {**os.environ, "NOTIFY_SOCKET": str(path)}
        with LoneDaemon(tmp_path, "-config", str(config), env=env) as daemon:
            assert manager.recv(100) == b"READY=1"
            for text in ("", "egres-policy: {}"):
                config.write_text(text)
                before = time.clock_gettime_ns(time.CLOCK_MONOTONIC)
                daemon.process.send_signal(signal.SIGHUP)
                first, second = manager.recv(100).decode().split("\n")
                assert first == "RELOADING=1"
                name, _, at = second.partition("=")
                assert name == "MONOTONIC_USEC"
                assert before // 1000 <= int(at) <= time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
                assert manager.recv(100) == b"READY=1"


def events(daemon: LoneDaemon, event: str) -> list[dict[str, str]]:
    lines = [json.loads(line) for line in daemon.errors().splitlines() if line.endswith("}")]
    return [line for line in lines if line["event"] == event]


def drain(sock: socket.socket) -> None:
    while True:
        sock.recv(100)


def workers(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def open_files(pid: int) -> list[str]:
    return [os.readlink(path) for path in Path(f"/proc/{pid}/fd").iterdir()]
