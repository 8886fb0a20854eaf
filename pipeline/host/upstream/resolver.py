"""The stub resolver: asks upstream name servers, over UDP or TCP, with EDNS or without.

Each question has one result within BUDGET seconds: a response or None. Each attempt has a UDP socket of its
own, connected to one server, with a port that the kernel picks and a random id. question.py says which
response counts. Attempts begin RETRY seconds apart, over all servers in turn. Earlier attempts stay open,
since a late answer counts too. After an attempt:

==================================  ============================================================
silence                             The next attempt begins. For a while, the server is asked
                                    after the others. This question goes on without EDNS there.
ICMP error                          The next attempt begins at once. If there is none, and no
                                    other is open, the question ends without a result.
FORMERR, SERVFAIL, NOTIMP, REFUSED  If the question had EDNS, the same server is asked once
or BADVERS (unhelpful)              without it. Else the next server is asked. The response is
                                    the result if no other server has a better one.
truncated response                  The question is asked again over TCP. If that fails, the
                                    truncated response is the result.
any other response                  It is the result.
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
from pipeline.host.upstream.question import MISMATCH, UNHELPFUL, Attempt, Question, T, is_truncated
from pipeline.host.upstream.servers import ServerStates
from pipeline.ipc import events as ev
from pipeline.system.outbound import Outbound

BUDGET: Final = 4.5
"""Seconds after which a question ends without a result. A guest gets SERVFAIL before its own 5 s are over."""
RETRY: Final = 1.0
"""Seconds from one attempt to the next."""
LEAST_BUDGET: Final = 1.0
"""The least seconds that a question has here, however long its guest has waited before."""
MAX_QUESTIONS: Final = 1024
"""The most questions under way. One more ends at once."""
MAX_SOCKETS: Final = 1280
"""The most sockets of all attempts. With these, a new attempt replaces the oldest of its question."""
MAX_RESPONSE: Final = 65535
READS: Final = 16
"""The most datagrams read from one socket at a time. A flood of forged ones must not hold the worker."""

_OWN_FAULTS: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
"""Errors of this machine, not of a server."""


class Poller(Protocol):
    """The part of the worker's poller that is needed here and for guests' DNS over TCP."""

    def register(self, fd: int, events: int, callback: Callable[[int], object]) -> None:
        """Call callback(events) while fd is ready."""

    def modify(self, fd: int, events: int) -> None:
        """Wait for other events."""

    def unregister(self, fd: int) -> None:
        """Stop watching fd."""


class Upstream(Generic[T]):
    """The questions under way. T is the type of the owner's key for a question."""

    def __init__(
        self,
        poller: Poller,
        servers: Callable[[], Sequence[Server]],
        clock: Callable[[], float],
        random_bytes: Callable[[int], bytes],
        max_sockets: int = MAX_SOCKETS,
        outbound: Outbound | None = None,
    ) -> None:
        """servers: those to ask now, best first. clock: monotonic seconds. random_bytes: as os.urandom.

        max_sockets: the most sockets, and the most questions, if the system allows few descriptors. outbound:
        what sockets are bound to.
        """
        self.ignored = 0
        """Responses that did not match their attempt."""
        self.over_tcp = 0
        """Questions that were asked again over TCP."""
        self._poller = poller
        self._servers = servers
        self._clock = clock
        self._random = random_bytes
        self._outbound = outbound
        self._max_sockets = min(MAX_SOCKETS, max_sockets)
        self._max_questions = min(MAX_QUESTIONS, max_sockets)
        self._states = ServerStates()
        self._questions: dict[T, Question[T]] = {}
        self._first_deadline = float("inf")
        """The first deadline of all questions, or earlier: the question that had it may have ended."""
        self._retries: dict[Question[T], float] = {}
        """Questions with tries left, and when the next is due. In that order, since all wait for RETRY."""
        self._results: list[tuple[T, bytes | None]] = []
        self._sockets = 0

    def __len__(self) -> int:
        return len(self._questions)

    # --- for the owner --------------------------------------------------------------------

    def ask(self, token: T, query: bytes, now: float, since: float) -> None:
        """Ask a query (id 0, one question, an OPT record of OPT_BYTES at its end). Its result comes later.

        A token belongs to one question at a time. since: when the guest asked. BUDGET counts from then.
        """
        servers = self._states.best_first(self._servers(), now)
        if not servers or len(self._questions) >= self._max_questions or token in self._questions:
            self._results.append((token, None))
            return
        deadline = max(since + BUDGET, now + LEAST_BUDGET)
        question = self._questions[token] = Question(token, query, servers, deadline)
        self._first_deadline = min(self._first_deadline, deadline)
        self._next_try(question, now)

    def forget_servers(self) -> None:
        """Forget the states of all servers: the host is in another network."""
        self._states.forget()

    def take_results(self) -> list[tuple[T, bytes | None]]:
        """(token, response or None) of the questions that ended since the last call."""
        results = self._results
        if results:
            self._results = []
        return results

    def deadline(self) -> float:
        """When on_timer is due, perhaps too early; inf when no question is under way."""
        return min(self._first_deadline, next(iter(self._retries.values()), float("inf")))

    def on_timer(self, now: float) -> None:
        """Begin the attempts that are due, and end the questions whose time is over."""
        if self._first_deadline <= now:
            for question in [each for each in self._questions.values() if each.deadline <= now]:
                for attempt in question.tries:
                    self._states.on_silence(attempt.server, now)
                self._finish(question, question.fallback)
            self._first_deadline = min(
                (each.deadline for each in self._questions.values()), default=float("inf")
            )
        while self._retries and self._retries[question := next(iter(self._retries))] <= now:
            self._on_no_answer(question, now)

    def close(self) -> None:
        """End all questions without results."""
        for question in self._questions.values():
            for attempt in question.tries:
                self._drop(attempt)
            question.tries.clear()
        self._questions.clear()
        self._first_deadline = float("inf")
        self._retries.clear()
        self._results.clear()

    # --- attempts ---------------------------------------------------------------------------

    def _on_no_answer(self, question: Question[T], now: float) -> None:
        """No response came in time. Ask the next server, and this one again if it may not know EDNS."""
        silent = question.tries[-1].server if question.tries else None
        if silent is not None:
            self._states.on_silence(silent, now)
            once_more = silent == question.next_server() or question.was_asked_plainly(silent)
            if not once_more and not question.edns_for(silent, self._states, now):
                self._send(question, silent, now, edns=False)
        self._next_try(question, now)

    def _next_try(self, question: Question[T], now: float) -> None:
        """Begin the next attempt. If none can begin and none is open, end the question."""
        self._retries.pop(question, None)
        while (server := question.take_server()) is not None:
            if self._send(question, server, now, edns=question.edns_for(server, self._states, now)):
                if question.has_tries_left:
                    self._retries[question] = now + RETRY
                return
        if not question.tries:
            self._finish(question, question.fallback)

    def _send(self, question: Question[T], server: Server, now: float, *, edns: bool) -> bool:
        """Begin an attempt. False if the server cannot be asked."""
        if self._sockets >= self._max_sockets and question.tries:
            self._end_try(question, question.tries[0])
        sock = None
        ident = self._random(2)
        try:
            sock = self._new_socket(server, socket.SOCK_DGRAM)
            sock.connect(server.address)
            sock.send(question.wire(ident, edns=edns))
        except OSError as error:
            if sock is not None:
                sock.close()
            if error.errno not in _OWN_FAULTS:
                self._states.on_silence(server, now)
            return False
        attempt = Attempt(server, ident, sock, edns=edns, over_tcp=False)
        question.began(attempt)
        self._open(question, attempt, ev.READ, lambda _events: self._on_datagrams(question, attempt))
        return True

    def _new_socket(self, server: Server, kind: socket.SocketKind) -> socket.socket:
        """A non-blocking socket for this server. Raises OSError."""
        sock = socket.socket(server.family, kind)
        try:
            sock.setblocking(False)
            if self._outbound is not None:
                self._outbound.bind(sock, str(server.address[0]))
        except OSError:
            sock.close()
            raise
        return sock

    def _open(
        self, question: Question[T], attempt: Attempt, events: int, on_event: Callable[[int], object]
    ) -> None:
        question.tries.append(attempt)
        self._sockets += 1
        self._poller.register(attempt.sock.fileno(), events, on_event)

    def _on_datagrams(self, question: Question[T], attempt: Attempt) -> None:
        for _ in range(READS):
            if attempt not in question.tries:
                return
            try:
                response = attempt.sock.recv(MAX_RESPONSE)
            except BlockingIOError:
                return
            except OSError:
                now = self._clock()
                self._states.on_silence(attempt.server, now)
                self._end_try(question, attempt)
                self._next_try(question, now)
                return
            self._on_response(question, attempt, response)

    def _on_response(self, question: Question[T], attempt: Attempt, response: bytes) -> None:
        rcode = question.rcode_of(attempt, response)
        if rcode == MISMATCH:
            self.ignored += 1
            return
        self._states.on_answer(attempt.server)
        now = self._clock()
        if rcode in UNHELPFUL:
            self._on_unhelpful(question, attempt, response, rcode, now)
            return
        question.teach(self._states, attempt, now)
        if is_truncated(response) and not attempt.over_tcp:
            question.fallback = response
            self._ask_over_tcp(question, attempt)
        else:
            self._finish(question, response)

    def _on_unhelpful(
        self, question: Question[T], attempt: Attempt, response: bytes, rcode: int, now: float
    ) -> None:
        server = attempt.server
        if attempt.over_tcp:
            # The truncated response over UDP is better than that.
            self._finish(question, question.fallback)
            return
        question.on_refusal(attempt, response, rcode)
        self._end_try(question, attempt)
        if attempt.edns:
            if question.was_asked_plainly(server):
                if question.is_open_at(server):
                    return
            elif self._send(question, server, now, edns=False):
                return
        for each in [each for each in question.tries if each.server == server]:
            self._end_try(question, each)
        if question.give_up(server):
            self._finish(question, question.fallback)
        else:
            self._next_try(question, now)

    # --- TCP --------------------------------------------------------------------------------

    def _ask_over_tcp(self, question: Question[T], truncated: Attempt) -> None:
        for attempt in list(question.tries):
            self._end_try(question, attempt)
        question.no_more_tries()
        self._retries.pop(question, None)
        self.over_tcp += 1
        sock = None
        try:
            sock = self._new_socket(truncated.server, socket.SOCK_STREAM)
            error = sock.connect_ex(truncated.server.address)
            if error not in (0, errno.EINPROGRESS):
                raise OSError(error, "connect")
        except OSError:
            if sock is not None:
                sock.close()
            self._finish(question, question.fallback)
            return
        stream = FramedStream(sock)
        attempt = Attempt(truncated.server, self._random(2), sock, edns=truncated.edns, over_tcp=True)
        stream.send(question.wire(attempt.ident, edns=attempt.edns))
        self._open(
            question, attempt, ev.READ | ev.WRITE, lambda _events: self._on_stream(question, attempt, stream)
        )

    def _on_stream(self, question: Question[T], attempt: Attempt, stream: FramedStream) -> None:
        if attempt not in question.tries:
            return
        if stream.flush():
            self._poller.modify(attempt.sock.fileno(), ev.READ)
        for response in stream.receive():
            self._on_response(question, attempt, response)
            if attempt not in question.tries:
                return
        if stream.ended or stream.broken:
            self._finish(question, question.fallback)

    # --- ends -------------------------------------------------------------------------------

    def _finish(self, question: Question[T], response: bytes | None) -> None:
        for attempt in question.tries:
            self._drop(attempt)
        question.tries.clear()
        self._retries.pop(question, None)
        if self._questions.pop(question.token, None) is not None:
            self._results.append((question.token, response))
            if not self._questions:
                self._first_deadline = float("inf")

    def _end_try(self, question: Question[T], attempt: Attempt) -> None:
        question.tries.remove(attempt)
        self._drop(attempt)

    def _drop(self, attempt: Attempt) -> None:
        self._sockets -= 1
        self._poller.unregister(attempt.sock.fileno())
        attempt.sock.close()
