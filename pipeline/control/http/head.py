"""The head of one HTTP/1.x request, read before anything else may touch the socket (RFC 9112).

Some paths of the control endpoints stop speaking HTTP behind their request's blank line, so
the head is read here, apart from any HTTP library, in a form that no split of the bytes can
change. Only what decides about the connection is judged: request line, header syntax, Host.
Bodies are not read. Lines may end in a lone LF.
"""

import re
from typing import Final, NamedTuple
from urllib.parse import unquote, urlsplit

MAX_HEAD: Final = 64 * 1024
"""Bytes of a head, blank line included."""

_TOKEN: Final = r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
_REQUEST_LINE: Final = re.compile(rf"({_TOKEN}) ([\x21-\x7e\x80-\xff]+) HTTP/([0-9]+)\.([0-9]+)")
_FIELD: Final = re.compile(rf"({_TOKEN}):[ \t]*([\t\x20-\x7e\x80-\xff]*?)[ \t]*")
_END: Final = re.compile(rb"\n\r?\n")


class HeadError(Exception):
    """Not a head that can be served. ``status`` is the status line's code and reason; the text adds to it."""

    def __init__(self, status: str, detail: str = "") -> None:
        super().__init__(f"{status}: {detail}" if detail else status)
        self.status = status

    def response(self) -> bytes:
        """The whole answer, after which the connection is closed."""
        text = str(self)
        head = f"HTTP/1.1 {text}\r\nContent-Type: text/plain; charset=utf-8\r\nConnection: close\r\n\r\n"
        return (head + text).encode("latin-1", "replace")


class Head(NamedTuple):
    """A request. ``path`` is decoded, ``query`` is not; header names are lower case, ``raw`` is all."""

    method: str
    path: str
    query: str
    version: tuple[int, int]
    headers: tuple[tuple[str, str], ...]
    raw: bytes

    def header(self, name: str) -> str:
        """The first value of a header given in lower case; "" when it is missing."""
        return next((value for key, value in self.headers if key == name), "")


class HeadReader:
    """Collects a head from pieces of any size.

    State: collecting -> done (feed returned True). While collecting, every byte fed belongs
    to the head; with the piece that ends it, `taken` says how many of that piece do.
    """

    def __init__(self, limit: int = MAX_HEAD) -> None:
        self.limit = limit
        self.taken = 0
        self._data = bytearray()
        self._scan = 0

    def feed(self, piece: bytes) -> bool:
        """Add a piece; whether the head is complete. Raises HeadError when it is longer than the limit."""
        had = len(self._data)
        self._data += piece
        blank = self._blank_lines()
        found = _END.search(self._data, max(self._scan, blank))
        if found is None:
            # The end may straddle: its first two bytes can be the last two here.
            self._scan = max(blank, len(self._data) - 2)
            if len(self._data) > self.limit:
                raise HeadError("431 Request Header Fields Too Large")
            return False
        if found.end() > self.limit:
            raise HeadError("431 Request Header Fields Too Large")
        self.taken = found.end() - had
        del self._data[found.end() :]
        return True

    def head(self) -> Head:
        """The complete head. Raises HeadError when it is not one of HTTP/1.x."""
        raw = bytes(self._data)
        lines = raw[self._blank_lines() :].decode("latin-1").split("\n")
        lines = [line.removesuffix("\r") for line in lines]
        request = _REQUEST_LINE.fullmatch(lines[0])
        if request is None:
            raise HeadError("400 Bad Request")
        method, target, version = request[1], request[2], (int(request[3][:3]), int(request[4][:3]))
        if version[0] != 1:
            raise HeadError("505 HTTP Version Not Supported", "unsupported protocol version")
        headers = []
        for line in lines[1:-2]:
            field = _FIELD.fullmatch(line)
            if field is None:
                raise HeadError("400 Bad Request")
            headers.append((field[1].lower(), field[2]))
        hosts = [value for name, value in headers if name == "host"]
        if not hosts and version >= (1, 1):
            raise HeadError("400 Bad Request", "missing required Host header")
        if len(hosts) > 1:
            raise HeadError("400 Bad Request", "too many Host headers")
        try:
            # The absolute form (RFC 9112 section 3.2.2) names a host before the path; `//a/b` is all path.
            target = target if target.startswith("/") else _path_of(target)
        except ValueError:
            raise HeadError("400 Bad Request") from None
        path, _, query = target.partition("?")
        return Head(method, unquote(path), query, version, tuple(headers), raw)

    def _blank_lines(self) -> int:
        """Length of the empty lines before the request line, to be ignored (RFC 9112 section 2.2)."""
        at = 0
        while self._data.startswith((b"\r\n", b"\n"), at):
            at += 2 if self._data[at] == 0x0D else 1
        return at


def _path_of(target: str) -> str:
    parts = urlsplit(target)
    return f"{parts.path}?{parts.query}"
