"""Follows the requests of an HTTP/1 connection, so that each head is judged before a byte of it goes on.

Only what the guest sends is read, and of that only heads and the lines of chunks. A body is passed by its
length. Sans-IO: the owner keeps what read() does not let pass, and gives it again with what follows.

After a request that asks for another protocol (``Upgrade``, ``CONNECT``) the guest may speak one. A byte with
which no request begins means that it does. Then nothing is read any more: a server that speaks HTTP refuses
such a byte. A text is still read as a request, and so is what follows a space of any kind.
"""

from collections.abc import Callable
from typing import Final

from pipeline.engines.stated.first_bytes import MAX_BYTES, TEXT
from pipeline.wire import http_framing
from pipeline.wire.http_framing import AMBIGUOUS, CHUNKED, CRLF, MAX_CHUNK_LINE, MAX_WORD, SPACES
from pipeline.wire.http_host import RequestStream
from pipeline.wire.stated import CONTRADICTION, HTTP, MORE, NAME, NAMELESS, Stated

REFUSED: Final = -1
ENDLESS: Final = 1 << 62
Judge = Callable[[Stated], bool]
"""Whether a request that states this may go on."""

_HEAD: Final = 0
_BODY: Final = 1
_CHUNK: Final = 2
_CHUNK_END: Final = 3
_TRAILER: Final = 4
_OPAQUE: Final = 5
_BODY_START: Final = 6
_SHORT_HEAD: Final = 1024
"""Bytes in which most heads have room. So not all that follows is copied for each."""
_AMBIGUOUS: Final = Stated(CONTRADICTION, protocol=HTTP)


class Requests:
    """The requests of one connection."""

    def __init__(self) -> None:
        self._state = _HEAD
        self._left = 0
        """Bytes of a body or a chunk that are still to come."""
        self._chunked = False
        self._changes = False
        """Another protocol may follow."""
        self._reader = RequestStream()
        self.looks = 0
        """How many heads, bodies and lines the last read() has looked at. They have their price."""

    def skip(self, count: int) -> bool:
        """Whether this many bytes pass without a look. They count as read then."""
        if self._state == _OPAQUE:
            return True
        if self._state != _BODY or count > self._left:
            return False
        self._pass(count)
        return True

    def _pass(self, count: int) -> None:
        self._left -= count
        if not self._left:
            self._state = _CHUNK_END if self._chunked else _HEAD

    def read(self, data: bytes, judge: Judge, most: int = ENDLESS) -> int:
        """How many of these bytes may go to the server, or REFUSED.

        data: what has not passed yet, at least its first MAX_BYTES. most: looks.
        """
        at = self.looks = 0
        while at < len(data) and self.looks < most:
            self.looks += 1
            before = at, self._state
            if self._state == _OPAQUE:
                return len(data)
            if self._state == _HEAD:
                at = self._read_head(data, at, judge)
            elif self._state == _BODY:
                at = self._read_body(data, at)
            elif self._state == _BODY_START:
                at = self._begin_body(data, at)
            else:
                at = self._read_line(data, at)
            if at == REFUSED:
                return REFUSED
            if (at, self._state) == before:
                break
        return at

    def end(self, judge: Judge) -> bool:
        """Whether what has not passed may go on, although its rest does not come."""
        if self._state != _HEAD or not judge(self._reader.end()):
            return False
        self._state = _OPAQUE
        return True

    def _read_head(self, data: bytes, at: int, judge: Judge) -> int:
        if data[at] in CRLF:
            # An empty line before a request is no part of it. Old clients send one after a body.
            return at + 1
        if self._changes and data[at] not in TEXT and data[at] not in SPACES:
            self._state = _OPAQUE
            return len(data)
        for most in (_SHORT_HEAD, MAX_BYTES):
            rest = data[at : at + most]
            stated = self._reader.read(rest)
            if stated.kind != MORE or len(rest) < most:
                break
        if stated.kind == MORE:
            if len(rest) < MAX_BYTES:
                return at
            stated = self._reader.end()
        reader, self._reader = self._reader, RequestStream()
        proper = stated.kind == NAME or (stated.kind == NAMELESS and reader.length > 0)
        framing = http_framing.of_head(reader.head) if proper else None
        if framing is not None and framing.length == AMBIGUOUS:
            stated = _AMBIGUOUS
        if not judge(stated):
            return REFUSED
        if framing is None or framing.length == AMBIGUOUS:
            # The policy allows what is no proper request. Nobody knows where it ends.
            self._state = _OPAQUE
            return len(data)
        self._changes = framing.changes
        self._chunked = framing.length == CHUNKED
        self._left = 0 if self._chunked else framing.length
        if self._chunked:
            self._state = _CHUNK
        elif self._left:
            self._state = _BODY_START if framing.ignorable else _BODY
        return at + reader.length

    def _begin_body(self, data: bytes, at: int) -> int:
        """Refuse a body in whose place a server that ignores it would read a request."""
        body = data[at : at + min(self._left, MAX_WORD)]
        found = http_framing.may_be_request(body, whole=len(body) == self._left)
        if found is not None:
            self._state = _BODY
        return REFUSED if found else at

    def _read_body(self, data: bytes, at: int) -> int:
        count = min(self._left, len(data) - at)
        self._pass(count)
        return at + count

    def _read_line(self, data: bytes, at: int) -> int:
        """Read the first line of a chunk, the end of one, or a line after the last one."""
        if self._state == _CHUNK_END:
            after = at + len(CRLF)
            if not CRLF.startswith(data[at:after]):
                return REFUSED
            if len(data) < after:
                return at
            self._state = _CHUNK
            return after
        end = data.find(CRLF, at, at + MAX_CHUNK_LINE)
        if end < 0:
            return at if len(data) - at < MAX_CHUNK_LINE else REFUSED
        line = data[at:end]
        after = end + len(CRLF)
        if self._state == _TRAILER:
            if not line:
                self._state = _HEAD
            elif not http_framing.is_trailer(line):
                return REFUSED
            return after
        size = http_framing.chunk_size(line)
        if size == AMBIGUOUS:
            return REFUSED
        self._left = size
        self._state = _BODY if size else _TRAILER
        return after
