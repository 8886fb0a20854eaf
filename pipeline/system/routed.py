"""Asks the system how it would reach an address: by which route and source, and with which MTU.

Nothing is sent.
"""

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from pipeline.system import inet
from pipeline.system.outbound import Outbound

_DISCARD_PORT: Final = 9
"""Any port will do."""


@contextmanager
def socket_toward(address: str, outbound: Outbound | None = None) -> Iterator[socket.socket]:
    """A datagram socket for which the system has chosen a route and a source. address: numeric.

    outbound: what the socket is bound to before. Raises OSError if there is no route, or no socket.
    """
    with socket.socket(inet.family_of(address), socket.SOCK_DGRAM) as sock:
        if outbound is not None:
            outbound.bind(sock, address)
        sock.connect((address, _DISCARD_PORT))
        yield sock
