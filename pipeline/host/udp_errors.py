"""ICMP errors about datagrams of a socket that is not connected: whom they were for, and what was wrong.

A connected socket reports such an error by itself. Another one does it on Linux alone, with IP_RECVERR:
then the next call on the socket fails once, whatever it is for, and a queue has the details.
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
    """Have errors of an IPv4 socket kept for errors(). OSError if a system that can do it will not."""
    if sys.platform == "linux":
        sock.setsockopt(socket.IPPROTO_IP, _IP_RECVERR, 1)


def errors(sock: socket.socket, limit: int) -> tuple[list[Error], int]:
    """Take at most limit errors from the queue: those that came by ICMP, and how many were taken in all."""
    found: list[Error] = []
    if sys.platform != "linux":
        return found, 0
    for taken in range(limit):
        try:
            _, ancillary, _, address = sock.recvmsg(0, _CONTROL_BYTES, socket.MSG_ERRQUEUE)
        except OSError:
            # Nothing more is there.
            return found, taken
        for level, kind, value in ancillary:
            if level != socket.IPPROTO_IP or kind != _IP_RECVERR or len(value) < _EXTENDED_ERROR.size:
                continue
            number, origin, *_ = _EXTENDED_ERROR.unpack_from(value)
            if origin == _ORIGIN_ICMP and address:
                found.append((str(address[0]), int(address[1]), number))
    return found, limit
