"""Which addresses to bind for a listening socket, and the text of a peer's address, both as in Go's net.

A *network* is "tcp" or "udp" for both address families, or "tcp4", "tcp6", "udp4" or "udp6" for one. With
both families, a wildcard address of either family means both: Go binds one IPv6 socket with IPV6_V6ONLY off.
With one family, a wildcard of the other family is an error. A socket for both families reports an IPv4 peer
as ``::ffff:192.0.2.1``. This module turns that into ``192.0.2.1``.

The control plane, the listen worker and the links use this module.
"""

import errno
import ipaddress
import socket
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final, NamedTuple

TCP: Final = ("tcp", "tcp4", "tcp6")
UDP: Final = ("udp", "udp4", "udp6")
WILDCARDS: Final = ("0.0.0.0", "::")

_FAMILIES: Final = {"4": (socket.AF_INET,), "6": (socket.AF_INET6,)}
_BOTH: Final = (socket.AF_INET, socket.AF_INET6)
_NO_FAMILY: Final = frozenset({errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL, errno.EPROTONOSUPPORT})
"""Errors of a system without IPv6, or with IPv6 switched off."""


class AddressError(Exception):
    """No address is of the network's family. The text is Go's."""


class Place(NamedTuple):
    """An address to bind one socket to. dual: the socket takes clients of both families."""

    family: socket.AddressFamily
    address: tuple[Any, ...]
    dual: bool = False


def families(network: str) -> tuple[socket.AddressFamily, ...]:
    """The address families of a network."""
    return _FAMILIES.get(network[-1:], _BOTH)


def family_of(address: str) -> socket.AddressFamily:
    """The family of a numeric address."""
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def lookup_name(host: str) -> str | bytes:
    """A host for socket.getaddrinfo(). For a text it loads IDNA (1.5 MB), so ASCII becomes bytes."""
    return host.encode() if host.isascii() else host


def is_loopback(host: str) -> bool:
    """Whether a host is localhost, or a numeric address of loopback."""
    try:
        return host.lower() == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def is_wildcard(host: str) -> bool:
    """Whether a host is the wildcard: empty, 0.0.0.0, ::, or another way to write one of them."""
    if not host:
        return True
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        return int(address.ipv4_mapped) == 0
    return int(address) == 0


def unmapped(address: str) -> str:
    """The text of an address, without the ``::ffff:`` that an IPv6 socket puts before an IPv4 one."""
    if not address.lower().startswith("::ffff:"):
        return address
    mapped = ipaddress.IPv6Address(address.partition("%")[0]).ipv4_mapped
    return str(mapped) if mapped is not None else address


def endpoint(sockaddr: Sequence[Any]) -> str:
    """``ip:port`` or ``[ip%zone]:port``, from the address that a socket of either family gives."""
    address = unmapped(str(sockaddr[0]).partition("%")[0])
    if ":" not in address:
        return f"{address}:{sockaddr[1]}"
    scope = int(sockaddr[3]) if len(sockaddr) > 3 else 0
    return f"[{address}{_zone(scope)}]:{sockaddr[1]}"


def _zone(scope: int) -> str:
    if not scope:
        return ""
    try:
        return f"%{socket.if_indextoname(scope)}"
    except OSError:
        # The interface is gone. Go shows its number then.
        return f"%{scope}"


def places(network: str, host: str, port: int, addresses: Iterable[str] | None = None) -> list[Place]:
    """Where to bind, best first. addresses: what a host name resolved to.

    For a wildcard the second place is for systems without IPv6. Of a name's addresses, IPv4 comes first, as
    in Go. The list is empty when no text is an address. Raises AddressError when no address is of the
    network's family.
    """
    allowed = families(network)
    texts = [host] if addresses is None else list(addresses)
    if any(is_wildcard(text) for text in texts):
        if not any(_is_of(text, allowed) for text in texts if is_wildcard(text)):
            raise AddressError(f"address {host}: no suitable address found")
        return _wildcards(allowed, port)
    found = sorted(
        (place for text in texts for place in _numeric(text, port)),
        key=lambda place: place.family != _BOTH[0],
    )
    fitting = [place for place in found if place.family in allowed]
    if found and not fitting:
        raise AddressError(f"address {host}: no suitable address found")
    return fitting


def _is_of(wildcard: str, allowed: tuple[socket.AddressFamily, ...]) -> bool:
    """Whether a wildcard is of one of these families. An empty one is of both. ::ffff:0.0.0.0 is IPv4."""
    if allowed == _BOTH or not wildcard:
        return True
    return _BOTH[":" in unmapped(wildcard)] in allowed


def _wildcards(allowed: tuple[socket.AddressFamily, ...], port: int) -> list[Place]:
    if allowed == _BOTH:
        return [Place(socket.AF_INET6, ("::", port), dual=True), Place(socket.AF_INET, ("0.0.0.0", port))]
    family = allowed[0]
    return [Place(family, (WILDCARDS[family == socket.AF_INET6], port))]


def _numeric(text: str, port: int) -> list[Place]:
    try:
        host = lookup_name(unmapped(text))
        rows = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)
    except (OSError, ValueError):
        return []
    return [Place(row[0], row[4]) for row in rows]


def bind(
    kind: socket.SocketKind,
    where: Sequence[Place],
    backlog: int = 0,
    prepare: Callable[[socket.socket], object] | None = None,
) -> socket.socket:
    """A non-blocking socket, bound at the first place where that succeeds. A stream socket listens.

    where: at least one place. prepare: called with a wildcard's socket before it is bound. Raises OSError.
    If the dual socket fails because the system has no IPv6, the IPv4 wildcard is bound instead. If it fails
    for another reason, nothing else is tried: a socket for one family would serve half of the clients.
    """
    failure: OSError | None = None
    for place in where:
        try:
            return _bind(kind, place, backlog, prepare if is_wildcard(place.address[0]) else None)
        except OSError as error:
            failure = error
            if place.dual and error.errno not in _NO_FAMILY:
                break
    assert failure is not None
    raise failure


def _bind(
    kind: socket.SocketKind, place: Place, backlog: int, prepare: Callable[[socket.socket], object] | None
) -> socket.socket:
    sock = socket.socket(place.family, kind)
    try:
        sock.setblocking(False)
        if kind == socket.SOCK_STREAM:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if place.family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, int(not place.dual))
        if prepare is not None:
            prepare(sock)
        sock.bind(place.address)
        if kind == socket.SOCK_STREAM:
            sock.listen(backlog)
    except OSError:
        sock.close()
        raise
    return sock
