"""How long a packet to another host may be, as far as this host knows: MTUs in bytes. No packet is sent.

Linux knows the MTU of the route, and what routers have reported about the path (RFC 1191, RFC 8201).
"""

import socket
import struct
from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import Final

from pipeline.system import inet, routed

try:
    import fcntl
except ImportError:  # Windows, where nothing here is called
    fcntl = None  # type: ignore[assignment]

USUAL: Final = 1500
"""The MTU where there is no route at all."""

_GET_ADDRESS: Final = 0x8915
"""SIOCGIFADDR."""
_ADDRESS_AT: Final = 20
"""Where the IPv4 address is in its answer, a struct ifreq with a struct sockaddr_in."""
_IP_MTU: Final = 14
_IPV6_MTU: Final = 24


def toward(address: str) -> int:
    """The MTU of the path to a numeric address. Raises OSError without a route, or on another system."""
    with routed.socket_toward(address) as sock:
        if sock.family == socket.AF_INET6:
            return sock.getsockopt(socket.IPPROTO_IPV6, _IPV6_MTU)
        return sock.getsockopt(socket.IPPROTO_IP, _IP_MTU)


def of_interface(address: str) -> int:
    """The MTU of the interface that has this numeric address; USUAL if none has it."""
    family = inet.family_of(address)
    packed = socket.inet_pton(family, address)
    for name in _interfaces(family, packed):
        with suppress(OSError, ValueError), open(f"/sys/class/net/{name}/mtu", encoding="ascii") as file:
            return int(file.read())
    return USUAL


def _interfaces(family: int, packed: bytes) -> Iterator[str]:
    """The interfaces with this address."""
    if family == socket.AF_INET6:
        with suppress(OSError), open("/proc/net/if_inet6", encoding="ascii") as file:
            rows = [line.split() for line in file]
            yield from (row[-1] for row in rows if row[0] == packed.hex())
        return
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        for _, name in socket.if_nameindex():
            with suppress(OSError):
                found = fcntl.ioctl(sock, _GET_ADDRESS, struct.pack("16s24x", name.encode()))
                if found[_ADDRESS_AT : _ADDRESS_AT + len(packed)] == packed:
                    yield name


def shortest(addresses: Iterable[str]) -> int:
    """The least MTU of the paths to these addresses. Hosts to which there is no route do not count."""
    found: list[int] = []
    for address in addresses:
        with suppress(OSError):
            found.append(toward(address))
    return min(found, default=USUAL)
