"""Finds where a request of HTTP/1 ends, by its head and the sizes of its chunks (RFC 9112 sections 6 and 7).

Two programs that find different ends read different requests (request smuggling). So only one spelling is
read here. Anything that a server might read in another way is AMBIGUOUS: a length beside a coding, two
lengths, any coding but ``chunked``, a line of a chunk that does not end in CR and LF.

Some servers ignore the body of a request whose method has no use for one, and read the next request in its
place. So may_be_request() looks at how such a body begins.
"""

import re
from typing import Final, NamedTuple

AMBIGUOUS: Final = -1
CHUNKED: Final = -2
MAX_CHUNK_LINE: Final = 4096
"""Bytes of a chunk's size with its extensions."""
CRLF: Final = b"\r\n"

_LENGTH: Final = re.compile(rb"[0-9]{1,18}")
_CHUNK: Final = re.compile(rb"([0-9A-Fa-f]{1,15})(?:;[\t -~\x80-\xff]*)?")
"""Without a space before the semicolon: no server can take the line for the first one of a request."""
_TRAILER: Final = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+:[\t -~\x80-\xff]*")
_BODILESS: Final = frozenset((b"GET", b"HEAD", b"DELETE", b"OPTIONS", b"TRACE", b"CONNECT"))
SPACES: Final = frozenset(b"\t\n\v\f\r \x1c\x1d\x1e\x1f\x85\xa0")
"""What some servers skip before a request, and take for the space in its first line."""
_WORD: Final = re.compile(rb"[\t-\r\x1c- \x85\xa0]*[!#$%&'*+.^_`|~0-9A-Za-z-]*")
MAX_WORD: Final = 128
"""Bytes of a body that say whether it begins as a request."""


class Framing(NamedTuple):
    """How a request goes on after its head.

    ``length``: bytes of its body, CHUNKED, or AMBIGUOUS. ``changes``: another protocol may follow.
    ``ignorable``: a server may ignore the body.
    """

    length: int
    changes: bool = False
    ignorable: bool = False


def of_head(head: bytes) -> Framing:
    """The framing of a request. head: all its lines, which pipeline.wire.http_host has found to be proper."""
    first, *lines = head.split(b"\n")[:-1]
    lengths: list[bytes] = []
    codings: list[bytes] = []
    method = first.partition(b" ")[0]
    upgrades = method == b"CONNECT"
    for line in lines:
        key, _, value = line.removesuffix(b"\r").partition(b":")
        name = key.lower()
        if name == b"content-length":
            lengths.append(value.strip(b" \t"))
        elif name == b"transfer-encoding":
            codings.append(value.strip(b" \t").lower())
        elif name == b"upgrade":
            upgrades = True
    if codings:
        proper = codings == [b"chunked"] and not lengths and first.removesuffix(b"\r").endswith(b" HTTP/1.1")
        return Framing(CHUNKED if proper else AMBIGUOUS, upgrades)
    if not lengths:
        return Framing(0, upgrades)
    if len(lengths) > 1 or not _LENGTH.fullmatch(lengths[0]):
        return Framing(AMBIGUOUS, upgrades)
    return Framing(int(lengths[0]), upgrades, method in _BODILESS)


def may_be_request(body: bytes, *, whole: bool) -> bool | None:
    """Whether a body begins as a request does; None if that depends on what follows.

    body: its first bytes, at most MAX_WORD. whole: there are no others.
    """
    end = _WORD.match(body).end()  # type: ignore[union-attr]  # it matches any bytes
    if end < len(body):
        return body[end] in SPACES and body[end] not in CRLF
    if whole:
        return False
    return True if end >= MAX_WORD else None


def chunk_size(line: bytes) -> int:
    """The bytes of a chunk, by its first line without CR and LF. AMBIGUOUS for any other line."""
    found = _CHUNK.fullmatch(line)
    return int(found[1], 16) if found is not None else AMBIGUOUS


def is_trailer(line: bytes) -> bool:
    """Whether a line after the last chunk, without CR and LF, is a field."""
    return _TRAILER.fullmatch(line) is not None
