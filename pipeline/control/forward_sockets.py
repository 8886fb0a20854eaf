"""Binds the host sockets of forwards for the listen worker, which cannot make any.

The supervisor binds, since a port may be privileged and a path may be its user's alone. It passes the socket
with the request to open a forward. It keeps the socket too: this holds the socket's file, which is removed
when the forward is closed.
"""

import socket
from collections.abc import Sequence
from typing import NamedTuple

import structlog

from pipeline.control.workers import Message, RefusedError, Request
from pipeline.host import listener
from pipeline.ipc import messages
from pipeline.ipc.channel import HasFileno
from pipeline.links import addresses
from pipeline.system import inet, socket_file


class Bound(NamedTuple):
    """The socket of a forward. file: of a unix socket, else None."""

    sock: socket.socket
    file: socket_file.OwnFile | None = None


class ForwardSockets:
    """Asks workers as Channels.request does, but binds the socket of each Expose before."""

    def __init__(self, request: Request, log: structlog.typing.FilteringBoundLogger) -> None:
        self._request = request
        self._log = log
        self._bound: dict[str, Bound] = {}

    async def __call__(
        self, worker: str, op: messages.Request, fds: Sequence[int | HasFileno] = ()
    ) -> Message:
        """As Request. An address that cannot be bound is refused with the words of a worker."""
        if isinstance(op, messages.Expose):
            return await self._expose(worker, op)
        answer = await self._request(worker, op, fds)
        if isinstance(op, messages.Unexpose):
            self._release(f"{op.protocol} {op.local}")
        return answer

    async def _expose(self, worker: str, op: messages.Expose) -> Message:
        key = f"{op.protocol} {op.name or op.local}"
        if bound := self._bound.get(key):
            # The worker may be another one by now. Clients wait in the backlog of the same socket.
            return await self._request(worker, op, [bound.sock])
        try:
            bound = _bind(op)
        except listener.ListenError as error:
            raise RefusedError(str(error)) from None
        except OSError as error:
            raise RefusedError(f"{op.NAME}: {error.strerror}") from None
        self._bound[key] = bound
        try:
            return await self._request(worker, op, [bound.sock])
        except RefusedError:
            self._release(key)
            raise

    def _release(self, key: str) -> None:
        bound = self._bound.pop(key, None)
        if bound is None:
            return
        if bound.file is not None and not bound.file.remove():
            self._log.warning("socket file not removed: it is gone or not ours", path=bound.file.path)
        bound.sock.close()

    def close(self) -> None:
        """Close all sockets and remove their files."""
        for key in list(self._bound):
            self._release(key)


def _bind(op: messages.Expose) -> Bound:
    """Raises ListenError, OSError."""
    if op.protocol in (*inet.TCP, *inet.UDP):
        return Bound(listener.bind_inet(op.protocol, op.local, op.found))
    path = addresses.unix_path(op.local) if op.local.startswith("unix://") else op.local
    sock = listener.bind_unix(path)
    return Bound(sock, socket_file.OwnFile(path, bound=True))
