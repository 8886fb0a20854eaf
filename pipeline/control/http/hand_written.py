"""Rewrites requests that people type by hand, so that aiohttp takes them (RFC 9112 sections 2.2 and 6.3).

Lines that end in LF alone get a CR. Several Content-Length fields with the same value become one. The
original takes both. A head with any other fault passes unchanged, and so does everything after it.

This module must count heads and bodies as aiohttp does. Otherwise a client could smuggle requests past it. It
skips a body by its Content-Length. It does not read a Transfer-Encoding: after such a head it changes nothing
more on the connection, so chunk lines need their CR. Two different lengths, or a length with an encoding,
stay an error. h11 cannot do this, since it does not keep the bytes that it read.

A head over the limit is dropped, and so is everything after it. connection.py has aiohttp answer it.
"""

import re
from typing import Final

from pipeline.control.http.head import END, HeadError, HeadReader

_REQUEST_LINE: Final = re.compile(rb"[!-~]+ [!-~\x80-\xff]+ HTTP/[0-9]\.[0-9]")
_FIELD: Final = re.compile(rb"([!-9;-~]+):([^\r\n\0]*)")
_LENGTH: Final = re.compile(rb"[0-9]{1,15}")
_OPAQUE: Final = frozenset({b"transfer-encoding", b"upgrade"})
"""Fields after which the bytes that follow are not counted here."""


class Rewriter:
    """The requests of one connection.

    States: head -> body -> head ... Both may become *as it comes*, and a head may become *too long*. These
    two states last.
    """

    def __init__(self, limit: int) -> None:
        """limit: bytes of a head."""
        self.too_long = False
        """A head had more bytes than the limit."""
        self.ended = False
        """The end of the head that is too long has come."""
        self._last = b""
        self._limit = limit
        self._reader = HeadReader(limit)
        self._body = 0
        self._as_it_comes = False

    @property
    def unfinished(self) -> bool:
        """Whether more of a request may come: of a body, of a head, or of what is not counted here."""
        return self._as_it_comes or self.too_long or self._body > 0 or bool(self._reader.data)

    @property
    def held(self) -> bytes:
        """The beginning of a head that is not complete yet."""
        return bytes(self._reader.data)

    def feed(self, data: bytes) -> bytes:
        """The bytes for aiohttp after these. A head comes as a whole."""
        done = bytearray()
        while data and not self._as_it_comes:
            if self.too_long:
                self._drop(data)
                break
            if self._body:
                done += data[: self._body]
                passed = min(len(data), self._body)
                data, self._body = data[passed:], self._body - passed
                continue
            reader = self._reader
            try:
                if not reader.feed(data):
                    return bytes(done)
            except HeadError:
                self.too_long = True
                data = bytes(reader.data)
                self._reader = HeadReader(self._limit)
                continue
            data = data[reader.taken :]
            self._reader = HeadReader(self._limit)
            made, self._body = rewrite(bytes(reader.data))
            if self._body < 0:
                self._as_it_comes, self._body = True, 0
            done += made
        return bytes(done) + (b"" if self.too_long else data)

    def _drop(self, data: bytes) -> None:
        """Drop bytes of a head that is too long, and look for its end."""
        data = self._last + data
        self.ended = self.ended or END.search(data) is not None
        # The end may straddle two pieces.
        self._last = data[-2:]


def rewrite(head: bytes) -> tuple[bytes, int]:
    """A head for aiohttp, and the length of its body. -1: the bytes that follow are not counted here."""
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
