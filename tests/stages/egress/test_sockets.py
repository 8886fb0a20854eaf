"""Egress when descriptors run out: which flow makes room, which is refused, and that the worker goes on."""

import errno
import os
import resource
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from time import monotonic
from typing import Any

import pytest

from pipeline.config import merge, options
from pipeline.counters import INDEX
from pipeline.go import flags
from pipeline.host import icmp as host_icmp
from pipeline.ipc.channel import ControlChannel
from pipeline.ipc.fabric import Fabric
from pipeline.ipc.ring import Consumer
from pipeline.records import kinds
from pipeline.records.addresses import addr_bytes
from pipeline.records.flows import flow_key
from pipeline.records.icmp import EchoRequest
from pipeline.records.run import Run
from pipeline.records.streams import MAKE_WAY_ANY, MAKE_WAY_OWN, Connect
from pipeline.records.udp import UdpData
from pipeline.stages.egress.sockets import RESERVE
from pipeline.stages.egress.stage import EgressStage
from pipeline.stages.worker import Worker
from pipeline.topology import Layout
from pipeline.wire import ip
from tests.stages.conftest import Exhaust
from tests.support.layouts import decode

GUEST = ip.parse_ipv4("192.168.127.2")
LINK = 5
OTHER = 6
GATEWAY = ip.parse_ipv4("192.168.127.1")
HOST = ip.parse_ipv4("192.168.127.254")


class Rig:
    """The stage in its worker. The test plays tcp, demux and the supervisor."""

    def __init__(self) -> None:
        config, _ = merge.build(flags.parse(options.START, []), [], resolv_conf=os.devnull)
        fabric = Fabric.create(Layout(64, 1, 1))
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.supervisor = ControlChannel(ours)
        self.worker = Worker(fabric.ports("egress0"), theirs)
        self.stage = EgressStage(self.worker, config)
        self.worker.adopt(self.stage)
        tcp, demux = fabric.ports("tcp0"), fabric.ports("demux")
        self.tcp, self.demux = tcp.rings_out["egress0"], demux.rings_out["egress0"]
        self.from_egress, self.to_demux = tcp.rings_in["egress0"], demux.rings_in["egress0"]
        self.number = 0
        self.later = 0.0
        """Seconds by which the stage's clock is ahead."""

    def ask(self, remote: int, port: int, link: int = LINK) -> None:
        """A guest opens a TCP connection. Nothing happens before the next turn."""
        self.number += 1
        key = flow_key(GUEST, 40000 + self.number, remote, port)
        self.tcp.push(Connect.pack(self.number, key, link, link, mss=1460, syn_seq=0))
        self.tcp.publish()

    def connect(self, port: int, count: int = 1) -> None:
        """A guest opens connections to a port of the host. The first turn connects, the second completes."""
        for _ in range(count):
            self.ask(HOST, port)
        self.turn()
        self.turn()

    def turn(self) -> None:
        """Deliver socket events, and breathe once."""
        assert self.worker.poller is not None
        self.worker.poller.dispatch(self.worker.poller.poll(0, 64))
        self.worker.breathe(monotonic() + self.later)

    def datagram(self, number: int, port: int, link: int = LINK) -> None:
        """A guest sends a datagram of the UDP flow ``number`` to a port of the host."""
        run = Run(self.worker.pool.alloc(), 256, 4, 0, 4)
        self._send(UdpData.pack(number, flow_key(GUEST, 5000, HOST, port), run, link=link))

    def ping(self, ident: int) -> None:
        """A guest pings the host."""
        request = EchoRequest(
            slot=self.worker.pool.alloc(), off=256, length=8, guest_addr=GUEST, remote_addr=HOST,
            identifier=ident, sequence=1, hops_left=64, dont_fragment=False, link=LINK,
        )  # fmt: skip
        self._send(request.pack())

    def _send(self, record: bytes) -> None:
        """demux sends a record, and the stage reads it."""
        self.demux.push(record)
        self.demux.publish()
        self.turn()

    def failures(self) -> list[int]:
        """The errnos of connections that have failed since the last call."""
        return [record.error for record in _taken(self.from_egress, kinds.CONNECT_FAILED)]

    def ways(self) -> list[int]:
        """How tcp was asked for sockets since the last call."""
        found = _taken(self.from_egress, kinds.CONNECT_FAILED, kinds.SOCKETS_USED_UP)
        return [record.make_way for record in found]

    def closed(self) -> list[int]:
        """The UDP flows whose end was reported to demux since the last call."""
        return [record.flow for record in _taken(self.to_demux, kinds.UDP_CLOSE)]

    def pings(self) -> list[int]:
        """The identifiers of pings with a socket. The one that is idle for longest comes first."""
        return [key[1] for key in self.stage.icmp.flows]

    def udp_flows(self) -> list[int]:
        """The numbers of UDP flows with a socket."""
        return list(self.stage.udp.table.flows_by_id)

    def states(self) -> list[str]:
        """The states of all connections."""
        return [flow.state for flow in self.stage.connections.flows.by_key.values()]

    def open(self) -> tuple[int, int, int]:
        """The numbers of connections, UDP flows and pings."""
        return len(self.states()), len(self.udp_flows()), len(self.pings())

    def count(self, name: str) -> int:
        return self.worker.counts[INDEX[name]]


def _taken(ring: Consumer, *wanted: int) -> list[Any]:
    """The records of these kinds in a ring. All others are dropped."""
    found = []
    while burst := ring.peek():
        for at in range(0, len(burst), kinds.RECORD_BYTES):
            if burst[at] in wanted:
                found.append(decode(bytes(burst[at : at + kinds.RECORD_BYTES])))
        ring.release(len(burst) // kinds.RECORD_BYTES)
    return found


@contextmanager
def _running() -> Iterator[Rig]:
    rig = Rig()
    yield rig
    rig.worker.end()
    rig.supervisor.close()


@pytest.fixture
def rig() -> Iterator[Rig]:
    with _running() as rig:
        yield rig


@pytest.fixture
def server() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0), backlog=64) as listener:
        yield listener.getsockname()[1]


def test_a_connection_to_a_service_goes_to_the_supervisor(rig: Rig) -> None:
    rig.ask(GATEWAY, 80)
    rig.turn()
    ((event, (fd,)),) = rig.supervisor.receive()
    assert event == {
        "event": "service",
        "name": "api",
        "guest": "192.168.127.2:40001",
        "link": LINK,
        "number": LINK,
    }
    os.close(fd)
    assert rig.failures() == []


@pytest.mark.parametrize("left", [0, 1])
def test_without_descriptors_a_connection_to_a_service_fails_alone(
    rig: Rig, exhausted: Exhaust, left: int
) -> None:
    exhausted(left)
    rig.ask(GATEWAY, 80)
    rig.turn()
    assert rig.failures() == [errno.EMFILE]
    assert rig.count("egress_connection_failed") == 1
    assert rig.supervisor.receive() == []


def test_a_service_socket_that_cannot_wait_for_the_supervisor_is_a_failed_connection(
    rig: Rig, exhausted: Exhaust
) -> None:
    control = rig.worker.control
    while not control.backlog:
        rig.worker.send_event({"event": "mac", "pad": bytes(20_000)})
    exhausted(2)
    rig.ask(GATEWAY, 80)
    rig.turn()
    assert rig.failures() == [errno.EMFILE]
    # Both ends are closed again: there is room for two.
    for sock in socket.socketpair():
        sock.close()


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> Iterator[Rig]:
    """The stage with room for three sockets. Pings use UDP sockets, since the system may refuse ICMP ones."""
    # An eighth is for links.
    soft = RESERVE + 9 + 3
    monkeypatch.setattr(resource, "getrlimit", lambda _: (soft, soft))
    monkeypatch.setattr(host_icmp, "open_echo", lambda *_: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
    with _running() as rig:
        assert rig.stage.context.bound.limit == 3
        yield rig


@pytest.fixture
def udp_port() -> Iterator[int]:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
        udp.bind(("127.0.0.1", 0))
        yield udp.getsockname()[1]


@pytest.fixture
def silent() -> Iterator[int]:
    """A port that does not answer SYNs, because its backlog is full."""
    with socket.socket() as listener, ExitStack() as stack:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        port = listener.getsockname()[1]
        for _ in range(2):
            sock = stack.enter_context(socket.socket())
            sock.setblocking(False)
            sock.connect_ex(("127.0.0.1", port))
        yield port


def test_open_connections_of_guests_are_never_closed_for_others_and_leave_a_reserve_of_descriptors(
    small: Rig, server: int, udp_port: int
) -> None:
    small.connect(server, 3)
    small.ask(HOST, server)
    small.ask(GATEWAY, 53)
    small.datagram(8, udp_port)
    small.ping(1)
    assert small.open() == (3, 0, 0)
    assert small.failures() == [errno.EMFILE] * 2
    assert small.count("egress_flow_refused_too_many_sockets") == 4
    assert small.count("icmp_echo_dropped_send_failed") == 0
    # Forwarded connections use the reserve.
    ours, theirs = socket.socketpair()
    small.stage.on_control(
        {"op": "accepted", "addr": addr_bytes(GUEST), "port": 80, "first": b""}, [ours.detach()]
    )
    assert len(small.states()) == 4
    theirs.close()


def test_at_the_limit_of_descriptors_the_udp_flow_idle_for_longest_makes_room(
    small: Rig, udp_port: int
) -> None:
    for number in (1, 2, 3):
        small.datagram(number, udp_port)
    small.later += 5.0
    small.datagram(1, udp_port)
    small.datagram(4, udp_port)
    assert small.udp_flows() == [1, 3, 4]
    assert small.closed() == [2]
    small.datagram(5, udp_port)
    assert small.udp_flows() == [1, 4, 5]
    assert small.closed() == [3]
    assert small.count("egress_flow_evicted_too_many_sockets") == 2
    assert small.count("egress_flow_refused_too_many_sockets") == 0
    assert small.count("egress_datagrams_to_host") == 6


def test_answers_keep_a_udp_flow_from_making_room(small: Rig) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as host:
        host.bind(("127.0.0.1", 0))
        host.settimeout(5)
        port = host.getsockname()[1]
        small.datagram(1, port)
        _, peer = host.recvfrom(100)
        for number in (2, 3):
            small.datagram(number, port)
        small.later += 5.0
        host.sendto(b"news", peer)
        small.turn()
        small.datagram(4, port)
    assert small.udp_flows() == [1, 3, 4]


def test_at_the_limit_of_descriptors_idle_datagram_flows_make_room_for_a_connection(
    small: Rig, server: int, udp_port: int
) -> None:
    small.datagram(7, udp_port)
    small.ping(1)
    for _ in range(3):
        small.ask(HOST, server)
        small.turn()
    assert small.failures() == []
    assert small.open() == (3, 0, 0)
    assert small.closed() == [7]


def test_at_the_limit_of_descriptors_the_oldest_ping_makes_room(small: Rig, server: int) -> None:
    small.ask(HOST, server)
    for ident in range(1, 6):
        small.ping(ident)
    assert (len(small.states()), small.pings()) == (1, [4, 5])
    assert small.count("egress_flow_refused_too_many_sockets") == 0


def test_at_the_limit_of_descriptors_the_connection_whose_host_is_silent_for_longest_makes_room(
    small: Rig, server: int, silent: int
) -> None:
    for _ in range(3):
        small.ask(HOST, silent)
    small.turn()
    assert small.states() == ["CONNECTING"] * 3
    small.connect(server)
    assert small.states() == ["CONNECTING"] * 2 + ["OPEN"]
    # The engine ends it too. The guest gets no segment, so it repeats its SYN.
    assert small.failures() == [errno.ETIMEDOUT]


def test_a_guest_with_many_flows_pays_for_them_and_not_another_guest(small: Rig, udp_port: int) -> None:
    small.datagram(1, udp_port, OTHER)
    small.later += 5.0
    for number in range(2, 9):
        small.datagram(number, udp_port)
    assert small.udp_flows() == [1, 7, 8], "the other guest's was idle for longest"
    small.datagram(9, udp_port, OTHER)
    assert small.udp_flows() == [1, 8, 9], "it takes from the guest with most"


def test_a_guest_with_most_sockets_takes_none_of_others(small: Rig, server: int, udp_port: int) -> None:
    small.datagram(1, udp_port, OTHER)
    small.connect(server, 4)
    assert (len(small.states()), small.udp_flows()) == (2, [1])
    small.datagram(2, udp_port)
    assert small.udp_flows() == [1]
    assert small.ways() == [MAKE_WAY_OWN] * 3


def test_a_guest_at_its_share_may_have_the_socket_of_a_half_open_connection(
    small: Rig, server: int, udp_port: int
) -> None:
    small.connect(server, 3)
    small.datagram(1, udp_port, OTHER)
    assert (small.open(), small.ways()) == ((2, 1, 0), []), "below its share, that of an established one"
    small.stage.udp.close(1)
    small.ask(HOST, server, OTHER)
    small.turn()
    small.datagram(1, udp_port, OTHER)
    assert small.open() == (3, 0, 0)
    assert small.ways() == [MAKE_WAY_ANY]
    assert small.closed() == [1], "demux must forget the flow, so that the next datagram tries again"


def test_a_flow_for_which_the_system_has_no_descriptor_takes_one_of_an_idle_flow(
    rig: Rig, exhausted: Exhaust, udp_port: int, server: int
) -> None:
    rig.datagram(1, udp_port)
    rig.datagram(2, udp_port)
    exhausted(0)
    rig.datagram(3, udp_port)
    assert rig.udp_flows() == [2, 3]
    rig.ask(HOST, server)
    rig.turn()
    assert rig.failures() == []
    assert (len(rig.states()), rig.udp_flows()) == (1, [3])
