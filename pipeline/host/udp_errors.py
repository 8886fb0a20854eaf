"""Reads ICMP errors about datagrams that an unconnected UDP socket has sent.

A connected socket always reports such an error. An unconnected socket reports it only on Linux, with
IP_RECVERR. The next call on the socket then fails once, and the socket's error queue has the details.
"""

import socket
import struct
import sys
from typing import Final

# linux/in.h, linux/errqueue.h
_IP_RECVERR: Final = 11
_ORIGIN_ICMP: Final = 2
_EXTENDED_ERROR: Final = struct.Struct("=IBBBBII")
_CONTROL_BYTES: Final = 256

Error = tuple[str, int, int]
"""Address and port to which a datagram was sent, and an errno."""


def watch(sock: socket.socket) -> None:
    """Have the system queue the errors of an IPv4 socket for errors(). Raises OSError if Linux refuses."""
    if sys.platform == "linux":
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
            if level != socket.IPPROTO_IP or kind != _IP_RECVERR or len(value) < _EXTENDED_ERROR.size:
                continue
            number, origin, *_ = _EXTENDED_ERROR.unpack_from(value)
            if origin == _ORIGIN_ICMP and address:
                found.append((str(address[0]), int(address[1]), number))
    return found, limit
