"""Ping sockets of the egress worker over sockets that stand for ICMP ones: bounds, time-outs, refusals."""

import errno
import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from time import monotonic
from typing import Any

import pytest
import structlog

from pipeline.config import merge, options
from pipeline.config.model import EgressPolicy, PolicyRule
from pipeline.counters import INDEX
from pipeline.engines import nat
from pipeline.go import flags
from pipeline.host import icmp as host_icmp
from pipeline.ipc.fabric import Fabric
from pipeline.ipc.flow_rows import CLOSED, OPENED, REFUSED
from pipeline.records import kinds
from pipeline.records.icmp import EchoError, EchoRequest
from pipeline.stages.egress import icmp as egress_icmp
from pipeline.stages.egress.context import EgressContext
from pipeline.stages.egress.icmp import FIRST_NUMBER, IDLE, EchoSockets
from pipeline.stages.egress.policy_filter import PolicyFilter
from pipeline.topology import Layout
from pipeline.wire import icmp, ip
from tests.support.flow_reports import ALL, Wanted
from tests.support.layouts import decode
from tests.support.poller import Poller

GUEST = ip.parse_ipv4("192.168.127.2")
TARGET = ip.parse_ipv4("203.0.113.9")


class FakeWorker(Poller):
    """What EchoSockets sees of a worker."""

    def __init__(self) -> None:
        super().__init__()
        self.ports = Fabric.create(Layout(slots=64)).ports("egress0")
        pool = self.ports.pool
        assert pool is not None
        self.pool = pool
        self.counts = self.ports.counters.counts
        self.log = structlog.get_logger()
        self.events = Wanted(*ALL)
        self.freed: list[int] = []

    def free(self, slot: int, tag: int = 0) -> None:
        self.freed.append(slot)


class Rig:
    """The sockets, and the far end of each one opened."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, policy: str = "") -> None:
        path = tmp_path / "config.yaml"
        path.write_text(policy)
        words = ["-config", str(path)]
        config = merge.build(flags.parse(options.START, words), words, resolv_conf=os.devnull)[0]
        self.worker = FakeWorker()
        self.far: list[socket.socket] = []
        self.paths: list[tuple[int, bool]] = []
        self.error: OSError | None = None
        monkeypatch.setattr(host_icmp, "open_echo", self.open)
        monkeypatch.setattr(host_icmp, "set_path", self.set_path)
        self.ring = self.worker.ports.rings_out["demux"]
        self.pool = self.worker.pool
        worker: Any = self.worker
        policy = PolicyFilter(worker, config.access.egress_policy)
        targets = nat.Nat(config.network)
        self.context = EgressContext(worker, targets, policy, config.workers.tcp_workers)
        self.echo = EchoSockets(self.context)

    def open(self, address: str, outbound: object) -> socket.socket:
        assert address
        assert outbound is None
        if self.error is not None:
            raise self.error
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        ours.setblocking(False)
        theirs.setblocking(False)
        self.far.append(theirs)
        return ours

    def set_path(self, _sock: socket.socket, ttl: int, *, dont_fragment: bool) -> None:
        self.paths.append((ttl, dont_fragment))

    def ping(
        self,
        ident: int = 1,
        seq: int = 1,
        *,
        hops: int = 63,
        whole: bool = False,
        remote: int = TARGET,
        guest: int = GUEST,
    ) -> None:
        """whole: with the don't-fragment bit."""
        slot = self.pool.alloc()
        message = icmp.build_echo(icmp.ECHO_REQUEST, ident, seq, b"payload")
        self.worker.ports.arena.slots[slot][500 : 500 + len(message)] = message
        request = EchoRequest(
            slot=slot, off=500, length=len(message), guest_addr=guest, remote_addr=remote, identifier=ident,
            sequence=seq, hops_left=hops, dont_fragment=whole, link=1,
        )  # fmt: skip
        self.echo.to_host(request)
        assert self.worker.freed.pop() == slot
        self.pool.unref(slot)

    def replies(self) -> list[Any]:
        """The records of replies for guests; there are no others."""
        assert {record[0] for record in self.ring.queue} <= {kinds.ICMP_REPLY}
        found = [decode(record) for record in self.ring.queue]
        self.ring.queue.clear()
        return found

    def count(self, name: str) -> int:
        return int(self.worker.counts[INDEX[name]])


@pytest.fixture
def make(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Callable[..., Rig]]:
    made: list[Rig] = []

    def rig(policy: str = "") -> Rig:
        made.append(Rig(monkeypatch, tmp_path, policy))
        return made[-1]

    yield rig
    for each in made:
        each.echo.close()
        assert len(each.context.bound) == 0
        assert each.worker.callbacks == {}
        each.worker.close()
        for sock in each.far:
            sock.close()


def test_a_pinger_has_one_socket_and_its_answers_carry_its_own_number(make: Callable[..., Rig]) -> None:
    rig = make()
    rig.ping(ident=7, seq=1)
    rig.ping(ident=7, seq=2)
    assert len(rig.far) == 1
    assert rig.far[0].recv(1000)[6:] == b"\0\x01payload"
    # The kernel would have put an identifier of its own there.
    rig.far[0].send(icmp.build_echo(icmp.ECHO_REPLY, 999, 2, b"payload"))
    rig.worker.run(0)
    (reply,) = rig.replies()
    assert (reply.guest_addr, reply.remote_addr, reply.identifier, reply.sequence) == (GUEST, TARGET, 7, 2)
    rig.pool.unref(reply.slot)


def test_pingers_are_told_apart_by_us_where_the_system_does_not(
    make: Callable[..., Rig], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(host_icmp, "OWN_IDENT", False)
    rig = make()
    rig.ping(ident=7, seq=1)
    rig.ping(ident=7, seq=1, guest=GUEST + 1)
    requests = [far.recv(1000) for far in rig.far]
    idents = [int.from_bytes(request[4:6], "big") for request in requests]
    assert len({0, *idents}) == 3
    assert requests == [icmp.build_echo(icmp.ECHO_REQUEST, ident, 1, b"payload") for ident in idents]
    # Each socket hears of both replies, one with the IP header before it.
    for far in rig.far:
        far.send(icmp.build_echo(icmp.ECHO_REPLY, idents[0], 1, b"payload"))
        far.send(b"\x45" + bytes(19) + icmp.build_echo(icmp.ECHO_REPLY, idents[1], 1, b"payload"))
    rig.worker.run(0)
    replies = rig.replies()
    assert {reply.guest_addr for reply in replies} == {GUEST, GUEST + 1}
    assert [(reply.identifier, reply.sequence) for reply in replies] == [(7, 1)] * 2
    for reply in replies:
        message = bytes(rig.worker.ports.arena.slots[reply.slot][reply.off : reply.off + reply.length])
        assert (message[0], message[6:]) == (icmp.ECHO_REPLY, b"\0\x01payload")
        rig.pool.unref(reply.slot)


def test_hops_and_the_dont_fragment_bit_are_set_when_they_change(make: Callable[..., Rig]) -> None:
    rig = make()
    for hops, whole in ((63, False), (63, False), (1, False), (1, True)):
        rig.ping(hops=hops, whole=whole)
    assert rig.paths == [(63, False), (1, False), (1, True)]


def test_the_number_of_sockets_is_bounded_and_the_oldest_goes(
    make: Callable[..., Rig], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(egress_icmp, "MAX_FLOWS", 3)
    rig = make()
    for ident in (1, 2, 3):
        rig.ping(ident=ident)
    rig.ping(ident=1, seq=2)
    rig.ping(ident=4)
    assert [key[1] for key in rig.echo.flows] == [3, 1, 4]
    assert (rig.count("icmp_echo_flow_evicted"), rig.count("icmp_echo_flows")) == (1, 3)


def test_a_guest_at_its_bound_loses_its_own_socket(
    make: Callable[..., Rig], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(egress_icmp, "MAX_FLOWS_PER_GUEST", 2)
    rig = make()
    rig.ping(ident=9, guest=GUEST + 1)
    for ident in (1, 2, 3):
        rig.ping(ident=ident)
    assert list(rig.echo.flows) == [(GUEST + 1, 9, TARGET), (GUEST, 2, TARGET), (GUEST, 3, TARGET)]


def test_an_idle_socket_is_closed(make: Callable[..., Rig]) -> None:
    rig = make()
    assert rig.echo.deadline() == float("inf")
    rig.ping()
    assert rig.echo.deadline() <= monotonic() + egress_icmp.IDLE
    rig.echo.expire(monotonic() + 1)
    assert len(rig.echo.flows) == 1
    rig.echo.expire(monotonic() + egress_icmp.IDLE)
    assert len(rig.echo.flows) == 0


def test_what_is_no_reply_and_what_finds_no_slot_is_dropped(make: Callable[..., Rig]) -> None:
    rig = make()
    rig.ping()
    for data in (b"", b"short", icmp.build_echo(icmp.ECHO_REQUEST, 1, 1, b"x")):
        rig.far[0].send(data)
    rig.worker.run(0)
    assert rig.replies() == []
    rig.context.filler.retire()
    taken = []
    while (slot := rig.pool.alloc()) != kinds.NO_SLOT:
        taken.append(slot)
    rig.far[0].send(icmp.build_echo(icmp.ECHO_REPLY, 1, 1, b"x"))
    rig.worker.run(0)
    assert rig.replies() == []
    assert rig.count("icmp_reply_dropped_no_room") == 1
    for slot in taken:
        rig.pool.unref(slot)


@pytest.mark.parametrize(
    ("number", "counter"),
    [
        (errno.EACCES, "icmp_echo_dropped_not_permitted"),
        (errno.EPROTONOSUPPORT, "icmp_echo_dropped_not_permitted"),
        (errno.ENETUNREACH, "icmp_echo_dropped_send_failed"),
        (errno.EMFILE, "icmp_echo_dropped_send_failed"),
    ],
)
def test_a_socket_that_cannot_be_made_is_counted_by_its_cause(
    make: Callable[..., Rig], number: int, counter: str
) -> None:
    rig = make()
    rig.error = OSError(number, "no")
    rig.ping()
    rig.ping()
    assert rig.count(counter) == 2
    # Allowed later, it works without a restart.
    rig.error = None
    rig.ping()
    assert rig.count("icmp_echo_forwarded") == 1


def test_the_policy_and_the_address_rules_hold_for_pings(make: Callable[..., Rig]) -> None:
    rig = make("egress-policy: {rules: [{action: deny, networks: [203.0.113.0/24], protocols: [icmp]}]}")
    rig.ping()
    assert rig.count("egress_flow_refused_policy") == 1
    rig.ping(remote=ip.parse_ipv4("127.0.0.2"))
    assert rig.count("nat_flow_refused_loopback") == 1
    rig.ping(remote=ip.parse_ipv4("198.51.100.1"))
    assert rig.count("icmp_echo_forwarded") == 1


def test_a_new_policy_ends_the_pings_that_it_forbids(make: Callable[..., Rig]) -> None:
    rig = make()
    rig.ping()
    rig.ping(remote=ip.parse_ipv4("198.51.100.1"))
    rule = PolicyRule("deny", networks=("203.0.113.0/24",), protocols=("icmp",))
    rig.context.policy.replace(EgressPolicy("allow", (rule,)))
    assert rig.echo.end_forbidden() == 1
    assert [key[2] for key in rig.echo.flows] == [ip.parse_ipv4("198.51.100.1")]
    assert rig.count("egress_flow_closed_policy") == 1


def test_pings_are_a_flow_from_the_first_to_idleness(make: Callable[..., Rig]) -> None:
    rig = make()
    rig.ping(ident=7, seq=1)
    rig.ping(ident=7, seq=2)
    ((kind, opened),) = rig.worker.events.got
    assert (kind, opened.flow.protocol, opened.flow.guest_port) == (OPENED, "icmp", 7)
    assert opened.flow.address == ip.text(TARGET)
    (flow,) = rig.echo.flows.values()
    row = flow.row(flow.traffic.last_at + 1.0)
    assert (row.packets_from_guest, row.bytes_from_guest, row.idle, row.state) == (2, 30, 1.0, "open")
    rig.echo.expire(flow.traffic.last_at + IDLE)
    kind, closed = rig.worker.events.got[-1]
    assert (kind, closed.ended_by, closed.reason) == (CLOSED, "gateway", "idle")
    assert closed.flow.number == opened.flow.number >= FIRST_NUMBER


def test_a_refused_ping_names_its_rule(make: Callable[..., Rig]) -> None:
    rig = make("egress-policy: {default: deny}")
    rig.ping(ident=7, seq=1)
    ((kind, refused),) = rig.worker.events.got
    assert (kind, refused.rule, refused.reason) == (REFUSED, "egress-policy.default", "policy")


def test_the_guest_learns_that_the_policy_refuses_its_ping(make: Callable[..., Rig]) -> None:
    rig = make("egress-policy: {default: deny}")
    rig.ping(ident=7, seq=5)
    (record,) = rig.ring.queue
    error = EchoError.unpack(memoryview(record), 0)
    assert (error.type, error.code) == (icmp.UNREACHABLE, icmp.ADMINISTRATIVELY_PROHIBITED)
    assert (error.guest_addr, error.remote_addr) == (GUEST, TARGET)
    assert (error.identifier, error.sequence, error.offender, error.mtu) == (7, 5, 0, 0)
    assert rig.count("icmp_error_forwarded") == 0
