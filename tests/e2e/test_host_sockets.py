"""How the ends of host sockets look in the guest, and the guest's ends on the host."""

import errno
import socket
import struct
import time
from collections.abc import Iterator
from typing import NamedTuple

import pytest

from tests.support.agent import GATEWAY_ADDR, Agent
from tests.support.daemon import Daemon
from tests.support.netns import INTERNET_ADDR, Network, wait_for
from tests.support.servers import Servers

pytestmark = [pytest.mark.e2e, pytest.mark.one_daemon]

MIB = 1 << 20
UNREACHABLE_NET = "198.18.50.0/24"
ROUTELESS_NET = "198.18.51.0/24"
PROHIBITED_NET = "198.18.52.0/24"
SILENT_ADDR = "198.18.0.99"
CLOSED_PORT = 9
IP_RECVERR = 11
RESET = struct.pack("ii", 1, 0)


class Pair(NamedTuple):
    """The two ends of one connection through the daemon."""

    guest: socket.socket
    host: socket.socket


@pytest.fixture(scope="module")
def routes(network: Network, outside: Servers) -> None:
    """Destinations that the host itself cannot reach."""
    for kind, net in (
        ("unreachable", UNREACHABLE_NET),
        ("throw", ROUTELESS_NET),
        ("prohibit", PROHIBITED_NET),
    ):
        network.host.ip("route", "add", kind, net)


@pytest.fixture
def listener(network: Network) -> Iterator[socket.socket]:
    """A listening socket outside; what it accepts is the test's."""
    with network.internet.call(lambda: socket.create_server((INTERNET_ADDR, 0), backlog=512)) as sock:
        yield sock


@pytest.fixture
def pair(agent: Agent, listener: socket.socket) -> Iterator[Pair]:
    """A connection from the guest to the outside."""
    guest = agent.guest.connect(INTERNET_ADDR, listener.getsockname()[1])
    host, _ = listener.accept()
    host.settimeout(10)
    with guest, host:
        yield Pair(guest, host)


def attempt(agent: Agent, address: str, port: int = 80) -> tuple[str, float]:
    """The errno with which connect() ends in the guest, and after how long."""
    began = time.monotonic()
    try:
        agent.guest.connect(address, port).close()
    except OSError as error:
        return errno.errorcode.get(error.errno or 0, type(error).__name__), time.monotonic() - began
    return "", time.monotonic() - began


@pytest.mark.parametrize(
    ("address", "name"),
    [
        ("198.18.50.1", "EHOSTUNREACH"),
        ("198.18.51.1", "ENETUNREACH"),
        ("198.18.52.1", "EHOSTUNREACH"),
        ("192.168.127.77", "EHOSTUNREACH"),
    ],
)
def test_what_the_host_cannot_reach_the_guest_learns_at_once(
    routes: None, agent: Agent, address: str, name: str
) -> None:
    if address.startswith("192.168.127."):
        # An address of the subnet that no guest has, asked for through the gateway.
        agent.guest.ip("route", "add", f"{address}/32", "via", GATEWAY_ADDR)
    found, seconds = attempt(agent, address)
    assert found == name
    assert seconds < 0.9  # no SYN was sent twice


def test_a_destination_that_never_answers_times_out_as_the_guests_kernel_says(agent: Agent) -> None:
    agent.guest.run("sysctl", "-q", "-w", "net.ipv4.tcp_syn_retries=1")
    try:
        found, seconds = attempt(agent, SILENT_ADDR)
    finally:
        agent.guest.run("sysctl", "-q", "-w", "net.ipv4.tcp_syn_retries=6")
    # The host's own kernel reports an address without a neighbour after about three seconds.
    assert found in ("ETIMEDOUT", "EHOSTUNREACH", "TimeoutError")
    assert seconds > 1.5


@pytest.mark.parametrize(
    ("address", "name"),
    [(INTERNET_ADDR, "ECONNREFUSED"), ("198.18.50.1", "EHOSTUNREACH"), ("198.18.51.1", "ENETUNREACH")],
)
def test_a_datagram_that_nobody_takes_is_reported_to_the_guest(
    routes: None, agent: Agent, daemon: Daemon, address: str, name: str
) -> None:
    with agent.guest.call(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as sock:
        sock.settimeout(5)
        # Linux tells a program of unreachable networks and hosts only if it wants to know.
        sock.setsockopt(socket.IPPROTO_IP, IP_RECVERR, 1)
        sock.connect((address, CLOSED_PORT))
        for _ in range(3):  # the flow opens again each time
            sock.send(b"anybody?")
            with pytest.raises(OSError) as caught:
                sock.recv(100)
            assert errno.errorcode[caught.value.errno or 0] == name
    wait_for(lambda: daemon.gauge("udp_flows")["demux"] == 0, "no UDP flow is left")


def test_urgent_bytes_of_the_host_stay_in_the_stream_and_hold_up_nothing(pair: Pair) -> None:
    """A read of the host socket stops before an urgent byte, whatever lies behind it."""
    pair.guest.settimeout(10)
    for number in range(50):
        pair.host.sendall(b"before")
        pair.host.send(b"!", socket.MSG_OOB)
        pair.host.sendall(b"%02d" % number)
        found = b""
        while len(found) < 9:
            found += pair.guest.recv(100)
        assert found == b"before!%02d" % number


def test_a_reset_of_the_host_reaches_a_guest_that_has_closed_its_half(pair: Pair) -> None:
    pair.guest.sendall(b"last words")
    pair.guest.shutdown(socket.SHUT_WR)
    assert pair.host.recv(100) == b"last words"
    assert pair.host.recv(100) == b""
    pair.host.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
    pair.host.close()
    with pytest.raises(ConnectionResetError):
        pair.guest.recv(100)


def test_a_reset_of_the_host_behind_its_own_close_reaches_the_guest(pair: Pair) -> None:
    pair.host.shutdown(socket.SHUT_WR)
    assert pair.guest.recv(100) == b""
    pair.host.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
    pair.host.close()

    def broken() -> bool:
        try:
            pair.guest.send(b"x")
        except (BrokenPipeError, ConnectionResetError):
            return True
        return False

    wait_for(broken, "the guest's connection is reset")


def test_a_reset_of_the_guest_reaches_a_host_that_has_closed_its_half(pair: Pair) -> None:
    pair.host.shutdown(socket.SHUT_WR)
    assert pair.guest.recv(100) == b""
    pair.guest.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
    pair.guest.close()
    with pytest.raises(ConnectionResetError):
        pair.host.recv(100)


def test_a_host_that_closes_while_the_guest_sends_on_resets_the_guest(pair: Pair) -> None:
    pair.host.close()
    assert pair.guest.recv(100) == b""

    def broken() -> bool:
        try:
            pair.guest.send(b"nobody reads this")
        except (BrokenPipeError, ConnectionResetError):
            return True
        return False

    wait_for(broken, "the guest is told that nobody reads", every=0.05)


def test_a_service_of_the_gateway_that_hangs_up_ends_the_guests_connection(agent: Agent) -> None:
    with agent.guest.connect(GATEWAY_ADDR, 80) as sock:
        sock.sendall(b"GET /nowhere HTTP/1.0\r\n\r\n")
        answer = b""
        while part := sock.recv(4096):
            answer += part
        assert answer.startswith(b"HTTP/1")


@pytest.mark.parametrize("closer", ["guest", "host"])
def test_a_half_closed_connection_carries_data_for_as_long_as_it_likes(pair: Pair, closer: str) -> None:
    closed, speaker = pair if closer == "guest" else (pair.host, pair.guest)
    closed.shutdown(socket.SHUT_WR)
    assert speaker.recv(100) == b""
    for number in range(4):
        time.sleep(0.7)  # longer than any delayed ACK or retransmission
        speaker.sendall(b"%d" % number * 1000)
        received = b""
        while len(received) < 1000:
            received += closed.recv(1000)
        assert received == b"%d" % number * 1000
    speaker.shutdown(socket.SHUT_WR)
    assert closed.recv(100) == b""


def test_a_host_that_does_not_read_closes_the_window_and_holds_no_slot(pair: Pair, daemon: Daemon) -> None:
    pair.guest.setblocking(False)
    sent = 0
    stuck_since = time.monotonic()
    while time.monotonic() - stuck_since < 1.0:
        try:
            sent += pair.guest.send(b"\x5a" * 65536)
            stuck_since = time.monotonic()
        except BlockingIOError:
            time.sleep(0.01)
        assert sent < 64 * MIB, "the window never closed"
    spans = {home: span.slot_count for home, span in daemon.layout.pools.items()}
    # Only the link's own slot may be in use.
    wait_for(
        lambda: daemon.gauge("worker_slots_free")["ingress"] >= spans["ingress"] - 2, "the slots are home"
    )
    received = 0
    while received < sent:
        received += len(pair.host.recv(MIB))
    assert received == sent


def test_connections_on_which_nothing_is_sent_cost_nothing(
    agent: Agent, daemon: Daemon, listener: socket.socket
) -> None:
    port = listener.getsockname()[1]
    guests = [agent.guest.connect(INTERNET_ADDR, port) for _ in range(100)]
    hosts = [listener.accept()[0] for _ in guests]
    time.sleep(0.5)
    before = daemon.cpu_seconds()
    time.sleep(2.0)
    after = daemon.cpu_seconds()
    busy = {name: after[name] - before[name] for name in before if name != "supervisor"}
    assert max(busy.values()) < 0.2, busy
    for sock in (*guests, *hosts):
        sock.close()
