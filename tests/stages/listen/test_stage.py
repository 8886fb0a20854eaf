"""The listen stage: forwards of a port, and what happens when egress or the system has no room."""

import errno
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from time import monotonic
from typing import Any

import pytest

from pipeline.config import merge, options
from pipeline.counters import INDEX
from pipeline.go import flags
from pipeline.host import listener
from pipeline.ipc import forward_messages
from pipeline.ipc.channel import ControlChannel
from pipeline.ipc.fabric import Fabric
from pipeline.records.addresses import addr_bytes
from pipeline.stages.listen.stage import BUSY_PAUSE, EXHAUSTED_PAUSE, ListenStage
from pipeline.stages.worker import Worker
from pipeline.topology import Layout
from pipeline.wire import ip
from tests.stages.conftest import Exhaust


class Rig:
    """The stage in its worker, and egress's end of the hand-off socket."""

    def __init__(self, path: Path) -> None:
        config, _ = merge.build(flags.parse(options.START, []), [], resolv_conf=os.devnull)
        fabric = Fabric.create(Layout(64, 1, 1))
        self.worker = Worker(fabric.ports("listen"), None)
        self.stage = ListenStage(self.worker, config)
        self.worker.adopt(self.stage)
        self.egress = ControlChannel(fabric.ports("egress0").handoffs["listen"])
        self.path = str(path)
        self.lines: list[str] = []
        log: Any = self.worker
        log.log = self
        self.clients: list[socket.socket] = []

    def warning(self, event: str, **_: object) -> None:
        self.lines.append(event)

    def info(self, event: str, **_: object) -> None:
        """Not looked at."""

    debug = info

    def expose(self, protocol: str = "unix", local: str = "", name: str | None = None) -> dict[str, object]:
        ask = forward_messages.Expose(protocol, local or self.path, "192.168.127.2:80", name=name)
        unix = protocol == "unix"
        sock = listener.bind_unix(local or self.path) if unix else listener.bind_inet(protocol, local)
        return self.stage.on_control(ask.encode(), [sock.detach()])

    def connect(self, count: int) -> None:
        for _ in range(count):
            client = socket.socket(socket.AF_UNIX)
            client.setblocking(False)
            client.connect(self.path)
            self.clients.append(client)

    def turn(self, count: int = 1) -> None:
        assert self.worker.poller is not None
        for _ in range(count):
            self.worker.poller.dispatch(self.worker.poller.poll(0, 64))
            self.worker.breathe(monotonic())
            self.worker.may_sleep()

    def taken(self) -> int:
        """Connections that egress gets now; they are closed."""
        messages = self.egress.receive()
        for message, fds in messages:
            assert message["op"] == "accepted"
            for fd in fds:
                os.close(fd)
        return len(messages)

    def count(self, name: str) -> int:
        return self.worker.counts[INDEX[name]]


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    rig = Rig(tmp_path / "s")
    yield rig
    for client in rig.clients:
        client.close()
    rig.egress.close()
    rig.worker.end()


def test_connections_go_to_egress_with_their_guest(rig: Rig) -> None:
    assert rig.expose() == {"ok": True}
    rig.connect(1)
    rig.turn()
    ((message, (fd,)),) = rig.egress.receive()
    assert message == {
        "op": "accepted",
        "addr": addr_bytes(ip.from_ipv4(0xC0A87F02)),
        "port": 80,
        "first": b"",
    }
    os.write(fd, b"hello")
    assert rig.clients[0].recv(10) == b"hello"
    os.close(fd)
    assert rig.clients[0].recv(10) == b"", "listen keeps no copy"


@pytest.mark.parametrize("protocol", ["tcp", "udp"])
def test_the_answer_has_the_port_and_the_forward_has_its_name(rig: Rig, protocol: str) -> None:
    ports = [rig.expose(protocol, "127.0.0.1:0", f"127.0.0.1:0 {number}")["port"] for number in (1, 2)]
    assert len({*ports, 0, None}) == 4
    kind = socket.SOCK_STREAM if protocol == "tcp" else socket.SOCK_DGRAM
    with socket.socket(type=kind) as taken, pytest.raises(OSError, match="in use"):
        taken.bind(("127.0.0.1", ports[1]))
    unknown = rig.stage.on_control(forward_messages.Unexpose(protocol, f"127.0.0.1:{ports[0]}").encode(), [])
    assert unknown == {"error": "proxy not found"}
    close = forward_messages.Unexpose(protocol, "127.0.0.1:0 1").encode()
    assert rig.stage.on_control(close, []) == {"ok": True}
    assert rig.count("listen_forwards") == 1


def test_a_wrong_target_is_refused_and_its_socket_closed(rig: Rig) -> None:
    sock = listener.bind_inet("tcp", "127.0.0.1:0")
    local = sock.getsockname()
    ask = forward_messages.Expose("tcp", "127.0.0.1:0", "192.168.127.2").encode()
    answer = {"error": "address 192.168.127.2: missing port in address"}
    assert rig.stage.on_control(ask, [sock.detach()]) == answer
    with socket.socket() as again:
        again.bind(local)


def test_a_burst_that_egress_does_not_take_waits_in_the_backlog(rig: Rig) -> None:
    rig.expose()
    rig.connect(900)
    began = monotonic()
    rig.turn(30)
    assert rig.worker.peer_backlog("egress0") <= 1
    assert 0 < rig.count("listen_connection_accepted") < 900
    assert began < rig.stage.deadline() <= monotonic() + BUSY_PAUSE, "a pause, however long it takes to look"
    total = 0
    until = monotonic() + 10
    while total < 900 and monotonic() < until:
        total += rig.taken()
        time.sleep(0.001)
        rig.turn()
    assert total == 900
    rig.turn()
    assert rig.stage.deadline() == float("inf")
    assert rig.count("listen_connection_lost") == 0


def test_a_connection_that_cannot_wait_for_want_of_descriptors_is_closed(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    rig.expose()
    rig.connect(1)
    with monkeypatch.context() as patch:
        patch.setattr(rig.worker, "send_peer", refuse)
        rig.turn()
        assert rig.count("listen_connection_lost") == 1
        assert rig.clients[0].recv(10) == b""
        ours, theirs = socket.socketpair()
        request = {"op": "tunnel", "ip": "192.168.127.2", "port": 1}
        assert rig.stage.on_control(request, [ours.detach()]) == {"error": "tunnel: Too many open files"}
        assert theirs.recv(10) == b""
        theirs.close()
        answer = rig.expose("udp", "127.0.0.1:0")
        assert answer == {"error": "expose: Too many open files"}
    assert "error" not in rig.expose("udp", "127.0.0.1:0"), "nothing is left of the failed one"
    for _, fds in rig.egress.receive():
        for fd in fds:
            os.close(fd)
    rig.connect(1)
    rig.turn()
    assert rig.taken() == 1


def test_accept_without_descriptors_neither_spins_nor_fills_the_log(rig: Rig, exhausted: Exhaust) -> None:
    rig.expose()
    rig.connect(3)
    exhausted(0)
    for _ in range(2):
        rig.turn(100)
        time.sleep(EXHAUSTED_PAUSE)
    assert rig.count("listen_accept_failed") <= 3
    assert rig.lines.count("accept failed") == 1


def test_accepting_goes_on_when_there_are_descriptors_again(
    rig: Rig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig.expose()
    rig.connect(3)
    began = monotonic()
    with monkeypatch.context() as patch:
        patch.setattr(socket.socket, "accept", _no_descriptor)
        rig.turn()
    assert began < rig.stage.deadline() <= monotonic() + EXHAUSTED_PAUSE
    # Forwards that are opened and closed meanwhile wait, and go.
    assert rig.expose("unix", str(tmp_path / "t")) == {"ok": True}
    assert rig.expose("unix", str(tmp_path / "u")) == {"ok": True}
    late = socket.socket(socket.AF_UNIX)
    late.connect(str(tmp_path / "t"))
    request = {"op": "unexpose", "protocol": "unix", "local": str(tmp_path / "u")}
    assert rig.stage.on_control(request, []) == {"ok": True}
    rig.turn()
    assert rig.taken() == 0
    time.sleep(EXHAUSTED_PAUSE)
    rig.turn(2)
    assert rig.taken() == 4
    late.close()


def test_descriptors_of_requests_that_nobody_knows_are_closed(rig: Rig) -> None:
    for request in ({"op": "nonsense"}, {"op": "tunnel", "ip": "nowhere", "port": 1}):
        ours, theirs = socket.socketpair()
        assert "error" in rig.stage.on_control(request, [ours.detach()])
        assert theirs.recv(10) == b""
        theirs.close()


def _no_descriptor(_sock: socket.socket) -> None:
    raise OSError(errno.EMFILE, "Too many open files")
