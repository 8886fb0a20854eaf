"""Reads the name in the head of an HTTP/1 request: its Host, and the host of an absolute target (RFC 9112).

A server may accept more than the standard allows. Two programs may then read two names in one head. Such a
head is a contradiction: two Hosts, a target of another host, a folded line, a name before its colon with a
space after it, lines that end in CR and LF beside lines that end in LF alone. HTTP/2 without TLS
(``PRI * HTTP/2.0``) and HTTP/0.9 state no name that can be read.
"""

import re
from typing import Final

from pipeline.wire.stated import CONTRADICTION, HTTP, NAME, NAMELESS, UNKNOWN, WAITING, Stated

_LINE_ENDS: Final = b"\r\n"
_LF: Final = 10
_VERSION: Final = re.compile(rb"http/", re.IGNORECASE)
_REQUEST: Final = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+) ([!-~\x80-\xff]+) HTTP/1\.[01]\r?")
_OLD: Final = re.compile(rb"[ \t]*(?:GET|HEAD|POST|PUT|DELETE|OPTIONS|PATCH|TRACE|CONNECT)[ \t]+[/hH*]")
_METHODS: Final = (b"GET", b"HEAD", b"POST", b"PUT", b"DELETE", b"OPTIONS", b"PATCH", b"TRACE", b"CONNECT")
_MAY_BECOME: Final = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+[ \t]+[!-~\x80-\xff]")
"""A line that has not ended, and may be the first one of a request."""
_HTTP2: Final = b"PRI * HTTP/2.0"
_NO_TEXT: Final = re.compile(rb"[^\t\r\n -~\x80-\xff]")
_NAME: Final = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_ABSOLUTE: Final = re.compile(rb"[A-Za-z][A-Za-z0-9+.-]*://([^/?#\\]*)(?:[/?#].*)?", re.DOTALL)
_AUTHORITY: Final = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[!$%&'()*+;=A-Za-z0-9._~-]+)(?::[0-9]*)?")
_START_LEN: Final = 64
"""Bytes of a first line that has not ended that say whether it may be one of a request."""
_WRONG: Final = re.compile(rb"[\0-\x08\n-\x1f\x7f]")

_BROKEN: Final = Stated(CONTRADICTION, protocol=HTTP)
_NAMELESS: Final = Stated(NAMELESS, protocol=HTTP)


class RequestStream:
    """The head at the beginning of a byte stream. It searches each byte once for the end of the head."""

    def __init__(self) -> None:
        self._searched = 0
        """Bytes that have neither an end of the head, nor a byte that no text has."""
        self._begin = 0
        """Where the first line begins: servers skip empty lines before it."""
        self._is_http = False
        self._start = b""
        """How the first line begins."""
        self.head = b""
        """The lines of the head, once they have all come."""
        self.length = 0
        """Bytes of the stream up to the end of the head: empty lines before and after it are included."""

    def read(self, data: bytes | bytearray) -> Stated:
        """What the stream's first bytes state. data: all of them so far."""
        while self._begin < len(data) and data[self._begin] in _LINE_ENDS:
            self._begin += 1
        if not self._is_http:
            found = self._first_line(data)
            if found is not None:
                return found
            self._is_http = True
            self._searched = self._begin
        end = self._end_of_head(data)
        if not end:
            return WAITING
        self.head = bytes(data[self._begin : end])
        self.length = end + (1 if data[end] == _LF else 2)
        lines = data[self._begin : self.length]
        if b"\r" in lines and lines.count(b"\r\n") != lines.count(b"\n"):
            return _BROKEN
        return _read_head(self.head)

    def end(self) -> Stated:
        """What the stream states, if it has no further byte. A head that never ends has no name.

        Otherwise a guest would send the rest when nobody looks any more.
        """
        start = self._start.lstrip(b" \t")
        begins = any(method.startswith(start) for method in _METHODS)
        return _NAMELESS if self._is_http or begins or _MAY_BECOME.match(start) else UNKNOWN

    def _first_line(self, data: bytes | bytearray) -> Stated | None:
        """What the first line states alone; None if it begins the head of a request."""
        end = data.find(_LF, max(self._begin, self._searched))
        seen = len(data) if end < 0 else end
        if _NO_TEXT.search(data, max(self._begin, self._searched), seen):
            return UNKNOWN
        self._searched = seen
        if end < 0:
            self._start = bytes(data[self._begin : self._begin + _START_LEN])
            return WAITING
        line = bytes(data[self._begin : end])
        if _VERSION.search(line) is None:
            return _NAMELESS if _OLD.match(line) else UNKNOWN
        return _NAMELESS if line.rstrip(b"\r") == _HTTP2 else None

    def _end_of_head(self, data: bytes | bytearray) -> int:
        """Where the empty line after the head begins; 0 if it has not come."""
        at = data.find(_LF, self._searched)
        while at >= 0:
            after = data[at + 1 : at + 3]
            if after[:1] == b"\n" or after == b"\r\n":
                return at + 1
            if len(after) < 2:
                # The next bytes decide. The search begins with this end of a line again.
                self._searched = at
                return 0
            at = data.find(_LF, at + 1)
        self._searched = len(data)
        return 0


def _read_head(head: bytes) -> Stated:
    """What a head states. head: its lines, each with its end."""
    first, *lines = head.split(b"\n")[:-1]
    request = _REQUEST.fullmatch(first)
    if request is None:
        return _BROKEN
    hosts = []
    for line in lines:
        key, colon, value = line.removesuffix(b"\r").partition(b":")
        if not colon or not _NAME.fullmatch(key) or _WRONG.search(value):
            return _BROKEN
        if key.lower() == b"host":
            hosts.append(value.strip(b" \t"))
    if len(hosts) > 1:
        return _BROKEN
    method, target = request[1], request[2]
    names = [_name(host) for host in hosts if host]
    if method.upper() == b"CONNECT":
        names.append(_name(target))
    elif absolute := _ABSOLUTE.fullmatch(target):
        names.append(_name(absolute[1]))
    elif not target.startswith(b"/") and target != b"*":
        return _BROKEN
    if not names:
        return _NAMELESS
    if "" in names or len(set(names)) > 1:
        return _BROKEN
    return Stated(NAME, names[0], HTTP)


def _name(authority: bytes) -> str:
    """The host of ``host:port`` in lower case; "" if the text is anything else."""
    found = _AUTHORITY.fullmatch(authority.decode("latin-1"))
    return found[1].lower().removesuffix(".") if found else ""
