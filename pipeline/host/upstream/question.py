"""One question to upstream servers: its attempts, and which response counts.

A response counts only if it has the id and the question of its attempt. The connected socket of the attempt
checks the addresses and ports. This module reads only the header, the question and BADVERS of a message. It
sends nothing.
"""

import socket
from collections.abc import Hashable
from struct import Struct
from typing import Final, Generic, TypeVar

from pipeline.host.name_files import Server
from pipeline.host.upstream.servers import ServerStates

MAX_TRIES: Final = 4
OPT_BYTES: Final = 11
"""Length of the OPT record without options at the end of each query."""

FORMERR: Final = 1
SERVFAIL: Final = 2
NOTIMP: Final = 4
REFUSED: Final = 5
BADVERS: Final = 16
UNHELPFUL: Final = frozenset({FORMERR, SERVFAIL, NOTIMP, REFUSED, BADVERS})
CONFUSED: Final = frozenset({FORMERR, NOTIMP, BADVERS})
"""Codes of a server that does not understand the question. Other codes may be about the name."""
MISMATCH: Final = -1
"""In place of a code: the message is not a response to the attempt."""

_HEADER: Final = Struct("!HHHHHH")
_OPT_START: Final = b"\0\0\x29"
"""The empty name and the type of an OPT record (RFC 6891 section 6.1.2)."""
_RESPONSE: Final = 0x8000
_OPCODE: Final = 0x7800
_TRUNCATED: Final = 0x0200

T = TypeVar("T", bound=Hashable)


class Attempt:
    """One question to one server, over a socket of its own."""

    __slots__ = ("edns", "ident", "over_tcp", "server", "sock")

    def __init__(
        self, server: Server, ident: bytes, sock: socket.socket, *, edns: bool, over_tcp: bool
    ) -> None:
        self.server = server
        self.ident = ident
        self.sock = sock
        self.edns = edns
        self.over_tcp = over_tcp


class Question(Generic[T]):
    """A question until its result. ``token``: the owner's key for it. ``deadline``: when it ends.

    ``fallback``: the result if no better response comes.
    """

    __slots__ = (
        "_confused",
        "_fallback_from",
        "_plain",
        "_query",
        "_servers",
        "_tries_left",
        "_unhelpful",
        "_with_edns",
        "deadline",
        "fallback",
        "token",
        "tries",
    )

    def __init__(self, token: T, query: bytes, servers: list[Server], deadline: float) -> None:
        """query: with id 0, one question, and OPT_BYTES of OPT record at its end. servers: asked in turn."""
        self.token = token
        self.deadline = deadline
        self.tries: list[Attempt] = []
        """Attempts that are open."""
        self.fallback: bytes | None = None
        self._query = query
        self._servers = servers
        self._tries_left = MAX_TRIES
        self._fallback_from: Server | None = None
        self._with_edns: dict[Server, int] = {}
        """How often each server was asked with EDNS."""
        self._plain: set[Server] = set()
        """Servers that were asked without EDNS."""
        self._confused: set[Server] = set()
        """Servers that reported that they do not understand the question with EDNS."""
        self._unhelpful: set[Server] = set()
        """Servers that answered with an unhelpful code and are not asked again."""

    # --- attempts ---------------------------------------------------------------------------

    @property
    def has_tries_left(self) -> bool:
        """Whether another attempt may begin."""
        return self._tries_left > 0

    def next_server(self) -> Server:
        """The server of the next attempt. Servers take turns."""
        return self._servers[(MAX_TRIES - self._tries_left) % len(self._servers)]

    def take_server(self) -> Server | None:
        """The server of an attempt that begins now. None if no server is left that may help."""
        while self._tries_left:
            server = self.next_server()
            self._tries_left -= 1
            if server not in self._unhelpful:
                return server
        return None

    def no_more_tries(self) -> None:
        """Begin no further attempt."""
        self._tries_left = 0

    def edns_for(self, server: Server, states: ServerStates, now: float) -> bool:
        """Whether the next question to the server has an OPT record."""
        dnssec = self._wants_dnssec()
        if server in self._plain or states.is_plain(server, now, dnssec=dnssec):
            return False
        # A plain question gets no signatures. If the server has answered with EDNS before, perhaps a packet
        # was lost, so it is asked with EDNS once more.
        patient = dnssec and states.is_proven(server, now)
        return self._with_edns.get(server, 0) < (2 if patient else 1)

    def was_asked_plainly(self, server: Server) -> bool:
        """Whether the server was asked without EDNS."""
        return server in self._plain

    def is_open_at(self, server: Server) -> bool:
        """Whether an attempt at this server is open."""
        return any(attempt.server == server for attempt in self.tries)

    def began(self, attempt: Attempt) -> None:
        """An attempt over UDP has begun."""
        if attempt.edns:
            self._with_edns[attempt.server] = self._with_edns.get(attempt.server, 0) + 1
        else:
            self._plain.add(attempt.server)

    def wire(self, ident: bytes, *, edns: bool) -> bytes:
        """The query with this id, and with its OPT record or without."""
        query = self._query
        return ident + (query[2:] if edns else query[2:10] + b"\0\0" + query[12:-OPT_BYTES])

    def _wants_dnssec(self) -> bool:
        """Whether the OPT record at the end of the query has the DO bit."""
        return bool(self._query[-4] & 0x80)

    # --- responses --------------------------------------------------------------------------

    def rcode_of(self, attempt: Attempt, response: bytes) -> int:
        """The response code of a response to this attempt; MISMATCH for any other message."""
        if len(response) < _HEADER.size or response[:2] != attempt.ident:
            return MISMATCH
        _, flags, questions, answers, authorities, additionals = _HEADER.unpack_from(response)
        if flags & (_RESPONSE | _OPCODE) != _RESPONSE:
            return MISMATCH
        rcode: int = flags & 15
        question = self._query[_HEADER.size : -OPT_BYTES] if questions else b""
        end = _HEADER.size + len(question)
        theirs = response[_HEADER.size : end]
        # Names compare without regard to case; type and class (the last 4 bytes) do not.
        same = theirs[:-4].lower() == question[:-4].lower() and theirs[-4:] == question[-4:]
        if not same or questions > 1:
            return MISMATCH
        # A response with BADVERS has only an OPT record, which has the upper bits of the code.
        if not answers and not authorities and additionals and response[end : end + 3] == _OPT_START:
            rcode |= int.from_bytes(response[end + 5 : end + 6], "big") << 4
        # Some servers leave out the question in a response with an unhelpful code.
        return rcode if questions or rcode in UNHELPFUL else MISMATCH

    def on_refusal(self, attempt: Attempt, response: bytes, rcode: int) -> None:
        """A server answered an attempt over UDP with an unhelpful code."""
        server = attempt.server
        if rcode != BADVERS and self._fallback_from in (None, server):
            # Of two answers of one server, the later one counts. It is the answer to the plain question.
            self.fallback = response
            self._fallback_from = server
        if attempt.edns and rcode in CONFUSED:
            self._confused.add(server)

    def give_up(self, server: Server) -> bool:
        """Do not ask this server again. Returns whether it was the last one."""
        self._unhelpful.add(server)
        return len(self._unhelpful) == len(self._servers)

    def teach(self, states: ServerStates, attempt: Attempt, now: float) -> None:
        """The server of this attempt has answered. Remember in states whether it understands EDNS."""
        server = attempt.server
        if attempt.edns:
            states.on_edns_answer(server, now)
        elif server in self._confused or server in self._with_edns:
            states.on_plain_answer(server, now, confused=server in self._confused)


def is_truncated(response: bytes) -> bool:
    """Whether a response has the TC bit. Its header must be whole."""
    return bool(response[2] & _TRUNCATED >> 8)
