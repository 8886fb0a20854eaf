"""Limits of control groups, and the freezer: what a container or a service manager does to the daemon."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from pipeline.daemon.healing import HANGS_AFTER
from tests.support.cgroups import Cgroup
from tests.support.lone_daemon import LoneDaemon
from tests.support.netns import wait_for
from tests.support.restarts import family

MIB = 1 << 20
HOG = """
import sys, time
pieces = []
while True:
    pieces.append(bytearray(1 << 20))
    time.sleep(0.02)
"""
"""Takes more and more memory."""


def processes(daemon: LoneDaemon) -> dict[str, int]:
    answer = daemon.ask(b"GET /status HTTP/1.0\r\n\r\n").partition(b"\r\n\r\n")[2]
    return {row["process"]: row["pid"] for row in json.loads(answer)["workers"]}


def events(daemon: LoneDaemon, event: str) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in daemon.errors().splitlines() if line.endswith("}")]
    return [line for line in lines if line["event"] == event]


def is_well(daemon: LoneDaemon) -> bool:
    return daemon.ask(b"GET /healthz HTTP/1.0\r\n\r\n").startswith(b"HTTP/1.0 200")


# --- the freezer ------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", [1, 2])
def test_a_container_that_is_paused_goes_on_without_a_death(tmp_path: Path, version: int) -> None:
    with Cgroup.make("freezer", version) as group, LoneDaemon(tmp_path) as daemon:
        before = processes(daemon)
        group.add_tree(family(daemon.process.pid))
        group.freeze()
        time.sleep(HANGS_AFTER + 2)
        group.thaw()
        # The supervisor looks once a second.
        time.sleep(2.5)
        assert is_well(daemon)
        assert processes(daemon) == before
        assert events(daemon, "worker does not breathe") == []


def test_a_worker_that_is_frozen_alone_is_replaced(tmp_path: Path) -> None:
    with Cgroup.make("freezer", 2) as group, LoneDaemon(tmp_path) as daemon:
        pid = processes(daemon)["tcp0"]
        group.add(pid)
        group.freeze()
        wait_for(lambda: events(daemon, "worker replaced"), "the successor", HANGS_AFTER + 10)
        assert processes(daemon)["tcp0"] != pid
        wait_for(lambda: is_well(daemon), "all workers answer")


def test_a_worker_that_cannot_be_killed_while_it_is_frozen_is_replaced_afterwards(tmp_path: Path) -> None:
    """The freezer of version 1 keeps a process from its own SIGKILL."""
    with Cgroup.make("freezer", 1) as group, LoneDaemon(tmp_path) as daemon:
        pid = processes(daemon)["tcp0"]
        group.add(pid)
        group.freeze()
        wait_for(lambda: events(daemon, "worker does not breathe"), "the notice", HANGS_AFTER + 10)
        time.sleep(1)
        assert daemon.process.poll() is None
        group.thaw()
        wait_for(lambda: events(daemon, "worker replaced"), "the successor", 10)
        wait_for(lambda: is_well(daemon), "all workers answer")


# --- processes and threads --------------------------------------------------------------------------


def test_a_worker_has_a_successor_as_soon_as_there_may_be_one_more_process(tmp_path: Path) -> None:
    with Cgroup.make("pids") as group, LoneDaemon(tmp_path) as daemon:
        before = processes(daemon)
        group.add_tree(family(daemon.process.pid))
        # Room for none: the place of the dead worker is taken.
        group.write("pids.max", str(len(group.pids()) - 1))
        os.kill(before["tcp0"], signal.SIGKILL)
        wait_for(lambda: events(daemon, "worker died"), "the death")
        time.sleep(0.5)
        assert events(daemon, "worker replaced") == []
        group.write("pids.max", "max")
        wait_for(lambda: events(daemon, "worker replaced"), "the successor")
        wait_for(lambda: is_well(daemon), "all workers answer")
        assert daemon.process.poll() is None


def test_without_room_for_a_process_the_daemon_ends_and_says_why(tmp_path: Path) -> None:
    daemon = LoneDaemon(tmp_path)
    daemon.start()
    try:
        daemon.wait_until_ready()
        with Cgroup.make("pids") as group:
            group.add_tree(family(daemon.process.pid))
            group.write("pids.max", str(len(group.pids()) - 1))
            os.kill(processes(daemon)["tcp0"], signal.SIGKILL)
            assert daemon.process.wait(20) == 1
    finally:
        daemon.kill()
    (line,) = events(daemon, "worker cannot be replaced")
    assert "Resource temporarily unavailable" in line["error"]


def test_without_room_for_threads_the_daemon_serves_and_ends_in_order(tmp_path: Path) -> None:
    """Look-ups, and the writers of log and capture, are threads. Without them lines wait."""
    with Cgroup.make("pids") as group, LoneDaemon(tmp_path) as daemon:
        before = processes(daemon)
        time.sleep(1.5)
        group.add_tree(family(daemon.process.pid))
        group.write("pids.max", "1")
        for name in ("a.example", "b.example"):
            status, text = daemon.post(
                "/services/forwarder/expose",
                {"local": f"{name}:9001", "remote": "192.168.127.2:80", "protocol": "tcp"},
            )
            assert status == 500, text
            assert b"gives no further thread" in text
        assert is_well(daemon)
        group.write("pids.max", "max")
        assert processes(daemon) == before
    assert events(daemon, "stopped")


# --- memory -----------------------------------------------------------------------------------------


def test_a_container_that_is_short_of_memory_loses_a_worker_and_not_the_supervisor(tmp_path: Path) -> None:
    daemon = LoneDaemon(tmp_path)
    with Cgroup.make("memory") as group:
        daemon.command = group.command(daemon.command)
        group.limit_memory(240 * MIB)
        with daemon:
            before = processes(daemon)
            with subprocess.Popen(group.command([sys.executable, "-c", HOG])) as hog:
                wait_for(lambda: hog.pid in group.pids(), "the other process")
                group.limit_memory(group.memory_used() + 8 * MIB)
                wait_for(lambda: events(daemon, "worker died") or hog.poll() is not None, "a death", 30)
                before_it = hog.poll() is not None
                hog.kill()
            assert not before_it, "the system has ended the other process first"
            wait_for(lambda: events(daemon, "worker replaced"), "the successor", 20)
            wait_for(lambda: is_well(daemon), "all workers answer", 20)
            after = processes(daemon)
            died = {line["worker"] for line in events(daemon, "worker died")}
            assert {name for name in before if before[name] != after[name]} == died
            assert {line["signal"] for line in events(daemon, "worker died")} == {"SIGKILL"}
            assert daemon.process.poll() is None
