"""Which worker serves a flow, and which port the gateway uses for a flow that it opens to a guest.

``rss_hash`` chooses the tcp and egress workers of a flow. Every worker computes the same value for the same
flow. ``PortAllocator`` chooses the gateway's port of a flow that the gateway opens to a guest (RFC 6056
section 3.3.1; the caller chooses the first port at random).
"""

from collections.abc import Hashable
from typing import Final

EPHEMERAL_FIRST: Final = 49152
EPHEMERAL_LAST: Final = 65535
"""The dynamic ports of RFC 6335 section 6."""

_MASK: Final = 0xFFFFFFFF
_PRIME: Final = 0xFFFFFFFB


def rss_hash(guest_addr: int, guest_port: int, remote_addr: int, remote_port: int) -> int:
    """A 32-bit hash that is uniform in all its bits: ``% shards`` is fair for any number of shards.

    The hash is not secret. A guest can steer all its flows to one shard, and mostly slows itself.
    """
    # An address of 128 bits counts modulo a prime below 2**32.
    guest, remote = guest_addr % _PRIME, remote_addr % _PRIME
    # Multiply by odd constants to carry each field into the high bits. Then fold the high bits into the low
    # ones twice: ports differ in their low bits, and a modulus uses the low bits.
    mixed = guest * 0x9E3779B1 ^ remote * 0x85EBCA77 ^ (guest_port << 16 | remote_port) * 0xC2B2AE3D
    mixed = (mixed ^ mixed >> 29) * 0x27D4EB2F & 0xFFFFFFFFFFFFFFFF
    return (mixed ^ mixed >> 32) & _MASK


class PortAllocator:
    """Allocates local ports, unique for each key (the guest's address and port that the flow goes to).

    The allocator goes round the range, so it gives out a released port again as late as possible. The last
    connection from the port may still be in TIME-WAIT at the guest.
    """

    def __init__(self, start: int = 0, first: int = EPHEMERAL_FIRST, last: int = EPHEMERAL_LAST) -> None:
        """The range is [first, last]. start: any number, best a random one, that chooses the first port."""
        if not 0 < first <= last <= 0xFFFF:
            raise ValueError(f"not a port range: {first}-{last}")
        self._first = first
        self._count = last - first + 1
        self._next = start % self._count
        self._used: dict[Hashable, set[int]] = {}

    def allocate(self, key: Hashable) -> int | None:
        """A port that key does not use yet; None when key uses all ports."""
        used = self._used.setdefault(key, set())
        if len(used) >= self._count:
            return None
        while True:
            port = self._first + self._next
            self._next = (self._next + 1) % self._count
            if port not in used:
                used.add(port)
                return port

    def release(self, key: Hashable, port: int) -> None:
        """Take a port back from key. Raises KeyError when key does not hold it."""
        used = self._used[key]
        used.remove(port)
        if not used:
            del self._used[key]

    def in_use(self) -> int:
        """Number of ports in use, over all keys."""
        return sum(map(len, self._used.values()))
