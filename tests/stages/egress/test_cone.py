"""Full cone in egress: one socket for a guest's port, strangers' answers, errors, and bounds."""

import errno
import socket
import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from pipeline.config.model import EgressPolicy, PolicyRule
from pipeline.counters import INDEX
from pipeline.engines.nat import Nat
from pipeline.host import udp as host_udp
from pipeline.host.filler import SlotFiller
from pipeline.ipc.arena import HEADROOM, SLOT_BYTES, Pool
from pipeline.records import descriptor as d
from pipeline.stages.egress.guard import Guard
from pipeline.stages.egress.share import Shares
from pipeline.stages.egress.sockets import SocketBound
from pipeline.stages.egress.udp import UdpSockets
from pipeline.wire import icmp, ipv4
from tests.support.netns import wait_for
from tests.support.record import Record

GUEST = ipv4.addr_parse("192.168.127.2")
HOST = ipv4.addr_parse("192.168.127.254")
SECOND = ipv4.addr_parse("192.168.127.253")
ALIASES = {HOST: "127.0.0.1", SECOND: "127.0.0.2"}
PORT = 40000
SLOTS = 8


class Rig:
    """UdpSockets with full cone; servers are on the loopback, which the guest has as .254 and .253."""

    def __init__(self, policy: EgressPolicy) -> None:
        self.pool = Pool(0, SLOTS)
        self.slots = [memoryview(bytearray(SLOT_BYTES)) for _ in range(SLOTS)]
        self.counts = [0] * len(INDEX)
        self.records: list[Record] = []
        self.callbacks: dict[int, Any] = {}
        ring = SimpleNamespace(
            push=lambda record: self.records.append(Record(*d.DESCRIPTOR.unpack(record))), room=lambda: 100
        )
        worker: Any = SimpleNamespace(
            pool=self.pool, counts=self.counts, index=0,
            ports=SimpleNamespace(
                arena=SimpleNamespace(slots=self.slots), rings_out={"demux": ring, "ingress": ring}
            ),
            free=lambda slot, tag=0: self.pool.unref(slot),
            register=lambda fd, _events, callback: self.callbacks.__setitem__(fd, callback),
            unregister=lambda fd: self.callbacks.pop(fd),
            log=SimpleNamespace(warning=lambda *_, **__: None),
        )  # fmt: skip
        table = {addr: ipv4.addr_parse(text) for addr, text in ALIASES.items()}
        nat = Nat(network=HOST, prefix_len=24, gateway=ipv4.addr_parse("192.168.127.1"), table=table)
        config: Any = SimpleNamespace(egress_policy=policy)
        self.filler = SlotFiller(self.pool, SLOT_BYTES, HEADROOM, 64)
        self.udp = UdpSockets(worker, self.filler, nat, Guard(worker, config), 10, full_cone=True)
        assert self.udp.cones is not None
        self.cones = self.udp.cones
        shares = Shares(self.pool, SLOT_BYTES, HEADROOM, 64)
        self.udp.bound = SocketBound(worker, shares, [], self.udp.sockets())
        self.servers: list[socket.socket] = []

    def server(self, addr: int = HOST) -> socket.socket:
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        sock.bind((ALIASES[addr], 0))
        sock.settimeout(10)
        self.servers.append(sock)
        return sock

    def send(
        self, number: int, to: tuple[int, int], *payloads: bytes, port: int = PORT, steered: bool = False
    ) -> None:
        """Datagrams of the guest, all of one length but for a shorter last."""
        slot = self.pool.alloc()
        for index, payload in enumerate(payloads):
            self.slots[slot][300 + index * 1500 :][: len(payload)] = payload
        length = sum(map(len, payloads))
        stride, size = 1500 if len(payloads) > 1 else 0, len(payloads[0])
        addr, remote_port = to
        if steered:
            ports = port << 16 | remote_port
            record = d.DESCRIPTOR.pack(
                d.UDP_DATA,
                0,
                0,
                stride,
                size,
                slot,
                300,
                length,
                0,
                number,
                0,
                0,
                0,
                0,
                0,
                GUEST,
                addr,
                ports,
                0,
            )
            self.udp.on_steered(memoryview(record))
            return
        self.udp.to_host(number, slot, 300, length, stride, size, GUEST, addr, port << 16 | remote_port)

    def read(self) -> list[Record]:
        """What egress says after it has read all that is there, errors included."""
        before = len(self.records)
        for callback in list(self.callbacks.values()):
            callback(8)
        while self.udp.ready:
            self.udp.read_ready(time.monotonic())
        return [record for record in self.records[before:] if record.kind != d.UDP_ANSWERED]

    def datagrams(self) -> list[tuple[int, int, int, bytes]]:
        """(remote's address and port, guest's port, payload) of what has come. References are given back."""
        found = []
        for record in self.read():
            assert record.kind in (d.UDP_TO_GUEST, d.UDP_DATA), record
            assert record.guest_addr == GUEST
            bounds = d.piece_bounds(record.off, record.length, record.stride, record.gso_size)
            for begin, end in bounds:
                payload = bytes(self.slots[record.slot][begin:end])
                found.append((record.remote_addr, record.ports & 0xFFFF, record.ports >> 16, payload))
            self.pool.unref(record.slot)
        return found

    def count(self, name: str) -> int:
        return self.counts[INDEX[name]]


def place(addr: int, sock: socket.socket) -> tuple[int, int]:
    """Where the guest finds a server."""
    return addr, sock.getsockname()[1]


@pytest.fixture(params=["many at once", "one by one"])
def made(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Makes rigs, and looks at the end that nothing is held."""
    if request.param == "one by one":
        monkeypatch.setattr(host_udp, "can_segment", lambda: False)
        monkeypatch.setattr(host_udp, "can_receive_many", lambda: False)
    rigs: list[Rig] = []

    def make(policy: EgressPolicy | None = None) -> Rig:
        rigs.append(Rig(policy or EgressPolicy()))
        return rigs[-1]

    yield make
    for one in rigs:
        one.udp.close_all()
        one.filler.retire()
        for sock in one.servers:
            sock.close()
        assert (one.cones.flows, one.cones.cones, one.callbacks, one.udp.ready) == ({}, {}, {}, {})
        assert one.pool.refs_out == 0
        assert one.pool.audit() is None


@pytest.fixture
def rig(made: Any) -> Rig:
    one: Rig = made()
    return one


def test_all_remotes_see_one_address_of_a_guests_port(rig: Rig) -> None:
    one, other = rig.server(HOST), rig.server(SECOND)
    rig.send(1, place(HOST, one), b"a")
    rig.send(2, place(SECOND, other), b"b")
    (payload, seen), (_, seen_by_other) = one.recvfrom(10), other.recvfrom(10)
    assert payload == b"a"
    assert seen[1] == seen_by_other[1]
    rig.send(3, place(HOST, one), b"c", port=PORT + 1)
    assert one.recvfrom(10)[1][1] != seen[1]
    assert len(rig.cones.cones) == 2


def test_an_answer_from_another_port_and_another_host_reaches_the_guest_with_its_source(rig: Rig) -> None:
    one, other_port, other_host = rig.server(), rig.server(), rig.server(SECOND)
    rig.send(1, place(HOST, one), b"request")
    _, seen = one.recvfrom(10)
    other_port.sendto(b"data", seen)
    other_host.sendto(b"more", seen)
    one.sendto(b"own", seen)
    assert rig.datagrams() == [
        (*place(HOST, other_port), PORT, b"data"),
        (*place(SECOND, other_host), PORT, b"more"),
        (*place(HOST, one), PORT, b"own"),
    ]


def test_strangers_do_not_renew_a_flow_and_remotes_do(rig: Rig) -> None:
    one, stranger = rig.server(), rig.server()
    rig.send(1, place(HOST, one), b"request")
    _, seen = one.recvfrom(10)
    for sock, told in ((stranger, []), (one, [1])):
        before = len(rig.records)
        sock.sendto(b"x", seen)
        rig.datagrams()
        assert [r.flow for r in rig.records[before:] if r.kind == d.UDP_ANSWERED] == told


def test_runs_of_several_remotes_keep_order_and_bounds(rig: Rig) -> None:
    socks = [rig.server(), rig.server(SECOND), rig.server()]
    rig.send(1, place(HOST, socks[0]), b"request")
    _, seen = socks[0].recvfrom(10)
    lengths = [100, 100, 100, 30, 1400, 1400, 0, 0, 5, 9000, 20000, 3, 3, 1400]
    sent = []
    for number, length in enumerate(lengths * 3):
        index = (number // 2) % 3
        payload = bytes([number]) * length
        socks[index].sendto(payload, seen)
        sent.append((*place(SECOND if index == 1 else HOST, socks[index]), PORT, payload))
    assert rig.datagrams() == sent


def test_a_run_of_the_guest_arrives_as_the_datagrams_it_is_made_of(rig: Rig) -> None:
    one = rig.server()
    sent = [bytes([number]) * 1400 for number in range(20)] + [b"end"]
    rig.send(1, place(HOST, one), *sent)
    assert [one.recv(2000) for _ in sent] == sent
    assert rig.count("egress_datagrams_to_host") == 21
    rig.send(1, place(HOST, one), b"")
    assert one.recv(2000) == b""


def test_steered_datagrams_find_the_flow_and_open_none(rig: Rig) -> None:
    one = rig.server()
    rig.send(1, place(HOST, one), b"early", steered=True)
    assert rig.count("egress_datagram_dropped_no_socket") == 1
    assert not rig.cones.cones
    rig.send(1, place(HOST, one), b"first")
    rig.send(1, place(HOST, one), b"then", steered=True)
    assert [one.recv(10), one.recv(10)] == [b"first", b"then"]


def test_the_socket_is_open_as_long_as_one_flow(rig: Rig) -> None:
    one, other = rig.server(), rig.server()
    rig.send(1, place(HOST, one), b"a")
    rig.send(2, place(HOST, other), b"b")
    _, seen = one.recvfrom(10)
    rig.udp.close(1)
    one.sendto(b"still", seen)
    assert rig.datagrams() == [(*place(HOST, one), PORT, b"still")]
    rig.udp.close(2)
    assert not rig.callbacks
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect(seen)
        probe.send(b"late")
        with pytest.raises(ConnectionRefusedError):
            probe.recv(10)


def test_what_the_guest_could_not_reach_does_not_reach_it(rig: Rig) -> None:
    one = rig.server()
    rig.send(1, place(HOST, one), b"request")
    _, seen = one.recvfrom(10)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.3", 0))
        sock.sendto(b"from a loopback address that has no other name", seen)
    assert rig.datagrams() == []
    assert rig.count("egress_datagram_dropped_foreign_source") == 1


POLICIES = [
    EgressPolicy("deny", (PolicyRule("allow", networks=("192.168.127.254/32",)),)),
    EgressPolicy("allow", (PolicyRule("deny", networks=("192.168.127.253/32",)),)),
]


@pytest.mark.parametrize("policy", POLICIES)
def test_a_stranger_that_the_policy_forbids_is_dropped_and_counted(made: Any, policy: EgressPolicy) -> None:
    rig = made(policy)
    one, allowed, forbidden = rig.server(), rig.server(), rig.server(SECOND)
    rig.send(1, place(HOST, one), b"request")
    _, seen = one.recvfrom(10)
    for sock in (forbidden, allowed, forbidden):
        sock.sendto(b"x", seen)
    assert rig.datagrams() == [(*place(HOST, allowed), PORT, b"x")]
    assert rig.count("egress_datagram_dropped_policy") == 2
    assert rig.count("egress_flow_refused_policy") == 0


def test_what_the_policy_forbids_the_guest_to_send_is_refused_and_opens_no_socket(made: Any) -> None:
    rig = made(POLICIES[1])
    rig.send(7, (SECOND, 9), b"x")
    unreachable, closed = rig.records
    assert (unreachable.kind, unreachable.aux & 0xFF) == (d.UNREACHABLE, icmp.ADMINISTRATIVELY_PROHIBITED)
    assert (closed.kind, closed.flow) == (d.UDP_CLOSE, 7)
    assert not rig.cones.cones


@pytest.mark.skipif(not hasattr(socket, "MSG_ERRQUEUE"), reason="no error queue here")
def test_a_closed_port_is_told_to_the_guest_and_the_others_lose_nothing(rig: Rig) -> None:
    one, gone = rig.server(), rig.server(SECOND)
    where = place(SECOND, gone)
    gone.close()
    rig.send(1, place(HOST, one), b"first")
    _, seen = one.recvfrom(10)
    for number in range(5):
        rig.send(2, where, b"x")
        # The error of that one is pending when the next is sent, to somebody else.
        rig.send(1, place(HOST, one), b"%d" % number)
        assert one.recv(10) == b"%d" % number
    told = [record for record in (*rig.records, *rig.read()) if record.kind == d.UNREACHABLE]
    assert {(r.remote_addr, r.ports & 0xFFFF, r.ports >> 16, r.aux & 0xFF) for r in told} == {
        (*where, PORT, icmp.PORT_UNREACHABLE)
    }
    # Nothing ends by it, and the address that others see stays.
    assert set(rig.cones.flows) == {1, 2}
    rig.send(1, place(HOST, one), b"last")
    assert one.recvfrom(10) == (b"last", seen)


@pytest.mark.skipif(not hasattr(socket, "MSG_ERRQUEUE"), reason="no error queue here")
def test_an_error_that_nothing_follows_is_told_when_it_comes(rig: Rig) -> None:
    gone = rig.server()
    where = place(HOST, gone)
    gone.close()
    rig.send(1, where, b"x")
    wait_for(lambda: [record for record in rig.read() if record.kind == d.UNREACHABLE], "the error")


def test_what_the_host_cannot_send_is_told_to_the_guest(rig: Rig) -> None:
    def refuse(*_: Any) -> int:
        raise host_udp.SendError(OSError(errno.ENETUNREACH, "Network is unreachable"), 0)

    sender: Any = SimpleNamespace(send=refuse)
    rig.cones.sender = sender
    rig.send(1, (HOST, 9), b"x", b"y")
    assert [(record.kind, record.aux & 0xFF) for record in rig.records] == [
        (d.UNREACHABLE, icmp.NET_UNREACHABLE)
    ]
    assert rig.count("egress_datagram_dropped_send_failed") == 2


def test_at_the_limit_of_descriptors_the_port_idle_for_longest_makes_room(rig: Rig) -> None:
    one = rig.server()
    assert rig.udp.bound is not None
    rig.udp.bound.limit = 1
    rig.send(1, place(HOST, one), b"a")
    rig.send(2, place(SECOND, rig.server(SECOND)), b"b")
    assert set(rig.cones.flows) == {1, 2}, "flows of one port need one descriptor"
    rig.send(3, place(HOST, one), b"c", port=PORT + 1)
    assert set(rig.cones.flows) == {3}
    assert [r.flow for r in rig.records if r.kind == d.UDP_CLOSE] == [1, 2]
    assert rig.count("egress_flow_evicted_too_many_sockets") == 1
    assert rig.count("egress_flow_refused_too_many_sockets") == 0


def test_questions_to_a_name_server_are_answered_by_way_of_demux(rig: Rig) -> None:
    one = rig.server()
    rig.send(1, place(HOST, one), b"q")
    flow = next(iter(rig.cones.flows.values()))
    flow.past_demux = False
    one.sendto(b"answer", one.recvfrom(10)[1])
    (record,) = rig.read()
    assert (record.kind, record.flow, record.length) == (d.UDP_DATA, 1, 6)
    rig.pool.unref(record.slot)
