"""System calls that connections and packets make. Compiled code has functions of native/access.h instead.

The methods of a Python socket take several times as long as these calls: they try one form of the arguments
after the other.
"""

import socket
import struct
from typing import Final

_LINGER: Final = struct.Struct("ii")


def set_option(sock: socket.socket, level: int, option: int, value: int) -> None:
    """Set an option that is a number of 32 bits. Raises OSError."""
    sock.setsockopt(level, option, value)


def set_linger(sock: socket.socket, on: int) -> None:
    """Set SO_LINGER, with time 0: on 1, a close sends a RST. Raises OSError."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER.pack(on, 0))


def has_peer(sock: socket.socket) -> bool:
    """Whether a socket is connected."""
    try:
        sock.getpeername()
    except OSError:
        return False
    return True


def receive(sock: socket.socket, view: memoryview) -> int:
    """Read into view, without blocking. Returns the number of bytes, or -1 if it would block. Raises OSError.

    The socket is non-blocking.
    """
    try:
        return sock.recv_into(view)
    except BlockingIOError:
        return -1


def send(sock: socket.socket, data: memoryview | bytes | bytearray) -> int:
    """Write what a non-blocking socket takes. Returns the number of bytes, or -1 if none. Raises OSError."""
    try:
        return sock.send(data)
    except BlockingIOError:
        return -1
