"""Whether this host reaches other hosts over IPv6."""

import errno

from pipeline.system import routed
from pipeline.system.outbound import Outbound

_SOMEWHERE = "2000::1"
"""An address of the global unicast space (RFC 4291 section 2.4). Nothing is sent to it."""

_TEMPORARY = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})


def exists(outbound: Outbound | None = None) -> bool | None:
    """Whether the system has a route to global IPv6 addresses, and an address for it. None: not known now.

    outbound: what sockets for guests are bound to. False also on a system without IPv6.
    """
    try:
        with routed.socket_toward(_SOMEWHERE, outbound):
            pass
    except OSError as error:
        return None if error.errno in _TEMPORARY else False
    return True
