"""The front door of the HTTP endpoints: looks at a connection's first request, then decides.

A request for one of the take-over paths (``/connect``, ``/tunnel``) gets the bare socket: the
callback owns it from then on. For any other request aiohttp serves the connection, with the
head played to it first. Heads are peeked at, so bytes behind them stay in the socket; only
where a socket cannot be peeked at they are handed over as ``rest``. What aiohttp sees is what
hand_written.py makes of the requests.

A later request whose head is too long is answered by api.py with 431, as the first one is here.

Bounded in every respect: size and time of heads, number of connections, time that a peer may
leave an answer unread. Later requests on a kept-alive connection are aiohttp's; a take-over
path is not served there (api.py says so to the client).
"""

import asyncio
import errno
import logging
import secrets
import socket
from collections.abc import Awaitable, Callable, Container, Coroutine, Mapping
from typing import Final, NamedTuple, cast

import structlog
from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

from pipeline.control.http.hand_written import Rewriter
from pipeline.control.http.head import MAX_HEAD, Head, HeadError, HeadReader
from pipeline.control.repeated import Repeated
from pipeline.system import inet

TIMEOUT: Final = 10.0
"""Seconds: to send a head or a body, to read an answer, between requests."""
MAX_CONNECTIONS: Final = 1024
ACCEPT_PAUSE: Final = 0.1
"""Seconds without accepting after the system refused (out of descriptors)."""
LINGER: Final = 1.0
"""Seconds in which the rest of a request that nobody wants is read, so that the client sees the answer."""
LINGER_BYTES: Final = 4 * 1024 * 1024
MAX_FIELDS: Final = MAX_HEAD // 4
"""Fields that a head of that length can have."""
PEEK_BYTES: Final = 16 * 1024
TOO_LONG: Final = f"/{secrets.token_hex()}"
"""Path of the request that aiohttp gets in place of one with too long a head. No client knows it."""
_TOO_LONG_REQUEST: Final = f"GET {TOO_LONG} HTTP/1.1\r\nHost: \r\nConnection: close\r\n\r\n".encode()


class Taken(NamedTuple):
    """A connection that is no HTTP any more. The callback owns ``sock`` (non-blocking) and closes it.

    ``rest``: bytes behind the head that are not in the socket any more, mostly empty.
    ``client``: ``ip:port``, or "@" for unnamed unix sockets.
    """

    sock: socket.socket
    head: Head
    rest: bytes
    client: str


_HTTP_LOG: Final = logging.getLogger("pipeline.control.http")
# Nonsense from a client is answered and no event: a guest must not be able to fill the log.
_HTTP_LOG.addFilter(
    lambda record: not (record.exc_info and isinstance(record.exc_info[1], HttpProcessingError))
)

TakeOver = Callable[[Taken], Awaitable[None]]
Server = Callable[[], asyncio.BaseProtocol]


class Connection(asyncio.Protocol):
    """Between a transport and aiohttp's protocol: plays the head, watches for stuck and half-closed peers."""

    def __init__(
        self,
        inner: asyncio.Protocol,
        first: bytes,
        client: str,
        take_overs: Container[str],
        timeout: float,
        ended: asyncio.Event,
    ) -> None:
        self.client = client
        self.take_overs = take_overs
        """Paths that a first request is taken over for on this endpoint."""
        self.answering = False
        """A request is there and its answer is not decided yet."""
        self.half_closed = False
        """The peer sends nothing more but may still read."""
        self._inner = inner
        self._first = first
        self._rewriter = Rewriter(MAX_HEAD)
        self._timeout = timeout
        self._ended = ended
        self._stuck: asyncio.TimerHandle | None = None
        self._unread = 0
        self._refusal: asyncio.TimerHandle | None = None
        self._refused = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Hand on, and the head right behind, before the socket is read."""
        self._transport = cast(asyncio.Transport, transport)
        self._inner.connection_made(transport)
        self.data_received(self._first)

    def data_received(self, data: bytes) -> None:
        """Hand on, in the form that aiohttp takes."""
        self.answering = True
        if made := self._rewriter.feed(data):
            self._inner.data_received(made)
        if self._rewriter.too_long and not self._refused:
            self._refuse_soon(len(data))

    def eof_received(self) -> bool:
        """Keep a half-closed connection for the answer that is due; close one without."""
        self.half_closed = True
        if self._refusal is not None:
            self._refuse()
        return self.answering

    def pause_writing(self) -> None:
        """The peer does not read: give it the time of one deadline."""
        self._stuck = asyncio.get_running_loop().call_later(self._timeout, self._transport.abort)
        self._inner.pause_writing()

    def resume_writing(self) -> None:
        """The peer reads again."""
        self._calm()
        self._inner.resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        """Hand on."""
        self._calm()
        if self._refusal is not None:
            self._refusal.cancel()
        self._inner.connection_lost(exc)
        self._ended.set()

    def _refuse_soon(self, count: int) -> None:
        """Refuse the head that is too long when all of it was read: who still sends may miss the answer."""
        self._unread += count
        if self._refusal is None:
            self._refusal = asyncio.get_running_loop().call_later(LINGER, self._refuse)
        if self._rewriter.ended or self._unread > LINGER_BYTES:
            self._refuse()

    def _refuse(self) -> None:
        """Have aiohttp say it, which answers the requests before this one first."""
        if self._refusal is not None:
            self._refusal.cancel()
        if not self._refused:
            self._refused = True
            self._inner.data_received(_TOO_LONG_REQUEST)

    def _calm(self) -> None:
        if self._stuck is not None:
            self._stuck.cancel()
            self._stuck = None


def connection_of(request: web.BaseRequest) -> Connection | None:
    """The Connection that a request came over; None when it came over none of ours, or is gone."""
    protocol = request.transport.get_protocol() if request.transport is not None else None
    return protocol if isinstance(protocol, Connection) else None


def make_runner(app: web.Application) -> web.AppRunner:
    """The runner of an application with the deadlines of this module; its ``server`` is what Front takes.

    Signals are not touched. ``await runner.setup()`` before, ``cleanup()`` after.
    """
    return web.AppRunner(
        app,
        handle_signals=False,
        access_log=None,
        keepalive_timeout=TIMEOUT,
        tcp_keepalive=False,
        lingering_time=LINGER,
        max_line_size=MAX_HEAD,
        max_field_size=MAX_HEAD,
        max_headers=MAX_FIELDS,
        logger=_HTTP_LOG,
    )


class Front:
    """Connections of one kind of endpoint: which paths are taken over, and aiohttp's server for the rest.

    ``server`` makes a protocol for a connection: ``make_runner(app).server``.
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

        client is what api.py takes for the peer's address, by default what the socket says.
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
        """End accepting and every connection that was not taken over."""
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
            # Room first: what waits in the backlog costs us nothing.
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
            await self._refuse(loop, sock, error)
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
        inner = cast(asyncio.Protocol, self._server())
        transport, _ = await loop.connect_accepted_socket(
            lambda: Connection(inner, head.raw + rest, client, self._take_overs, self._timeout, ended), sock
        )
        try:
            await ended.wait()
        finally:
            transport.abort()

    async def _refuse(self, loop: asyncio.AbstractEventLoop, sock: socket.socket, error: HeadError) -> None:
        try:
            async with asyncio.timeout(self._timeout):
                await loop.sock_sendall(sock, error.response())
                sock.shutdown(socket.SHUT_WR)
            # A socket that is closed with bytes unread is reset, and the answer may be lost with it.
            async with asyncio.timeout(LINGER):
                left = LINGER_BYTES
                while left > 0 and (piece := await loop.sock_recv(sock, PEEK_BYTES)):
                    left -= len(piece)
        except (OSError, TimeoutError) as failure:
            self._log.debug("refusal not delivered", error=str(failure))
        finally:
            sock.close()


async def _read_head(
    loop: asyncio.AbstractEventLoop, sock: socket.socket, reader: HeadReader
) -> bytes | None:
    """Feed the reader until its head is complete; what was read beyond it. None when the peer left before."""
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
