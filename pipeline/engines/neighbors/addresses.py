"""The addresses of a virtual network that guests may have: all host addresses except the gateway's own."""

from collections.abc import Iterable

from pipeline.wire import ip


class GuestAddresses:
    """Says of an IPv4 address whether a guest of one subnet may have it."""

    def __init__(self, network: int, prefix_len: int, own: Iterable[int] = ()) -> None:
        """own: the gateway's address and its virtual addresses."""
        first, last = ip.prefix(network, prefix_len)
        self._first = first + 1
        self._last = last - 1
        self.own = frozenset(own)

    def inside(self, addr: int) -> bool:
        """Whether addr is a host address of the subnet."""
        return self._first <= addr <= self._last

    def may_have(self, addr: int) -> bool:
        """Whether a guest may have addr."""
        return self.inside(addr) and addr not in self.own
