"""A worker that dies has a successor. Without guests; tests/e2e/test_healing.py has the traffic."""

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support.daemon import children_of
from tests.support.lone_daemon import LoneDaemon
from tests.support.machine import skip_in_private_directory
from tests.support.netns import wait_for

ROLES = ["ingress", "demux", "tcp0", "egress0", "resolver", "listen"]


def get(daemon: LoneDaemon, path: str) -> Any:
    answer = daemon.ask(f"GET {path} HTTP/1.0\r\n\r\n".encode())
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.0 200"), answer
    return json.loads(body)


def processes(daemon: LoneDaemon) -> dict[str, int]:
    return {row["process"]: row["pid"] for row in get(daemon, "/status")["workers"]}


def replaced(daemon: LoneDaemon) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in daemon.errors().splitlines() if line.endswith("}")]
    return [line for line in lines if line["event"] == "worker replaced"]


def is_well(daemon: LoneDaemon) -> bool:
    return daemon.ask(b"GET /healthz HTTP/1.0\r\n\r\n").startswith(b"HTTP/1.0 200")


def kill(daemon: LoneDaemon, *names: str, number: signal.Signals = signal.SIGKILL) -> None:
    """End these processes, and wait until all of them have successors."""
    before = processes(daemon)
    for name in names:
        os.kill(before[name], number)
    wait_for(lambda: all(processes(daemon)[name] != before[name] for name in names), "the successors", 15)
    wait_for(lambda: is_well(daemon), "all workers answer", 10)


@pytest.mark.parametrize("name", ROLES)
def test_a_worker_that_is_killed_has_a_successor_and_the_others_stay(tmp_path: Path, name: str) -> None:
    with LoneDaemon(tmp_path) as daemon:
        before = processes(daemon)
        kill(daemon, name)
        after = processes(daemon)
        assert {other for other in before if before[other] != after[other]} == {name}
        (died,) = [
            line for line in map(json.loads, daemon.errors().splitlines()) if line["event"] == "worker died"
        ]
        assert (died["worker"], died["signal"], died["level"]) == (name, "SIGKILL", "error")
        assert b"gvtap_worker_restarts_total" in daemon.ask(b"GET /metrics HTTP/1.0\r\n\r\n")


def test_workers_that_share_a_process_are_replaced_together(tmp_path: Path) -> None:
    with LoneDaemon(tmp_path, "-placement", "auto") as daemon:
        for name in processes(daemon):
            kill(daemon, name)


def test_workers_that_die_at_once_are_replaced_together(tmp_path: Path) -> None:
    with LoneDaemon(tmp_path) as daemon:
        kill(daemon, *ROLES)
        kill(daemon, "tcp0", "egress0")


def test_the_fifth_death_within_a_minute_ends_the_daemon(tmp_path: Path) -> None:
    daemon = LoneDaemon(tmp_path)
    daemon.start()
    try:
        daemon.wait_until_ready()
        for _ in range(4):
            kill(daemon, "resolver")
        pid = daemon.process.pid
        children = children_of(pid)
        os.kill(processes(daemon)["resolver"], signal.SIGKILL)
        assert daemon.process.wait(10) == 1
        assert not [child for child in children if Path(f"/proc/{child}").exists()]
    finally:
        daemon.kill()
    assert len(replaced(daemon)) == 4


def test_a_worker_that_does_not_breathe_is_killed_and_replaced(tmp_path: Path) -> None:
    with LoneDaemon(tmp_path) as daemon:
        kill(daemon, "tcp0", number=signal.SIGSTOP)
        assert "worker does not breathe" in daemon.errors()


def test_the_daemon_goes_on_with_all_its_settings(tmp_path: Path) -> None:
    forward = b'{"local": "127.0.0.1:0", "remote": "192.168.127.2:80", "protocol": "tcp"}'
    zone = b'{"name": "later.", "records": [{"name": "a", "ip": "1.2.3.4"}]}'
    with LoneDaemon(tmp_path) as daemon:
        for path, body in (("/services/forwarder/expose", forward), ("/services/dns/add", zone)):
            assert daemon.post(path, json.loads(body))[0] == 200
        (before,) = get(daemon, "/services/forwarder/all")
        kill(daemon, "listen")
        kill(daemon, "resolver")
        assert get(daemon, "/services/forwarder/all") == [before]
        address, port = before["local"].rsplit(":", 1)
        socket.create_connection((address, int(port))).close()
        assert "later." in [row["Name"] for row in get(daemon, "/services/dns/all")]
        assert (
            daemon.post("/services/forwarder/unexpose", {"local": before["local"], "protocol": "tcp"})[0]
            == 200
        )


def test_successors_end_with_a_supervisor_that_is_killed(tmp_path: Path) -> None:
    daemon = LoneDaemon(tmp_path)
    daemon.start()
    try:
        daemon.wait_until_ready()
        kill(daemon, "tcp0")
        pids = [*processes(daemon).values(), *children_of(daemon.process.pid)]
        daemon.process.kill()
        daemon.process.wait()
        wait_for(lambda: not [pid for pid in pids if Path(f"/proc/{pid}").exists()], "all have ended", 5)
    finally:
        daemon.kill()


def test_the_daemon_ends_with_its_nursery_and_leaves_nothing(tmp_path: Path) -> None:
    daemon = LoneDaemon(tmp_path)
    daemon.start()
    try:
        daemon.wait_until_ready()
        kill(daemon, "demux")
        pids = [*processes(daemon).values(), *children_of(daemon.process.pid)]
        os.kill(children_of(daemon.process.pid)[-1], signal.SIGKILL)
        assert daemon.process.wait(10) == 1
        assert not [pid for pid in pids if Path(f"/proc/{pid}").exists()]
    finally:
        daemon.kill()
    assert "the nursery has died" in daemon.errors()


def test_a_worker_goes_before_the_supervisor_when_memory_is_short(tmp_path: Path) -> None:
    def points(pid: int) -> int:
        return int(Path(f"/proc/{pid}/oom_score_adj").read_text())

    with LoneDaemon(tmp_path) as daemon:
        kill(daemon, "tcp0")
        least = points(daemon.process.pid)
        assert all(points(pid) > least for pid in processes(daemon).values())


@pytest.mark.skipif(os.geteuid() != 0, reason="root alone can become another user")
@pytest.mark.parametrize("flags", [(), ("-user", "nobody")])
def test_a_successor_has_neither_more_nor_fewer_rights_than_its_predecessor(
    tmp_path: Path, flags: tuple[str, ...]
) -> None:
    if flags:
        skip_in_private_directory()

    def rights(pid: int) -> dict[str, str]:
        status = Path(f"/proc/{pid}/status").read_text().splitlines()
        rows = dict(line.split(":", 1) for line in status)
        points = Path(f"/proc/{pid}/oom_score_adj").read_text()
        keys = ("Uid", "Gid", "Groups", "CapEff", "CapPrm", "CapBnd", "NoNewPrivs", "Seccomp")
        return {"points": points, **{key: rows[key] for key in keys}}

    with LoneDaemon(tmp_path, *flags) as daemon:
        before = {name: rights(pid) for name, pid in processes(daemon).items()}
        kill(daemon, *ROLES)
        assert {name: rights(pid) for name, pid in processes(daemon).items()} == before


def test_a_daemon_whose_only_guest_was_on_standard_input_ends_with_its_worker(tmp_path: Path) -> None:
    api = tmp_path / "api.sock"
    command = [sys.executable, "-m", "pipeline.cli", "start", "-ssh-port", "-1", "-slots", "64"]
    command += ["-listen-stdio", "accept", "-services", f"unix://{api}"]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        asker = LoneDaemon(tmp_path)
        wait_for(lambda: api.exists() and is_well(asker), "the daemon is ready", 20)
        os.kill(processes(asker)["ingress"], signal.SIGKILL)
        assert process.stderr is not None
        errors = process.stderr.read()
        assert process.wait(10) == 0, errors
    assert '"kind": "guest-gone", "worker": "supervisor"' in errors
