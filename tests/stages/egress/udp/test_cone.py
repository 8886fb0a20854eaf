"""Full cone in egress: one socket for a guest's port, strangers' answers, errors, and bounds."""

import errno
import socket
import time
from collections.abc import Iterator
from ipaddress import IPv4Network
from types import SimpleNamespace
from typing import Any

import pytest

from pipeline.config.model import EgressPolicy, PolicyRule
from pipeline.engines import nat
from pipeline.engines.neighbors.addresses import Ipv6Addresses
from pipeline.host import udp as host_udp
from pipeline.records import kinds
from pipeline.records.flows import Ends, flow_key
from pipeline.records.udp import UdpData
from pipeline.stages.egress.asks import Asks
from pipeline.stages.egress.policy_filter import PolicyFilter
from pipeline.stages.egress.udp.sockets import UdpSockets
from pipeline.system import inet
from pipeline.system.outbound import Outbound
from pipeline.wire import icmp, ip
from tests.support.egress_rig import EgressRig, Sent
from tests.support.netns import wait_for

GUEST = ip.parse_ipv4("192.168.127.2")
HOST = ip.parse_ipv4("192.168.127.254")
SECOND = ip.parse_ipv4("192.168.127.253")
GUEST6 = ip.parse("fd00::2")
HOST6 = ip.parse("fd00::fe")
ALIASES = {HOST: "127.0.0.1", SECOND: "127.0.0.2", HOST6: "::1"}
PORT = 40000


class Rig(EgressRig):
    """UdpSockets with full cone; servers are on the loopback, which the guest has as .254 and .253."""

    def __init__(self, policy: EgressPolicy, outbound: Outbound | None = None) -> None:
        table = {addr: ip.parse(text) for addr, text in ALIASES.items()}
        network = SimpleNamespace(
            subnet=IPv4Network("192.168.127.0/24"),
            gateway_ip=ip.parse_ipv4("192.168.127.1"),
            gateway_virtual_ips=(),
            nat=table,
        )
        targets = nat.Nat(network, ipv6=Ipv6Addresses(HOST6 & ~0xFF, bytes(6), gateway=HOST6 | 1, host=HOST6))
        super().__init__(targets, lambda worker: PolicyFilter(worker, policy), outbound)
        self.udp = UdpSockets(self.context, 10, Asks(self.worker, 30.0, lambda *_: None), full_cone=True)
        self.flows = self.udp.table.flows_by_id
        self.servers: list[socket.socket] = []

    def server(self, addr: int = HOST) -> socket.socket:
        sock = socket.socket(inet.family_of(ALIASES[addr]), socket.SOCK_DGRAM)
        sock.bind((ALIASES[addr], 0))
        sock.settimeout(10)
        self.servers.append(sock)
        return sock

    def send(
        self,
        number: int,
        to: tuple[int, int],
        *payloads: bytes,
        port: int = PORT,
        steered: bool = False,
        guest: int = GUEST,
    ) -> None:
        """Datagrams of the guest, all of one length but for a shorter last."""
        key = flow_key(guest, port, *to)
        record = memoryview(UdpData.pack(number, key, self.fill(list(payloads)), link=1))
        if steered:
            self.udp.on_steered(UdpData.unpack(record, 0), time.monotonic())
        else:
            self.udp.to_host(UdpData.unpack(record, 0), time.monotonic())

    def read(self) -> list[Sent]:
        """What egress says after it has read all that is there, errors included."""
        before = len(self.records)
        for callback in list(self.callbacks.values()):
            callback(8)
        while self.udp.table.ready:
            self.udp.read_ready(time.monotonic())
        return [record for record in self.records[before:] if record.kind != kinds.UDP_ANSWERED]

    def datagrams(self, guest: int = GUEST) -> list[tuple[int, int, int, bytes]]:
        """(remote's address and port, guest's port, payload) of what has come. References are given back."""
        found = []
        for record in self.read():
            ends = Ends.of(record.says.key)
            assert ends.guest_addr == guest
            where = (ends.remote_addr, ends.remote_port, ends.guest_port)
            found += [(*where, payload) for payload in self.payloads([record])]
        return found

    def cones(self) -> int:
        """How many cones there are."""
        return self.udp.held()["cones"]


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

    def make(policy: EgressPolicy | None = None, outbound: Outbound | None = None) -> Rig:
        rigs.append(Rig(policy or EgressPolicy(), outbound))
        return rigs[-1]

    yield make
    for one in rigs:
        one.udp.close_all()
        for sock in one.servers:
            sock.close()
        assert not any(one.udp.held().values())
        one.retire()


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
    assert rig.cones() == 2


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


def test_a_port_of_an_ipv6_address_has_a_cone_for_each_family_of_hosts(rig: Rig) -> None:
    one, stranger, old = rig.server(HOST6), rig.server(HOST6), rig.server(HOST)
    spelt = ip.as_seen_from(HOST, GUEST6)
    rig.send(1, place(HOST6, one), b"a", guest=GUEST6)
    rig.send(2, place(spelt, old), b"b", guest=GUEST6)
    (_, seen), (_, seen_by_old) = one.recvfrom(10), old.recvfrom(10)
    assert rig.cones() == 2
    one.sendto(b"own", seen)
    stranger.sendto(b"more", seen)
    assert rig.datagrams(GUEST6) == [
        (*place(HOST6, one), PORT, b"own"),
        (*place(HOST6, stranger), PORT, b"more"),
    ]
    # The cone for IPv4 hosts has answers, also of strangers, under 64:ff9b::/96.
    second = rig.server(SECOND)
    old.sendto(b"old", seen_by_old)
    second.sendto(b"second", seen_by_old)
    assert rig.datagrams(GUEST6) == [
        (*place(spelt, old), PORT, b"old"),
        (*place(ip.as_seen_from(SECOND, GUEST6), second), PORT, b"second"),
    ]
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.sendto(b"IPv4 to the IPv6 cone", ("127.0.0.1", seen[1]))
        assert rig.datagrams(GUEST6) == []


def test_a_refused_datagram_of_an_ipv6_flow_is_reported_and_ends_nothing(rig: Rig) -> None:
    one, gone = rig.server(HOST6), rig.server(HOST6)
    to_gone = place(HOST6, gone)
    gone.close()
    rig.send(1, place(HOST6, one), b"a", guest=GUEST6)
    rig.send(2, to_gone, b"b", guest=GUEST6)
    found: list[Sent] = []
    wait_for(lambda: found.extend(rig.read()) or found, "the error")
    (failed,) = found
    assert failed.kind == kinds.UNREACHABLE
    assert Ends.of(failed.says.key).remote_port == to_gone[1]
    assert failed.says.code == icmp.PORT_UNREACHABLE
    assert sorted(rig.flows) == [1, 2]


def test_strangers_do_not_renew_a_flow_and_remotes_do(rig: Rig) -> None:
    one, stranger = rig.server(), rig.server()
    rig.send(1, place(HOST, one), b"request")
    _, seen = one.recvfrom(10)
    for sock, told in ((stranger, []), (one, [1])):
        before = len(rig.records)
        sock.sendto(b"x", seen)
        rig.datagrams()
        assert [r.says.flow for r in rig.records[before:] if r.kind == kinds.UDP_ANSWERED] == told


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
    assert not rig.cones()
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
    assert unreachable.kind == kinds.UNREACHABLE
    assert unreachable.says.code == icmp.ADMINISTRATIVELY_PROHIBITED
    assert (closed.kind, closed.says.flow) == (kinds.UDP_CLOSE, 7)
    assert not rig.cones()


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
    told = [r.says for r in (*rig.records, *rig.read()) if r.kind == kinds.UNREACHABLE]
    assert {(notice.key, notice.code) for notice in told} == {
        (flow_key(GUEST, PORT, *where), icmp.PORT_UNREACHABLE)
    }
    # Nothing ends by it, and the address that others see stays.
    assert set(rig.flows) == {1, 2}
    rig.send(1, place(HOST, one), b"last")
    assert one.recvfrom(10) == (b"last", seen)


@pytest.mark.skipif(not hasattr(socket, "MSG_ERRQUEUE"), reason="no error queue here")
def test_an_error_that_nothing_follows_is_told_when_it_comes(rig: Rig) -> None:
    gone = rig.server()
    where = place(HOST, gone)
    gone.close()
    rig.send(1, where, b"x")
    wait_for(lambda: [record for record in rig.read() if record.kind == kinds.UNREACHABLE], "the error")


def test_what_the_host_cannot_send_is_told_to_the_guest(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> int:
        raise host_udp.SendError(OSError(errno.ENETUNREACH, "Network is unreachable"), 0)

    monkeypatch.setattr(host_udp.Sender, "send", refuse)
    rig.send(1, (HOST, 9), b"x", b"y")
    assert [(r.kind, r.says.code) for r in rig.records] == [(kinds.UNREACHABLE, icmp.NET_UNREACHABLE)]
    assert rig.count("egress_datagram_dropped_send_failed") == 2


def test_at_the_limit_of_descriptors_the_port_idle_for_longest_makes_room(rig: Rig) -> None:
    one = rig.server()
    rig.context.bound.limit = 1
    rig.send(1, place(HOST, one), b"a")
    rig.send(2, place(SECOND, rig.server(SECOND)), b"b")
    assert set(rig.flows) == {1, 2}, "flows of one port need one descriptor"
    rig.send(3, place(HOST, one), b"c", port=PORT + 1)
    assert set(rig.flows) == {3}
    assert [r.says.flow for r in rig.records if r.kind == kinds.UDP_CLOSE] == [1, 2]
    assert rig.count("egress_flow_evicted_too_many_sockets") == 1
    assert rig.count("egress_flow_refused_too_many_sockets") == 0


def test_questions_to_a_name_server_are_answered_by_way_of_demux(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = rig.server()
    monkeypatch.setattr(nat, "DNS_PORT", one.getsockname()[1])
    rig.send(1, place(HOST, one), b"q")
    one.sendto(b"answer", one.recvfrom(10)[1])
    (record,) = rig.read()
    assert (record.kind, record.says.flow, record.says.length) == (kinds.UDP_DATA, 1, 6)
    rig.pool.unref(record.says.slot)


def test_a_new_policy_ends_the_flows_that_it_forbids_and_tells_the_guest(made: Any) -> None:
    rig = made()
    one, other = rig.server(HOST), rig.server(SECOND)
    rig.send(1, place(HOST, one), b"a")
    rig.send(2, place(SECOND, other), b"b")
    assert rig.context.policy.replace(POLICIES[1])
    assert rig.udp.end_forbidden() == 1
    assert list(rig.flows) == [1]
    unreachable, closed = rig.records[-2:]
    assert unreachable.says.code == icmp.ADMINISTRATIVELY_PROHIBITED
    assert (closed.kind, closed.says.flow) == (kinds.UDP_CLOSE, 2)
    assert rig.count("egress_flow_closed_policy") == 1
    assert not rig.context.policy.replace(POLICIES[1]), "the same policy is no change"


def test_the_hosts_loopback_of_ipv6_is_reached_whatever_the_outbound_is(made: Any) -> None:
    rig = made(outbound=Outbound("192.0.2.1", "no-such0"))
    one = rig.server(HOST6)
    rig.send(1, place(HOST6, one), b"a", guest=GUEST6)
    assert one.recvfrom(10)[1][0] == "::1"


def test_the_hosts_loopback_is_reached_from_loopback_whatever_the_outbound_is(made: Any) -> None:
    rig = made(outbound=Outbound("192.0.2.1", "no-such0"))
    server = rig.server()
    rig.send(1, place(HOST, server), b"hello")
    data, source = server.recvfrom(100)
    assert (data, source[0]) == (b"hello", "127.0.0.1")
    server.sendto(b"answer", source)
    wait_for(lambda: [row[3] for row in rig.datagrams()] == [b"answer"], "the answer")
    # Nothing goes elsewhere without the outbound, not even from the same port.
    rig.send(2, (ip.parse_ipv4("198.51.100.1"), 9), b"lost")
    assert rig.cones() == 1
    assert rig.count("egress_datagram_dropped_no_socket") == 1
