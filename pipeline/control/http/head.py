"""The head of one HTTP/1.x request, collected before anything else may touch the socket (RFC 9112).

Two paths of the control endpoints stop speaking HTTP after the request's empty line. The front door must not
read beyond that line, so it collects the head itself. h11 then parses the complete head. It checks the
request line, the syntax of the fields, Host, and the fields about the body's length. No body is read. Lines
may end in a lone LF.
"""

import re
from http import HTTPStatus
from typing import TYPE_CHECKING, Final, NamedTuple
from urllib.parse import unquote, urlsplit

if TYPE_CHECKING:
    import h11

MAX_HEAD: Final = 64 * 1024
"""Bytes of a head, its empty line and the empty lines before it included."""

END: Final = re.compile(rb"\n\r?\n")
"""The end of a head: an empty line, after the line before."""
_FOLDED: Final = re.compile(rb"\n[ \t]")
"""A header line that continues the one before: obsolete (RFC 9112 section 5.2). h11 would join them."""
_NOT_ASCII: Final = re.compile(rb"[\x80-\xff]")
_WORDS: Final = {
    "Missing mandatory Host: header": "missing required Host header",
    "Found multiple Host: headers": "too many Host headers",
}
"""h11's words for a fault, and those that clients of the original know."""

FRAMES: Final = "these are frames, not HTTP: the place of QEMU's stream sockets is -listen-qemu"
"""No request begins with a NUL, and the length before a frame of QEMU does."""


class HeadError(Exception):
    """The bytes are not a head that can be served. ``status``: code and reason of the status line."""

    def __init__(self, code: int, detail: str = "") -> None:
        """detail: what the client is told besides the status."""
        self.detail = detail
        self.status = f"{code} {HTTPStatus(code).phrase}"
        super().__init__(f"{self.status}: {detail}" if detail else self.status)

    def response(self) -> bytes:
        """The whole answer. The connection is closed after it."""
        text = str(self)
        head = f"HTTP/1.1 {text}\r\nContent-Type: text/plain; charset=utf-8\r\nConnection: close\r\n\r\n"
        return (head + text).encode("latin-1", "replace")


class Head(NamedTuple):
    """A request. ``path`` is decoded, ``query`` is not. Header names are lower case. ``raw`` is all of it."""

    method: str
    path: str
    query: str
    headers: tuple[tuple[str, str], ...]
    raw: bytes

    def values(self, name: str) -> list[str]:
        """All values of a header given in lower case."""
        return [value for key, value in self.headers if key == name]

    def header(self, name: str) -> str:
        """The first value of a header given in lower case, "" when it is missing."""
        return next((value for key, value in self.headers if key == name), "")


class HeadReader:
    """Collects one head from pieces of any size.

    States: collecting -> complete (feed returned True). While it collects, every byte fed belongs to the
    head. ``taken`` says how many bytes of the last piece do. Empty lines before the request line are dropped
    (RFC 9112 section 2.2).
    """

    def __init__(self, limit: int = MAX_HEAD) -> None:
        self.taken = 0
        self.data = bytearray()
        """The head so far. After a HeadError of feed: everything that was fed since its first byte."""
        self._limit = limit
        self._scan = 0
        self._size = 0

    def feed(self, piece: bytes) -> bool:
        """Add a piece and return whether the head is complete. Raises HeadError beyond the limit."""
        if not self._size and piece[:1] == b"\0":
            raise HeadError(400, FRAMES)
        self._size += len(piece)
        self.data += piece if self.data else piece.lstrip(b"\r\n")
        found = END.search(self.data, self._scan)
        end = found.end() if found is not None else len(self.data)
        beyond = len(self.data) - end
        if self._size - beyond > self._limit:
            raise HeadError(431)
        if found is None:
            # The end may straddle two pieces: its first two bytes can be the last two here.
            self._scan = max(len(self.data) - 2, 0)
            return False
        self.taken = len(piece) - beyond
        del self.data[end:]
        return True

    def head(self) -> Head:
        """The complete head, parsed. Raises HeadError when it is not one of HTTP/1.x."""
        return parse(bytes(self.data))


def parse(raw: bytes) -> Head:
    """A complete head, from its request line to its empty line. Raises HeadError."""
    if _FOLDED.search(raw):
        raise HeadError(400)
    request = _request(raw)
    if not request.http_version.startswith(b"1."):
        raise HeadError(505, "unsupported protocol version")
    target = request.target.decode("ascii")
    try:
        # The absolute form (RFC 9112 section 3.2.2) names a host before the path; `//a/b` is all path.
        target = target if target.startswith("/") else _path_of(target)
    except ValueError:
        raise HeadError(400) from None
    path, _, query = target.partition("?")
    headers = tuple((name.decode("ascii"), value.decode("latin-1")) for name, value in request.headers)
    return Head(request.method.decode("ascii"), unquote(path), query, headers, raw)


def _request(raw: bytes) -> "h11.Request":
    import h11  # noqa: PLC0415  not before a request

    # Some clients write a path as it is. h11 wants it quoted.
    line, end, fields = raw.partition(b"\n")
    line = _NOT_ASCII.sub(lambda found: b"%%%02X" % found[0][0], line)
    connection = h11.Connection(h11.SERVER)
    try:
        connection.receive_data(line + end + fields)
        event = connection.next_event()
    except h11.RemoteProtocolError as error:
        raise HeadError(error.error_status_hint, _WORDS.get(str(error), "")) from None
    if not isinstance(event, h11.Request):
        raise HeadError(400)
    return event


def _path_of(target: str) -> str:
    parts = urlsplit(target)
    return f"{parts.path}?{parts.query}"
