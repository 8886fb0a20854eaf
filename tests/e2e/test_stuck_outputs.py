"""Outputs that take nothing: a log that nobody reads, a capture whose reader stops. Guests do not notice."""

import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO

import pytest

from tests.support.agent import Agent
from tests.support.daemon import Daemon
from tests.support.netns import INTERNET_ADDR, Network, wait_for
from tests.support.servers import DATA, Servers

pytestmark = pytest.mark.e2e

MIB = 1 << 20
GUESTS = 1500
"""Guests that come and go: each is some lines of the log."""
STOP_SECONDS = 10.0


@contextmanager
def unread(daemon: Daemon) -> Iterator[IO[bytes]]:
    """The daemon with a pipe for standard error of which nothing is read."""
    process = daemon.namespace.popen(
        [*daemon.command, "start", *daemon.flags], stdin=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    daemon._process = process
    assert process.stderr is not None
    try:
        wait_for(lambda: daemon.qemu_socket.exists(), "the daemon is ready", 10)
        yield process.stderr
    finally:
        daemon.kill()
        process.stderr.close()


def come_and_go(daemon: Daemon, count: int) -> None:
    """Fill the log of ingress and of the supervisor."""
    for _ in range(count):
        with socket.socket(socket.AF_UNIX) as guest:
            guest.connect(str(daemon.qemu_socket))
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(daemon.socket))
            client.sendall(b"nonsense\r\n\r\n")
            client.recv(100)


@pytest.mark.parametrize("placement", ["separate", "auto"])
def test_a_log_that_nobody_reads_stops_no_guest_and_no_sigterm(
    network: Network, outside: Servers, placement: str
) -> None:
    daemon = Daemon(network, "-debug", "-placement", placement, name=f"unread-{placement}")
    with unread(daemon) as log:
        come_and_go(daemon, GUESTS)
        lost = {name: count for name, count in daemon.gauge("log_lines_dropped").items() if count}
        assert lost, "the log is full"
        with Agent(network.guest, daemon.socket) as agent:
            assert agent.run("transfer", INTERNET_ADDR, DATA, 4 * MIB, 4 * MIB)["errors"] == []
        began = time.monotonic()
        daemon.process.send_signal(signal.SIGTERM)
        assert daemon.process.wait(STOP_SECONDS + 5) == 0
        assert time.monotonic() - began < STOP_SECONDS
        assert not daemon.socket.exists()
        assert os.read(log.fileno(), 100).startswith(b"{")


def test_a_log_that_is_read_again_says_how_many_lines_it_lacks(network: Network) -> None:
    daemon = Daemon(network, "-debug", name="again")
    with unread(daemon) as log:
        come_and_go(daemon, GUESTS)
        lost = sum(daemon.gauge("log_lines_dropped").values())
        assert lost
        text: list[bytes] = []
        reader = threading.Thread(target=lambda: text.append(log.read()))
        reader.start()
        # Whoever lost lines says so as soon as its queue is empty.
        time.sleep(1)
        daemon.process.send_signal(signal.SIGTERM)
        assert daemon.process.wait(5) == 0
        reader.join(5)
    daemon.log_path.write_bytes(text[0])
    told = daemon.events("log lines dropped")
    assert sum(line["count"] for line in told) >= lost
    assert all(line["level"] == "warning" for line in told)
    assert daemon.log(), "every line is whole"


def test_a_capture_that_is_not_read_any_more_stops_no_guest_and_no_sigterm(
    network: Network, outside: Servers
) -> None:
    path = network.directory / "stuck.fifo"
    os.mkfifo(path)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    daemon = Daemon(network, "-pcap", str(path), name="stuck")
    daemon.start()
    with Agent(network.guest, daemon.socket) as agent:
        for _ in range(2):
            assert agent.run("transfer", INTERNET_ADDR, DATA, 12 * MIB, 12 * MIB)["errors"] == []
        assert daemon.gauge("capture_frames_dropped")["ingress"] > 0
        assert len(daemon.events("capture lacks frames, it is not written fast enough")) == 1
    daemon.stop()
    os.close(reader)
