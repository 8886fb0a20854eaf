"""Asks upstream name servers: which one, how often, over UDP or TCP, and which response counts.

One ``ask`` has one result, within BUDGET seconds: a response or None. Each try is a UDP
socket of its own, connected to one server, with a port that the kernel picks and a random id: a response
counts only if it comes from that server to that port with that id and that question. Tries
follow each other RETRY seconds apart, over all servers in turn, and an earlier one stays open, since a slow
answer is an answer. What a try may bring:

=========================  ===================================================================
silence                    the next try begins, the server goes behind the others for a while
ICMP error                 the next try begins at once; without one, or with none open, no result
FORMERR, NOTIMP            asked again without EDNS, once; then it is the result
SERVFAIL, REFUSED          the next server is asked; the result if no other has a better one
truncated                  asked again over TCP; the result if that fails
anything else              the result
=========================  ===================================================================

Does not know what the messages say beyond header and question. Never blocks and sets no timer: the
owner calls ``on_timer`` at ``deadline()`` and collects results with ``take_results``.
"""

import errno
import socket
from collections.abc import Callable, Hashable, Sequence
from struct import Struct
from typing import Final, Generic, Protocol, TypeVar

from pipeline import events as ev
from pipeline.host.framed import FramedStream
from pipeline.host.name_files import Server

BUDGET: Final = 4.5
"""Seconds until an ask ends without a result: a guest gets SERVFAIL before its own 5 s are over."""
RETRY: Final = 1.0
MAX_TRIES: Final = 4
AVOID_SECONDS: Final = 10.0
"""How long a server that did not answer is asked only after the others."""
MAX_ASKS: Final = 256
"""Asks under way; one more ends at once."""
MAX_RESPONSE: Final = 65535
READS: Final = 16
"""Datagrams taken from one socket at a time: a flood of forged ones must not hold the worker."""
OPT_BYTES: Final = 11
"""Length of the OPT record without options at the end of each query."""

_HEADER: Final = Struct("!HHHHHH")
_FORMERR: Final = 1
_SERVFAIL: Final = 2
_NOTIMP: Final = 4
_REFUSED: Final = 5
_RESPONSE: Final = 0x8000
_OPCODE: Final = 0x7800
_TRUNCATED: Final = 0x0200

T = TypeVar("T", bound=Hashable)


class Poller(Protocol):
    """What is needed of the worker's poller."""

    def register(self, fd: int, events: int, callback: Callable[[int], object]) -> None:
        """Call callback(events) while fd is ready."""

    def modify(self, fd: int, events: int) -> None:
        """Wait for other events."""

    def unregister(self, fd: int) -> None:
        """Stop."""


class _Try:
    """One question to one server over a socket of its own."""

    __slots__ = ("ident", "over_tcp", "server", "sock")

    def __init__(self, server: Server, ident: bytes, sock: socket.socket, *, over_tcp: bool) -> None:
        self.server = server
        self.ident = ident
        self.sock = sock
        self.over_tcp = over_tcp


class _Ask(Generic[T]):
    """A question until its result."""

    __slots__ = (
        "deadline",
        "edns",
        "fallback",
        "query",
        "servers",
        "token",
        "tries",
        "tries_left",
        "unhelpful",
    )

    def __init__(self, token: T, query: bytes, servers: list[Server], now: float) -> None:
        self.token = token
        self.query = query
        self.servers = servers
        self.deadline = now + BUDGET
        self.tries_left = MAX_TRIES
        self.tries: list[_Try] = []
        self.edns = True
        self.fallback: bytes | None = None
        self.unhelpful: set[Server] = set()

    def next_server(self) -> Server:
        """The servers in turn."""
        return self.servers[(MAX_TRIES - self.tries_left) % len(self.servers)]


class Upstream(Generic[T]):
    """The asks under way. T is the owner's name for one."""

    def __init__(
        self,
        poller: Poller,
        servers: Callable[[], Sequence[Server]],
        clock: Callable[[], float],
        random_bytes: Callable[[int], bytes],
    ) -> None:
        """servers: those to ask now, best first; clock: monotonic seconds; random_bytes: as os.urandom."""
        self.ignored = 0
        """Responses that did not fit what was asked."""
        self.over_tcp = 0
        """Questions asked again over TCP."""
        self._poller = poller
        self._servers = servers
        self._clock = clock
        self._random = random_bytes
        self._asks: dict[T, _Ask[T]] = {}
        """In the order of their deadlines, since all have the same budget."""
        self._retries: dict[_Ask[T], float] = {}
        """Asks with tries left and when the next is due, in that order, since all wait equally long."""
        self._results: list[tuple[T, bytes | None]] = []
        self._avoid: dict[Server, float] = {}

    def __len__(self) -> int:
        return len(self._asks)

    # --- for the owner --------------------------------------------------------------------

    def ask(self, token: T, query: bytes, now: float) -> None:
        """Ask a query (id 0, one question, an OPT record of OPT_BYTES at its end). Its result comes later.

        A token names one ask at a time.
        """
        avoid = self._avoid
        servers = sorted(self._servers(), key=lambda server: avoid.get(server, now) > now)
        if not servers or len(self._asks) >= MAX_ASKS or token in self._asks:
            self._results.append((token, None))
            return
        ask = self._asks[token] = _Ask(token, query, servers, now)
        self._next_try(ask, now)

    def take_results(self) -> list[tuple[T, bytes | None]]:
        """(token, response or None) of the asks that ended since the last call."""
        results = self._results
        if results:
            self._results = []
        return results

    def deadline(self) -> float:
        """When on_timer is due; inf when nothing is under way."""
        over = next(iter(self._asks.values())).deadline if self._asks else float("inf")
        return min(over, next(iter(self._retries.values()), over))

    def on_timer(self, now: float) -> None:
        """Begin the tries that are due and end the asks whose time is over."""
        while self._asks and (ask := next(iter(self._asks.values()))).deadline <= now:
            for attempt in ask.tries:
                self._avoid[attempt.server] = now + AVOID_SECONDS
            self._finish(ask, ask.fallback)
        while self._retries and self._retries[ask := next(iter(self._retries))] <= now:
            if ask.tries:
                self._avoid[ask.tries[-1].server] = now + AVOID_SECONDS
            self._next_try(ask, now)

    def close(self) -> None:
        """End everything without results."""
        for ask in self._asks.values():
            for attempt in ask.tries:
                self._drop(attempt)
        self._asks.clear()
        self._retries.clear()
        self._results.clear()

    # --- tries ------------------------------------------------------------------------------

    def _next_try(self, ask: _Ask[T], now: float) -> None:
        """Begin the next try that can begin; without one, end the ask when none is open either."""
        self._retries.pop(ask, None)
        while ask.tries_left:
            server = ask.next_server()
            ask.tries_left -= 1
            if server not in ask.unhelpful and self._send(ask, server, now):
                if ask.tries_left:
                    self._retries[ask] = now + RETRY
                return
        if not ask.tries:
            self._finish(ask, ask.fallback)

    def _send(self, ask: _Ask[T], server: Server, now: float) -> bool:
        sock = None
        ident = self._random(2)
        try:
            sock = socket.socket(server.family, socket.SOCK_DGRAM)
            sock.setblocking(False)
            sock.connect(server.address)
            sock.send(ident + self._query(ask)[2:])
        except OSError:
            if sock is not None:
                sock.close()
            self._avoid[server] = now + AVOID_SECONDS
            return False
        attempt = _Try(server, ident, sock, over_tcp=False)
        ask.tries.append(attempt)
        self._poller.register(sock.fileno(), ev.READ, lambda _events: self._on_datagrams(ask, attempt))
        return True

    def _query(self, ask: _Ask[T]) -> bytes:
        if ask.edns:
            return ask.query
        return ask.query[:10] + b"\0\0" + ask.query[12:-OPT_BYTES]

    def _on_datagrams(self, ask: _Ask[T], attempt: _Try) -> None:
        for _ in range(READS):
            if attempt not in ask.tries:
                return
            try:
                response = attempt.sock.recv(MAX_RESPONSE)
            except BlockingIOError:
                return
            except OSError:
                now = self._clock()
                self._avoid[attempt.server] = now + AVOID_SECONDS
                self._end_try(ask, attempt)
                self._next_try(ask, now)
                return
            self._on_response(ask, attempt, response)

    def _on_response(self, ask: _Ask[T], attempt: _Try, response: bytes) -> None:
        rcode = self._rcode(ask, attempt, response)
        if rcode < 0:
            self.ignored += 1
            return
        self._avoid.pop(attempt.server, None)
        now = self._clock()
        if rcode in (_FORMERR, _NOTIMP) and ask.edns:
            ask.edns = False
            self._end_try(ask, attempt)
            if not self._send(ask, attempt.server, now):
                self._next_try(ask, now)
        elif rcode in (_SERVFAIL, _REFUSED):
            ask.fallback = ask.fallback or response
            ask.unhelpful.add(attempt.server)
            self._end_try(ask, attempt)
            if len(ask.unhelpful) == len(ask.servers):
                self._finish(ask, ask.fallback)
            else:
                self._next_try(ask, now)
        elif response[2] & (_TRUNCATED >> 8) and not attempt.over_tcp:
            ask.fallback = response
            self._ask_over_tcp(ask, attempt)
        else:
            self._finish(ask, response)

    def _rcode(self, ask: _Ask[T], attempt: _Try, response: bytes) -> int:
        """The response code of a response to this try; -1 for anything else."""
        if len(response) < _HEADER.size or response[:2] != attempt.ident:
            return -1
        _, flags, questions, *_ = _HEADER.unpack_from(response)
        if flags & (_RESPONSE | _OPCODE) != _RESPONSE:
            return -1
        rcode: int = flags & 15
        if not questions:
            # Some servers send no question back with these.
            return rcode if rcode in (_FORMERR, _NOTIMP, _SERVFAIL, _REFUSED) else -1
        question = ask.query[_HEADER.size : -OPT_BYTES]
        theirs = response[_HEADER.size : _HEADER.size + len(question)]
        # Names compare without regard to case; type and class (the last 4 bytes) do not.
        same = theirs[:-4].lower() == question[:-4].lower() and theirs[-4:] == question[-4:]
        return rcode if same and questions == 1 else -1

    # --- TCP --------------------------------------------------------------------------------

    def _ask_over_tcp(self, ask: _Ask[T], truncated: _Try) -> None:
        for attempt in list(ask.tries):
            self._end_try(ask, attempt)
        ask.tries_left = 0
        self._retries.pop(ask, None)
        self.over_tcp += 1
        sock = None
        try:
            sock = socket.socket(truncated.server.family, socket.SOCK_STREAM)
            sock.setblocking(False)
            error = sock.connect_ex(truncated.server.address)
            if error not in (0, errno.EINPROGRESS):
                raise OSError(error, "connect")
        except OSError:
            if sock is not None:
                sock.close()
            self._finish(ask, ask.fallback)
            return
        stream = FramedStream(sock)
        attempt = _Try(truncated.server, self._random(2), sock, over_tcp=True)
        ask.tries.append(attempt)
        stream.send(attempt.ident + self._query(ask)[2:])
        events = ev.READ | ev.WRITE
        self._poller.register(sock.fileno(), events, lambda _events: self._on_stream(ask, attempt, stream))

    def _on_stream(self, ask: _Ask[T], attempt: _Try, stream: FramedStream) -> None:
        if attempt not in ask.tries:
            return
        if stream.flush():
            self._poller.modify(attempt.sock.fileno(), ev.READ)
        for response in stream.receive():
            self._on_response(ask, attempt, response)
            if attempt not in ask.tries:
                return
        if stream.ended or stream.broken:
            self._finish(ask, ask.fallback)

    # --- ends -------------------------------------------------------------------------------

    def _finish(self, ask: _Ask[T], response: bytes | None) -> None:
        for attempt in ask.tries:
            self._drop(attempt)
        ask.tries.clear()
        self._retries.pop(ask, None)
        if self._asks.pop(ask.token, None) is not None:
            self._results.append((ask.token, response))

    def _end_try(self, ask: _Ask[T], attempt: _Try) -> None:
        ask.tries.remove(attempt)
        self._drop(attempt)

    def _drop(self, attempt: _Try) -> None:
        self._poller.unregister(attempt.sock.fileno())
        attempt.sock.close()
