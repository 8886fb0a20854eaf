"""Whether this host reaches other hosts over IPv6."""

import errno
import socket

from pipeline.system.outbound import Outbound

_SOMEWHERE = "2000::1"
"""An address of the global unicast space (RFC 4291 section 2.4). Nothing is sent to it."""
_DISCARD_PORT = 9


_TEMPORARY = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})


def exists(outbound: Outbound | None = None) -> bool | None:
    """Whether the system has a route to global IPv6 addresses, and an address for it. None: not known now.

    outbound: what sockets for guests are bound to. A UDP socket is connected, which sends nothing: the system
    only chooses a route and a source address. False also on a system without IPv6.
    """
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as sock:
            if outbound is not None:
                outbound.bind(sock, _SOMEWHERE)
            sock.connect((_SOMEWHERE, _DISCARD_PORT))
    except OSError as error:
        return None if error.errno in _TEMPORARY else False
    return True
