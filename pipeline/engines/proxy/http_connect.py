"""The handshake with an HTTP proxy: the method CONNECT (RFC 9110 section 9.3.6).

The request line has the name, if one is known, else the address. These header fields say the rest:

* ``X-Envoy-Original-Dst-Host``: the address and port that the guest has dialled, as Envoy reads it
  (``use_http_header`` of a cluster of type ORIGINAL_DST), and as add-ons of other proxies can.
* ``X-Forwarded-For``: the guest's address, as squid (``follow_x_forwarded_for``) and Envoy read it.
* ``Proxy-Authorization``: the user and the password (RFC 7617), if the rule has them.
"""

import errno
from binascii import b2a_base64
from typing import Final

from pipeline.engines.proxy.handshake import Destination, Failure, Handshake, words
from pipeline.engines.proxy.via import Via
from pipeline.wire import http_connect, ip

ORIGINAL: Final = "X-Envoy-Original-Dst-Host"
GUEST: Final = "X-Forwarded-For"
CREDENTIALS: Final = "Proxy-Authorization"

_ERRORS: Final = {
    401: errno.EACCES,
    403: errno.EACCES,
    407: errno.EACCES,
    451: errno.EACCES,
    502: errno.EHOSTUNREACH,
    503: errno.EHOSTUNREACH,
    504: errno.ETIMEDOUT,
}
_SWITCHING: Final = 101


class HttpConnect(Handshake):
    """One handshake."""

    SPEAKS = "HTTP/1"

    def __init__(self, via: Via, destination: Destination) -> None:
        super().__init__()
        original = ip.host_port(destination.address, destination.port)
        fields = {ORIGINAL: original, GUEST: ip.text(destination.guest)}
        if via.user is not None:
            pair = b2a_base64(via.user + b":" + via.password, newline=False).decode()
            fields[CREDENTIALS] = f"Basic {pair}"
        name = destination.name
        authority = f"{name}:{destination.port}" if name else original
        self.to_send = http_connect.build_connect(authority, fields)

    def _step(self) -> bool:
        head = http_connect.read_head(self._got)
        if head is None:
            return False
        self._take(head.end)
        if head.status < 200 and head.status != _SWITCHING:
            # Interim answers may come first (RFC 9110 section 15.2).
            return True
        if 200 <= head.status < 300:
            self.done = True
        else:
            said = words(f"{head.status} {head.reason}".strip())
            error = _ERRORS.get(head.status, errno.ECONNREFUSED)
            self.failure = Failure(f"the proxy answered {said}", error)
        return False
