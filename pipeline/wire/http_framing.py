"""Finds where a request of HTTP/1 ends, by its head and the sizes of its chunks (RFC 9112 sections 6 and 7).

Two programs that find different ends read different requests (request smuggling). So only one spelling is
read here. Anything that a server might read in another way is AMBIGUOUS: a length beside a coding, two
lengths, any coding but ``chunked``, a line of a chunk that does not end in CR and LF.
"""

import re
from typing import Final, NamedTuple

AMBIGUOUS: Final = -1
CHUNKED: Final = -2
MAX_LENGTH: Final = 2**62
MAX_CHUNK_LINE: Final = 4096
"""Bytes of a chunk's size with its extensions."""
CRLF: Final = b"\r\n"

_LENGTH: Final = re.compile(rb"[0-9]{1,18}")
_CHUNK: Final = re.compile(rb"([0-9A-Fa-f]{1,15})(?:[ \t]*;[\t -~\x80-\xff]*)?")
_TRAILER: Final = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+:[\t -~\x80-\xff]*")


class Framing(NamedTuple):
    """How a request goes on after its head.

    ``length``: bytes of its body, CHUNKED, or AMBIGUOUS. ``changes``: another protocol may follow.
    """

    length: int
    changes: bool = False


def of_head(head: bytes) -> Framing:
    """The framing of a request. head: all its lines, which pipeline.wire.http_host has found to be proper."""
    first, *lines = head.split(b"\n")[:-1]
    lengths: list[bytes] = []
    codings: list[bytes] = []
    upgrades = first.startswith(b"CONNECT ")
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
        proper = codings == [b"chunked"] and not lengths and b"HTTP/1.1" in first
        return Framing(CHUNKED if proper else AMBIGUOUS, upgrades)
    if not lengths:
        return Framing(0, upgrades)
    if len(lengths) > 1 or not _LENGTH.fullmatch(lengths[0]):
        return Framing(AMBIGUOUS, upgrades)
    return Framing(int(lengths[0]), upgrades)


def chunk_size(line: bytes) -> int:
    """The bytes of a chunk, by its first line without CR and LF. AMBIGUOUS for any other line."""
    found = _CHUNK.fullmatch(line)
    return int(found[1], 16) if found is not None else AMBIGUOUS


def is_trailer(line: bytes) -> bool:
    """Whether a line after the last chunk, without CR and LF, is a field."""
    return _TRAILER.fullmatch(line) is not None
