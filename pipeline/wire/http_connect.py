"""The request for a tunnel through an HTTP proxy, and the head of the answer (RFC 9110 section 9.3.6).

The head of an answer ends with an empty line. After a head with a status of 2xx, the tunnel's bytes follow.
"""

import re
from collections.abc import Mapping
from typing import Final, NamedTuple

_END: Final = re.compile(rb"\r?\n\r?\n")
_STATUS: Final = re.compile(rb"HTTP/1\.[0-9] ([1-9][0-9]{2})(?: ([\t -~\x80-\xff]*))?\r?\n")
_BEGIN: Final = b"HTTP/1."


class Head(NamedTuple):
    """The head of an answer. end: where it ends in the data."""

    status: int
    reason: str
    end: int


def build_connect(authority: str, fields: Mapping[str, str]) -> bytes:
    """The request. authority: ``host:port`` of the destination. fields: header fields besides Host."""
    lines = [f"CONNECT {authority} HTTP/1.1", f"Host: {authority}"]
    lines += [f"{key}: {value}" for key, value in fields.items()]
    return "\r\n".join([*lines, "", ""]).encode("latin-1")


def read_head(data: bytes) -> Head | None:
    """The head at the beginning of data; None if bytes are missing. Raises ValueError if it is not HTTP/1."""
    known = min(len(data), len(_BEGIN))
    if data[:known] != _BEGIN[:known]:
        raise ValueError("no status line")
    end = _END.search(data)
    if end is None:
        return None
    status = _STATUS.match(data)
    if status is None:
        raise ValueError("no status line")
    return Head(int(status[1]), (status[2] or b"").decode("latin-1").strip(), end.end())
