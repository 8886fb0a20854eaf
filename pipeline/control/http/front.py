"""The front door of the HTTP endpoints: it looks at a connection's first request, then decides.

A request for one of the take-over paths (``/connect``, ``/tunnel``) gets the bare socket. The callback owns
it from then on. aiohttp serves any other connection: it gets the head first, then what the socket brings.
The front door peeks at the socket, so the bytes after the head are still there. Where a socket cannot be
peeked at, they are handed over as ``rest``.

Everything is bounded: size and time of a head, the number of connections (pipeline.control.http.seats), and
the time that a peer may leave an answer unread. aiohttp serves the later requests of a connection too. A
take-over path is not served there (api.py says so to the client).
"""

import asyncio
import errno
import socket
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from contextlib import suppress
from typing import Final, NamedTuple

import structlog

from pipeline.control.http.connection import LINGER, LINGER_BYTES, TIMEOUT, Connection, Server
from pipeline.control.http.head import FRAMES, Head, HeadError, HeadReader
from pipeline.control.http.seats import Seat, Seats
from pipeline.control.repeated import Repeated
from pipeline.links.addresses import unix_text
from pipeline.system import inet, peer

MAX_CONNECTIONS: Final = 1024
ACCEPT_PAUSE: Final = 0.1
"""Seconds without accepting after the system refused (out of descriptors)."""
PEEK_BYTES: Final = 16 * 1024
MACHINE: Final = "machine "
"""A virtual machine that connects over vsock is a guest. Its number here is its address (CID), negative."""


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
        count: Callable[[str], None] = lambda _name: None,
    ) -> None:
        """count: called with the name of a counter."""
        self._server = server
        self._take_overs = take_overs
        self._log = log
        self._refused = Repeated(log, "connection refused, too many")
        self._not_accepted = Repeated(log, "accept failed")
        self._timeout = timeout
        self._count = count
        self._connections: set[asyncio.Task[None]] = set()
        self.seats = Seats(max_connections)
        self._listeners: set[asyncio.Task[None]] = set()
        self._sockets: list[socket.socket] = []
        self._room = asyncio.Event()
        self._room.set()

    def listen(self, listener: socket.socket) -> None:
        """Serve all connections of a listening socket, which stays the caller's to close (after close())."""
        listener.setblocking(False)
        self._sockets.append(listener)
        self._start(self._accept(listener), self._listeners)

    def pause(self) -> None:
        """Accept no connections until go_on(). They wait in the backlog."""
        for task in self._listeners:
            task.cancel()

    def go_on(self) -> None:
        """Accept connections again."""
        for listener in self._sockets:
            self._start(self._accept(listener), self._listeners)

    def serve(self, sock: socket.socket, client: str | None = None, guest: int = 0) -> None:
        """Serve one connection, whose socket is the front's now.

        client is the peer's address for api.py, by default that of the socket. guest: the number of the guest
        whose connection it is; 0 for clients on the host. At the bound another connection ends, or this one
        is refused.
        """
        sock.setblocking(False)
        owner = f"guest {guest}" if guest else peer.identity(sock) or "unknown"
        if owner.startswith(MACHINE):
            guest = -int(owner.removeprefix(MACHINE))
        seat = Seat(owner, guest, _nothing)
        if self.seats.full:
            other = self.seats.make_room(seat.owner)
            if other is None:
                self._count("api_connection_refused_too_many")
                self._refused.warning(asyncio.get_running_loop().time(), client=client)
                sock.close()
                return
            self._count("api_connection_evicted")
            other.end()
        self.seats.add(seat)
        task = self._start(self._serve_and_close(sock, client, seat), self._connections)
        # A task that is cancelled before its first step closes nothing itself.
        task.add_done_callback(lambda done: sock.close() if done.cancelled() else None)
        seat.end = task.cancel
        if self.seats.full:
            self._room.clear()

    async def close(self) -> None:
        """Stop accepting, and end every connection that was not taken over."""
        tasks = [*self._listeners, *self._connections]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _start(self, work: Coroutine[None, None, None], group: set[asyncio.Task[None]]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work)
        group.add(task)
        task.add_done_callback(self._done)
        return task

    def _done(self, task: asyncio.Task[None]) -> None:
        self._listeners.discard(task)
        self._connections.discard(task)
        self._room.set()
        if not task.cancelled() and (error := task.exception()) is not None:
            self._log.error("control connection failed", error=repr(error))

    async def _accept(self, listener: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                sock, _ = await loop.sock_accept(listener)
            except OSError as error:
                self._not_accepted.warning(loop.time(), error=str(error))
                await asyncio.sleep(ACCEPT_PAUSE)
                continue
            try:
                # Wait for room: the next connections are in the backlog, where they cost nothing.
                while self.seats.full and not self.seats.has_idle():
                    with suppress(TimeoutError):
                        async with asyncio.timeout(ACCEPT_PAUSE):
                            await self._room.wait()
            except BaseException:
                sock.close()
                raise
            self.serve(sock)

    async def _serve_and_close(self, sock: socket.socket, client: str | None, seat: Seat) -> None:
        try:
            await self._serve(sock, client if client is not None else peer_text(sock), seat)
        except BaseException:
            sock.close()
            raise
        finally:
            self.seats.remove(seat)

    async def _serve(self, sock: socket.socket, client: str, seat: Seat) -> None:
        loop = asyncio.get_running_loop()
        reader = HeadReader()
        try:
            async with asyncio.timeout(self._timeout):
                rest = await _read_head(loop, sock, reader)
                head = reader.head() if rest is not None else None
        except HeadError as error:
            if error.detail == FRAMES:
                self._log.warning("bad request", client=client, error=str(error))
            else:
                self._log.debug("malformed request", client=client, error=str(error))
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
            seat.is_busy = _busy
            await take_over(Taken(sock, head, rest, client))
            return
        ended = asyncio.Event()
        inner = await self._server()
        connection = Connection(
            inner, head.raw + rest, client, self._take_overs, self._timeout, ended, seat.guest
        )
        seat.is_busy = connection.is_answering
        transport, _ = await loop.connect_accepted_socket(lambda: connection, sock)
        try:
            await ended.wait()
            if connection.unread is not None:
                connection.unread.shutdown(socket.SHUT_WR)
                await _read_rest(connection.unread)
        except (OSError, TimeoutError) as failure:
            self._log.debug("refusal not delivered", error=str(failure))
        finally:
            ended.set()
            transport.abort()
            if connection.unread is not None:
                connection.unread.close()


def _nothing() -> None:
    """There is nothing to end yet."""


def _busy() -> bool:
    return True


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
        await _read_rest(sock)
    except (OSError, TimeoutError) as failure:
        log.debug("refusal not delivered", error=str(failure))
    finally:
        sock.close()


async def _read_rest(sock: socket.socket) -> None:
    """Read what a client still sends, within limits. Raises OSError or TimeoutError.

    A socket that is closed with bytes unread is reset, and the last answer may be lost with it.
    """
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(LINGER):
        left = LINGER_BYTES
        while left > 0 and (piece := await loop.sock_recv(sock, PEEK_BYTES)):
            left -= len(piece)


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
        address = sock.getpeername()
    except OSError:
        return "@"
    if sock.family in (socket.AF_INET, socket.AF_INET6):
        return inet.endpoint(address)
    if isinstance(address, tuple):
        return f"vm({address[0]}):{address[1]}"
    return unix_text(address)
