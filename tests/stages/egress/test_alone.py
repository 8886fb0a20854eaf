"""Egress between a played tcp and a played demux: flows that wait for slots, records that nobody awaits."""

import socket
import struct
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest

from pipeline.host import tcp as host_tcp
from pipeline.host.stream import HostStream
from pipeline.records import kinds
from pipeline.records.dials import DialFailed
from pipeline.records.flows import FLOW_FROM_EGRESS, FlowNotice, flow_key
from pipeline.records.run import Run
from pipeline.records.streams import Connect, GuestAnswered, Shutdown, ToHost, Window
from pipeline.records.udp import UdpData
from pipeline.stages.egress.tcp.chunks import MAX_READ
from pipeline.stages.egress.tcp.closing import CLOSING_PATIENCE
from pipeline.stages.egress.tcp.writes import YOUNG_S
from pipeline.wire import ip
from tests.support.network import receive
from tests.support.one_process import OneProcess
from tests.support.played_guests import GATEWAY, HOST


class Egress(OneProcess):
    """Egress alone, between a played tcp and a played demux, with hosts to talk to."""

    def __init__(self) -> None:
        super().__init__(("egress",))
        self.tcp, self.demux = self.neighbours["tcp0"], self.neighbours["demux"]
        self.stage = self.stages["egress0"]
        self.pool = self.workers["egress0"].pool
        self.listener = self.keep(socket.create_server(("127.0.0.1", 0)))
        self.udp = self.udp_server()

    def connect(self, number: int, port: int = 0, remote: int = HOST) -> None:
        """A guest asks for a connection, by default to the listener."""
        key = flow_key(GATEWAY + 1, 1000 + number, remote, port or self.listener.getsockname()[1])
        self.tcp.push("egress0", Connect.pack(number, key, link=1, guest=1, mss=1460, syn_seq=0))

    def open(self, number: int) -> socket.socket:
        """The host's end of a connection that stands."""
        self.connect(number)
        self.settle()
        assert [record.flow for record in self.tcp.take(kinds.CONNECTED)] == [number]
        return self.keep(self.listener.accept()[0])

    def datagram(self, payload: bytes) -> None:
        """A guest's to the host's UDP socket, of flow 1."""
        run = Run(self.demux.fill(payload), 256, len(payload), 0, len(payload))
        key = flow_key(GATEWAY + 1, 5000, HOST, self.udp.getsockname()[1])
        self.demux.push("egress0", UdpData.pack(1, key, run, link=1))

    def to_host(self, number: int, payload: bytes) -> None:
        """Bytes of a guest, in a slot of ingress."""
        size = len(payload)
        run = Run(self.neighbours["ingress"].fill(payload), 256, size, 0, size)
        self.tcp.push("egress0", ToHost.pack(number, run, 0, size))

    def notify(self, kind: int, number: int) -> None:
        """Tcp reports an end of a connection."""
        record = Shutdown.pack(number) if kind == kinds.SHUTDOWN else FlowNotice.pack(kind, number)
        self.tcp.push("egress0", record)

    def kept(self, what: str) -> int:
        """How many of these egress holds."""
        return int(self.stage.held()[what])

    def out(self) -> int:
        """References to slots of ingress that egress holds."""
        pool = self.workers["ingress"].ports.pool
        assert pool is not None
        return pool.refs_out

    def take_all_slots(self) -> None:
        """Host datagrams fill the pool, and ingress keeps them."""
        self.datagram(b"hello")
        self.settle()
        _, address = self.udp.recvfrom(100)
        self.neighbours["ingress"].keeps = True
        while self.pool.free_count:
            self.udp.sendto(bytes(65000), address)
            self.settle()

    def give_slots_back(self) -> None:
        """Ingress is done with them all."""
        ingress = self.neighbours["ingress"]
        for record in ingress.take(kinds.UDP_TO_GUEST):
            ingress.give_back(record)
        ingress.keeps = False


@pytest.fixture
def egress() -> Iterator[Egress]:
    with Egress() as made:
        yield made
        made.demux.push("egress0", FlowNotice.pack(kinds.UDP_CLOSE, 1))
        made.at_home()


def fill(egress: Egress, number: int) -> int:
    """Bytes of a guest until the host's socket takes no more; how many in all."""
    count = 0
    while not egress.kept("stalled"):
        egress.to_host(number, bytes(60000))
        count += 60000
        egress.settle()
    return count


def test_slots_that_datagrams_held_wake_a_flow_that_has_none(egress: Egress) -> None:
    host = egress.open(1)
    egress.take_all_slots()
    host.send(b"waits")
    egress.settle()
    assert not egress.tcp.take(kinds.TO_GUEST)
    egress.give_slots_back()
    egress.settle()
    assert [record.length for record in egress.tcp.take(kinds.TO_GUEST)] == [5]
    egress.notify(kinds.ABORT, 1)


def test_all_flows_that_waited_for_slots_are_served_though_nothing_else_happens(egress: Egress) -> None:
    hosts = [egress.open(number) for number in range(1, 6)]
    egress.take_all_slots()
    for host in hosts:
        host.send(b"waits")
    egress.settle()
    # Guests that acknowledge nothing yet: what is read does not come home.
    egress.tcp.keeps = True
    egress.give_slots_back()
    egress.breathe("ingress")
    for _ in hosts:
        egress.breathe("egress0")
        if egress.stage.deadline() > egress.now:
            break
    egress.breathe("tcp0")
    served = egress.tcp.take(kinds.TO_GUEST)
    assert sorted(record.flow for record in served) == [1, 2, 3, 4, 5]
    egress.tcp.keeps = False
    for record in served:
        egress.tcp.give_back(record)
        egress.notify(kinds.ABORT, record.flow)


def test_steps_are_short_while_there_is_a_small_flow(egress: Egress) -> None:
    big, small = egress.open(1), egress.open(2)
    big.setblocking(False)

    def step() -> dict[int, int]:
        """Bytes that one step reads, by flow, while the big one has more than it takes."""
        with suppress(BlockingIOError):
            while True:
                big.send(bytes(1_000_000))
        egress.breathe("egress0", "tcp0")
        read: dict[int, int] = {}
        for record in egress.tcp.take(kinds.TO_GUEST):
            read[record.flow] = read.get(record.flow, 0) + record.length
        return read

    def answer() -> None:
        egress.udp.sendto(b"answer", address)

    egress.datagram(b"hello")
    egress.breathe("demux", "egress0")
    _, address = egress.udp.recvfrom(100)
    # A flow of either kind.
    for say in (lambda: small.send(b"x"), answer):
        assert max(step()[1] for _ in range(5)) > 2 * MAX_READ
        say()
        # A word is not a flow yet.
        assert max(step()[1] for _ in range(5)) > 2 * MAX_READ
        egress.now += 0.1
        say()
        step()
        assert all(0 < step()[1] <= MAX_READ for _ in range(5))
        egress.now += 1.0
    assert max(step()[1] for _ in range(5)) > 2 * MAX_READ
    big.close()
    for number in (1, 2):
        egress.notify(kinds.ABORT, number)


@pytest.mark.parametrize("end", [kinds.ABORT, kinds.CLOSED])
def test_a_flow_that_ends_before_its_turn_passes_it_on(egress: Egress, end: int) -> None:
    hosts = [egress.open(number) for number in (1, 2, 3)]
    # With bytes that the host does not take, the first stays when its guest is done.
    if end == kinds.CLOSED:
        fill(egress, 1)
        egress.advance(1.0)
    egress.take_all_slots()
    for host in hosts:
        host.send(b"waits")
    egress.settle()
    assert egress.kept("waiting_for_slots") == 3
    egress.notify(kinds.ABORT, 3)
    egress.settle()
    assert egress.kept("waiting_for_slots") == 2
    # tcp stops taking: the one flow that is woken by the slots has no room to read into.
    egress.tcp.deaf = True
    for number in range(1100):
        egress.connect(100 + number, 1, GATEWAY)
        if number == 1000:
            egress.settle()
    egress.settle()
    egress.give_slots_back()
    egress.settle()
    assert egress.kept("waiting_for_slots") == 1
    egress.notify(end, 1)
    egress.settle()
    egress.tcp.deaf = False
    egress.settle()
    assert [record.flow for record in egress.tcp.take(kinds.TO_GUEST)] == [2]
    for number in (1, 2):
        egress.notify(kinds.ABORT, number)


# --- records that cross each other ------------------------------------------------------------------


def test_a_connection_that_stands_sends_at_once_and_resets_if_it_is_left_behind(egress: Egress) -> None:
    host = egress.open(1)
    (sock,) = (flow.stream.sock for flow in egress.stage.connections.flows.by_key.values())
    assert not sock.getblocking()
    for count in (1, 2):
        egress.to_host(1, b"a small request")
        egress.settle()
        assert host.recv(100) == b"a small request"
        # The system sends the end of a first write at once.
        assert bool(sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)) == (count == 2)
    assert struct.unpack("ii", sock.getsockopt(socket.SOL_SOCKET, socket.SO_LINGER, 8)) == (1, 0)
    egress.notify(kinds.ABORT, 1)
    egress.settle()


@pytest.mark.parametrize("remote", [HOST, ip.parse_ipv4("192.0.2.1")], ids=["loopback", "elsewhere"])
def test_only_on_loopback_a_connection_may_be_established_at_once(
    egress: Egress, monkeypatch: pytest.MonkeyPatch, remote: int
) -> None:
    asked: list[socket.socket] = []

    def connect(_address: str, port: int, _outbound: object, real: Any = host_tcp.connect) -> Any:
        return real("127.0.0.1", port)

    def is_connected(sock: socket.socket, real: Any = host_tcp.is_connected) -> bool:
        asked.append(sock)
        return bool(real(sock))

    monkeypatch.setattr(host_tcp, "connect", connect)
    monkeypatch.setattr(host_tcp, "is_connected", is_connected)
    egress.connect(1, remote=remote)
    egress.until(lambda: egress.tcp.take(kinds.CONNECTED), "the connection")
    assert len(asked) == (1 if remote == HOST else 0)
    egress.notify(kinds.ABORT, 1)
    egress.settle()


def test_a_connection_that_lasts_is_probed_when_it_is_silent(egress: Egress) -> None:
    egress.open(1)
    egress.open(2)
    first, second = (flow.stream.sock for flow in egress.stage.connections.flows.by_key.values())
    egress.advance(YOUNG_S - 1)
    assert not first.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
    egress.notify(kinds.ABORT, 2)
    egress.advance(2)
    assert egress.kept("young_flows") == 0
    assert first.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
    assert first.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == host_tcp.KEEPALIVE_IDLE_S
    assert second.fileno() == -1
    egress.notify(kinds.ABORT, 1)
    egress.settle()


def test_an_end_that_comes_with_bytes_is_passed_on_with_them(
    egress: Egress, monkeypatch: pytest.MonkeyPatch
) -> None:
    host = egress.open(1)
    reads: list[int] = []

    def read(stream: HostStream, view: memoryview, real: Any = HostStream.read) -> int:
        reads.append(real(stream, view))
        return reads[-1]

    monkeypatch.setattr(HostStream, "read", read)
    host.send(b"the answer")
    host.shutdown(socket.SHUT_WR)
    egress.settle()
    assert [record.length for record in egress.tcp.take(kinds.TO_GUEST)] == [10]
    assert len(egress.tcp.take(kinds.SHUTDOWN)) == 1
    assert reads == [10]
    # The other direction goes on, and an end in order is one for the host, too.
    egress.to_host(1, b"more")
    egress.settle()
    assert host.recv(100) == b"more"
    egress.notify(kinds.CLOSED, 1)
    egress.settle()
    assert host.recv(10) == b""


def test_records_of_a_flow_that_nobody_knows_give_their_slots_back(egress: Egress) -> None:
    for _ in range(3):
        egress.to_host(9, b"void")
    for kind in (kinds.SHUTDOWN, kinds.CLOSED, kinds.ABORT):
        egress.notify(kind, 9)
    for record in (
        Window.pack(9, 0),
        GuestAnswered.pack(9, bytes(36), guest=1, mss=0),
        DialFailed.pack(9, final=False),
    ):
        egress.tcp.push("egress0", record)
    egress.demux.push("egress0", DialFailed.pack(FLOW_FROM_EGRESS | 9, final=True))
    egress.demux.push("egress0", FlowNotice.pack(kinds.UDP_CLOSE, 9))
    egress.settle()
    assert egress.out() == 0
    # The worker that had dialled may have died, so its guest's connection must end.
    assert [record.kind for record in egress.tcp.take()] == [kinds.ABORT]


def test_bytes_for_a_host_that_is_gone_give_their_slots_back(egress: Egress) -> None:
    host = egress.open(1)
    egress.to_host(1, b"unread")
    egress.settle()
    host.close()  # with bytes unread: a reset
    for _ in range(3):
        egress.to_host(1, b"under way")
    egress.breathe("tcp0")
    # What tcp sends before it hears of it is void.
    egress.breathe("egress0")
    egress.to_host(1, b"void")
    egress.settle()
    assert [record.kind for record in egress.tcp.take()] == [kinds.TAKEN, kinds.ABORT]
    assert egress.out() == 0


@pytest.mark.parametrize("connected", [True, False])
def test_the_guest_ends_before_it_knows_how_its_connection_went(egress: Egress, connected: bool) -> None:
    egress.connect(1, 0 if connected else 1)
    egress.notify(kinds.ABORT, 1)
    egress.settle()
    egress.notify(kinds.ABORT, 1)
    egress.notify(kinds.SHUTDOWN, 1)
    egress.settle()
    if not connected:
        assert [record.kind for record in egress.tcp.take()] in ([], [kinds.CONNECT_FAILED])
    assert not egress.kept("flows")


def drain(egress: Egress, host: socket.socket) -> tuple[int, bool]:
    """What a host reads from now on, and whether that was the end."""
    host.setblocking(False)
    got = bytearray()
    end: list[bool] = []

    def over() -> bool:
        end[:] = [receive(host, got)]
        return end[0] or not egress.kept("flows")

    egress.until(over)
    end[:] = [receive(host, got)]
    return len(got), end[0]


@pytest.mark.parametrize("spilled", [False, True])
def test_what_a_guest_said_before_it_closed_reaches_a_slow_host(egress: Egress, spilled: bool) -> None:
    host = egress.open(1)
    sent = fill(egress, 1)
    if spilled:
        egress.advance(1.0)
        assert egress.out() == 0
    egress.to_host(1, b"the end")
    egress.notify(kinds.SHUTDOWN, 1)
    egress.notify(kinds.CLOSED, 1)
    egress.settle()
    assert drain(egress, host) == (sent + 7, True)
    assert egress.out() == 0
    taken = sum(record.count for record in egress.tcp.take(kinds.TAKEN))
    assert taken == sent + 7


def test_memory_that_is_short_costs_one_connection(egress: Egress, monkeypatch: pytest.MonkeyPatch) -> None:
    slow, quick = egress.open(1), egress.open(2)
    fill(egress, 1)

    def no_memory(*_: object) -> int:
        raise MemoryError

    monkeypatch.setattr(HostStream, "spill", no_memory)
    egress.advance(1.0)
    assert [record.flow for record in egress.tcp.take(kinds.ABORT)] == [1]
    assert egress.counter("egress0", "egress_connection_reset_no_memory") == 1
    assert egress.out() == 0
    egress.to_host(2, b"goes on")
    egress.settle()
    assert quick.recv(100) == b"goes on"
    slow.close()
    egress.notify(kinds.ABORT, 2)
    egress.settle()


def test_closing_the_socket_ends_the_stream_to_a_host_that_ended_first(
    egress: Egress, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(host_tcp, "shutdown_write", lambda _sock: pytest.fail("not needed before close()"))
    host = egress.open(1)
    host.shutdown(socket.SHUT_WR)
    egress.until(lambda: bool(egress.tcp.take(kinds.SHUTDOWN)))
    egress.to_host(1, b"the end")
    egress.notify(kinds.SHUTDOWN, 1)
    egress.notify(kinds.CLOSED, 1)
    egress.settle()
    assert not egress.kept("flows")
    assert host.recv(100) == b"the end"
    assert host.recv(100) == b"", "a FIN, not a reset"


@pytest.mark.parametrize("spilled", [False, True])
@pytest.mark.parametrize("closed_first", [False, True])
def test_a_reset_drops_what_waits_for_a_slow_host(egress: Egress, spilled: bool, closed_first: bool) -> None:
    egress.open(1)
    fill(egress, 1)
    if spilled:
        egress.advance(1.0)
    if closed_first:
        egress.notify(kinds.CLOSED, 1)
        egress.settle()
    egress.notify(kinds.ABORT, 1)
    egress.settle()
    assert egress.out() == 0
    assert not egress.kept("flows")


def test_a_host_that_resets_a_connection_whose_guest_is_done_frees_its_bytes(egress: Egress) -> None:
    host = egress.open(1)
    fill(egress, 1)
    egress.notify(kinds.CLOSED, 1)
    egress.settle()
    host.close()
    egress.until(lambda: not egress.kept("flows"))
    assert egress.out() == 0


def test_a_host_that_never_reads_does_not_keep_a_connection_whose_guest_is_done(egress: Egress) -> None:
    host = egress.open(1)
    fill(egress, 1)
    egress.notify(kinds.CLOSED, 1)
    egress.advance(CLOSING_PATIENCE - 1.0)
    assert egress.kept("flows") == 1
    egress.advance(2.0)
    assert not egress.kept("flows")
    assert egress.counter("egress0", "egress_connection_reset_closing_stuck") == 1
    with pytest.raises(ConnectionResetError):
        sum(iter(lambda: len(host.recv(1 << 20)), 0))


def test_a_host_that_reads_slowly_gets_all_of_a_connection_whose_guest_is_done(egress: Egress) -> None:
    # Its window opens with every read, but the socket's buffer is far larger.
    egress.listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
    host = egress.open(1)
    sent = fill(egress, 1)
    for _ in range(100):
        egress.to_host(1, bytes(60000))
        sent += 60000
        egress.advance(0.1)
    egress.notify(kinds.SHUTDOWN, 1)
    egress.notify(kinds.CLOSED, 1)
    egress.settle()
    read = 0
    # So little at a time that the system does not say each time that there is room.
    for _ in range(8):
        for _ in range(5):
            read += len(host.recv(65536))
        egress.advance(CLOSING_PATIENCE * 0.9)
    assert egress.kept("flows") == 1
    got, over = drain(egress, host)
    assert (read + got, over) == (sent, True)


# --- the end of the daemon ------------------------------------------------------------------------


@pytest.mark.parametrize("state", ["idle", "behind", "spilled", "half closed", "closing"])
def test_a_connection_that_the_end_of_the_daemon_cuts_is_reset(egress: Egress, state: str) -> None:
    host = egress.open(1)
    egress.to_host(1, b"not all")
    egress.settle()
    if state in ("behind", "spilled", "closing"):
        fill(egress, 1)
    if state == "spilled":
        egress.advance(1.0)
    elif state == "half closed":
        host.shutdown(socket.SHUT_WR)
    elif state == "closing":
        egress.notify(kinds.CLOSED, 1)
    egress.settle()
    egress.stage.close()
    with pytest.raises(ConnectionResetError):
        sum(iter(lambda: len(host.recv(1 << 20)), 0))
