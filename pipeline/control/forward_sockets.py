"""Binds the host sockets of forwards for the listen worker, which cannot make any.

The supervisor binds, since a port may be privileged and a path may be its user's alone. It passes the socket
with the request to open a forward. It keeps the socket too: this holds the socket's file, which is removed
when the forward is closed.
"""

import socket
from collections.abc import Sequence
from typing import Final, NamedTuple

import structlog

from pipeline.control.workers import Message, RefusedError, Request
from pipeline.host import listener
from pipeline.ipc import forward_messages, messages
from pipeline.ipc.channel import HasFileno
from pipeline.links import addresses
from pipeline.system import inet, socket_file

_INET: Final = (*inet.TCP, *inet.UDP)


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
        self._given: dict[str, Bound] = {}
        """Sockets that are bound already, and lead nowhere yet."""
        self._reserved: set[str] = set()
        """Those of them that this process has bound."""

    async def __call__(
        self, worker: str, op: messages.Request, fds: Sequence[int | HasFileno] = ()
    ) -> Message:
        """As Request. An address that cannot be bound is refused with the words of a worker."""
        if isinstance(op, forward_messages.Expose):
            return await self._expose(worker, op)
        answer = await self._request(worker, op, fds)
        if isinstance(op, forward_messages.Unexpose):
            self._release(f"{op.protocol} {op.local}")
        return answer

    def give(self, op: forward_messages.Expose, sock: socket.socket) -> None:
        """A predecessor of this program has bound this socket for such a request. It is this object's."""
        sock.setblocking(False)
        self._given[_key(op)] = _with_file(op, sock)

    def reserve(self, op: forward_messages.Expose) -> None:
        """Bind the address of a request that will come, unless it is bound. Raises ListenError, OSError."""
        if _key(op) not in self._given:
            self._given[_key(op)] = _bind(op)
            self._reserved.add(_key(op))

    def drop_given(self, *, keep_files: bool) -> None:
        """Close the sockets that nobody has asked for, and remove their files.

        keep_files: those of the predecessor stay.
        """
        for key, bound in self._given.items():
            if bound.file is not None and not (keep_files and key not in self._reserved):
                bound.file.remove()
            bound.sock.close()
        self._given.clear()

    def socket_of(self, op: forward_messages.Expose) -> socket.socket | None:
        """The socket of an open forward."""
        bound = self._bound.get(_key(op))
        return bound.sock if bound is not None else None

    def leave(self) -> None:
        """Another process has all sockets: close them, and let their files be."""
        for bound in self._bound.values():
            if bound.file is not None:
                bound.file.forget()
            bound.sock.close()
        self._bound.clear()

    async def _expose(self, worker: str, op: forward_messages.Expose) -> Message:
        key = _key(op)
        if bound := self._bound.get(key):
            # The worker may be another one by now. Clients wait in the backlog of the same socket.
            return await self._request(worker, op, [bound.sock])
        try:
            bound = self._given.pop(key, None) or _bind(op)
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


def _key(op: forward_messages.Expose) -> str:
    return f"{op.protocol} {op.name or op.local}"


def _bind(op: forward_messages.Expose) -> Bound:
    """Raises ListenError, OSError."""
    if op.protocol in _INET:
        return Bound(listener.bind_inet(op.protocol, op.local, op.found))
    return _with_file(op, listener.bind_unix(_path(op)))


def _with_file(op: forward_messages.Expose, sock: socket.socket) -> Bound:
    if op.protocol in _INET:
        return Bound(sock)
    return Bound(sock, socket_file.OwnFile(_path(op), bound=True))


def _path(op: forward_messages.Expose) -> str:
    return addresses.unix_path(op.local) if op.local.startswith("unix://") else op.local
