"""A guest that does one thing as often as it can: the log grows by one burst, and says what it lacks."""

import json
import os
import socket
import time
from collections.abc import Callable

import pytest

from pipeline.log.limits import KIND
from pipeline.wire import ethernet
from tests.support.agent import GATEWAY_ADDR, Agent
from tests.support.daemon import Daemon
from tests.support.netns import Network, wait_for
from tests.support.raw_guest import RawGuest
from tests.support.servers import Servers

pytestmark = pytest.mark.e2e

SECONDS = 4.0
PATIENCE = 60.0
"""Seconds that an attack may take on a busy machine."""
ENOUGH = 3 * KIND.burst
LINE = 400
"""Bytes of a line, at most."""
KINDS = 6
"""Kinds of lines that any of these attacks causes, in all processes together."""


def attacked(daemon: Daemon, attack: Callable[[], object], enough: int = ENOUGH) -> None:
    """Attack for SECONDS, and until that was done often enough. The log grows by a bounded size."""
    before = len(daemon.log_text())
    began = time.monotonic()
    times, seconds = 0, 0.0
    while seconds < SECONDS or (times <= enough and seconds < PATIENCE):
        attack()
        times += 1
        seconds = time.monotonic() - began
    size = len(daemon.log_text()) - before
    assert times > enough, "the attack was none"
    bound = KINDS * (KIND.burst + seconds / KIND.seconds + 2) * LINE
    assert size < bound, f"{times} times made {size} bytes in {seconds} s"


def check(daemon: Daemon) -> None:
    # The end reports what was left out.
    daemon.stop()
    assert sum(line["suppressed"] for line in daemon.log() if "suppressed" in line) > KIND.burst


def test_reconnects_do_not_fill_the_log(network: Network, outside: Servers) -> None:
    daemon = Daemon(network)
    daemon.start()

    def reconnect() -> None:
        with socket.socket(socket.AF_UNIX) as link:
            link.connect(str(daemon.qemu_socket))

    try:
        attacked(daemon, reconnect)
        check(daemon)
    finally:
        daemon.kill()


def test_macs_that_come_and_move_do_not_fill_the_log(network: Network, outside: Servers) -> None:
    daemon = Daemon(network)
    daemon.start()
    try:
        guests = [RawGuest(daemon.qemu_socket, number) for number in (50, 51)]
        number = 0

        def speak() -> None:
            nonlocal number
            for guest in guests:
                frames = []
                for _ in range(20):
                    number += 1
                    mac = bytes((2, 0, 0)) + (number % 4000).to_bytes(3, "big")
                    frames.append(ethernet.header(b"\xff" * 6, mac, 0x88B5) + bytes(50))
                guest.send(*frames)
            time.sleep(0.002)

        attacked(daemon, speak)
        for guest in guests:
            guest.sock.close()
        check(daemon)
    finally:
        daemon.kill()


def test_a_guest_that_opens_and_closes_forwards_does_not_fill_the_log(
    network: Network, outside: Servers
) -> None:
    daemon = Daemon(network)
    daemon.start()
    try:
        with Agent(network.guest, daemon.socket) as agent:

            def ask(path: str) -> None:
                body = json.dumps({"local": "127.0.0.1:9000", "remote": ":80"})
                head = (
                    f"POST /services/forwarder/{path} HTTP/1.1\r\nHost: g\r\nContent-Length: {len(body)}\r\n"
                )
                link.sendall(f"{head}\r\n{body}".encode())
                # 429: it changes forwards too often. Then there is nothing to close.
                assert link.recv(1000).startswith((b"HTTP/1.1 200", b"HTTP/1.1 429", b"HTTP/1.1 500"))

            with agent.guest.connect(GATEWAY_ADDR, 80) as link:
                attacked(daemon, lambda: (ask("expose"), ask("unexpose")))
            # What the operator asks for is in the log all the same.
            daemon.expose("127.0.0.1:9001", "192.168.127.2:80")
            wait_for(
                lambda: daemon.events("forward opened")[-1]["local"] == "127.0.0.1:9001", "its line", 5, 0.05
            )
        check(daemon)
    finally:
        daemon.kill()


@pytest.mark.parametrize("how", ["refused", "unfinished"])
def test_requests_that_fail_do_not_fill_the_log(network: Network, outside: Servers, how: str) -> None:
    daemon = Daemon(network)
    daemon.start()
    body = json.dumps({"local": "/tmp/x", "remote": "tcp://192.168.127.2:80", "protocol": "unix"})
    length = len(body) + 1000 * (how == "unfinished")
    head = f"POST /services/forwarder/expose HTTP/1.1\r\nHost: g\r\nContent-Length: {length}\r\n\r\n"
    try:
        with Agent(network.guest, daemon.socket) as agent:

            def ask() -> None:
                with agent.guest.connect(GATEWAY_ADDR, 80) as link:
                    link.sendall(f"{head}{body}".encode())
                    if how == "refused":
                        # 429: it asks too often.
                        assert link.recv(1000).startswith((b"HTTP/1.1 403", b"HTTP/1.1 429"))

            attacked(daemon, ask, 50)
        assert "Traceback" not in daemon.log_text()
        assert os.path.exists(daemon.socket)
        daemon.stop()
    finally:
        daemon.kill()
