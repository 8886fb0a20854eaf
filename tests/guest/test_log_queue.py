"""The agent's log where nobody reads it: the agent goes on, and says later what was lost."""

import fcntl
import logging
import os
import re
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from guest.log_queue import LogQueue
from tests.support.agent import address
from tests.support.fake_host import FakeHost
from tests.support.netns import ROOT, Network, missing, wait_for

LOST = re.compile(rb"(\d+) log lines were lost: nobody read them")
PIPE_BYTES = 4096


class Pipe:
    """A small pipe and a log on it."""

    def __init__(self) -> None:
        self.reader, self.writer = os.pipe()
        fcntl.fcntl(self.writer, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
        self.handler = LogQueue(self.writer, 50)
        self.log = logging.Logger("test")
        self.log.addHandler(self.handler)

    def fill(self) -> None:
        """Log more than pipe and queue take, 100 bytes a line."""
        for number in range(200):
            self.log.warning("%s", f"{number:0>99}")

    def read_all(self) -> bytes:
        """What comes until all lines are written."""
        os.set_blocking(self.reader, False)
        data = b""
        while True:
            unwritten = self.handler.unwritten
            try:
                data += os.read(self.reader, 65536)
            except BlockingIOError:
                if not unwritten:
                    return data
                time.sleep(0.001)

    def read_to(self, end: bytes) -> bytes:
        """What comes, up to a line that is end."""
        data = b""
        while not data.endswith(end + b"\n"):
            data += os.read(self.reader, 65536)
        return data


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    made = Pipe()
    yield made
    os.close(made.reader)  # the thread may wait for room
    made.handler.flush()
    os.close(made.writer)


def test_nobody_waits_for_a_log_that_nobody_reads_and_the_loss_is_told(pipe: Pipe) -> None:
    pipe.fill()
    lost = pipe.handler.lost
    assert 0 < lost <= 200 - 50, "neither lost at once nor kept without bound"
    data = pipe.read_all()
    # The thread may write lines while others are lost, so there may be several reports.
    reports = LOST.findall(data)
    assert data.count(b"\n") == 200 - lost + len(reports)
    assert sum(map(int, reports)) == lost
    pipe.log.warning("last")
    assert pipe.read_all() == b"last\n", "told once"


def test_the_number_of_lost_lines_is_told_ahead_of_what_comes_next(pipe: Pipe) -> None:
    pipe.fill()
    lines = pipe.read_all().splitlines()
    reports = {number: int(found[1]) for number, line in enumerate(lines) if (found := LOST.match(line))}
    assert sum(reports.values()) == pipe.handler.lost > 0
    assert max(reports) < len(lines) - 1


def test_standard_error_that_was_made_non_blocking_loses_nothing(pipe: Pipe) -> None:
    os.set_blocking(pipe.writer, False)
    for number in range(45):
        pipe.log.warning("%s", f"{number:0>99}")
    pipe.log.warning("last")
    time.sleep(0.05)
    assert pipe.read_to(b"last").count(b"\n") == 46
    assert pipe.handler.lost == 0


@pytest.mark.skipif(
    resource.getrlimit(resource.RLIMIT_NOFILE)[0] <= 1024, reason="needs more than 1024 descriptors"
)
def test_a_descriptor_with_a_large_number_is_written_too(pipe: Pipe) -> None:
    large = fcntl.fcntl(pipe.writer, fcntl.F_DUPFD, 1024)
    try:
        os.set_blocking(large, False)
        handler = LogQueue(large)
        log = logging.Logger("large")
        log.addHandler(handler)
        for number in range(80):
            log.warning("%s", f"{number:0>99}")
        time.sleep(0.05)
        assert pipe.read_all().startswith(b"0")
        handler.flush()
        assert handler.unwritten == 0
    finally:
        os.close(large)


def test_a_closed_reader_and_a_long_line_are_no_trouble(pipe: Pipe, monkeypatch: pytest.MonkeyPatch) -> None:
    pipe.log.warning("%s", "x" * 1_000_000)
    assert os.read(pipe.reader, 65536) == b"x" * PIPE_BYTES
    assert os.read(pipe.reader, 65536) == b"\n"
    os.close(pipe.reader)
    pipe.log.warning("nobody reads")
    pipe.handler.flush()
    assert pipe.handler._queue.unfinished_tasks == 0
    pipe.reader = os.open(os.devnull, os.O_RDONLY)


def test_the_end_waits_for_the_last_lines_but_not_for_ever() -> None:
    program = """
import logging, os, sys
from guest.log_queue import LogQueue
logging.basicConfig(format="%(message)s", handlers=[LogQueue()])
for number in range(int(sys.argv[1])):
    logging.warning("%d", number)
"""
    words = [sys.executable, "-c", program]
    done = subprocess.run([*words, "500"], stderr=subprocess.PIPE, cwd=ROOT, check=True)
    assert done.stderr.split() == [b"%d" % number for number in range(500)]
    with subprocess.Popen([*words, "100000"], stderr=subprocess.PIPE, cwd=ROOT) as stuck:
        assert stuck.wait(20) == 0


@pytest.mark.e2e
@pytest.mark.skipif(bool(missing()), reason=missing() or "available")
def test_the_agent_sets_its_tap_up_and_ends_though_standard_error_is_a_full_pipe(tmp_path: Path) -> None:
    reader, writer = os.pipe()
    os.write(writer, bytes(fcntl.fcntl(writer, fcntl.F_GETPIPE_SZ)))
    with Network() as network, FakeHost(network.directory / "host.sock") as host:
        guest = network.guest
        words = [sys.executable, "-m", "guest.agent", "-url", f"unix://{host.path}", "-debug"]
        process = guest.popen([*words, "-dhcp", "builtin"], stdin=subprocess.DEVNULL, stderr=writer)
        wait_for(lambda: address(guest) == "192.168.127.2/24", "an address", 15)
        frames = len(host.frames)
        guest.run("ping", "-c", "1", "-W", "1", "192.168.127.77", check=False)
        assert len(host.frames) > frames, "frames go on"
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0
    os.close(reader)
    os.close(writer)
