"""Workers are killed under traffic. The daemon lives, and everything outside of the dead worker goes on.

Each test keeps connections busy that echo seeded blocks. A connection may end only with an error, and only if
a dead worker had it. Bytes that come back are those that were sent, in any case.
"""

import errno
import os
import random
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import dns.message
import dns.query
import pytest

from pipeline.wire import arp, ethernet, ip
from tests.e2e.test_switch import OTHER_ADDR, OTHER_MAC
from tests.support.agent import GATEWAY_ADDR, GUEST_ADDR, Agent
from tests.support.daemon import Daemon
from tests.support.netns import INTERNET_ADDR, Network, wait_for
from tests.support.servers import DNS, ECHO, UDP_ECHO, Servers

pytestmark = pytest.mark.e2e

MACHINE_MAC = bytes.fromhex("5a94ef000009")
MACHINE_ADDR = "192.168.127.9"
CONNECTIONS = 16
BLOCK = 20_000
PATIENCE = 15.0
"""Seconds after which a connection that hears nothing counts as stuck. Guests retransmit within seconds."""
FLAGS = ("-tcp-workers", "2", "-egress-workers", "2")


class Echo:
    """One connection that is always busy."""

    def __init__(self, network: Network, number: int) -> None:
        self.sock = network.guest.connect(INTERNET_ADDR, ECHO)
        self.sock.settimeout(PATIENCE)
        self.rng = random.Random(number)
        self.blocks = 0
        self.error: OSError | None = None
        self.wrong = False
        self.stopped = False
        self.thread = threading.Thread(target=self.run)
        self.thread.start()

    def run(self) -> None:
        """Exchange blocks until somebody stops it, or the connection breaks."""
        try:
            while not self.stopped:
                block = self.rng.randbytes(self.rng.randrange(1, BLOCK))
                self.sock.sendall(block)
                heard = bytearray()
                while len(heard) < len(block):
                    data = self.sock.recv(1 << 20)
                    if not data:
                        raise ConnectionError("the end")
                    heard += data
                if heard != block:
                    self.wrong = True
                    return
                self.blocks += 1
        except OSError as error:
            self.error = error

    def stop(self) -> None:
        """End it in order."""
        self.stopped = True
        self.thread.join()
        self.sock.close()


@contextmanager
def traffic(network: Network) -> Iterator[list[Echo]]:
    """Busy connections of the guest. None may get wrong bytes."""
    echoes = [Echo(network, number) for number in range(CONNECTIONS)]
    try:
        wait_for(lambda: all(echo.blocks for echo in echoes), "traffic")
        yield echoes
    finally:
        for echo in echoes:
            echo.stop()
    assert not any(echo.wrong for echo in echoes)
    stuck = [echo for echo in echoes if isinstance(echo.error, TimeoutError)]
    assert not stuck, f"{len(stuck)} of {CONNECTIONS} connections are stuck"


def go_on(echoes: list[Echo]) -> list[Echo]:
    """The connections that go on. Each of the others is broken."""
    before = {echo: echo.blocks for echo in echoes}
    wait_for(
        lambda: all(echo.error or echo.blocks > before[echo] + 2 for echo in echoes),
        "all connections go on or are broken",
        PATIENCE,
    )
    return [echo for echo in echoes if echo.error is None]


def kill(daemon: Daemon, *names: str, number: signal.Signals = signal.SIGKILL) -> None:
    """End these processes, and wait for their successors."""
    before = daemon.processes()
    count = len(daemon.events("worker replaced"))
    for name in names:
        os.kill(before[name], number)
    wait_for(lambda: len(daemon.events("worker replaced")) > count, "the successor", 30)
    wait_for(lambda: all(daemon.processes()[name] != before[name] for name in names), "all successors", 10)


def new_connection(network: Network) -> None:
    """A new connection works. The agent may just be opening another link, without a route meanwhile."""

    def connected() -> socket.socket | None:
        try:
            return network.guest.connect(INTERNET_ADDR, ECHO)
        except OSError as error:
            if error.errno != errno.ENETUNREACH:
                raise
            return None

    with wait_for(connected, "a route") as sock:
        sock.sendall(b"hello")
        assert sock.recv(100) == b"hello"


def datagrams(network: Network) -> None:
    """Datagrams of a new flow come back, after some tries."""

    def ask() -> bytes:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.settimeout(0.5)
            sock.connect((INTERNET_ADDR, UDP_ECHO))
            for _ in range(20):
                sock.send(b"ping")
                try:
                    return sock.recv(100)
                except TimeoutError:
                    continue
        return b""

    assert network.guest.call(ask) == b"ping"


def names(network: Network) -> None:
    """The gateway's name server answers, after some tries."""
    question = dns.message.make_query("www.example.test.", "A")

    def ask() -> bool:
        for _ in range(20):
            try:
                return bool(dns.query.udp(question, GATEWAY_ADDR, timeout=0.5, port=DNS).answer)
            except dns.exception.Timeout:
                continue
        return False

    assert network.guest.call(ask)


def forwarded(daemon: Daemon, network: Network) -> None:
    """A client of a forwarded port reaches the guest."""
    with network.host.connect("127.0.0.1", 9001) as sock:
        sock.sendall(b"inward")
        assert sock.recv(100) == b"inward"


def all_works(daemon: Daemon, network: Network) -> None:
    """Everything that a guest has works."""
    new_connection(network)
    datagrams(network)
    names(network)
    forwarded(daemon, network)


@pytest.fixture
def daemon(network: Network, outside: Servers) -> Iterator[Daemon]:
    with Daemon(network, *FLAGS) as made:
        made.expect_errors = True
        made.expose("127.0.0.1:9001", f"{GUEST_ADDR}:{ECHO}")
        yield made


@pytest.mark.parametrize("name", ["demux", "resolver", "listen", "ingress"])
def test_all_connections_go_on_without(
    daemon: Daemon, agent: Agent, inside: Servers, network: Network, name: str
) -> None:
    with traffic(network) as echoes:
        kill(daemon, name)
        if name == "ingress":
            # The agent opens another link. Its connections are on that one then.
            agent.wait_for_address()
        all_works(daemon, network)
        go_on(echoes)
        assert not [echo.error for echo in echoes if echo.error is not None]


@pytest.mark.parametrize("name", ["tcp0", "egress0"])
def test_connections_of_other_workers_go_on_without(
    daemon: Daemon, agent: Agent, inside: Servers, network: Network, name: str
) -> None:
    with traffic(network) as echoes:
        kill(daemon, name)
        all_works(daemon, network)
        left = go_on(echoes)
        assert 0 < len(left) < CONNECTIONS
        # Once more, with connections of the successor among them.
        time.sleep(0.5)
        kill(daemon, name)
        assert len(go_on(left)) > 0
        all_works(daemon, network)


def test_a_worker_that_is_frozen_is_replaced(
    daemon: Daemon, agent: Agent, inside: Servers, network: Network
) -> None:
    with traffic(network) as echoes:
        kill(daemon, "egress1", number=signal.SIGSTOP)
        all_works(daemon, network)
        assert 0 < len(go_on(echoes)) < CONNECTIONS


def test_a_guest_keeps_its_address_when_the_resolver_dies(
    daemon: Daemon, agent: Agent, inside: Servers, network: Network
) -> None:
    before = daemon.api("/leases")
    kill(daemon, "resolver")
    assert daemon.api("/leases") == before
    kill(daemon, "demux", "resolver")
    assert daemon.api("/leases") == before


def test_a_silent_guest_is_found_again_when_demux_dies() -> None:
    with Network(guest_count=2) as two, Daemon(two, "-ipv6", "off") as daemon:
        daemon.expect_errors = True
        # IPv6 would make the other guest speak by itself.
        two.guests[1].run("sysctl", "-qw", "net.ipv6.conf.default.disable_ipv6=1")
        with Agent(two.guests[0], daemon.socket) as one, Agent(two.guests[1], daemon.socket, mac=OTHER_MAC):
            # It never asks who has the address. So the other guest has no reason to speak.
            neighbor = ("ip", "neigh", "replace", OTHER_ADDR, "lladdr", OTHER_MAC, "nud", "permanent")
            one.guest.run(*neighbor, "dev", "tap0")
            ping = ("ping", "-c1", "-W1", OTHER_ADDR)
            wait_for(lambda: one.guest.run(*ping, check=False).returncode == 0, "ping")
            kill(daemon, "demux")
            wait_for(lambda: one.guest.run(*ping, check=False).returncode == 0, "ping", 20)


def test_workers_of_one_process_die_together(network: Network, outside: Servers) -> None:
    with Daemon(network, "-placement", "auto") as daemon:
        daemon.expect_errors = True
        with Agent(network.guest, daemon.socket) as agent:
            for name in daemon.processes():
                kill(daemon, name)
                agent.wait_for_address()
                wait_for(
                    lambda: agent.guest.run("ping", "-c1", "-W1", GATEWAY_ADDR, check=False).returncode == 0,
                    "ping",
                )
                new_connection(network)
                datagrams(network)
                names(network)


class Machine:
    """A QEMU's socket, played: frames with a length of four bytes. It pings the gateway."""

    def __init__(self, network: Network, daemon: Daemon) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(10)
        self.sock.connect(str(daemon.qemu_socket))

    def send(self, frame: bytes, *, part: int = 0) -> bytes:
        """Send a frame, or only its first bytes. Returns the others."""
        data = len(frame).to_bytes(4, "big") + frame
        self.sock.sendall(data[: part or None])
        return data[part:] if part else b""

    def receive(self) -> bytes:
        """The next frame."""
        length = int.from_bytes(self.exactly(4), "big")
        return self.exactly(length)

    def exactly(self, count: int) -> bytes:
        """This many bytes."""
        data = b""
        while len(data) < count:
            part = self.sock.recv(count - len(data))
            assert part, "the link has ended"
            data += part
        return data

    def ask(self) -> bytes:
        """An ARP request for the gateway."""
        own, gateway = map(ip.parse_ipv4, (MACHINE_ADDR, GATEWAY_ADDR))
        header = ethernet.header(ethernet.BROADCAST, MACHINE_MAC, ethernet.TYPE_ARP)
        return header + arp.build(arp.REQUEST, MACHINE_MAC, own, bytes(6), gateway)

    def answered(self) -> bool:
        """Wait for the answer of the gateway."""
        while True:
            frame = self.receive()
            if frame[12:14] == b"\x08\x06" and frame[20:22] == b"\0\2" and frame[:6] == MACHINE_MAC:
                return True


def test_a_link_over_a_stream_goes_on_at_the_same_byte(daemon: Daemon, network: Network) -> None:
    machine = Machine(network, daemon)
    frame = machine.ask()
    machine.send(frame)
    assert machine.answered()
    for part in (2, 30):
        left = machine.send(frame, part=part)
        time.sleep(0.3)
        kill(daemon, "ingress")
        machine.sock.sendall(left)
        assert machine.answered()
    # The successors of both know the link, and its place.
    kill(daemon, "ingress", "demux")
    machine.send(frame)
    assert machine.answered()
    machine.sock.close()
    assert not daemon.events("a link cannot go on")
