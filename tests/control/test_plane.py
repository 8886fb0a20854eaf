"""The endpoints of the control plane: which paths each kind of socket serves."""

import asyncio
import os
import socket
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
        fabric: Any = SimpleNamespace(layout=layout)
        meter = Meter(fabric, Facts.of(config, [], 0.0), "1", LOG)
        plane = ControlPlane(config, fabric, {}, lambda _event: None, meter, "")
        await plane.start()
        path = str(tmp_path / "s")
        with kind(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
            listener.bind(path)
            listener.listen()
            plane.serve(listener, guests=guests)
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
