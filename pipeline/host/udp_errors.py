"""Reads ICMP errors about datagrams that an unconnected UDP socket has sent.

A connected socket always reports such an error. An unconnected socket reports it only on Linux, with
IP_RECVERR or IPV6_RECVERR. The next call on the socket then fails once, and the socket's error queue has the
details.
"""

import socket
import struct
import sys
from typing import Final

# linux/in.h, linux/errqueue.h
_IP_RECVERR: Final = 11
_IPV6_RECVERR: Final = 25
_MESSAGES: Final = {(socket.IPPROTO_IP, _IP_RECVERR): 2, (socket.IPPROTO_IPV6, _IPV6_RECVERR): 3}
"""By level and kind of a control message: the origin that means ICMP, or ICMPv6."""
_EXTENDED_ERROR: Final = struct.Struct("=IBBBBII")
_CONTROL_BYTES: Final = 256

Error = tuple[str, int, int]
"""Address and port to which a datagram was sent, and an errno."""


def watch(sock: socket.socket) -> None:
    """Have the system queue the errors of a socket for errors(). Raises OSError if Linux refuses."""
    if sys.platform == "linux":
        if sock.family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, _IPV6_RECVERR, 1)
        else:
            sock.setsockopt(socket.IPPROTO_IP, _IP_RECVERR, 1)


def errors(sock: socket.socket, limit: int) -> tuple[list[Error], int]:
    """Take at most limit errors from the queue. Returns the ICMP errors among them, and the number taken."""
    found: list[Error] = []
    if sys.platform != "linux":
        return found, 0
    for taken in range(limit):
        try:
            _, ancillary, _, address = sock.recvmsg(0, _CONTROL_BYTES, socket.MSG_ERRQUEUE)
        except OSError:
            # The queue is empty.
            return found, taken
        for level, kind, value in ancillary:
            if (level, kind) not in _MESSAGES or len(value) < _EXTENDED_ERROR.size:
                continue
            number, origin, *_ = _EXTENDED_ERROR.unpack_from(value)
            if origin == _MESSAGES[level, kind] and address:
                found.append((str(address[0]), int(address[1]), number))
    return found, limit
