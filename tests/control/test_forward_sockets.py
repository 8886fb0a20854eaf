"""Sockets of forwards: the supervisor binds them, and the worker gets them."""

import asyncio
import os
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from pipeline.control.forward_sockets import ForwardSockets
from pipeline.control.workers import Message, RefusedError
from pipeline.ipc import forward_messages, messages
from pipeline.ipc.channel import HasFileno


class Workers:
    """The listen worker. It keeps what it gets, or refuses."""

    def __init__(self) -> None:
        self.refuses = False
        self.got: list[tuple[messages.Request, list[socket.socket]]] = []
        self.lines: list[str] = []

    def warning(self, event: str, **_: object) -> None:
        self.lines.append(event)

    async def request(
        self, worker: str, op: messages.Request, fds: Sequence[int | HasFileno] = ()
    ) -> Message:
        assert worker == "listen"
        if self.refuses:
            raise RefusedError("no")
        numbers = [fd if isinstance(fd, int) else fd.fileno() for fd in fds]
        self.got.append((op, [socket.socket(fileno=os.dup(number)) for number in numbers]))
        return {}

    def made(self) -> ForwardSockets:
        log: Any = self
        return ForwardSockets(self.request, log)

    def close(self) -> None:
        for _, socks in self.got:
            for sock in socks:
                sock.close()


@pytest.fixture
def workers() -> Any:
    made = Workers()
    yield made
    made.close()


def expose(protocol: str, local: str, name: str | None = None) -> forward_messages.Expose:
    return forward_messages.Expose(protocol, local, "192.168.127.2:80", name=name)


def test_the_worker_gets_a_bound_socket_and_the_file_goes_with_the_forward(
    workers: Workers, tmp_path: Path
) -> None:
    async def run() -> None:
        sockets = workers.made()
        await sockets("listen", expose("unix", f"unix://{tmp_path}/a%20b"))
        await sockets("listen", expose("unix", f"{tmp_path}/c%20d"))
        assert {path.name for path in tmp_path.iterdir()} == {"a b", "c%20d"}
        (sock,) = workers.got[0][1]
        assert sock.getsockname() == f"{tmp_path}/a b"
        await sockets("listen", forward_messages.Unexpose("unix", f"unix://{tmp_path}/a%20b"))
        assert {path.name for path in tmp_path.iterdir()} == {"c%20d"}
        sockets.close()
        assert list(tmp_path.iterdir()) == []
        assert workers.lines == []

    asyncio.run(run())


@pytest.mark.parametrize("protocol", ["tcp", "udp"])
def test_a_port_is_free_again_when_the_forward_is_closed_or_refused(workers: Workers, protocol: str) -> None:
    async def run() -> None:
        sockets = workers.made()
        await sockets("listen", expose(protocol, "127.0.0.1:0", "127.0.0.1:0 1"))
        (sock,) = workers.got[0][1]
        local = f"127.0.0.1:{sock.getsockname()[1]}"
        with pytest.raises(RefusedError, match="address already in use"):
            await sockets("listen", expose(protocol, local))
        await sockets("listen", forward_messages.Unexpose(protocol, "127.0.0.1:0 1"))
        workers.close()
        workers.refuses = True
        with pytest.raises(RefusedError, match="no"):
            await sockets("listen", expose(protocol, local))
        workers.refuses = False
        await sockets("listen", expose(protocol, local))
        sockets.close()

    asyncio.run(run())


def test_a_forward_that_is_opened_again_has_the_same_socket(workers: Workers) -> None:
    async def run() -> None:
        sockets = workers.made()
        ask = expose("tcp", "127.0.0.1:0")
        await sockets("listen", ask)
        with socket.socket() as client:
            client.connect(workers.got[0][1][0].getsockname())
            workers.close()
            await sockets("listen", ask)
            accepted, _ = workers.got[1][1][0].accept()
            accepted.close()
        workers.refuses = True
        with pytest.raises(RefusedError, match="no"):
            await sockets("listen", ask)
        workers.refuses = False
        await sockets("listen", forward_messages.Unexpose("tcp", "127.0.0.1:0"))
        await sockets("listen", ask)
        sockets.close()

    asyncio.run(run())


def test_a_file_that_another_program_has_replaced_stays(workers: Workers, tmp_path: Path) -> None:
    async def run() -> None:
        sockets = workers.made()
        path = tmp_path / "s"
        await sockets("listen", expose("unix", str(path)))
        path.unlink()
        path.touch()
        sockets.close()
        assert path.exists()
        assert workers.lines == ["socket file not removed: it is gone or not ours"]

    asyncio.run(run())


def test_a_path_that_cannot_be_bound_is_refused_in_the_words_of_the_api(workers: Workers) -> None:
    async def run() -> None:
        with pytest.raises(RefusedError, match="listen unix relative: bind: the path is not absolute"):
            await workers.made()("listen", expose("unix", "relative"))
        assert workers.got == []

    asyncio.run(run())
