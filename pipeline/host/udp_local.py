"""Finds the local address to which a datagram was sent, for sockets bound to a wildcard address.

A client may send to any address of the host. By default the system chooses the source address of an answer
by the route to the client. If it is not the address that the client used, a connected client socket never
sees the answer. IP_PKTINFO and IPV6_RECVPKTINFO (RFC 3542 section 6.1) report the local address of each
datagram. The same bytes, sent with an answer, set its source address.

The routing table chooses the interface of an answer, except for link-local addresses.
"""

import socket
import struct
import sys
from contextlib import suppress
from typing import Final

from pipeline.system import inet

Address = tuple[str | int, ...]
"""As in the socket module: host and port, and for IPv6 two more fields."""
Control = tuple[tuple[int, int, bytes], ...]
"""Control messages for sendmsg(). Empty: the system chooses the source address."""

# Python 3.11 has no name for it. Linux: linux/in.h; macOS: netinet/in.h, where IP_RECVPKTINFO is the same.
_IP_PKTINFO: Final = {"linux": 8, "darwin": 26}.get(sys.platform, -1)
_RECV6: Final = getattr(socket, "IPV6_RECVPKTINFO", -1)
_INFO6: Final = getattr(socket, "IPV6_PKTINFO", -1)
_V4: Final = struct.Struct("=I4s4s")
"""struct in_pktinfo: interface, our address, destination in the header."""
_V6: Final = struct.Struct("=16sI")
"""struct in6_pktinfo: destination, interface."""
_NOT_V4: Final = bytes(4)
_ANY6: Final = bytes(16)
_ROOM: Final = 128
"""Bytes for both messages, with their headers."""


def ask_if_wildcard(sock: socket.socket) -> bool:
    """Call ask() if sock is bound to a wildcard address. Returns whether receive() must read the socket."""
    return inet.is_wildcard(str(sock.getsockname()[0])) and ask(sock)


def ask(sock: socket.socket) -> bool:
    """Ask for the local address of each datagram from now on. Returns whether the system will report it."""
    asked = False
    if _IP_PKTINFO >= 0:
        # Also on a socket for both families: for IPv4 datagrams this message says more than IPv6's.
        with suppress(OSError):
            sock.setsockopt(socket.IPPROTO_IP, _IP_PKTINFO, 1)
            asked = True
    if sock.family == socket.AF_INET6 and _RECV6 >= 0:
        with suppress(OSError):
            sock.setsockopt(socket.IPPROTO_IPV6, _RECV6, 1)
            asked = True
    return asked


def receive(sock: socket.socket, view: memoryview) -> tuple[int, Address, Control]:
    """Read a datagram into view. Returns its length, its source, and the control messages for answers.

    Raises OSError.
    """
    length, ancillary, _, client = sock.recvmsg_into([view], _ROOM)
    control: Control = ()
    for level, kind, value in ancillary:
        if level == socket.IPPROTO_IP and kind == _IP_PKTINFO and len(value) >= _V4.size:
            return length, client, _answer4(value)
        if level == socket.IPPROTO_IPV6 and kind == _INFO6 and len(value) >= _V6.size:
            control = _answer6(value)
    return length, client, control


def _answer4(value: bytes) -> Control:
    _, own, _ = _V4.unpack_from(value)
    # For a broadcast, ``own`` is the address of the interface on which it arrived.
    return ((socket.IPPROTO_IP, _IP_PKTINFO, _V4.pack(0, own, _NOT_V4)),) if own != _NOT_V4 else ()


def _answer6(value: bytes) -> Control:
    own, interface = _V6.unpack_from(value)
    if own[0] == 0xFF:
        # Multicast: let the system choose an address of the same interface.
        own = _ANY6
    elif not (own[0] == 0xFE and own[1] & 0xC0 == 0x80):
        interface = 0
    return ((socket.IPPROTO_IPV6, _INFO6, _V6.pack(own, interface)),)
