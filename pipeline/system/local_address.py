"""Whether an address belongs to an interface of this host.

The kernel is asked with a datagram socket, which sends nothing: towards its own address, it chooses this very
address as the source. That needs neither a file nor a list of interfaces.
"""

from time import monotonic
from typing import Final

from pipeline.system import routed
from pipeline.wire import ip

KNOWN_S: Final = 5.0
"""Seconds for which an answer is kept."""
MAX_KNOWN: Final = 4096


def is_local(addr: int) -> bool:
    """Whether an interface of this host has the address."""
    try:
        with routed.socket_toward(ip.full_text(addr)) as sock:
            found: str = sock.getsockname()[0]
    except OSError:
        return False
    # The whole of 127.0.0.0/8 is this host's, with 127.0.0.1 as the source.
    source = ip.parse(found)
    return source == addr or ip.is_loopback(source)


class LocalAddresses:
    """is_local(), which keeps its last answers for a while."""

    def __init__(self) -> None:
        self._known: dict[int, bool] = {}
        self._until = 0.0

    def has(self, addr: int) -> bool:
        """Whether an interface of this host has the address."""
        now = monotonic()
        if now >= self._until or len(self._known) >= MAX_KNOWN:
            self._known.clear()
            self._until = now + KNOWN_S
        found = self._known.get(addr)
        if found is None:
            found = self._known[addr] = is_local(addr)
        return found
