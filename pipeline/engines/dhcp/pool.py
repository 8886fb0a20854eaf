"""The dynamic addresses of a subnet: which are free, and which are kept back for a while.

The lowest free address is given first, or a wanted one. An address that a client found in use (DHCPDECLINE,
or Decline of DHCPv6) is kept back. At most a quarter of them and MAX_DECLINED addresses are kept back,
so that a guest cannot use it up.
"""

import heapq
from collections import OrderedDict
from collections.abc import Iterable
from ipaddress import IPv4Network, IPv6Network
from typing import Final

from pipeline.wire import ip

DECLINE_SECONDS: Final = 600.0
"""How long an address that a client found in use is kept back."""
MAX_DECLINED: Final = 64
MAX_TAKEN: Final = 16384
"""The most addresses that clients have at a time. It bounds the memory in a large subnet."""


class Pool:
    """The dynamic addresses of one subnet."""

    def __init__(
        self, subnet: IPv4Network | IPv6Network, never: Iterable[int], among: tuple[int, int] = (0, 0)
    ) -> None:
        """never: addresses that no client may have. among: the first and the last one that clients may have.

        Zeros mean all addresses of the subnet.
        """
        self._before = max(ip.of(subnet.network_address), among[0] - 1)
        last = ip.of(subnet.broadcast_address)
        self._after = min(last, among[1] + 1) if among[1] else last
        self._never = frozenset(never)
        inside = sum(self._before < addr < self._after for addr in self._never)
        self.capacity = min(MAX_TAKEN, max(0, self._after - self._before - 1 - inside))
        """The most clients that can have an address at a time."""
        self._max_declined = min(MAX_DECLINED, (self._after - self._before + 1) // 4)
        self._taken: set[int] = set()
        self._declined: OrderedDict[int, float] = OrderedDict()
        """Addresses that are kept back, and until when. The first one to end comes first."""
        self._next = self._before + 1
        """The first address that take() has not reached yet."""
        self._returned: list[int] = []
        """A heap of addresses that may be free again. Each one is in it once."""
        self._in_heap: set[int] = set()

    def free_count(self, now: float) -> int:
        """How many addresses are free."""
        declined = sum(until > now for until in self._declined.values())
        return self.capacity - len(self._taken) - declined

    def take(self, now: float, wanted: int = 0) -> int:
        """Take the wanted address, or if it is not free the lowest one. Returns 0 if there is none."""
        while self._declined and next(iter(self._declined.values())) <= now:
            self._return(self._declined.popitem(last=False)[0])
        if len(self._taken) >= MAX_TAKEN:
            return 0
        if self.claim(wanted):
            return wanted
        while self._returned:
            addr = heapq.heappop(self._returned)
            self._in_heap.remove(addr)
            if self.claim(addr):
                return addr
        while self._next < self._after:
            addr = self._next
            self._next += 1
            if self.claim(addr):
                return addr
        return 0

    def claim(self, addr: int) -> bool:
        """Take this address. Returns False if it is not free, or not for clients."""
        usable = self._before < addr < self._after and addr not in self._never
        if not usable or addr in self._taken or addr in self._declined or len(self._taken) >= MAX_TAKEN:
            return False
        self._taken.add(addr)
        return True

    def put_back(self, addr: int) -> None:
        """An address that was taken is free again."""
        self._taken.remove(addr)
        self._return(addr)

    def decline(self, addr: int, now: float) -> None:
        """The client that has the address found it in use. No client gets it for DECLINE_SECONDS."""
        self._taken.remove(addr)
        self._declined[addr] = now + DECLINE_SECONDS
        while len(self._declined) > self._max_declined:
            self._return(self._declined.popitem(last=False)[0])

    def _return(self, addr: int) -> None:
        if addr not in self._in_heap:
            self._in_heap.add(addr)
            heapq.heappush(self._returned, addr)
