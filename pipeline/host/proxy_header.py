"""The addresses for a PROXY protocol header: both ends of an accepted connection.

An IPv4 client of a socket for both address families counts as IPv4.
"""

import socket
from typing import Final, NamedTuple

_MAPPED: Final = bytes(10) + b"\xff\xff"


class Ends(NamedTuple):
    """Source and destination of a TCP connection. An address has 4 or 16 bytes."""

    src: bytes
    src_port: int
    dst: bytes
    dst_port: int


def ends(sock: socket.socket) -> Ends | None:
    """The ends of a connection; None if it has no IP addresses, or if its peer is already gone."""
    if sock.family not in (socket.AF_INET, socket.AF_INET6):
        return None
    try:
        peer, own = sock.getpeername(), sock.getsockname()
    except OSError:
        return None
    src, dst = (socket.inet_pton(sock.family, str(name[0]).partition("%")[0]) for name in (peer, own))
    if src.startswith(_MAPPED) and dst.startswith(_MAPPED):
        src, dst = src[12:], dst[12:]
    return Ends(src, peer[1], dst, own[1])
