"""Host sockets of egress when descriptors run out: flows are refused, and the worker lives."""

import errno
import os
import resource
import socket
from collections.abc import Iterator
from time import monotonic
from typing import Any

import pytest

from pipeline import config_build, flags, options
from pipeline.counters import INDEX
from pipeline.host import icmp as host_icmp
from pipeline.shm import descriptor as d
from pipeline.stages.channel import ControlChannel
from pipeline.stages.egress import EgressStage
from pipeline.stages.egress_icmp import IDLE
from pipeline.stages.egress_sockets import RESERVE
from pipeline.stages.worker import Worker
from pipeline.topology import Fabric, Layout
from pipeline.wire.ipv4 import addr_parse
from tests.stages.conftest import Exhaust

GUEST = addr_parse("192.168.127.2")
LINK = 5
GATEWAY = addr_parse("192.168.127.1")
HOST = addr_parse("192.168.127.254")


class Rig:
    """The stage in its worker; tcp, demux and the supervisor by hand."""

    def __init__(self) -> None:
        config, _ = config_build.build(flags.parse(options.START, []), [], resolv_conf=os.devnull)
        fabric = Fabric.create(Layout(64, 1, 1))
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.supervisor = ControlChannel(ours)
        self.worker = Worker(fabric.ports("egress0"), theirs)
        self.stage = EgressStage(self.worker, config)
        self.worker.adopt(self.stage)
        tcp, demux = fabric.ports("tcp0"), fabric.ports("demux")
        self.tcp, self.demux = tcp.rings_out["egress0"], demux.rings_out["egress0"]
        self.from_egress = tcp.rings_in["egress0"]
        self.number = 0

    def ask(self, remote: int, port: int) -> None:
        """A guest opens a TCP connection."""
        self.number += 1
        ports = (40000 + self.number) << 16 | port
        record = d.record(
            d.CONNECT, flow=self.number, link=LINK, guest_addr=GUEST, remote_addr=remote, ports=ports,
            gso_size=1460,
        )  # fmt: skip
        self.tcp.push(record)
        self.tcp.publish()

    def turn(self) -> None:
        assert self.worker.poller is not None
        self.worker.poller.dispatch(self.worker.poller.poll(0, 64))
        self.worker.breathe(monotonic())

    def failures(self) -> list[int]:
        """The errnos of connections that came to nothing since the last call."""
        found = []
        while burst := self.from_egress.peek():
            records = list(d.DESCRIPTOR.iter_unpack(burst))
            found += [record[-1] for record in records if record[0] == d.CONNECT_FAILED]
            self.from_egress.release(len(records))
        return found

    def count(self, name: str) -> int:
        return self.worker.counts[INDEX[name]]


@pytest.fixture
def rig() -> Iterator[Rig]:
    rig = Rig()
    yield rig
    rig.worker.end()
    rig.supervisor.close()


@pytest.fixture
def server() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0), backlog=64) as listener:
        yield listener.getsockname()[1]


def test_a_connection_to_a_service_goes_to_the_supervisor(rig: Rig) -> None:
    rig.ask(GATEWAY, 80)
    rig.turn()
    ((event, (fd,)),) = rig.supervisor.receive()
    assert event == {"event": "service", "name": "api", "guest": "192.168.127.2:40001", "link": LINK}
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
    control: Any = rig.worker._control
    while not control.backlog:
        rig.worker.send_event({"event": "mac", "pad": bytes(20_000)})
    exhausted(2)
    rig.ask(GATEWAY, 80)
    rig.turn()
    assert rig.failures() == [errno.EMFILE]
    # Both ends are closed again: there is room for two.
    for sock in socket.socketpair():
        sock.close()


def test_flows_of_guests_leave_a_reserve_of_descriptors(server: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (RESERVE + 3, RESERVE + 3))
    rig = Rig()
    udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    udp.bind(("127.0.0.1", 0))
    port = udp.getsockname()[1]
    for _ in range(2):
        rig.ask(HOST, server)
    rig.demux.push(_datagram(rig, 7, port))
    rig.demux.publish()
    rig.turn()
    rig.turn()
    assert (len(rig.stage.flows), len(rig.stage.udp.flows)) == (2, 1)
    rig.ask(HOST, server)
    rig.ask(GATEWAY, 53)
    rig.demux.push(_datagram(rig, 8, port))
    rig.demux.publish()
    rig.turn()
    rig.turn()
    assert (len(rig.stage.flows), len(rig.stage.udp.flows)) == (2, 1)
    assert rig.failures() == [errno.EMFILE] * 2
    assert rig.count("egress_flow_refused_too_many_sockets") == 3
    # Forwarded connections use the reserve.
    ours, theirs = socket.socketpair()
    rig.stage.on_control({"op": "accepted", "addr": GUEST, "port": 80, "first": b""}, [ours.detach()])
    assert len(rig.stage.flows) == 3
    theirs.close()
    udp.close()
    rig.worker.end()
    rig.supervisor.close()


def test_pings_leave_the_reserve_of_descriptors_too(server: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (RESERVE + 3, RESERVE + 3))
    # The system may allow no ping sockets; any will do.
    monkeypatch.setattr(host_icmp, "open_echo", lambda _: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
    rig = Rig()
    rig.ask(HOST, server)
    for ident in range(1, 6):
        rig.demux.push(_ping(rig, ident))
    rig.demux.publish()
    rig.turn()
    assert (len(rig.stage.flows), len(rig.stage.icmp.flows)) == (1, 2)
    assert rig.count("egress_flow_refused_too_many_sockets") == 3
    rig.ask(HOST, server)
    rig.turn()
    assert rig.failures() == [errno.EMFILE]
    # Idle ones make room in the end.
    rig.stage.icmp.expire(monotonic() + IDLE)
    rig.ask(HOST, server)
    rig.turn()
    assert (len(rig.stage.flows), len(rig.stage.icmp.flows)) == (2, 0)
    rig.worker.end()
    rig.supervisor.close()


def _ping(rig: Rig, ident: int) -> bytes:
    slot = rig.stage.pool.alloc()
    return d.record(
        d.ICMP_ECHO, slot=slot, off=256, length=8,
        guest_addr=GUEST, remote_addr=HOST, ports=ident << 16 | 1, aux=64,
    )  # fmt: skip


def _datagram(rig: Rig, number: int, port: int) -> bytes:
    slot = rig.stage.pool.alloc()
    return d.record(
        d.UDP_DATA, flow=number, slot=slot, off=256, length=4,
        guest_addr=GUEST, remote_addr=HOST, ports=5000 << 16 | port,
    )  # fmt: skip
