"""A pair of sockets for whole messages with descriptors beside them, made before the workers fork.

Packets keep messages apart, wait when the other end is slow, and end with it. Where unix sockets have none
(macOS), a stream does the same with lengths in front of the messages (pipeline.stages.channel);
datagrams would not: they have no end, and macOS neither lets them be long nor says when there is room.
"""

import errno
import socket
from typing import Final

NO_SUCH_KIND: Final = frozenset(
    {errno.EPROTONOSUPPORT, errno.EPROTOTYPE, errno.ESOCKTNOSUPPORT, errno.EOPNOTSUPP, errno.EINVAL}
)
"""What a system says that has no sockets of the kind."""


def socket_pair() -> tuple[socket.socket, socket.socket]:
    """Two ends of SOCK_SEQPACKET, else of SOCK_STREAM. Raises OSError."""
    try:
        return socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    except OSError as error:
        if error.errno not in NO_SUCH_KIND:
            raise
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
