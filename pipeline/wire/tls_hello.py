"""Reads the name in a TLS ClientHello (RFC 8446 section 4.1.2, RFC 6066 section 3).

A hello may span many records, and a record many segments. Extensions that this module does not know are
skipped, so GREASE (RFC 8701) and key shares of any length are allowed. With an encrypted hello (ECH, RFC
9849) the name in plain text is that of the outer hello. A hello that a server may read in two ways is a
contradiction: two names, lengths that do not fit together, a list of names with anything else in it.
"""

import re
from typing import Final

from pipeline.wire.stated import CONTRADICTION, NAME, NAMELESS, TLS, UNKNOWN, WAITING, Stated

MAX_HELLO: Final = 16384
"""The longest hello. With post-quantum key shares one has 2 KiB."""

_RECORD_LEN: Final = 5
_HANDSHAKE: Final = 22
_MAJOR: Final = 3
_MAX_RECORD: Final = 1 << 14
_MESSAGE_LEN: Final = 4
_CLIENT_HELLO: Final = 1
_FIXED: Final = 34
"""Bytes of the version and the random, before the session id."""
_SERVER_NAME: Final = 0
_HOST_NAME: Final = 0
_ECH: Final = (0xFE0D, 0xFFCE)
"""encrypted_client_hello, and the older encrypted_server_name."""
_SSL2: Final = 0x80
_VISIBLE: Final = re.compile(rb"[!-~]+")

_BROKEN: Final = Stated(CONTRADICTION, protocol=TLS)


class HelloStream:
    """The hello at the beginning of a byte stream. It reads each byte once, however small segments are."""

    def __init__(self) -> None:
        self._at = 0
        """Where the next record begins."""
        self._hello = bytearray()

    def read(self, data: bytes | bytearray) -> Stated:
        """What the stream's first bytes state. data: all of them so far."""
        if not data:
            return WAITING
        if data[0] != _HANDSHAKE:
            return _of_ssl2(data)
        while True:
            at = self._at
            if len(data) - at < _RECORD_LEN:
                return WAITING
            length = data[at + 3] << 8 | data[at + 4]
            if data[at] != _HANDSHAKE or data[at + 1] != _MAJOR:
                return _BROKEN if at else UNKNOWN
            if not 0 < length <= _MAX_RECORD:
                # Some servers skip empty records, although RFC 8446 section 5.1 forbids them.
                return _BROKEN
            end = at + _RECORD_LEN + length
            if len(data) < end:
                return WAITING
            self._hello += data[at + _RECORD_LEN : end]
            self._at = end
            found = read_message(self._hello)
            if found is not WAITING:
                return found


def _of_ssl2(data: bytes | bytearray) -> Stated:
    """A hello of SSL 2 has no names (RFC 5246 appendix E.2). Old servers accept it for later versions."""
    if not data[0] & _SSL2:
        return UNKNOWN
    if len(data) < _RECORD_LEN:
        return WAITING
    is_hello = data[2] == _CLIENT_HELLO and (data[3] == _MAJOR or (data[3] == 0 and data[4] == 2))
    return Stated(NAMELESS, protocol=TLS) if is_hello else UNKNOWN


def read_message(data: bytes | bytearray) -> Stated:
    """What a handshake message states. data: its first bytes, of which all have come so far."""
    if len(data) < _MESSAGE_LEN:
        return WAITING
    if data[0] != _CLIENT_HELLO:
        return _BROKEN
    end = _MESSAGE_LEN + int.from_bytes(data[1:_MESSAGE_LEN], "big")
    if end > MAX_HELLO:
        return _BROKEN
    if len(data) < end:
        return WAITING
    return _read_hello(bytes(data[_MESSAGE_LEN:end]))


def _read_hello(data: bytes) -> Stated:
    at = _FIXED
    for size in (1, 2, 1):
        # Session id, cipher suites, compression methods.
        at = _after(data, at, size)
        if not at:
            return _BROKEN
    if at == len(data):
        return Stated(NAMELESS, protocol=TLS)
    end = _after(data, at, 2)
    if end != len(data):
        return _BROKEN
    at += 2
    name = ""
    ech = False
    seen: set[int] = set()
    while at < end:
        if at + 4 > end:
            return _BROKEN
        kind = data[at] << 8 | data[at + 1]
        after = at + 4 + (data[at + 2] << 8 | data[at + 3])
        if after > end or kind in seen:
            return _BROKEN
        seen.add(kind)
        if kind == _SERVER_NAME:
            name = _host_name(data[at + 4 : after])
            if not name:
                return _BROKEN
        elif kind in _ECH:
            ech = True
        at = after
    if not name:
        return Stated(NAMELESS, protocol=TLS, ech=ech)
    return Stated(NAME, name, TLS, ech)


def _after(data: bytes, at: int, size: int) -> int:
    """Where the vector at ``at`` ends, whose length has size bytes; 0 if it does not fit."""
    begin = at + size
    if begin > len(data):
        return 0
    end = begin + int.from_bytes(data[at:begin], "big")
    return end if end <= len(data) else 0


def _host_name(data: bytes) -> str:
    """The one name of a server_name extension; "" if there is not exactly one."""
    if len(data) < 5 or _after(data, 0, 2) != len(data) or data[2] != _HOST_NAME:
        return ""
    if _after(data, 3, 2) != len(data):
        return ""
    name = data[5:]
    if _VISIBLE.fullmatch(name) is None:
        return ""
    return name.decode("ascii").lower().removesuffix(".")
