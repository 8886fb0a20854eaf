"""Unix sockets on the host that lead to unix sockets in a guest, over ssh.

A forward accepts clients as soon as it is open, long before its guest is up. These clients wait. Each client
has a channel of its own, which carries the bytes of both directions and their ends. A guest that never
answers delays only its own clients. connection.py reaches the guest.
"""

import asyncio
import errno
import socket
from collections.abc import Awaitable, Callable
from typing import Final, Protocol

import asyncssh
import structlog

from pipeline.control.ssh.connection import (
    Destination,
    SshConnection,
    SshError,
    Streams,
    dialler,
    read_key,
)
from pipeline.control.threads import Threads
from pipeline.control.workers import Request
from pipeline.links.addresses import unix_path, words_of
from pipeline.system import socket_file

MODE: Final = 0o600
BACKLOG: Final = 128
MAX_CLIENTS: Final = 1024
MAX_READERS: Final = 4
"""Keys that are read at once. A file system that does not answer blocks its reader."""
PIECE: Final = 64 * 1024


class SocketError(Exception):
    """The socket cannot be made on the host. The text says why."""


class Connection(Protocol):
    """The part of SshConnection that a forward uses."""

    async def open(self) -> tuple[Streams, Callable[[], None]]:
        """A channel, and a function to call when it is over. Raises SshError."""
        ...

    async def close(self) -> None:
        """End all channels."""


def host_path(text: str) -> str:
    """The path of a forward's socket, which may be written as a URL. Raises SocketError."""
    scheme, colon, _ = text.partition("://")
    if not colon:
        return text
    if scheme == "npipe":
        raise SocketError("named pipes are not supported by this platform")
    try:
        path = unix_path(text) if scheme == "unix" else ""
    except ValueError as error:
        raise SocketError(f"cannot listen: {text}: {error}") from None
    if not path:
        raise SocketError(f"unknown scheme of a forwarded socket: {text}")
    return path


class SocketForward:
    """One socket on the host, in one event loop. close() removes it."""

    def __init__(self, path: str, connection: Connection, log: structlog.typing.FilteringBoundLogger) -> None:
        self.path = path
        self._connection = connection
        self._log = log.bind(socket=path)
        self._server: asyncio.Server | None = None
        self._file: socket_file.OwnFile | None = None
        self._clients: set[asyncio.Task[None]] = set()

    async def open(self) -> None:
        """Bind and accept. The file of an abandoned socket is replaced. Raises SocketError."""
        sock = _bind(self.path)
        file = socket_file.OwnFile(self.path, bound=True)
        try:
            # Assigned before the next await, so that close() finds it if this call is cancelled.
            self._server = await asyncio.start_unix_server(
                self._accept, sock=sock, limit=PIECE, backlog=BACKLOG, start_serving=False
            )
        except BaseException:
            file.remove()
            sock.close()
            raise
        self._file = file
        await self._server.start_serving()

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


class SocketForwards:
    """All forwards over ssh, by the path of their socket."""

    def __init__(self, request: Request, log: structlog.typing.FilteringBoundLogger) -> None:
        """request reaches the workers: guests are dialled through one of them."""
        self._dial = dialler(request)
        self._log = log
        self._threads = Threads(MAX_READERS)
        self._forwards: dict[str, SocketForward] = {}

    async def check_key(self, path: str) -> None:
        """Raise SshError for a key that can never work. Each attempt to connect reads it again."""
        await self._threads.run(lambda: read_key(path))

    async def open(self, path: str, destination: Destination) -> None:
        """Make a socket that leads to the guest's. Raises SocketError."""
        connection = SshConnection(destination, self._dial, self._log, threads=self._threads)
        forward = SocketForward(path, connection, self._log)
        try:
            await forward.open()
        except BaseException:
            await forward.close()
            raise
        self._forwards[path] = forward
        self._log.info("socket forwarded", socket=path, to=destination.path, user=destination.user)

    async def close(self, path: str) -> None:
        """Remove one forward and end its clients. KeyError if there is none."""
        await self._forwards.pop(path).close()

    async def close_all(self) -> None:
        """Remove all forwards."""
        await asyncio.gather(*(self.close(path) for path in list(self._forwards)))


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


def _bind(path: str) -> socket.socket:
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
