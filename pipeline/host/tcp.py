"""Host TCP sockets: non-blocking connect, gather-send from slots, orderly and abortive close.

Knows sockets and byte ranges, no protocol of ours: which flow a socket belongs to is the
stage's business. Nothing here blocks.
"""

import errno
import socket
import struct
from typing import Final

KEEPALIVE_IDLE_S: Final = 60
IOV_MAX: Final = 512
"""Pieces given to one sendmsg; Linux takes up to 1024."""

_KEEPALIVE_IDLE: Final[int] = getattr(socket, "TCP_KEEPIDLE", 0) or getattr(socket, "TCP_KEEPALIVE", 0)
"""The option for the idle time; macOS calls it TCP_KEEPALIVE."""
_NON_BLOCKING: Final[int] = getattr(socket, "SOCK_NONBLOCK", 0)
"""Saves a call where the system has it."""
_LINGER_RESET: Final = struct.pack("ii", 1, 0)
_LINGER_OFF: Final = struct.pack("ii", 0, 0)
_IN_PROGRESS: Final = frozenset({errno.EINPROGRESS, errno.EWOULDBLOCK, errno.EAGAIN})


def connect(address: str, port: int) -> tuple[socket.socket | None, int]:
    """Begin a connection to address:port, without blocking.

    Returns (socket, 0) when it is under way or already stands (tune() it, wait for it to become
    writable, then ask finish()), or (None, errno) when it failed at once.
    """
    try:
        sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM | _NON_BLOCKING)
    except OSError as error:
        return None, error.errno or errno.EIO
    if not _NON_BLOCKING:
        sock.setblocking(False)
    result = sock.connect_ex((address, port))
    if result and result not in _IN_PROGRESS:
        sock.close()
        return None, result
    return sock, 0


def tune(sock: socket.socket) -> None:
    """Make a connection fit for the pipeline: non-blocking; TCP also without Nagle, with keep-alive.

    Urgent data stay where they are in the stream (RFC 6093): no read would bring them otherwise.
    What ends it otherwise than by close() resets it, also the death of this process: a transfer that was
    cut short must not look whole.
    """
    if sock.gettimeout() != 0.0:
        sock.setblocking(False)
    if sock.family in (socket.AF_INET, socket.AF_INET6):
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_RESET)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_OOBINLINE, 1)
            if _KEEPALIVE_IDLE:
                sock.setsockopt(socket.IPPROTO_TCP, _KEEPALIVE_IDLE, KEEPALIVE_IDLE_S)
        except OSError as error:
            # macOS says so of a connection whose peer has reset it already: who reads it will hear of that.
            if error.errno != errno.EINVAL:
                raise


def stands(sock: socket.socket) -> bool:
    """Whether a connection that was begun stands already, as one to this very machine does at once."""
    try:
        sock.getpeername()
    except OSError:
        return False
    return True


def finish(sock: socket.socket) -> int:
    """The outcome of connect() once the socket is writable: 0 or an errno (SO_ERROR, read and cleared)."""
    return sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)


def close(sock: socket.socket) -> None:
    """Close in order: with a FIN, behind everything that was written."""
    _close(sock, _LINGER_OFF)


def reset(sock: socket.socket) -> None:
    """Close with a RST instead of a FIN (SO_LINGER with time 0)."""
    _close(sock, _LINGER_RESET)


def _close(sock: socket.socket, linger: bytes) -> None:
    if sock.family in (socket.AF_INET, socket.AF_INET6):
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        except OSError as error:
            # The socket may have died already; its close below is all that is left to do.
            if error.errno not in (errno.EINVAL, errno.ENOTCONN):
                raise
    sock.close()


def shutdown_write(sock: socket.socket) -> int:
    """Send the FIN. Returns 0, or the errno when the peer is gone already."""
    try:
        sock.shutdown(socket.SHUT_WR)
    except OSError as error:
        return error.errno or errno.EIO
    return 0


def pieces(
    slot: memoryview, off: int, stride: int, gso_size: int, skip: int, length: int
) -> list[memoryview]:
    """The contiguous parts of a range (layout: pipeline.shm.descriptor) in order."""
    first = skip % gso_size if gso_size else 0
    if first + length <= gso_size:
        begin = off + (skip // gso_size) * stride + first
        return [slot[begin : begin + length]]
    base = off + (skip // gso_size) * stride
    parts = []
    if first:
        parts.append(slot[base + first : base + gso_size])
        length -= gso_size - first
        base += stride
    while length > gso_size:
        parts.append(slot[base : base + gso_size])
        length -= gso_size
        base += stride
    parts.append(slot[base : base + length])
    return parts
