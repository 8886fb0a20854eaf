"""Flows that wait until they state a name: what the host gets, what stays in slots, and how a wait ends."""

import socket
from collections.abc import Iterator

import pytest

from pipeline.config.model import EgressPolicy, PolicyRule
from pipeline.engines.rules import number_of
from pipeline.engines.stated.requests import Judge, Requests
from pipeline.records import kinds
from pipeline.records.flows import flow_key
from pipeline.records.run import Run
from pipeline.records.services import Named
from pipeline.records.udp import UdpData
from pipeline.stages.egress.tcp import holds as tcp_holds
from pipeline.stages.egress.tcp import requests as tcp_requests
from pipeline.stages.egress.udp import holds as udp_holds
from tests.stages.egress.test_alone import Egress
from tests.support import hellos
from tests.support.one_process import OneProcess
from tests.support.played_guests import GATEWAY, HOST

GUEST = GATEWAY + 1
GOOD, BAD = hellos.hello("a.test"), hellos.hello("b.test")
ANY_PORT = ((0, 65535),)


class Held(Egress):
    """Egress with a policy: the guest may reach a.test, which is the host, and must state it anywhere."""

    def __init__(self, policy: EgressPolicy) -> None:
        OneProcess.__init__(self, ("egress",), egress_policy=policy)
        self.tcp, self.demux = self.neighbours["tcp0"], self.neighbours["demux"]
        self.stage = self.stages["egress0"]
        self.pool = self.workers["egress0"].pool
        self.listener = self.keep(socket.create_server(("127.0.0.1", 0)))
        self.udp = self.udp_server()
        self.demux.push("egress0", Named.pack(GUEST, HOST, number_of("a.test"), 100_000))
        self.settle()

    def open(self, number: int) -> socket.socket:
        host = super().open(number)
        host.setblocking(False)
        return host

    def got(self, host: socket.socket) -> bytes:
        """What the host has received."""
        self.settle()
        try:
            return host.recv(1 << 20)
        except BlockingIOError:
            return b""

    def ended(self, number: int) -> bool:
        """Whether tcp was told that the policy forbids the connection."""
        return number in [record.flow for record in self.tcp.take(kinds.FORBIDDEN)]

    def send(self, *datagrams: bytes, flow: int = 1) -> None:
        key = flow_key(GUEST, 5000 + flow, HOST, self.udp.getsockname()[1])
        for datagram in datagrams:
            run = Run(self.demux.fill(datagram), 256, len(datagram), 0, len(datagram))
            self.demux.push("egress0", UdpData.pack(flow, key, run, link=1))
        self.settle()

    def received(self) -> list[bytes]:
        found = []
        while True:
            try:
                found.append(self.udp.recv(65536))
            except BlockingIOError:
                return found

    def close_udp(self) -> list[int]:
        """The flows that egress has ended."""
        return [record.flow for record in self.demux.take(kinds.UDP_CLOSE)]


def rule(**options: object) -> EgressPolicy:
    made = PolicyRule("allow", names=("a.test",), stated_ports=ANY_PORT)
    return EgressPolicy("deny", (made,), **options)  # type: ignore[arg-type]


@pytest.fixture
def egress() -> Iterator[Held]:
    with Held(rule()) as made:
        yield made
        made.at_home()


# --- connections ------------------------------------------------------------------------------


def test_bytes_wait_for_the_name_and_then_go_on_from_their_slots(egress: Held) -> None:
    host = egress.open(1)
    egress.to_host(1, GOOD + b"more")
    assert egress.got(host) == GOOD + b"more"
    egress.to_host(1, b"after")
    assert egress.got(host) == b"after"
    assert sum(record.fields.count for record in egress.tcp.take(kinds.TAKEN)) == len(GOOD) + 9
    assert egress.kept("held_flows") == 0
    egress.notify(kinds.ABORT, 1)


def test_a_hello_in_pieces_keeps_no_slot(egress: Held) -> None:
    host = egress.open(1)
    for at in range(len(GOOD) - 1):
        egress.to_host(1, GOOD[at : at + 1])
        if not at % 20:
            assert egress.got(host) == b""
            assert egress.out() == 0
    assert egress.kept("held_flows") == 1
    egress.to_host(1, GOOD[-1:] + b"more")
    assert egress.got(host) == GOOD + b"more"
    egress.notify(kinds.ABORT, 1)


def test_another_name_resets_both_ends_before_a_byte_has_left(egress: Held) -> None:
    host = egress.open(1)
    egress.to_host(1, BAD)
    egress.settle()
    assert egress.ended(1)
    with pytest.raises(ConnectionResetError):
        host.recv(1)
    assert egress.out() == 0
    assert egress.counter("egress0", "egress_flow_refused_stated_name") == 1
    assert egress.counter("egress0", "egress_flow_refused_policy") == 1
    assert egress.counter("egress0", "egress_bytes_to_host") == 0


def test_a_server_that_speaks_first_is_heard(egress: Held) -> None:
    host = egress.open(1)
    host.send(b"220 ready\r\n")
    egress.settle()
    assert [record.length for record in egress.tcp.take(kinds.TO_GUEST)] == [11]
    egress.to_host(1, b"EHLO me\r\n")
    egress.settle()
    assert egress.ended(1), "this port needs a name"


def test_a_guest_that_says_nothing_may_wait_and_one_that_stops_may_not(egress: Held) -> None:
    egress.open(1)
    host = egress.open(2)
    egress.advance(10 * tcp_holds.HOLD_S)
    egress.to_host(2, GOOD[:30])
    egress.advance(tcp_holds.HOLD_S - 0.1)
    assert not egress.ended(2)
    egress.advance(0.2)
    assert egress.ended(2)
    assert egress.kept("flows") == 1
    with pytest.raises(ConnectionResetError):
        host.recv(1)
    egress.notify(kinds.ABORT, 1)


def test_a_fin_ends_the_wait(egress: Held) -> None:
    good, bad = egress.open(1), egress.open(2)
    egress.to_host(1, GOOD)
    egress.notify(kinds.SHUTDOWN, 1)
    assert egress.got(good) == GOOD
    assert egress.got(good) == b"", "the FIN follows"
    egress.to_host(2, GOOD[:-1])
    egress.notify(kinds.SHUTDOWN, 2)
    egress.settle()
    assert egress.ended(2)
    with pytest.raises(ConnectionResetError):
        bad.recv(1)
    egress.notify(kinds.ABORT, 1)


def test_a_guest_that_ends_without_a_byte_has_done_nothing_wrong(egress: Held) -> None:
    host = egress.open(1)
    egress.notify(kinds.SHUTDOWN, 1)
    egress.settle()
    assert host.recv(1) == b"", "the FIN"
    assert not egress.ended(1)
    assert egress.counter("egress0", "egress_flow_refused_policy") == 0
    egress.notify(kinds.ABORT, 1)


def test_a_connection_that_ends_at_once_still_delivers_what_it_may(egress: Held) -> None:
    host = egress.open(1)
    egress.to_host(1, GOOD)
    egress.notify(kinds.SHUTDOWN, 1)
    egress.notify(kinds.CLOSED, 1)
    assert egress.got(host) == GOOD
    other = egress.open(2)
    egress.to_host(2, BAD)
    egress.notify(kinds.ABORT, 2)
    egress.settle()
    with pytest.raises(ConnectionResetError):
        other.recv(1)
    host.close()
    egress.settle()


def test_bytes_of_all_waiting_connections_have_a_bound(egress: Held, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tcp_holds, "MAX_HELD", 100)
    for number in (1, 2, 3):
        egress.open(number)
        egress.to_host(number, GOOD[:40])
        egress.settle()
    assert egress.ended(1)
    assert egress.kept("held_flows") == 2
    for number in (2, 3):
        egress.notify(kinds.ABORT, number)


def test_a_new_policy_ends_a_flow_that_has_stated_another_name() -> None:
    rules = (PolicyRule("allow", names=("a.test", "b.test"), stated_ports=ANY_PORT),)
    with Held(EgressPolicy("deny", rules)) as egress:
        for number, data in ((1, GOOD), (2, BAD)):
            host = egress.open(number)
            egress.to_host(number, data)
            assert egress.got(host) == data
        egress.stage.context.policy.replace(rule())
        assert egress.stage.connections.end_forbidden() == 1
        egress.settle()
        assert egress.ended(2)
        egress.notify(kinds.ABORT, 1)
        egress.at_home()


# --- datagrams --------------------------------------------------------------------------------

HELLO = hellos.message([hellos.server_name(b"a.test"), hellos.POST_QUANTUM])
PARTS = [hellos.initial(hellos.crypto(700, HELLO[700:]), 1), hellos.initial(hellos.crypto(0, HELLO[:700]))]
OTHER = hellos.initial(hellos.crypto(0, hellos.message([hellos.server_name(b"b.test")])))


def test_datagrams_wait_for_the_name_and_then_go_in_their_order(egress: Held) -> None:
    egress.send(PARTS[0])
    assert egress.received() == []
    assert egress.kept("held_udp_flows") == 1
    egress.send(PARTS[1], b"later")
    assert egress.received() == [*PARTS, b"later"]
    assert egress.kept("udp_flows") == 1
    egress.stage.udp.close(1)


def test_datagrams_with_another_name_or_none_go_nowhere(egress: Held) -> None:
    egress.send(OTHER)
    egress.send(b"no QUIC", flow=2)
    assert egress.received() == []
    assert egress.close_udp() == [1, 2]
    assert egress.counter("egress0", "egress_datagram_dropped_held") == 2
    assert egress.out() == 0


def test_a_flow_that_never_states_a_name_is_given_up(egress: Held) -> None:
    for _ in range(udp_holds.MAX_DATAGRAMS + 2):
        egress.send(PARTS[0])
    assert egress.kept("held_udp_flows") == 1
    egress.advance(udp_holds.HOLD_S + 0.1)
    assert egress.close_udp() == [1]
    assert egress.received() == []


def test_waiting_flows_have_a_bound(egress: Held, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(udp_holds, "MAX_FLOWS", 2)
    for flow in (1, 2, 3):
        egress.send(PARTS[0], flow=flow)
    assert egress.close_udp() == [1]
    assert egress.kept("held_udp_flows") == 2
    egress.stage.udp.close(2)
    egress.stage.udp.close(3)


def test_quic_may_be_denied_at_once() -> None:
    with Held(rule(quic="deny")) as egress:
        egress.send(*PARTS)
        assert egress.received() == []
        assert 1 in egress.close_udp()
        egress.at_home()


def test_a_hello_with_ech_may_be_denied() -> None:
    hello = hellos.hello("a.test", extensions=[hellos.ECH])
    for ech, allowed in (("allow", True), ("remove", True), ("deny", False)):
        with Held(rule(ech=ech)) as egress:
            host = egress.open(1)
            egress.to_host(1, hello)
            egress.settle()
            assert egress.ended(1) is not allowed
            if allowed:
                assert egress.got(host) == hello
                egress.notify(kinds.ABORT, 1)
            egress.at_home()


# --- further requests of HTTP/1 ------------------------------------------------------------------

GET, OTHER_GET = (b"GET / HTTP/1.1\r\nHost: %s\r\n\r\n" % name for name in (b"a.test", b"b.test"))
POST = b"POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 100000\r\n\r\n"


def test_a_further_request_with_another_host_ends_the_connection_before_it_leaves(egress: Held) -> None:
    host = egress.open(1)
    for _ in range(3):
        egress.to_host(1, GET)
        assert egress.got(host) == GET
    egress.to_host(1, GET + OTHER_GET)
    egress.settle()
    assert egress.ended(1)
    with pytest.raises(ConnectionResetError):
        host.recv(100)
    assert egress.counter("egress0", "egress_flow_refused_stated_name") == 1


def test_pipelined_requests_are_judged_each(egress: Held) -> None:
    host = egress.open(1)
    egress.to_host(1, GET + OTHER_GET)
    egress.settle()
    assert egress.ended(1)
    with pytest.raises(ConnectionResetError):
        host.recv(100)


def test_a_head_in_two_segments_waits_and_a_body_passes(egress: Held) -> None:
    host = egress.open(1)
    egress.to_host(1, POST + b"x" * 30_000)
    assert egress.got(host) == POST + b"x" * 30_000
    for _ in range(2):
        egress.to_host(1, b"y" * 35_000)
        assert len(egress.got(host)) == 35_000
    egress.to_host(1, GET[:20])
    assert egress.got(host) == b""
    egress.to_host(1, GET[20:])
    assert egress.got(host) == GET
    assert egress.out() == 0
    egress.notify(kinds.ABORT, 1)


def test_the_rest_of_a_head_must_come_in_time(egress: Held) -> None:
    host = egress.open(1)
    egress.to_host(1, GET + GET[:20])
    assert egress.got(host) == GET
    egress.advance(tcp_holds.HOLD_S + 0.1)
    assert egress.ended(1)
    assert egress.kept("held_flows") == 0


def test_requests_that_come_one_after_the_other_have_time_each(egress: Held) -> None:
    host = egress.open(1)
    egress.to_host(1, GET + GET[:20])
    assert egress.got(host) == GET
    for _ in range(4):
        egress.advance(tcp_holds.HOLD_S / 2)
        egress.to_host(1, GET[20:] + GET[:20])
        assert egress.got(host) == GET
    assert not egress.ended(1)
    egress.notify(kinds.ABORT, 1)


def test_a_guest_that_aborts_sends_nothing_that_was_not_judged(egress: Held) -> None:
    host = egress.open(1)
    egress.to_host(1, GET)
    assert egress.got(host) == GET
    egress.to_host(1, OTHER_GET)
    egress.notify(kinds.ABORT, 1)
    egress.settle()
    with pytest.raises(ConnectionResetError):
        host.recv(100)
    assert egress.out() == 0


def test_a_guest_that_closes_in_the_middle_of_a_head_ends_the_stream(egress: Held) -> None:
    host = egress.open(1)
    egress.to_host(1, GET + OTHER_GET[:20])
    egress.notify(kinds.SHUTDOWN, 1)
    egress.settle()
    assert egress.got(host) == GET
    assert host.recv(100) == b""
    egress.notify(kinds.ABORT, 1)


def test_an_empty_line_after_a_request_does_not_start_the_clock(egress: Held) -> None:
    host = egress.open(1)
    egress.to_host(1, GET + b"\r\n")
    assert egress.got(host) == GET + b"\r\n"
    egress.advance(2 * tcp_holds.HOLD_S)
    egress.to_host(1, GET)
    assert egress.got(host) == GET
    assert not egress.ended(1)
    egress.notify(kinds.ABORT, 1)


def test_what_waits_goes_on_in_the_end_if_the_policy_needs_no_name() -> None:
    with Held(
        EgressPolicy(
            "allow", (PolicyRule("deny", names=("b.test",), stated_ports=ANY_PORT), PolicyRule("allow"))
        )
    ) as egress:
        host = egress.open(1)
        upgrade = GET[:-2] + b"Upgrade: chat\r\n\r\n"
        egress.to_host(1, upgrade + b"a prompt")
        assert egress.got(host) == upgrade
        egress.advance(tcp_holds.HOLD_S + 0.1)
        assert egress.got(host) == b"a prompt"
        egress.to_host(1, b" and more")
        assert egress.got(host) == b" and more"
        assert egress.kept("held_flows") == 0
        egress.notify(kinds.ABORT, 1)
        egress.at_home()


def test_many_small_requests_do_not_keep_the_worker(egress: Held, monkeypatch: pytest.MonkeyPatch) -> None:
    looks: list[int] = []
    read = Requests.read

    def counted(self: Requests, data: bytes, judge: Judge, most: int) -> int:
        passed = read(self, data, judge, most)
        looks.append(self.looks)
        return passed

    monkeypatch.setattr(Requests, "read", counted)
    hosts = [egress.open(number) for number in (1, 2)]
    many = GET * 1500
    for number in (1, 2):
        egress.to_host(number, many)
        egress.notify(kinds.SHUTDOWN, number)
    egress.turn()
    assert 0 < sum(looks) <= tcp_requests.LOOKS_A_STEP + tcp_requests.LOOKS_AT_LEAST
    assert egress.stage.connections.deadline() == 0.0, "the rest has a step soon"
    for host in hosts:
        found = b""
        while part := egress.got(host):
            found += part
        assert found == many, "nothing is lost before the FIN"
        assert host.recv(1) == b"", "the FIN"
    assert egress.kept("needs_flush") == egress.kept("held_flows") == 0
    for number in (1, 2):
        egress.notify(kinds.ABORT, number)


@pytest.mark.parametrize("fields", [b"", b"Content-Length: 3\r\n"])
def test_a_request_without_a_name_hides_none_after_it(fields: bytes) -> None:
    rules = (PolicyRule("deny", names=("b.test",), stated_ports=ANY_PORT), PolicyRule("allow"))
    with Held(EgressPolicy("allow", rules)) as egress:
        host = egress.open(1)
        nameless = b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n" + fields + b"\r\n"
        nameless += b"{1}" if fields else b""
        egress.to_host(1, nameless)
        assert egress.got(host) == nameless
        egress.to_host(1, GET)
        assert egress.got(host) == GET
        egress.to_host(1, OTHER_GET)
        egress.settle()
        assert egress.ended(1)
        egress.at_home()


def test_a_turn_may_end_between_a_head_and_its_body(egress: Held) -> None:
    host = egress.open(1)
    egress.to_host(1, GET)
    assert egress.got(host) == GET
    search = b"GET / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 2\r\n\r\n"
    many = GET * (tcp_requests.LOOKS_A_FLOW - 4)
    for size in range(2):
        # What is read at once ends with the head, and two looks or one are left.
        rest = tcp_requests.WINDOW - len(many) - len(GET) * size - len(search)
        pads = [rest // 2, rest - rest // 2]
        padded = b"".join(GET[:-2] + b"X: " + b"x" * (pad - len(GET) - 5) + b"\r\n\r\n" for pad in pads)
        data = many + GET * size + padded + search
        assert len(data) == tcp_requests.WINDOW
        egress.to_host(1, data + b"{}")
        assert egress.got(host) == data + b"{}"
    egress.notify(kinds.ABORT, 1)
