"""Asks upstream name servers: which one, how often, over UDP or TCP, with EDNS or without.

One ``ask`` has one result, within BUDGET seconds: a response or None. Each try is a UDP socket of its own,
connected to one server, with a port that the kernel picks and a random id (ask.py says which response
counts). Tries follow each other RETRY seconds apart, over all servers in turn. An earlier try stays open,
since a slow answer is an answer. What a try may bring:

==================================  ============================================================
silence                             the next try begins, and the server is asked after the others
                                    for a while; this ask goes on without EDNS there
ICMP error                          the next try begins at once; without one, or with none open,
                                    no result
FORMERR, SERVFAIL, NOTIMP, REFUSED  to EDNS: the same server is asked without, once; else the
or BADVERS (unhelpful)              next server is asked; the result if no other has a better one
truncated                           asked again over TCP; the result if that fails
anything else                       the result
==================================  ============================================================

servers.py remembers which servers are silent and which do not understand EDNS. This module never blocks and
sets no timer: the owner calls ``on_timer`` at ``deadline()`` and collects results with ``take_results``.
"""

import errno
import socket
from collections.abc import Callable, Sequence
from typing import Final, Generic, Protocol

from pipeline.host.framed import FramedStream
from pipeline.host.name_files import Server
from pipeline.host.upstream import ask as questions
from pipeline.host.upstream.ask import Ask, T, Try
from pipeline.host.upstream.servers import ServerStates
from pipeline.ipc import events as ev

BUDGET: Final = 4.5
"""Seconds until an ask ends without a result: a guest gets SERVFAIL before its own 5 s are over."""
RETRY: Final = 1.0
LEAST_BUDGET: Final = 1.0
"""Seconds that an ask has at least, however long its guest waited before."""
MAX_ASKS: Final = 1024
"""Asks under way; one more ends at once."""
MAX_SOCKETS: Final = 1280
"""Sockets of all tries. Beyond, a new try of an ask takes the place of its oldest one."""
MAX_RESPONSE: Final = 65535
READS: Final = 16
"""Datagrams taken from one socket at a time: a flood of forged ones must not hold the worker."""

_OWN_FAULTS: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
"""Errors that say nothing about a server."""


class Poller(Protocol):
    """The part of the worker's poller that is needed here and in DNS over TCP."""

    def register(self, fd: int, events: int, callback: Callable[[int], object]) -> None:
        """Call callback(events) while fd is ready."""

    def modify(self, fd: int, events: int) -> None:
        """Wait for other events."""

    def unregister(self, fd: int) -> None:
        """Stop."""


class Upstream(Generic[T]):
    """The asks under way. T is the owner's name for one."""

    def __init__(
        self,
        poller: Poller,
        servers: Callable[[], Sequence[Server]],
        clock: Callable[[], float],
        random_bytes: Callable[[int], bytes],
        max_sockets: int = MAX_SOCKETS,
    ) -> None:
        """servers: those to ask now, best first; clock: monotonic seconds; random_bytes: as os.urandom.

        max_sockets: at most that many, and asks, where the system gives fewer descriptors than we want.
        """
        self.ignored = 0
        """Responses that did not fit what was asked."""
        self.over_tcp = 0
        """Questions asked again over TCP."""
        self._poller = poller
        self._servers = servers
        self._clock = clock
        self._random = random_bytes
        self._max_sockets = min(MAX_SOCKETS, max_sockets)
        self._max_asks = min(MAX_ASKS, max_sockets)
        self._states = ServerStates()
        self._asks: dict[T, Ask[T]] = {}
        self._first_deadline = float("inf")
        """Of all asks, or before it: the ask with the first deadline may be over already."""
        self._retries: dict[Ask[T], float] = {}
        """Asks with tries left and when the next is due, in that order, since all wait equally long."""
        self._results: list[tuple[T, bytes | None]] = []
        self._sockets = 0

    def __len__(self) -> int:
        return len(self._asks)

    # --- for the owner --------------------------------------------------------------------

    def ask(self, token: T, query: bytes, now: float, since: float) -> None:
        """Ask a query (id 0, one question, an OPT record of OPT_BYTES at its end). Its result comes later.

        A token names one ask at a time. since: when its guest asked, from when the budget counts.
        """
        servers = self._states.best_first(self._servers(), now)
        if not servers or len(self._asks) >= self._max_asks or token in self._asks:
            self._results.append((token, None))
            return
        deadline = max(since + BUDGET, now + LEAST_BUDGET)
        ask = self._asks[token] = Ask(token, query, servers, deadline)
        self._first_deadline = min(self._first_deadline, deadline)
        self._next_try(ask, now)

    def forget_servers(self) -> None:
        """Forget the states of all servers: the host is in another network."""
        self._states.forget()

    def take_results(self) -> list[tuple[T, bytes | None]]:
        """(token, response or None) of the asks that ended since the last call."""
        results = self._results
        if results:
            self._results = []
        return results

    def deadline(self) -> float:
        """When on_timer is due, perhaps a little early; inf when nothing is under way."""
        return min(self._first_deadline, next(iter(self._retries.values()), float("inf")))

    def on_timer(self, now: float) -> None:
        """Begin the tries that are due and end the asks whose time is over."""
        if self._first_deadline <= now:
            for ask in [each for each in self._asks.values() if each.deadline <= now]:
                for attempt in ask.tries:
                    self._states.on_silence(attempt.server, now)
                self._finish(ask, ask.fallback)
            self._first_deadline = min((each.deadline for each in self._asks.values()), default=float("inf"))
        while self._retries and self._retries[ask := next(iter(self._retries))] <= now:
            self._on_no_answer(ask, now)

    def close(self) -> None:
        """End everything without results."""
        for ask in self._asks.values():
            for attempt in ask.tries:
                self._drop(attempt)
            ask.tries.clear()
        self._asks.clear()
        self._first_deadline = float("inf")
        self._retries.clear()
        self._results.clear()

    # --- tries ------------------------------------------------------------------------------

    def _on_no_answer(self, ask: Ask[T], now: float) -> None:
        """Nothing came in time: ask the next server, and this one without EDNS if that may be why."""
        silent = ask.tries[-1].server if ask.tries else None
        if silent is not None:
            self._states.on_silence(silent, now)
            once_more = silent == ask.next_server() or ask.was_asked_plainly(silent)
            if not once_more and not ask.edns_for(silent, self._states, now):
                self._send(ask, silent, now, edns=False)
        self._next_try(ask, now)

    def _next_try(self, ask: Ask[T], now: float) -> None:
        """Begin the next try that can begin; without one, end the ask when none is open either."""
        self._retries.pop(ask, None)
        while (server := ask.take_server()) is not None:
            if self._send(ask, server, now, edns=ask.edns_for(server, self._states, now)):
                if ask.has_tries_left:
                    self._retries[ask] = now + RETRY
                return
        if not ask.tries:
            self._finish(ask, ask.fallback)

    def _send(self, ask: Ask[T], server: Server, now: float, *, edns: bool) -> bool:
        """Begin a try; False if the server cannot be asked."""
        if self._sockets >= self._max_sockets and ask.tries:
            self._end_try(ask, ask.tries[0])
        sock = None
        ident = self._random(2)
        try:
            sock = socket.socket(server.family, socket.SOCK_DGRAM)
            sock.setblocking(False)
            sock.connect(server.address)
            sock.send(ask.wire(ident, edns=edns))
        except OSError as error:
            if sock is not None:
                sock.close()
            if error.errno not in _OWN_FAULTS:
                self._states.on_silence(server, now)
            return False
        attempt = Try(server, ident, sock, edns=edns, over_tcp=False)
        ask.began(attempt)
        self._open(ask, attempt, ev.READ, lambda _events: self._on_datagrams(ask, attempt))
        return True

    def _open(self, ask: Ask[T], attempt: Try, events: int, on_event: Callable[[int], object]) -> None:
        ask.tries.append(attempt)
        self._sockets += 1
        self._poller.register(attempt.sock.fileno(), events, on_event)

    def _on_datagrams(self, ask: Ask[T], attempt: Try) -> None:
        for _ in range(READS):
            if attempt not in ask.tries:
                return
            try:
                response = attempt.sock.recv(MAX_RESPONSE)
            except BlockingIOError:
                return
            except OSError:
                now = self._clock()
                self._states.on_silence(attempt.server, now)
                self._end_try(ask, attempt)
                self._next_try(ask, now)
                return
            self._on_response(ask, attempt, response)

    def _on_response(self, ask: Ask[T], attempt: Try, response: bytes) -> None:
        rcode = ask.rcode_of(attempt, response)
        if rcode == questions.MISFIT:
            self.ignored += 1
            return
        self._states.on_answer(attempt.server)
        now = self._clock()
        if rcode in questions.UNHELPFUL:
            self._on_unhelpful(ask, attempt, response, rcode, now)
            return
        ask.teach(self._states, attempt, now)
        if questions.is_truncated(response) and not attempt.over_tcp:
            ask.fallback = response
            self._ask_over_tcp(ask, attempt)
        else:
            self._finish(ask, response)

    def _on_unhelpful(self, ask: Ask[T], attempt: Try, response: bytes, rcode: int, now: float) -> None:
        server = attempt.server
        if attempt.over_tcp:
            # Over UDP it had more to say.
            self._finish(ask, ask.fallback)
            return
        ask.on_refusal(attempt, response, rcode)
        self._end_try(ask, attempt)
        if attempt.edns:
            if ask.was_asked_plainly(server):
                if ask.is_open_at(server):
                    return
            elif self._send(ask, server, now, edns=False):
                return
        for each in [each for each in ask.tries if each.server == server]:
            self._end_try(ask, each)
        if ask.has_no_help_of(server):
            self._finish(ask, ask.fallback)
        else:
            self._next_try(ask, now)

    # --- TCP --------------------------------------------------------------------------------

    def _ask_over_tcp(self, ask: Ask[T], truncated: Try) -> None:
        for attempt in list(ask.tries):
            self._end_try(ask, attempt)
        ask.no_more_tries()
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
        attempt = Try(truncated.server, self._random(2), sock, edns=truncated.edns, over_tcp=True)
        stream.send(ask.wire(attempt.ident, edns=attempt.edns))
        self._open(ask, attempt, ev.READ | ev.WRITE, lambda _events: self._on_stream(ask, attempt, stream))

    def _on_stream(self, ask: Ask[T], attempt: Try, stream: FramedStream) -> None:
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

    def _finish(self, ask: Ask[T], response: bytes | None) -> None:
        for attempt in ask.tries:
            self._drop(attempt)
        ask.tries.clear()
        self._retries.pop(ask, None)
        if self._asks.pop(ask.token, None) is not None:
            self._results.append((ask.token, response))
            if not self._asks:
                self._first_deadline = float("inf")

    def _end_try(self, ask: Ask[T], attempt: Try) -> None:
        ask.tries.remove(attempt)
        self._drop(attempt)

    def _drop(self, attempt: Try) -> None:
        self._sockets -= 1
        self._poller.unregister(attempt.sock.fileno())
        attempt.sock.close()
