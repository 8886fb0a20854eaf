"""Quotas in egress: what opens, what is refused, and what ends when the bytes are used up."""

import socket
from collections.abc import Iterator
from typing import Any

import pytest

from pipeline.config.model import EgressPolicy, Quota
from pipeline.host import icmp as host_icmp
from pipeline.ipc import policy_messages
from pipeline.records import kinds
from pipeline.records.flows import FlowNotice, flow_key
from pipeline.records.icmp import EchoRequest
from pipeline.records.run import Run
from pipeline.records.streams import GuestMoved
from pipeline.records.udp import UdpData
from pipeline.wire import icmp
from tests.stages.egress.test_alone import Egress
from tests.support.configured import changed
from tests.support.network import receive
from tests.support.one_process import OneProcess
from tests.support.played_guests import GATEWAY, HOST

RULE = "egress-policy.quotas[0]"


class Counted(Egress):
    """Egress with quotas."""

    def __init__(self, *quotas: Quota, nat: str = "symmetric") -> None:
        OneProcess.__init__(self, ("egress",), egress_policy=EgressPolicy(quotas=quotas), udp_nat=nat)
        self.tcp, self.demux = self.neighbours["tcp0"], self.neighbours["demux"]
        self.stage = self.stages["egress0"]
        self.pool = self.workers["egress0"].pool
        self.listener = self.keep(socket.create_server(("127.0.0.1", 0)))
        self.udp = self.udp_server()

    def count(self, *elsewhere: list[object]) -> list[list[object]]:
        """Exchange with the supervisor. Returns the rows of the answer."""
        ask = policy_messages.Count(list(elsewhere), []).encode()
        answer = self.stage.on_control(ask, [])
        return policy_messages.CountAnswer.decode(answer).rows

    def follow(self, *quotas: Quota) -> None:
        """Use other quotas."""
        self.stage.reload(changed(self.config, egress_policy=EgressPolicy(quotas=quotas)))
        self.settle()

    def send(self, number: int, server: socket.socket, payload: bytes, link: int) -> None:
        """A datagram of a guest on that link."""
        run = Run(self.demux.fill(payload), 256, len(payload), 0, len(payload))
        key = flow_key(GATEWAY + 1, 5000, HOST, server.getsockname()[1])
        self.demux.push("egress0", UdpData.pack(number, key, run, link=link))
        self.settle()

    def ping(self, link: int) -> None:
        """A guest on that link pings the host."""
        message = icmp.build_echo(icmp.ECHO_REQUEST, 7, 1, b"payload")
        request = EchoRequest(
            slot=self.demux.fill(message), off=256, length=len(message), guest_addr=GATEWAY + 1,
            remote_addr=HOST, identifier=7, sequence=1, hops_left=63, dont_fragment=False, link=link,
        )  # fmt: skip
        self.demux.push("egress0", request.pack())
        self.settle()

    def refused(self, number: int) -> bool:
        """Whether this connection is refused by a rule."""
        self.connect(number)
        self.settle()
        failed = self.tcp.take(kinds.CONNECT_FAILED)
        assert all(record.fields.refused for record in failed)
        return [record.flow for record in failed] == [number]

    def ended(self) -> list[int]:
        """The connections that were reset."""
        self.settle()
        return [record.flow for record in self.tcp.take(kinds.FORBIDDEN)]


@pytest.fixture
def made() -> Iterator[Any]:
    rigs: list[Counted] = []

    def make(*quotas: Quota, **options: str) -> Counted:
        rigs.append(Counted(*quotas, **options))
        return rigs[-1].__enter__()

    yield make
    for rig in rigs:
        rig.__exit__(None, None, None)


def sent(rig: Counted, host: socket.socket, number: int, up: bytes, down: bytes) -> None:
    """Both ends send, and the other ones receive."""
    if up:
        rig.to_host(number, up)
    rig.settle()
    host.setblocking(False)
    found = bytearray()
    receive(host, found)
    assert found == up
    host.sendall(down)
    rig.until(lambda: sum(record.length for record in rig.tcp.take(kinds.TO_GUEST)) == len(down) or not down)


def test_bytes_of_both_ways_are_counted_and_the_connection_is_reset_at_the_last_one(made: Any) -> None:
    rig = made(Quota(total_bytes=1000))
    host = rig.open(1)
    sent(rig, host, 1, b"a" * 300, b"b" * 600)
    assert rig.count() == [["life", "guest 1", [300, 600, 1, 0], [0]]]
    assert not rig.refused(2)
    other = rig.keep(rig.listener.accept()[0])
    rig.to_host(2, b"c" * 100)
    assert sorted(rig.ended()) == [1, 2]
    found = bytearray()
    for end in (host, other):
        end.setblocking(False)
        receive(end, found)
    assert found.endswith(b"!"), "reset"
    assert rig.refused(3)
    assert rig.counter("egress0", "egress_flow_refused_quota") == 1
    assert rig.counter("egress0", "egress_flow_refused_policy") == 1
    assert rig.counter("egress0", "egress_flow_closed_quota") == 2


def test_open_connections_go_on_if_the_quota_keeps_them(made: Any) -> None:
    rig = made(Quota(bytes_to_guest=10, open_flows="keep"))
    host = rig.open(1)
    sent(rig, host, 1, b"", b"b" * 5000)
    assert rig.ended() == []
    sent(rig, host, 1, b"more", b"of it")
    assert rig.refused(2)


def test_connections_and_datagrams_are_flows_alike(made: Any) -> None:
    rig = made(Quota(connections=2))
    host = rig.open(1)
    rig.datagram(b"hello")
    rig.settle()
    assert rig.count() == [["life", "guest 1", [5, 0, 2, 0], [0]]]
    assert rig.refused(2)
    assert rig.ended() == []
    sent(rig, host, 1, b"still", b"there")


def test_a_guest_with_used_up_bytes_opens_no_flow_of_datagrams(made: Any) -> None:
    rig = made(Quota(total_bytes=5))
    rig.datagram(b"hello")
    rig.settle()
    assert rig.udp.recv(100) == b"hello"
    assert rig.kept("udp_flows") == 0, "it was cut"
    rig.datagram(b"again")
    rig.settle()
    with pytest.raises(BlockingIOError):
        rig.udp.recv(100)
    assert rig.counter("egress0", "egress_flow_refused_quota") == 1


def test_what_others_have_counted_ends_open_connections_and_a_new_period_opens_others(made: Any) -> None:
    rig = made(Quota(per="day", bytes_from_guest=100))
    host = rig.open(1)
    sent(rig, host, 1, b"a" * 50, b"")
    rig.count(["day", "guest 1", [50, 0, 0, 0]])
    assert rig.ended() == [1]
    assert rig.refused(2)
    rig.count(["day", "guest 1", [-50, 0, -1, 0]])
    assert not rig.refused(3)


def test_quotas_that_come_later_hold_for_what_is_open(made: Any) -> None:
    rig = made()
    host = rig.open(1)
    sent(rig, host, 1, b"a" * 500, b"")
    rig.follow(Quota(total_bytes=100))
    assert rig.count() == [["life", "guest 1", [0, 0, 0, 0], [0]]], "what was before has no count"
    sent(rig, host, 1, b"a" * 99, b"")
    assert rig.ended() == []
    rig.follow(Quota(total_bytes=1000))
    sent(rig, host, 1, b"a" * 2, b"")
    assert rig.ended() == []
    rig.follow(Quota(total_bytes=100))
    assert rig.ended() == [1]
    rig.follow()
    assert not rig.refused(2)


def test_services_of_the_gateway_do_not_count(made: Any) -> None:
    rig = made(Quota(connections=1))
    rig.connect(1, port=53, remote=GATEWAY)
    rig.settle()
    assert [record.flow for record in rig.tcp.take(kinds.CONNECTED)] == [1]
    assert rig.count() == []
    rig.open(2)
    assert rig.refused(3)


# --- guests that come back ------------------------------------------------------------------------


def used(rig: Counted) -> dict[Any, Any]:
    return {subject: sums for _, subject, sums, _ in rig.count()}


def forget(rig: Counted, guest: str) -> None:
    """The supervisor says that a guest is gone."""
    rig.stage.on_control(policy_messages.Count([], [["life", guest]]).encode(), [])


def test_a_connection_that_moves_to_a_guest_with_a_quota_is_counted(made: Any) -> None:
    rig = made(Quota(guests=("link:2",), bytes_from_guest=100))
    rig.stage.context.policy.stations.learn(GATEWAY + 1, b"\2\0\0\0\0\1", 1)
    host = rig.open(1)
    sent(rig, host, 1, b"a" * 500, b"")
    assert rig.count() == []
    rig.stage.context.policy.stations.learn(GATEWAY + 1, b"\2\0\0\0\0\1", 2)
    rig.tcp.push("egress0", GuestMoved.pack(1, 2))
    sent(rig, host, 1, b"a" * 99, b"")
    assert used(rig) == {"link:2": [99, 0, 0, 0]}
    rig.to_host(1, b"a")
    assert rig.ended() == [1]


@pytest.mark.parametrize("nat", ["full-cone", "symmetric"])
def test_datagrams_of_a_guest_that_is_back_count_for_its_new_number(made: Any, nat: str) -> None:
    rig = made(Quota(total_bytes=1000), nat=nat)
    others = rig.udp_server()
    for number, server in ((1, rig.udp), (2, others)):
        rig.send(number, server, b"before", 1)
    assert used(rig) == {"guest 1": [12, 0, 2, 0]}
    forget(rig, "guest 1")
    for number, server in ((1, rig.udp), (2, others)):
        # Answers have just used the socket.
        server.sendto(b"answer", server.recvfrom(100)[1])
        rig.settle()
        rig.send(number, server, b"after", 2)
    assert used(rig) == {"guest 2": [10, 0 if nat == "symmetric" else 6, 0, 0]}
    for number in (1, 2):
        rig.demux.push("egress0", FlowNotice.pack(kinds.UDP_CLOSE, number))


def test_pings_of_a_guest_that_is_back_count_for_its_new_number(
    made: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig = made(Quota(total_bytes=1000))

    def no_echo(*_: object) -> socket.socket:
        """Systems need not allow sockets for pings."""
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        sock.connect(rig.udp.getsockname())
        return sock

    monkeypatch.setattr(host_icmp, "open_echo", no_echo)
    rig.ping(1)
    (size, *_) = used(rig)["guest 1"]
    assert size > 0
    forget(rig, "guest 1")
    rig.ping(2)
    assert used(rig) == {"guest 2": [size, 0, 0, 0]}
    assert len(rig.stage.icmp.flows) == 1
