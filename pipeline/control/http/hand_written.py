"""Requests that people write by hand, made such as aiohttp takes them (RFC 9112 sections 2.2 and 6.3).

Lines that end in LF alone get their CR, and Content-Length fields that all say the same become one: servers
such as the original take both. Only heads are changed, and only these two things about them:
a head that has anything else of its own goes on as it came, and so does all that follows it.

What is a head and what is a body is counted here as aiohttp counts it, or this module would open the door for
smuggled requests. A body with a Content-Length is passed over by its length. After a head
with a Transfer-Encoding, which this module does not read, nothing of the connection is changed any more. So
chunk lines need their CR, and two different lengths, or a length beside an encoding, stay an error.
A head over the limit is dropped, and so is all that follows it.
"""

import re
from typing import Final

_END: Final = re.compile(rb"\n\r?\n")
_REQUEST_LINE: Final = re.compile(rb"[!-~]+ [!-~\x80-\xff]+ HTTP/[0-9]\.[0-9]")
_FIELD: Final = re.compile(rb"([!-9;-~]+):([^\r\n\0]*)")
_LENGTH: Final = re.compile(rb"[0-9]{1,15}")
_OPAQUE: Final = frozenset({b"transfer-encoding", b"upgrade"})
"""Fields after which the bytes that follow are not counted here."""


class Rewriter:
    """The requests of one connection.

    State: head -> body -> head ...; from both -> as it comes, for good; from head -> too long, for good.
    """

    def __init__(self, limit: int) -> None:
        """limit: bytes that a head may have."""
        self.too_long = False
        """A head has more."""
        self.ended = False
        """All of the head that is too long has come."""
        self._limit = limit
        self._head = bytearray()
        self._scan = 0
        self._body = 0
        self._as_it_comes = False

    def feed(self, data: bytes) -> bytes:
        """The bytes for aiohttp after these; heads come whole."""
        done = bytearray()
        while data and not self._as_it_comes:
            if self.too_long:
                self._skip(data)
                return bytes(done)
            if self._body:
                done += data[: self._body]
                passed = min(len(data), self._body)
                data, self._body = data[passed:], self._body - passed
                continue
            data = self._collect(data, done)
        return bytes(done) + data

    def _collect(self, data: bytes, done: bytearray) -> bytes:
        """Add to the head; the bytes after its end. done gets it when it is complete."""
        head = self._head
        head += data
        if not self._scan:
            # Empty lines before a request are ignored.
            blank = len(head) - len(head.lstrip(b"\r\n"))
            del head[:blank]
        found = _END.search(head, self._scan)
        if (len(head) if found is None else found.end()) > self._limit:
            self.too_long, self.ended = True, found is not None
            del head[:-2]
            return b""
        if found is None:
            self._scan = max(len(head) - 2, 0)
            return b""
        end = found.end()
        rest, whole = bytes(head[end:]), bytes(head[:end])
        head.clear()
        self._scan = 0
        made, self._body = rewrite(whole)
        if self._body < 0:
            self._as_it_comes, self._body = True, 0
        done += made
        return rest

    def _skip(self, data: bytes) -> None:
        # The end may straddle: its first two bytes can be the last two before.
        self._head += data
        self.ended = self.ended or _END.search(self._head) is not None
        del self._head[:-2]


def rewrite(head: bytes) -> tuple[bytes, int]:
    """A head for aiohttp and the length of its body; -1 if what follows is not to be counted."""
    first, *fields = [line.removesuffix(b"\r") for line in head.split(b"\n")[:-2]]
    if not _REQUEST_LINE.fullmatch(first):
        return head, -1
    lengths: list[bytes] = []
    kept = [first]
    opaque = first.startswith(b"CONNECT ")
    for line in fields:
        field = _FIELD.fullmatch(line)
        if field is None:
            return head, -1
        name, value = field[1].lower(), field[2].strip(b" \t")
        opaque = opaque or name in _OPAQUE
        if name == b"content-length":
            lengths.append(value)
            if len(lengths) > 1 and value == lengths[0]:
                continue
        kept.append(line)
    if any(value != lengths[0] or not _LENGTH.fullmatch(value) for value in lengths):
        return head, -1
    made = b"\r\n".join([*kept, b"", b""])
    return made, -1 if opaque else int(lengths[0]) if lengths else 0
