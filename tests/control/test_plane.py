"""The endpoints of the control plane: which paths each kind of socket serves."""

import asyncio
import os
import pickle
import socket
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import structlog

from pipeline.config import merge, options
from pipeline.control.facts import Facts
from pipeline.control.metrics.meter import Meter
from pipeline.control.plane import ControlPlane
from pipeline.go import flags
from pipeline.ipc import healing_messages, messages
from pipeline.ipc.channel import ControlChannel, close_all
from pipeline.ipc.socket_pair import socket_pair
from pipeline.links.places import BYTES

LOG = structlog.get_logger()
FIELDS = b"Host: x\r\nConnection: close\r\n"
EXPOSE = b"POST /services/forwarder/expose HTTP/1.1\r\n" + FIELDS + b"Content-Length: %d\r\n\r\n%s"
BODY = b'{"local":"/tmp/x","remote":"tcp://192.168.127.2:80","protocol":"unix"}'
GET = b"GET %s HTTP/1.1\r\n" + FIELDS + b"\r\n"


class MachineSocket(socket.socket):
    """A unix socket that says that it is for virtual machines, as tests dial no vsock address."""

    family = socket.AF_VSOCK  # type: ignore[assignment]


async def ask(path: str, request: bytes) -> bytes:
    async with asyncio.timeout(20):
        reader, writer = await asyncio.open_unix_connection(path)
        writer.write(request)
        answer = await reader.read()
        writer.close()
    return answer


def statuses(tmp_path: Path, kind: type[socket.socket], *, guests: bool) -> list[bytes]:
    """Statuses of an expose of a unix socket, of /leases, /tunnel, /capture and /connect on such a socket."""

    async def run() -> list[bytes]:
        config, _ = merge.build(flags.parse(options.START, ["-ssh-port", "-1"]), resolv_conf=os.devnull)
        layout = SimpleNamespace(names=(), nodes=(), shards=lambda _role: ())
        fabric: Any = SimpleNamespace(layout=layout, places=lambda: memoryview(bytearray(BYTES)))
        meter = Meter(fabric, Facts.of(config, [], 0.0), "1", LOG)
        plane = ControlPlane(config, fabric, {}, lambda _event: None, meter, "")
        await plane.start()
        path = str(tmp_path / "s")
        with kind(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
            listener.bind(path)
            listener.listen()
            plane.fronts.serve(listener, guests=guests)
            requests = (
                EXPOSE % (len(BODY), BODY),
                *(GET % each for each in (b"/leases", b"/tunnel", b"/capture", b"/connect")),
            )
            answers = [await ask(path, request) for request in requests]
            await plane.close()
        return [answer[9:12] for answer in answers]

    return asyncio.run(run())


@pytest.mark.skipif(not hasattr(socket, "AF_VSOCK"), reason="vsock is Linux's")
def test_a_machine_on_vsock_has_the_api_of_a_guest(tmp_path: Path) -> None:
    # No worker is there: what is served fails with 500, and /connect closes without an answer.
    assert statuses(tmp_path, MachineSocket, guests=True) == [b"403", b"404", b"404", b"404", b""]


@pytest.mark.skipif(not hasattr(socket, "AF_VSOCK"), reason="vsock is Linux's")
def test_services_on_vsock_are_the_whole_api(tmp_path: Path) -> None:
    assert statuses(tmp_path, MachineSocket, guests=False) == [b"500", b"500", b"500", b"500", b"404"]


def test_a_program_of_the_host_has_the_whole_api(tmp_path: Path) -> None:
    assert statuses(tmp_path, socket.socket, guests=True) == [b"500", b"500", b"500", b"500", b""]


class WorkerSide:
    """A control plane with one worker, and the worker's end of its control socket."""

    def __init__(self, *words: str) -> None:
        config, _ = merge.build(
            flags.parse(options.START, [*words, "-ssh-port", "-1"]), resolv_conf=os.devnull
        )
        layout = SimpleNamespace(names=(), nodes=(), shards=lambda _role: ())
        bell = SimpleNamespace(notify_control=lambda: None)
        fabric: Any = SimpleNamespace(
            layout=layout,
            bell=lambda _name: bell,
            places=lambda: memoryview(bytearray(BYTES)),
            arena=SimpleNamespace(slots=[]),
        )
        meter = Meter(fabric, Facts.of(config, [], 0.0), "1", LOG)
        ours, theirs = socket_pair()
        self.plane = ControlPlane(config, fabric, {"ingress": ours}, lambda _event: None, meter, "")
        self.worker = ControlChannel(theirs)
        self._received: list[dict[str, object]] = []

    async def received(self) -> dict[str, object]:
        """The next request that is not about events."""
        async with asyncio.timeout(10):
            while not self._received:
                await asyncio.sleep(0.001)
                for message, fds in self.worker.receive():
                    close_all(fds)
                    if message["op"] != messages.Watch.NAME:
                        self._received.append(message)
        return self._received.pop(0)

    async def close(self) -> None:
        await self.plane.close()
        self.worker.close()


@pytest.mark.skipif(sys.platform != "linux", reason="a sandbox is Linux's")
def test_a_datagram_socket_is_connected_to_whom_the_system_names(tmp_path: Path) -> None:
    async def run() -> None:
        side = WorkerSide()
        with (
            socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock,
            socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as guest,
        ):
            sock.bind(str(tmp_path / "ours"))
            guest.bind(str(tmp_path / "guest"))
            side.worker.send(messages.ConnectEvent(1).encode(), [sock])
            assert await side.received() == messages.Connected(1, "resource temporarily unavailable").encode()
            guest.sendto(b"frame", str(tmp_path / "ours"))
            side.worker.send(messages.ConnectEvent(2).encode(), [sock])
            assert await side.received() == messages.Connected(2).encode()
            assert sock.getpeername() == str(tmp_path / "guest")
            assert sock.recv(100) == b"frame", "it stays for the worker"
        await side.close()

    asyncio.run(run())


def test_leases_that_a_worker_sent_before_it_ended_are_in_the_file(tmp_path: Path) -> None:
    async def run() -> None:
        path = tmp_path / "leases.json"
        side = WorkerSide("-state-file", str(path))
        side.worker.send(messages.StateFileEvent(b"{}").encode())
        side.worker.close()
        await side.plane.close()
        assert path.read_bytes() == b"{}"

    asyncio.run(run())


def test_a_successor_that_was_forked_with_older_settings_gets_the_present_ones_first() -> None:
    async def run() -> None:
        side = WorkerSide()
        now = side.plane.config
        for config, first in ((replace(now), messages.Reload.NAME), (now, messages.Ping.NAME)):
            ours, theirs = socket_pair()
            side.plane.adopt_worker("ingress", ours, config)
            side.worker.close()
            side.worker = ControlChannel(theirs)
            asking = asyncio.create_task(side.plane.channels.request("ingress", messages.Ping()))
            message = await side.received()
            assert message["op"] == first
            if first == messages.Reload.NAME:
                assert isinstance(message["config"], bytes)
                assert pickle.loads(message["config"]) == now
            asking.cancel()
        await side.close()

    asyncio.run(run())


def test_a_successor_that_answers_nothing_gets_all_that_it_has_to_know() -> None:
    async def run() -> None:
        side = WorkerSide()
        guest, ours = socket.socketpair()
        with guest, ours:
            for number in (1, 2):
                up = healing_messages.LinkUpEvent(number, 1, "passed", "@", "", "packet")
                side.worker.send(up.encode(), [ours])
            await asyncio.sleep(0.05)
            side.plane.links_that_go_on()
            preparing = asyncio.create_task(side.plane.prepare_worker("ingress"))
            assert [(await side.received())["number"] for _ in range(2)] == [1, 2]
            assert not preparing.done()
            preparing.cancel()
        await side.close()

    asyncio.run(run())


def test_a_successor_writes_to_the_log_that_was_opened_again() -> None:
    async def run() -> None:
        side = WorkerSide()
        side.plane.move_log(1)
        assert (await side.received())["op"] == messages.LogFile.NAME
        ours, theirs = socket_pair()
        side.plane.adopt_worker("ingress", ours, side.plane.config)
        side.worker.close()
        side.worker = ControlChannel(theirs)
        assert (await side.received())["op"] == messages.LogFile.NAME
        await side.close()

    asyncio.run(run())
