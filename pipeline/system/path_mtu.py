"""How long a packet to another host may be, as far as this host knows. No packet is sent.

Linux knows the MTU of the route, and what routers have reported about the path (RFC 1191, RFC 8201).
"""

import socket
from collections.abc import Iterable
from contextlib import suppress
from typing import Final

from pipeline.system import routed

USUAL: Final = 1500
"""What counts if there is no route at all."""

_IP_MTU: Final = 14
_IPV6_MTU: Final = 24


def toward(address: str) -> int:
    """The MTU of the path to a numeric address. Raises OSError without a route, or on another system."""
    with routed.socket_toward(address) as sock:
        if sock.family == socket.AF_INET6:
            return sock.getsockopt(socket.IPPROTO_IPV6, _IPV6_MTU)
        return sock.getsockopt(socket.IPPROTO_IP, _IP_MTU)


def shortest(addresses: Iterable[str]) -> int:
    """The least MTU of the paths to these addresses. Hosts to which there is no route do not count."""
    found: list[int] = []
    for address in addresses:
        with suppress(OSError):
            found.append(toward(address))
    return min(found, default=USUAL)
