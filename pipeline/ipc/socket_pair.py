"""A pair of connected unix sockets for control messages, made before the workers fork.

SOCK_SEQPACKET keeps messages apart, waits when the other end is slow, and reports when the other end closes.
macOS does not have it. There the pair is a stream, and each message follows its length
(pipeline.ipc.transport). SOCK_DGRAM would not do: it does not report that the other end is closed. On macOS
it also limits the length of a message, and does not report when there is room again.
"""

import errno
import socket
from typing import Final

NO_SUCH_KIND: Final = frozenset(
    {errno.EPROTONOSUPPORT, errno.EPROTOTYPE, errno.ESOCKTNOSUPPORT, errno.EOPNOTSUPP, errno.EINVAL}
)
"""Errors of a system that does not have this type of socket."""


def socket_pair() -> tuple[socket.socket, socket.socket]:
    """Two ends of a SOCK_SEQPACKET pair, or of a SOCK_STREAM pair. Raises OSError."""
    try:
        return socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    except OSError as error:
        if error.errno not in NO_SUCH_KIND:
            raise
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
