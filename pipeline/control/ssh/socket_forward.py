"""Unix sockets on the host that lead to unix sockets in a guest, over ssh.

A forward accepts clients as soon as it is open, long before its guest is up. These clients wait. Each client
has a channel of its own, which carries the bytes of both directions and their ends. A guest that never
answers delays only its own clients. connection.py reaches the guest.
"""

import asyncio
import errno
import socket
import sys
from collections.abc import Awaitable, Callable
from typing import Any, Final, Protocol

import asyncssh
import structlog

from pipeline.control.ssh.connection import Streams
from pipeline.control.ssh.destination import SocketError, SshError
from pipeline.links.addresses import words_of
from pipeline.system import socket_file

MODE: Final = 0o600
BACKLOG: Final = 128
MAX_CLIENTS: Final = 1024
PIECE: Final = 64 * 1024
_KEEPS_FILE: Final[dict[str, Any]] = {"cleanup_socket": False} if sys.version_info >= (3, 13) else {}
"""Has asyncio leave the file of a socket alone: it may be another process's by then."""


class Connection(Protocol):
    """The part of SshConnection that a forward uses."""

    async def open(self) -> tuple[Streams, Callable[[], None]]:
        """A channel, and a function to call when it is over. Raises SshError."""
        ...

    async def close(self) -> None:
        """End all channels."""


class SocketForward:
    """One socket on the host, in one event loop. close() removes it."""

    def __init__(self, path: str, connection: Connection, log: structlog.typing.FilteringBoundLogger) -> None:
        self.path = path
        self._connection = connection
        self._log = log.bind(socket=path)
        self._server: asyncio.Server | None = None
        self._file: socket_file.OwnFile | None = None
        self._clients: set[asyncio.Task[None]] = set()

    async def open(self, given: socket.socket | None = None) -> None:
        """Bind and accept. The file of an abandoned socket is replaced. Raises SocketError.

        given: a socket that is bound there already.
        """
        sock = given or bind(self.path)
        file = socket_file.OwnFile(self.path, bound=True)
        try:
            # Assigned before the next await, so that close() finds it if this call is cancelled.
            self._server = await asyncio.start_unix_server(
                self._accept, sock=sock, limit=PIECE, backlog=BACKLOG, start_serving=False, **_KEEPS_FILE
            )
        except BaseException:
            file.remove()
            sock.close()
            raise
        self._file = file
        await self._server.start_serving()

    @property
    def listener(self) -> socket.socket | None:
        """The listening socket, whose descriptor stays this object's."""
        return self._server.sockets[0] if self._server is not None else None

    def leave(self) -> None:
        """Another process has the socket too: accept no more clients, and let its file be."""
        if self._file is not None:
            self._file.forget()
            self._file = None
        if self._server is not None:
            self._server.close()

    async def close(self) -> None:
        """Remove the socket, end all clients and the connection."""
        if self._server is not None:
            if self._file is not None:
                self._file.remove()
            self._server.close()
            self._server = None
        for client in self._clients:
            client.cancel()
        await asyncio.gather(*self._clients, return_exceptions=True)
        await self._connection.close()

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if len(self._clients) >= MAX_CLIENTS:
            self._log.warning("client refused, too many", clients=len(self._clients))
            writer.transport.abort()
            return
        task = asyncio.get_running_loop().create_task(self._serve(reader, writer))
        self._clients.add(task)
        task.add_done_callback(self._clients.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            (from_guest, to_guest), release = await self._connection.open()
        except SshError as error:
            self._log.error("client not connected to the guest", error=str(error))
            writer.transport.abort()
            return
        except BaseException:
            writer.transport.abort()
            raise
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(_carry(reader.read, to_guest.write, to_guest.drain, to_guest.write_eof))
                group.create_task(_carry(from_guest.read, writer.write, writer.drain, writer.write_eof))
            # An orderly close: bytes that are not read yet are still delivered.
            to_guest.close()
            writer.close()
            await to_guest.wait_closed()
            await writer.wait_closed()
        except* (OSError, asyncssh.Error) as errors:
            self._log.debug("client's connection broke", error=str(errors.exceptions[0]))
        finally:
            # These do nothing when both were closed.
            to_guest.channel.abort()
            writer.transport.abort()
            release()


async def _carry(
    read: Callable[[int], Awaitable[bytes]],
    write: Callable[[bytes], object],
    drain: Callable[[], Awaitable[object]],
    end: Callable[[], object],
) -> None:
    """Carry one direction to its end."""
    while data := await read(PIECE):
        write(data)
        await drain()
    end()


def bind(path: str) -> socket.socket:
    """The socket of a forward at this path, which does not listen yet. Raises SocketError."""
    if fault := socket_file.fault(path, relative=True):
        raise SocketError(f"listen unix {path}: bind: {fault}")
    sock = socket.socket(socket.AF_UNIX)
    try:
        socket_file.bind(sock, path, MODE)
    except OSError as error:
        sock.close()
        if error.errno == errno.EADDRINUSE and socket_file.is_other_file(path):
            raise SocketError(f"{path} exists and is not a socket: it is not replaced") from error
        raise SocketError(f"listen unix {path}: bind: {words_of(error)}") from error
    sock.setblocking(False)
    return sock
