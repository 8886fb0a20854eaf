"""The front door of the HTTP endpoints: it looks at a connection's first request, then decides.

A request for one of the take-over paths (``/connect``, ``/tunnel``) gets the bare socket. The callback owns
it from then on. aiohttp serves any other connection: it gets the head first, then what the socket brings.
The front door peeks at the socket, so the bytes after the head are still there. Where a socket cannot be
peeked at, they are handed over as ``rest``.

Everything is bounded: size and time of a head, the number of connections, and the time that a peer may
leave an answer unread. aiohttp serves the later requests of a connection too. A take-over path is not
served there (api.py says so to the client).
"""

import asyncio
import errno
import socket
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from typing import Final, NamedTuple

import structlog

from pipeline.control.http.connection import LINGER, LINGER_BYTES, TIMEOUT, Connection, Server
from pipeline.control.http.head import Head, HeadError, HeadReader
from pipeline.control.repeated import Repeated
from pipeline.system import inet

MAX_CONNECTIONS: Final = 1024
ACCEPT_PAUSE: Final = 0.1
"""Seconds without accepting after the system refused (out of descriptors)."""
PEEK_BYTES: Final = 16 * 1024


class Taken(NamedTuple):
    """A connection that left HTTP. The callback owns ``sock`` (non-blocking) and closes it.

    ``rest``: bytes after the head that are not in the socket any more, mostly empty.
    ``client``: ``ip:port``, or "@" for unnamed unix sockets.
    """

    sock: socket.socket
    head: Head
    rest: bytes
    client: str


TakeOver = Callable[[Taken], Awaitable[None]]


class Front:
    """The connections of one kind of endpoint.

    take_overs says which paths are taken over. server makes aiohttp's protocol for any other connection.
    """

    def __init__(
        self,
        server: Server,
        take_overs: Mapping[str, TakeOver],
        log: structlog.typing.FilteringBoundLogger,
        *,
        timeout: float = TIMEOUT,
        max_connections: int = MAX_CONNECTIONS,
    ) -> None:
        self._server = server
        self._take_overs = take_overs
        self._log = log
        self._refused = Repeated(log, "connection refused, too many")
        self._not_accepted = Repeated(log, "accept failed")
        self._timeout = timeout
        self._max_connections = max_connections
        self._connections: set[asyncio.Task[None]] = set()
        self._listeners: set[asyncio.Task[None]] = set()
        self._room = asyncio.Event()
        self._room.set()

    def listen(self, listener: socket.socket) -> None:
        """Serve all connections of a listening socket, which stays the caller's to close (after close())."""
        listener.setblocking(False)
        self._start(self._accept(listener), self._listeners)

    def serve(self, sock: socket.socket, client: str | None = None) -> None:
        """Serve one connection, whose socket is the front's now.

        client is the peer's address for api.py, by default that of the socket.
        A connection beyond the bound is closed at once.
        """
        sock.setblocking(False)
        if len(self._connections) >= self._max_connections:
            self._refused.warning(asyncio.get_running_loop().time(), client=client)
            sock.close()
            return
        self._start(self._serve_and_close(sock, client), self._connections)
        if len(self._connections) >= self._max_connections:
            self._room.clear()

    async def close(self) -> None:
        """Stop accepting, and end every connection that was not taken over."""
        tasks = [*self._listeners, *self._connections]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _start(self, work: Coroutine[None, None, None], group: set[asyncio.Task[None]]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        group.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._listeners.discard(task)
        self._connections.discard(task)
        self._room.set()
        if not task.cancelled() and (error := task.exception()) is not None:
            self._log.error("control connection failed", error=repr(error))

    async def _accept(self, listener: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            # Wait for room first: a connection in the backlog costs nothing.
            await self._room.wait()
            try:
                sock, _ = await loop.sock_accept(listener)
            except OSError as error:
                self._not_accepted.warning(loop.time(), error=str(error))
                await asyncio.sleep(ACCEPT_PAUSE)
                continue
            self.serve(sock)

    async def _serve_and_close(self, sock: socket.socket, client: str | None) -> None:
        try:
            await self._serve(sock, client if client is not None else peer_text(sock))
        except BaseException:
            sock.close()
            raise

    async def _serve(self, sock: socket.socket, client: str) -> None:
        loop = asyncio.get_running_loop()
        reader = HeadReader()
        try:
            async with asyncio.timeout(self._timeout):
                rest = await _read_head(loop, sock, reader)
                head = reader.head() if rest is not None else None
        except HeadError as error:
            self._log.debug("bad request", client=client, error=str(error))
            await close_with(sock, error.response(), self._log, self._timeout)
            return
        except TimeoutError:
            self._log.debug("no request within the time", client=client)
            sock.close()
            return
        except OSError as error:
            self._log.debug("connection lost", client=client, error=str(error))
            sock.close()
            return
        if head is None or rest is None:
            sock.close()
            return
        take_over = self._take_overs.get(head.path)
        if take_over is not None:
            await take_over(Taken(sock, head, rest, client))
            return
        ended = asyncio.Event()
        inner = self._server()
        transport, _ = await loop.connect_accepted_socket(
            lambda: Connection(inner, head.raw + rest, client, self._take_overs, self._timeout, ended), sock
        )
        try:
            await ended.wait()
        finally:
            transport.abort()


async def close_with(
    sock: socket.socket,
    answer: bytes,
    log: structlog.typing.FilteringBoundLogger,
    timeout: float = TIMEOUT,
) -> None:
    """Write a last answer and close the socket. timeout: seconds to take the answer."""
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(timeout):
            await loop.sock_sendall(sock, answer)
            sock.shutdown(socket.SHUT_WR)
        # A socket that is closed with bytes unread is reset, and the answer may be lost with it.
        async with asyncio.timeout(LINGER):
            left = LINGER_BYTES
            while left > 0 and (piece := await loop.sock_recv(sock, PEEK_BYTES)):
                left -= len(piece)
    except (OSError, TimeoutError) as failure:
        log.debug("refusal not delivered", error=str(failure))
    finally:
        sock.close()


async def _read_head(
    loop: asyncio.AbstractEventLoop, sock: socket.socket, reader: HeadReader
) -> bytes | None:
    """Feed the reader until its head is complete. Returns the bytes read beyond it, None if the peer left."""
    peek = int(socket.MSG_PEEK)
    while True:
        try:
            piece = sock.recv(PEEK_BYTES, peek)
        except BlockingIOError:
            await _readable(loop, sock)
            continue
        except OSError as error:
            if not peek or error.errno != errno.EOPNOTSUPP:
                raise
            peek = 0
            continue
        if not piece:
            return None
        done = reader.feed(piece)
        if peek:
            # Everything peeked at is the head's, up to its end.
            _discard(sock, reader.taken if done else len(piece))
        if done:
            return b"" if peek else piece[reader.taken :]


def _discard(sock: socket.socket, count: int) -> None:
    while count:
        got = len(sock.recv(count))
        if not got:
            raise ConnectionResetError("what was peeked at is gone")
        count -= got


async def _readable(loop: asyncio.AbstractEventLoop, sock: socket.socket) -> None:
    ready = loop.create_future()

    def wake() -> None:
        if not ready.done():
            ready.set_result(None)

    loop.add_reader(sock, wake)
    try:
        await ready
    finally:
        loop.remove_reader(sock)


def peer_text(sock: socket.socket) -> str:
    """The peer's address as Go writes it: ``ip:port``, ``vm(cid):port``, "@" for unnamed unix sockets."""
    try:
        peer = sock.getpeername()
    except OSError:
        return "@"
    if sock.family in (socket.AF_INET, socket.AF_INET6):
        return inet.endpoint(peer)
    if isinstance(peer, tuple):
        return f"vm({peer[0]}):{peer[1]}"
    return (peer.decode("utf-8", "replace") if isinstance(peer, bytes) else peer).replace("\0", "@") or "@"
