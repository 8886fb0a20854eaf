"""Full disks, without guests: the log, what a start needs, and shared memory."""

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from tests.support.lone_daemon import LoneDaemon
from tests.support.netns import wait_for
from tests.support.small_disk import SmallDisk

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="root alone can mount")
NO_ROOM = "No space left on device"


@pytest.fixture
def disk(tmp_path: Path) -> SmallDisk:
    place = tmp_path / "disk"
    place.mkdir()
    return SmallDisk(place, "256k")


def lines(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def forward(daemon: LoneDaemon, count: int) -> None:
    """Open and close forwards: each is two lines of the log."""
    for _ in range(count):
        local = {"local": "127.0.0.1:19009", "protocol": "tcp"}
        assert daemon.post("/services/forwarder/expose", {**local, "remote": "192.168.127.2:80"})[0] == 200
        assert daemon.post("/services/forwarder/unexpose", local)[0] == 200


def replaced(daemon: LoneDaemon) -> set[str]:
    """The workers that have had successors."""
    found = [line for line in lines(daemon.errors()) if line["event"] == "worker replaced"]
    return {name for line in found for name in line["workers"]}


def accounted(text: str) -> int:
    """The lines about forwards in a log, and those that it says it lacks."""
    count = 0
    for row in text.splitlines():
        try:
            line = json.loads(row)
        except ValueError:
            # A part of a line may have found the last room. It counts as lost.
            continue
        if line["event"] == "log lines dropped":
            count += line["count"]
        count += line["event"] in ("forward opened", "forward closed")
    return count


def test_a_log_file_on_a_full_disk_goes_on_when_there_is_room(tmp_path: Path, disk: SmallDisk) -> None:
    daemon = LoneDaemon(tmp_path, "-log-file", str(disk.place / "log"))
    daemon.command = disk.command(daemon.command)
    with daemon:
        disk.belongs_to(daemon.process.pid)
        log = disk.inside("log")
        disk.fill()
        # The last block of the file takes some lines more.
        forward(daemon, 60)
        wait_for(lambda: "log not written" in daemon.errors(), "the line on standard error")
        assert len(lines(daemon.errors())) == 1, daemon.errors() + log.read_text()
        (said,) = lines(daemon.errors())
        assert (said["kind"], said["worker"], said["error"]) == ("log-not-written", "supervisor", NO_ROOM)
        disk.empty()
        forward(daemon, 1)
        wait_for(lambda: "log lines dropped" in log.read_text(), "the count")
        forward(daemon, 1)
        wait_for(lambda: accounted(log.read_text()) == 2 * 62, "the last lines")
    assert len(lines(daemon.errors())) == 1


@pytest.mark.parametrize(
    ("flag", "words"),
    [("-pcap", "cannot write capture"), ("-pid-file", "cannot write pid file")],
)
def test_a_start_on_a_full_disk_says_what_cannot_be_written(
    tmp_path: Path, disk: SmallDisk, flag: str, words: str
) -> None:
    path = disk.place / "file"
    daemon = LoneDaemon(tmp_path, flag, str(path))
    daemon.command = disk.command(daemon.command, full=True)
    (line,) = [line for line in lines(daemon.refusal()) if line["level"] == "critical"]
    assert line["event"] == f"{words} {path}: {NO_ROOM}"
    assert not daemon.socket.exists()


@pytest.mark.parametrize("flag", ["-log-file", "-flow-log", "-state-file"])
def test_a_full_disk_keeps_no_daemon_from_its_start(tmp_path: Path, disk: SmallDisk, flag: str) -> None:
    """What grows is written when there is room."""
    daemon = LoneDaemon(tmp_path, flag, str(disk.place / "file"))
    daemon.command = disk.command(daemon.command, full=True)
    with daemon:
        assert daemon.ask(b"GET /healthz HTTP/1.0\r\n\r\n").startswith(b"HTTP/1.0 200")
        disk.belongs_to(daemon.process.pid)
        if flag == "-log-file":
            forward(daemon, 2)
            wait_for(lambda: "log not written" in daemon.errors(), "the line on standard error")


def test_a_daemon_that_runs_needs_no_further_room_in_dev_shm(tmp_path: Path) -> None:
    disk = SmallDisk(Path("/dev/shm"), "24m")
    daemon = LoneDaemon(tmp_path)
    daemon.command = disk.command(daemon.command)
    with daemon:
        disk.belongs_to(daemon.process.pid)
        disk.fill()
        assert os.listdir(disk.inside()) == ["filler"]
        rows = json.loads(daemon.ask(b"GET /status HTTP/1.0\r\n\r\n").partition(b"\r\n\r\n")[2])["workers"]
        for name in ("tcp0", "ingress"):
            os.kill(next(row["pid"] for row in rows if row["process"] == name), signal.SIGKILL)
        wait_for(lambda: replaced(daemon) == {"tcp0", "ingress"}, "successors")
        wait_for(
            lambda: daemon.ask(b"GET /healthz HTTP/1.0\r\n\r\n").startswith(b"HTTP/1.0 200"), "all answer"
        )
        forward(daemon, 1)
        # A new version needs semaphores, so this one goes on.
        status, text = daemon.post("/restart", {})
        assert status == 500
        assert b"shared memory" in text
        forward(daemon, 1)
        disk.empty()
        status, text = daemon.post("/restart", {})
        assert status == 200, text + daemon.errors().encode()
        wait_for(lambda: "taken over from a predecessor" in daemon.errors(), "the successor", 30)
        daemon.wait_until_ready()
        forward(daemon, 1)
