"""One connection that aiohttp serves, and the deadlines of the control endpoints.

aiohttp sees what hand_written.py makes of the requests. It would answer a head that is too long with 400. So
it gets another request in place of that one. api.py answers it with 431, after the earlier requests.
"""

import asyncio
import os
import socket
from collections.abc import Awaitable, Callable, Container
from contextlib import suppress
from typing import Final

from pipeline.control.http.hand_written import Rewriter
from pipeline.control.http.head import MAX_HEAD

TIMEOUT: Final = 10.0
"""Seconds: to send a head or a body, to read an answer, between requests."""
LINGER: Final = 1.0
"""Seconds in which the rest of an unwanted request is read, so that the client sees the answer."""
MAX_FIELDS: Final = MAX_HEAD // 4
"""Fields that a head of that length can have."""

LINGER_BYTES: Final = 4 * 1024 * 1024
"""Bytes that are read of an unwanted request, for the same purpose."""
TOO_LONG: Final = f"/{os.urandom(32).hex()}"
"""Path of the request that stands for one with a head that is too long. No client knows it."""
_TOO_LONG_REQUEST: Final = f"GET {TOO_LONG} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode()

Server = Callable[[], Awaitable[asyncio.Protocol]]
"""Makes aiohttp's protocol for one connection."""


class Connection(asyncio.Protocol):
    """Between a transport and aiohttp's protocol. It hands on the head that the front door has read."""

    def __init__(
        self,
        inner: asyncio.Protocol,
        first: bytes,
        client: str,
        take_overs: Container[str],
        timeout: float,
        ended: asyncio.Event,
        guest: int = 0,
    ) -> None:
        """ended: set when the connection is lost, or by an owner that gives it up.

        guest: the number of the guest whose connection it is; 0 for clients on the host.
        """
        self.guest = guest
        self.client = client
        self.take_overs = take_overs
        """Paths that a first request is taken over for on this endpoint."""
        self.answering = False
        """A request has come, and its answer is not decided yet."""
        self.half_closed = False
        """The peer sends nothing more but may still read."""
        self.unread: socket.socket | None = None
        """When the connection is lost: the socket, if the client may still be sending its request."""
        self._on_lost: Callable[[], None] | None = None
        self._inner = inner
        self._first = first
        self._rewriter = Rewriter(MAX_HEAD)
        self._timeout = timeout
        self._ended = ended
        self._stuck: asyncio.TimerHandle | None = None
        self._unread = 0
        self._refusal: asyncio.TimerHandle | None = None
        self._refused = False

    def on_lost(self, call: Callable[[], None]) -> None:
        """Call this function when the connection is lost. For an answer that has no end of its own."""
        self._on_lost = call

    def is_answering(self) -> bool:
        """Whether a request is there and its answer is not decided yet."""
        return self.answering

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Hand the transport on, then the head, before the socket is read."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._inner.connection_made(transport)
        self.data_received(self._first)

    def data_received(self, data: bytes) -> None:
        """Hand the bytes on, in the form that aiohttp takes."""
        self.answering = True
        if made := self._rewriter.feed(data):
            self._inner.data_received(made)
        if self._rewriter.too_long and not self._refused:
            self._refuse_soon(len(data))

    def eof_received(self) -> bool:
        """Keep a half-closed connection that waits for an answer. Close any other."""
        self.half_closed = True
        if self._refusal is not None:
            self._refuse()
        return self.answering

    def pause_writing(self) -> None:
        """The peer does not read. Abort the connection if it does not for one deadline."""
        self._stuck = asyncio.get_running_loop().call_later(self._timeout, self._transport.abort)
        self._inner.pause_writing()

    def resume_writing(self) -> None:
        """The peer reads again."""
        self._calm()
        self._inner.resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        """Hand the end on."""
        self._calm()
        if exc is None and self._rewriter.unfinished and not self._ended.is_set():
            # The transport closes its own descriptor now. The owner reads on with this one, if there is one.
            with suppress(OSError):
                self.unread = self._transport.get_extra_info("socket").dup()
        if self._refusal is not None:
            self._refusal.cancel()
        self._inner.connection_lost(exc)
        if self._on_lost is not None:
            self._on_lost()
        self._ended.set()

    def _refuse_soon(self, count: int) -> None:
        """Refuse the head when its end has come. A client that is still sending may not see the answer."""
        self._unread += count
        if self._refusal is None:
            self._refusal = asyncio.get_running_loop().call_later(LINGER, self._refuse)
        if self._rewriter.ended or self._unread > LINGER_BYTES:
            self._refuse()

    def _refuse(self) -> None:
        """Let aiohttp answer the head that is too long, once."""
        if self._refusal is not None:
            self._refusal.cancel()
        if not self._refused:
            self._refused = True
            self._inner.data_received(_TOO_LONG_REQUEST)

    def _calm(self) -> None:
        if self._stuck is not None:
            self._stuck.cancel()
            self._stuck = None
