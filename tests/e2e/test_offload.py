"""Guests with and without offload on one daemon: every byte arrives, whoever cuts and sums."""

import contextlib
import socket
import threading
import time
from collections.abc import Iterator

import pytest

from pipeline.wire import arp, ethernet, ip, offload, tcp
from pipeline.wire.framing import LE16, connect_request, prefix
from pipeline.wire.virtio_net import GSO_TCPV4, LONG_LEN, NEEDS_CSUM, Header, build, parse
from tests.support import traffic
from tests.support.agent import GATEWAY_ADDR, GUEST_ADDR, Agent
from tests.support.daemon import Daemon
from tests.support.frames import GUEST, GUEST_MAC
from tests.support.netns import INTERNET_ADDR, Namespace, Network, wait_for
from tests.support.offload import super_segment
from tests.support.servers import DATA, UDP_ECHO, Servers
from tests.support.traffic import receive_exactly

pytestmark = pytest.mark.e2e

MIB = 1 << 20
PLAIN = ("-offload=false",)
OFFLOAD: tuple[str, ...] = ()
OTHER_MAC = "5a:94:ef:e4:0c:99"


def total(daemon: Daemon, counter: str) -> int:
    """A counter summed over the workers."""
    return sum(daemon.gauge(counter).values())


def checksum_errors(guest: Namespace) -> int:
    """TCP segments, IP packets and datagrams that the guest's kernel found wrong."""
    lines = guest.run("cat", "/proc/net/snmp").stdout.splitlines()
    found = 0
    for names, numbers in zip(lines[::2], lines[1::2], strict=True):
        row = dict(zip(names.split(), numbers.split(), strict=True))
        found += int(row.get("InCsumErrors", 0))
    return found


@pytest.fixture(params=[OFFLOAD, PLAIN], ids=["offload", "plain"])
def first(daemon: Daemon, request: pytest.FixtureRequest) -> Iterator[Agent]:
    """The first guest."""
    with Agent(daemon.network.guest, daemon.socket, *request.param) as made:
        yield made
    assert total(daemon, "link_guest_offload") >= (request.param == OFFLOAD)


@pytest.fixture(params=[OFFLOAD, PLAIN], ids=["to offload", "to plain"])
def second(daemon: Daemon, first: Agent, request: pytest.FixtureRequest) -> Iterator[Agent]:
    """The second guest."""
    with Agent(daemon.network.guests[1], daemon.socket, *request.param, mac=OTHER_MAC) as made:
        yield made


def test_bulk_data_arrives_with_its_hash_both_ways(daemon: Daemon, first: Agent) -> None:
    outcome = first.run("transfer", INTERNET_ADDR, DATA, 16 * MIB, 16 * MIB)
    assert outcome["errors"] == []
    assert first.run("transfer", INTERNET_ADDR, DATA, MIB, MIB, 20)["errors"] == []
    assert checksum_errors(first.guest) == 0
    assert total(daemon, "tcp_segment_dropped_bad_checksum") == 0
    assert total(daemon, "link_frame_dropped_bad_vnet_header") == 0


def test_one_frame_carries_many_segments(daemon: Daemon) -> None:
    with Agent(daemon.network.guest, daemon.socket) as agent:
        assert agent.run("transfer", INTERNET_ADDR, DATA, 16 * MIB, 16 * MIB)["errors"] == []
        # Each way 16 MiB would be more than 11500 frames of 1514 bytes.
        assert wait_for(lambda: total(daemon, "link_bytes_from_guest") > 16 * MIB, "counters")
        assert total(daemon, "link_frames_from_guest") < 7500
        assert total(daemon, "link_frames_to_guest") < 7500


def test_datagrams_and_names_pass(first: Agent) -> None:
    assert first.run("udp", INTERNET_ADDR, UDP_ECHO, 1400, 20)["received"] == 20
    assert first.run("udp", INTERNET_ADDR, UDP_ECHO, 5000, 5)["received"] == 5
    assert first.run("resolve", "192.168.127.1", "www.example.test", "A", "udp")["answers"] == [INTERNET_ADDR]
    first.guest.run("ping", "-n", "-c", "2", "-i", "0.2", "-W", "2", "-s", "3000", "192.168.127.1")


def test_datagrams_sent_in_one_piece_arrive_each(daemon: Daemon, first: Agent) -> None:
    outcome = first.run("segmented", INTERNET_ADDR, UDP_ECHO, 1000, 30)
    assert outcome == {"sent": 30, "received": 30, "different": 0}
    assert total(daemon, "udp_datagram_dropped_bad_checksum") == 0


def test_guests_of_any_kind_reach_each_other(daemon: Daemon, first: Agent, second: Agent) -> None:
    servers = Servers(first.guest, daemon.network.directory)
    try:
        assert second.run("transfer", GUEST_ADDR, DATA, 32 * MIB, 32 * MIB)["errors"] == []
        assert second.run("udp", GUEST_ADDR, UDP_ECHO, 1400, 10)["received"] == 10
        outcome = second.run("segmented", GUEST_ADDR, UDP_ECHO, 1000, 20)
        assert outcome == {"sent": 20, "received": 20, "different": 0}
    finally:
        servers.close()
    for agent in (first, second):
        assert checksum_errors(agent.guest) == 0
    assert total(daemon, "link_frame_dropped_bad_vnet_header") == 0


def test_guests_of_any_kind_reach_each_other_over_ipv6(first: Agent, second: Agent) -> None:
    for agent, address in ((first, "fd00::2"), (second, "fd00::3")):
        agent.guest.ip("address", "add", f"{address}/64", "dev", "tap0", "nodad")
    server = first.guest.call(lambda: socket.create_server(("::", DATA), family=socket.AF_INET6))
    thread = threading.Thread(target=lambda: traffic.serve_transfer(server.accept()[0]))
    thread.start()
    try:
        outcome = second.run("transfer", "fd00::2", DATA, 16 * MIB, 16 * MIB)
        assert outcome["errors"] == []
    finally:
        thread.join(10)
        server.close()
    for agent in (first, second):
        assert checksum_errors(agent.guest) == 0


class Relay:
    """Between agent and daemon: a server that does not know the extension, or is slow to answer."""

    def __init__(self, daemon: Daemon, keep_header: bool, delay: float) -> None:
        self.path = daemon.network.directory / "relay.sock"
        self._daemon = daemon
        self._keep_header = keep_header
        self._delay = delay
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(self.path))
        self._listener.listen()
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        guest, _ = self._listener.accept()
        with guest, socket.socket(socket.AF_UNIX) as host:
            head = b""
            while not head.endswith(b"\r\n\r\n"):
                head += guest.recv(1)
            assert b"Gvtap-Offload: 1\r\n" in head
            host.connect(str(self._daemon.socket))
            host.sendall(head if self._keep_header else head.replace(b"Gvtap-Offload: 1\r\n", b""))
            up = threading.Thread(target=self._copy, args=(guest, host))
            up.start()
            time.sleep(self._delay)
            self._copy(host, guest)
            up.join()

    def _copy(self, source: socket.socket, sink: socket.socket) -> None:
        view = memoryview(bytearray(1 << 18))
        # Either end may go first; then the other one's copy ends as well.
        with contextlib.suppress(OSError):
            while got := source.recv_into(view):
                sink.sendall(view[:got])
        for sock in (source, sink):
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)

    def __enter__(self) -> "Relay":
        return self

    def __exit__(self, *_: object) -> None:
        self._thread.join(5)
        self._listener.close()
        self.path.unlink()


@pytest.mark.parametrize(
    "keep_header, delay", [(False, 0.0), (True, 1.0)], ids=["never answers", "answers too late"]
)
def test_an_agent_that_asks_works_with_a_server_that(daemon: Daemon, keep_header: bool, delay: float) -> None:
    with Relay(daemon, keep_header, delay) as relay, Agent(daemon.network.guest, relay.path) as agent:
        assert agent.run("transfer", INTERNET_ADDR, DATA, 16 * MIB, 16 * MIB)["errors"] == []
    assert total(daemon, "link_guest_offload") == 0


@pytest.mark.parametrize("agent_flags", [OFFLOAD, PLAIN], ids=["offload", "plain"])
@pytest.mark.parametrize("flags", [("-mtu", "65520"), ("-mtu", "576"), ("-slots", "64")], ids=" ".join)
def test_mtu_and_memory_change_no_byte(
    network: Network, outside: Servers, flags: tuple[str, ...], agent_flags: tuple[str, ...]
) -> None:
    with (
        Daemon(network, *flags) as daemon,
        Agent(network.guest, daemon.socket, *agent_flags) as agent,
    ):
        assert agent.run("transfer", INTERNET_ADDR, DATA, 16 * MIB, 16 * MIB)["errors"] == []
        assert agent.run("transfer", INTERNET_ADDR, DATA, MIB, MIB, 8)["errors"] == []
        assert checksum_errors(agent.guest) == 0


class RawGuest:
    """A guest that speaks the extension by hand."""

    def __init__(self, daemon: Daemon) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(5)
        self.sock.connect(str(daemon.socket))
        self.sock.sendall(connect_request(headers={offload.REQUEST_HEADER: "7, 1"}))

    def agree(self) -> None:
        """Take the offer."""
        size = LE16.prefix_len + offload.RECORD_LEN
        assert receive_exactly(self.sock, size) == offload.build(offload.OFFER, offload.FEATURES)
        self.sock.sendall(offload.build(offload.ACCEPT, offload.FEATURES))
        assert receive_exactly(self.sock, size) == offload.build(offload.START, offload.FEATURES)

    def send(self, header: Header, frame: bytes) -> None:
        """One frame behind a header."""
        self.sock.sendall(prefix(LONG_LEN + len(frame), offload.FRAMING) + build(header, LONG_LEN) + frame)

    def receive(self) -> tuple[Header, bytes]:
        """The next frame."""
        (length,) = offload.FRAMING.prefix.unpack(receive_exactly(self.sock, 4))
        data = receive_exactly(self.sock, length)
        return parse(data, 0, length, LONG_LEN), data[LONG_LEN:]


def test_a_hostile_header_is_counted_and_the_link_goes_on(daemon: Daemon) -> None:
    guest = RawGuest(daemon)
    guest.agree()
    _, frame = super_segment(1, bytes(3000), 1448, dst=ip.parse_ipv4(INTERNET_ADDR))
    hostile = [
        Header(NEEDS_CSUM, GSO_TCPV4, 54, 1448, 0xFFFF, 0xFFFF),
        Header(NEEDS_CSUM, GSO_TCPV4, 0xFFFF, 1448, 34, 16),
        Header(NEEDS_CSUM, GSO_TCPV4, 54, 0, 34, 16),
        Header(0, GSO_TCPV4, 54, 1448, 34, 16),
        Header(0xFF, 0xFF, 0xFFFF, 0xFFFF, 0xFFFF, 0xFFFF),
    ]
    for header in hostile:
        guest.send(header, frame)
    guest.sock.sendall(prefix(5, offload.FRAMING) + b"short")
    bad = "link_frame_dropped_bad_vnet_header"
    wait_for(lambda: total(daemon, bad) == len(hostile) + 1, "six frames counted")
    guest.send(Header(), ethernet.BROADCAST + GUEST_MAC + bytes.fromhex("0806") + arp_for_gateway())
    header, answer = guest.receive()
    assert header == Header()
    assert answer[12:14] == bytes.fromhex("0806")
    # The same bytes behind a true header are a segment without a connection: it is reset.
    guest.send(Header(NEEDS_CSUM, GSO_TCPV4, 54, 1448, 34, 16), frame)
    header, answer = guest.receive()
    assert header.flags == NEEDS_CSUM
    assert answer[47] & tcp.RST
    guest.sock.close()


def test_a_length_that_no_frame_has_ends_the_link(daemon: Daemon) -> None:
    guest = RawGuest(daemon)
    guest.agree()
    guest.sock.sendall((offload.FRAMING.max + 1).to_bytes(4, "little"))
    assert guest.sock.recv(1) == b""
    wait_for(lambda: total(daemon, "link_frame_dropped_oversized") == 1, "the counter")


def test_a_guest_that_does_not_take_the_offer_speaks_the_original_framing(daemon: Daemon) -> None:
    guest = RawGuest(daemon)
    size = LE16.prefix_len + offload.RECORD_LEN
    assert receive_exactly(guest.sock, size)[2:6] == b"GVTO"
    request = ethernet.BROADCAST + GUEST_MAC + bytes.fromhex("0806") + arp_for_gateway()
    guest.sock.sendall(prefix(len(request), LE16) + request)
    (length,) = LE16.prefix.unpack(receive_exactly(guest.sock, 2))
    assert receive_exactly(guest.sock, length)[12:14] == bytes.fromhex("0806")
    guest.sock.close()


def arp_for_gateway() -> bytes:
    """Who has the gateway's address?"""
    return arp.build(arp.REQUEST, GUEST_MAC, GUEST, bytes(6), ip.parse_ipv4(GATEWAY_ADDR))
