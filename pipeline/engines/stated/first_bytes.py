"""Finds the name that a TCP connection states first: in a TLS hello, or in the head of an HTTP request.

Sans-IO. The owner calls read() with all bytes so far, until the answer is not MORE. It never asks for more
than MAX_BYTES. The first byte says which protocol it may be, so each byte is looked at by one parser.
"""

from typing import Final

from pipeline.wire.http_host import RequestStream
from pipeline.wire.stated import MORE, NAMELESS, TLS, UNKNOWN, WAITING, Stated
from pipeline.wire.tls_hello import HelloStream

MAX_BYTES: Final = 16384 + 64
"""The longest TLS hello or head of a request, with the headers of some TLS records."""
TEXT: Final = frozenset(b"\r\n\t ") | frozenset(range(0x21, 0x7F))
"""Bytes with which the head of a request may begin, and no record of TLS."""


class FirstBytes:
    """The reader of one connection."""

    def __init__(self) -> None:
        self._tls: HelloStream | None = None
        self._http: RequestStream | None = None

    def read(self, data: bytes | bytearray) -> Stated:
        """What the connection's first bytes state. data: all of them so far."""
        if not data:
            return WAITING
        if self._tls is None and self._http is None:
            if data[0] in TEXT:
                self._http = RequestStream()
            else:
                self._tls = HelloStream()
        if self._tls is not None:
            found = self._tls.read(data)
        elif self._http is not None:
            found = self._http.read(data)
        if found.kind == MORE and len(data) >= MAX_BYTES:
            return self.end()
        return found

    def end(self) -> Stated:
        """What the connection states, if no byte follows those that were read."""
        if self._tls is not None:
            return Stated(NAMELESS, protocol=TLS)
        return self._http.end() if self._http is not None else UNKNOWN
