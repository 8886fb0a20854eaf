"""Asks upstream name servers: which one, how often, over UDP or TCP, with EDNS or without, and what counts.

One ``ask`` has one result, within BUDGET seconds: a response or None. Each try is a UDP
socket of its own, connected to one server, with a port that the kernel picks and a random id: a response
counts only if it comes from that server to that port with that id and that question. Tries
follow each other RETRY seconds apart, over all servers in turn, and an earlier one stays open, since a slow
answer is an answer. What a try may bring:

==================================  ============================================================
silence                             the next try begins, the server goes behind the others for a
                                    while; this ask goes on without EDNS there
ICMP error                          the next try begins at once; without one, or with none open,
                                    no result
FORMERR, SERVFAIL, NOTIMP, REFUSED  to EDNS: the same server is asked without, once; else the
or BADVERS (unhelpful)              next server is asked; the result if no other has a better one
truncated                           asked again over TCP; the result if that fails
anything else                       the result
==================================  ============================================================

**Servers without EDNS.** Some drop a question with an OPT record, or refuse it, and answer the plain one.
Such a server is marked, and is asked without OPT for a while. One guest's names must not take DNSSEC from
all others that way, so what the server did decides for how long:

- FORMERR, NOTIMP and BADVERS say that it does not understand: PLAIN_SECONDS.
- Silence, SERVFAIL and REFUSED may mean a lost packet or the name. They do not mark a server that has
  answered with EDNS in the last PROOF_SECONDS. Any other is marked for DOUBT_SECONDS, doubled each time that
  it fails again after that, up to PLAIN_SECONDS. A question with the DO bit ignores such a mark.

Does not know what the messages say beyond header, question and BADVERS. Never blocks and sets no timer: the
owner calls ``on_timer`` at ``deadline()`` and collects results with ``take_results``.
"""

import errno
import socket
from collections.abc import Callable, Hashable, Sequence
from struct import Struct
from typing import Final, Generic, NamedTuple, Protocol, TypeVar

from pipeline.host.framed import FramedStream
from pipeline.host.name_files import Server
from pipeline.ipc import events as ev

BUDGET: Final = 4.5
"""Seconds until an ask ends without a result: a guest gets SERVFAIL before its own 5 s are over."""
RETRY: Final = 1.0
MAX_TRIES: Final = 4
AVOID_SECONDS: Final = 10.0
"""How long a server that did not answer is asked only after the others."""
LEAST_BUDGET: Final = 1.0
"""What an ask has at least, however long its guest waited before."""
PLAIN_SECONDS: Final = 900.0
"""How long a server that does not understand EDNS is asked without."""
DOUBT_SECONDS: Final = 30.0
"""How long, at first, if it did not say so but answered only the plain question."""
PROOF_SECONDS: Final = 60.0
"""How long a server that has answered with EDNS is taken to know it."""
MAX_ASKS: Final = 512
"""Asks under way; one more ends at once."""
MAX_SOCKETS: Final = 640
"""Sockets of all tries; beyond, a new try of an ask takes the place of its oldest one."""
MAX_RESPONSE: Final = 65535
READS: Final = 16
"""Datagrams taken from one socket at a time: a flood of forged ones must not hold the worker."""
OPT_BYTES: Final = 11
"""Length of the OPT record without options at the end of each query."""

_HEADER: Final = Struct("!HHHHHH")
_OPT_START: Final = b"\0\0\x29"
"""The empty name and the type of an OPT record (RFC 6891 section 6.1.2)."""
_FORMERR: Final = 1
_SERVFAIL: Final = 2
_NOTIMP: Final = 4
_REFUSED: Final = 5
_BADVERS: Final = 16
_UNHELPFUL: Final = frozenset({_FORMERR, _SERVFAIL, _NOTIMP, _REFUSED, _BADVERS})
_CONFUSED: Final = frozenset({_FORMERR, _NOTIMP, _BADVERS})
"""Codes of a server that does not understand the question; with the others it may mean the name."""
_OWN_FAULTS: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
"""What says nothing about a server."""
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

    __slots__ = ("edns", "ident", "over_tcp", "server", "sock")

    def __init__(
        self, server: Server, ident: bytes, sock: socket.socket, *, edns: bool, over_tcp: bool
    ) -> None:
        self.server = server
        self.ident = ident
        self.sock = sock
        self.edns = edns
        self.over_tcp = over_tcp


class _Mark(NamedTuple):
    """A server is asked without EDNS until then; ``sure``: it said itself that it does not understand."""

    until: float
    seconds: float
    sure: bool


class _Ask(Generic[T]):
    """A question until its result.

    ``with_edns``: how often each server was asked with EDNS; ``plain``: those asked without; ``confused``:
    those that said that they do not understand EDNS; ``unhelpful``: those that have nothing better to say.
    """

    __slots__ = (
        "confused",
        "deadline",
        "fallback",
        "fallback_from",
        "plain",
        "query",
        "servers",
        "token",
        "tries",
        "tries_left",
        "unhelpful",
        "with_edns",
    )

    def __init__(self, token: T, query: bytes, servers: list[Server], deadline: float) -> None:
        self.token = token
        self.query = query
        self.servers = servers
        self.deadline = deadline
        self.tries_left = MAX_TRIES
        self.tries: list[_Try] = []
        self.fallback: bytes | None = None
        self.fallback_from: Server | None = None
        self.with_edns: dict[Server, int] = {}
        self.plain: set[Server] = set()
        self.confused: set[Server] = set()
        self.unhelpful: set[Server] = set()

    def next_server(self) -> Server:
        """The servers in turn."""
        return self.servers[(MAX_TRIES - self.tries_left) % len(self.servers)]

    def wants_dnssec(self) -> bool:
        """Whether the query's OPT record, its end, has the DO bit."""
        return bool(self.query[-4] & 0x80)

    def wire(self, *, edns: bool) -> bytes:
        """The query, with its OPT record or without."""
        return self.query if edns else self.query[:10] + b"\0\0" + self.query[12:-OPT_BYTES]


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
        self._first_deadline = float("inf")
        """Of all asks."""
        self._retries: dict[_Ask[T], float] = {}
        """Asks with tries left and when the next is due, in that order, since all wait equally long."""
        self._results: list[tuple[T, bytes | None]] = []
        self._avoid: dict[Server, float] = {}
        self._sockets = 0
        self._plain: dict[Server, _Mark] = {}
        """Servers to ask without EDNS. A mark that is over stays until EDNS works: the next one is longer."""
        self._proof: dict[Server, float] = {}
        """Servers that have answered with EDNS, and until when they are taken to know it."""

    def __len__(self) -> int:
        return len(self._asks)

    # --- for the owner --------------------------------------------------------------------

    def ask(self, token: T, query: bytes, now: float, since: float) -> None:
        """Ask a query (id 0, one question, an OPT record of OPT_BYTES at its end). Its result comes later.

        A token names one ask at a time. since: when its guest asked, from when the budget counts.
        """
        avoid = self._avoid
        servers = sorted(self._servers(), key=lambda server: avoid.get(server, now) > now)
        if not servers or len(self._asks) >= MAX_ASKS or token in self._asks:
            self._results.append((token, None))
            return
        deadline = max(since + BUDGET, now + LEAST_BUDGET)
        ask = self._asks[token] = _Ask(token, query, servers, deadline)
        self._first_deadline = min(self._first_deadline, deadline)
        self._next_try(ask, now)

    def forget_servers(self) -> None:
        """What is known of servers is not true any more: the host is in another network."""
        self._avoid.clear()
        self._plain.clear()
        self._proof.clear()

    def take_results(self) -> list[tuple[T, bytes | None]]:
        """(token, response or None) of the asks that ended since the last call."""
        results = self._results
        if results:
            self._results = []
        return results

    def deadline(self) -> float:
        """When on_timer is due; inf when nothing is under way."""
        return min(self._first_deadline, next(iter(self._retries.values()), float("inf")))

    def on_timer(self, now: float) -> None:
        """Begin the tries that are due and end the asks whose time is over."""
        if self._first_deadline <= now:
            for ask in [each for each in self._asks.values() if each.deadline <= now]:
                for attempt in ask.tries:
                    self._avoid[attempt.server] = now + AVOID_SECONDS
                self._finish(ask, ask.fallback)
        while self._retries and self._retries[ask := next(iter(self._retries))] <= now:
            self._on_silence(ask, now)

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

    def _on_silence(self, ask: _Ask[T], now: float) -> None:
        """Nothing came in time: ask the next server, and this one without EDNS if that may be why."""
        silent = ask.tries[-1].server if ask.tries else None
        if silent is not None:
            self._avoid[silent] = now + AVOID_SECONDS
            once_more = silent == ask.next_server() or silent in ask.plain
            if not once_more and not self._edns_for(ask, silent, now):
                self._send(ask, silent, now, edns=False)
        self._next_try(ask, now)

    def _next_try(self, ask: _Ask[T], now: float) -> None:
        """Begin the next try that can begin; without one, end the ask when none is open either."""
        self._retries.pop(ask, None)
        while ask.tries_left:
            server = ask.next_server()
            ask.tries_left -= 1
            if server in ask.unhelpful:
                continue
            if self._send(ask, server, now, edns=self._edns_for(ask, server, now)):
                if ask.tries_left:
                    self._retries[ask] = now + RETRY
                return
        if not ask.tries:
            self._finish(ask, ask.fallback)

    def _edns_for(self, ask: _Ask[T], server: Server, now: float) -> bool:
        """Whether the next question to the server has an OPT record."""
        mark = self._plain.get(server)
        marked = mark is not None and mark.until > now and (mark.sure or not ask.wants_dnssec())
        if marked or server in ask.plain:
            return False
        # Without OPT there are no signatures: one that is known to send them may have lost a packet.
        patient = ask.wants_dnssec() and self._proof.get(server, now) > now
        return ask.with_edns.get(server, 0) < (2 if patient else 1)

    def _send(self, ask: _Ask[T], server: Server, now: float, *, edns: bool) -> bool:
        """Begin a try; False if the server cannot be asked."""
        if self._sockets >= MAX_SOCKETS and ask.tries:
            self._end_try(ask, ask.tries[0])
        sock = None
        ident = self._random(2)
        try:
            sock = socket.socket(server.family, socket.SOCK_DGRAM)
            sock.setblocking(False)
            sock.connect(server.address)
            sock.send(ident + ask.wire(edns=edns)[2:])
        except OSError as error:
            if sock is not None:
                sock.close()
            if error.errno not in _OWN_FAULTS:
                self._avoid[server] = now + AVOID_SECONDS
            return False
        if edns:
            ask.with_edns[server] = ask.with_edns.get(server, 0) + 1
        else:
            ask.plain.add(server)
        attempt = _Try(server, ident, sock, edns=edns, over_tcp=False)
        self._open(ask, attempt, ev.READ, lambda _events: self._on_datagrams(ask, attempt))
        return True

    def _open(self, ask: _Ask[T], attempt: _Try, events: int, on_event: Callable[[int], object]) -> None:
        ask.tries.append(attempt)
        self._sockets += 1
        self._poller.register(attempt.sock.fileno(), events, on_event)

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
        server = attempt.server
        self._avoid.pop(server, None)
        now = self._clock()
        if rcode in _UNHELPFUL:
            self._on_unhelpful(ask, attempt, response, rcode, now)
            return
        self._learn(ask, attempt, now)
        if response[2] & (_TRUNCATED >> 8) and not attempt.over_tcp:
            ask.fallback = response
            self._ask_over_tcp(ask, attempt)
        else:
            self._finish(ask, response)

    def _on_unhelpful(self, ask: _Ask[T], attempt: _Try, response: bytes, rcode: int, now: float) -> None:
        server = attempt.server
        if attempt.over_tcp:
            # Over UDP it had more to say.
            self._finish(ask, ask.fallback)
            return
        if rcode != _BADVERS and ask.fallback_from in (None, server):
            # Of one server, the answer to the simpler question counts.
            ask.fallback = response
            ask.fallback_from = server
        self._end_try(ask, attempt)
        if attempt.edns:
            if rcode in _CONFUSED:
                ask.confused.add(server)
            if server in ask.plain:
                if any(each.server == server for each in ask.tries):
                    return
            elif self._send(ask, server, now, edns=False):
                return
        for each in [each for each in ask.tries if each.server == server]:
            self._end_try(ask, each)
        ask.unhelpful.add(server)
        if len(ask.unhelpful) == len(ask.servers):
            self._finish(ask, ask.fallback)
        else:
            self._next_try(ask, now)

    def _learn(self, ask: _Ask[T], attempt: _Try, now: float) -> None:
        """A server has answered: remember what it understands."""
        server = attempt.server
        if attempt.edns:
            self._proof[server] = now + PROOF_SECONDS
            self._plain.pop(server, None)
        elif server in ask.confused:
            self._plain[server] = _Mark(now + PLAIN_SECONDS, PLAIN_SECONDS, sure=True)
        elif server in ask.with_edns and self._proof.get(server, now) <= now:
            last = self._plain.get(server)
            # Of the failures of one time, only the first counts.
            if last is None or last.until <= now:
                before = 0.0 if last is None or last.sure else last.seconds
                seconds = min(max(2 * before, DOUBT_SECONDS), PLAIN_SECONDS)
                self._plain[server] = _Mark(now + seconds, seconds, sure=False)

    def _rcode(self, ask: _Ask[T], attempt: _Try, response: bytes) -> int:
        """The response code of a response to this try; -1 for anything else."""
        if len(response) < _HEADER.size or response[:2] != attempt.ident:
            return -1
        _, flags, questions, answers, authorities, additionals = _HEADER.unpack_from(response)
        if flags & (_RESPONSE | _OPCODE) != _RESPONSE:
            return -1
        rcode: int = flags & 15
        question = ask.query[_HEADER.size : -OPT_BYTES] if questions else b""
        end = _HEADER.size + len(question)
        theirs = response[_HEADER.size : end]
        # Names compare without regard to case; type and class (the last 4 bytes) do not.
        same = theirs[:-4].lower() == question[:-4].lower() and theirs[-4:] == question[-4:]
        if not same or questions > 1:
            return -1
        # A response with BADVERS has no records but its OPT, in which the upper bits of the code stand.
        if not answers and not authorities and additionals and response[end : end + 3] == _OPT_START:
            rcode |= int.from_bytes(response[end + 5 : end + 6], "big") << 4
        # Some servers send no question back with an unhelpful code.
        return rcode if questions or rcode in _UNHELPFUL else -1

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
        attempt = _Try(truncated.server, self._random(2), sock, edns=truncated.edns, over_tcp=True)
        stream.send(attempt.ident + ask.wire(edns=attempt.edns)[2:])
        self._open(ask, attempt, ev.READ | ev.WRITE, lambda _events: self._on_stream(ask, attempt, stream))

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
            if ask.deadline <= self._first_deadline:
                self._first_deadline = min(
                    (each.deadline for each in self._asks.values()), default=float("inf")
                )

    def _end_try(self, ask: _Ask[T], attempt: _Try) -> None:
        ask.tries.remove(attempt)
        self._drop(attempt)

    def _drop(self, attempt: _Try) -> None:
        self._sockets -= 1
        self._poller.unregister(attempt.sock.fileno())
        attempt.sock.close()
