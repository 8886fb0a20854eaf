"""The memory of a guest: regions, each with two addresses, whose bytes lie in files of the monitor.

This module translates addresses and checks bounds. A *region's bytes* are an object that another module makes
(pipeline.links.guest_memory): a mapping, or a file that is read and written. Either may raise MemoryFault.

What is read is a claim of the guest. The guest may change it at any time, so callers copy what they check.
"""

from abc import ABC, abstractmethod
from typing import Final

from pipeline.wire.vhost_user import Region

Bytes = bytes | memoryview

LOST: Final = "vhost_user_link_closed_memory_lost"
BAD_ADDRESS: Final = "vhost_user_link_closed_bad_address"


class RingError(Exception):
    """The guest or its monitor broke a rule, so its rings cannot be trusted. reason: name of a counter."""

    def __init__(self, text: str, reason: str) -> None:
        super().__init__(text)
        self.reason = reason


class RegionBytes(ABC):
    """The bytes of one region. Offsets count from its start. Callers have checked the bounds."""

    @abstractmethod
    def read(self, off: int, length: int) -> Bytes:
        """Bytes of the region. If it is a view, the guest may change it."""

    @abstractmethod
    def read_into(self, off: int, target: memoryview) -> None:
        """Copy bytes of the region to target, as many as fit."""

    @abstractmethod
    def write(self, off: int, data: Bytes) -> None:
        """Copy data into the region."""

    @abstractmethod
    def load16(self, off: int) -> int:
        """A number of two bytes at an even address, in one access."""

    @abstractmethod
    def store16(self, off: int, value: int) -> None:
        """Write a number of two bytes to an even address, in one access."""

    @abstractmethod
    def close(self) -> None:
        """Give the memory back."""


class Area:
    """A part of one region: an area of a ring. Offsets count from its start."""

    __slots__ = ("_at", "_bytes")

    def __init__(self, region: RegionBytes, at: int) -> None:
        self._bytes = region
        self._at = at

    def read(self, off: int, length: int) -> Bytes:
        """See RegionBytes.read()."""
        return self._bytes.read(self._at + off, length)

    def write(self, off: int, data: Bytes) -> None:
        """See RegionBytes.write()."""
        self._bytes.write(self._at + off, data)

    def load16(self, off: int) -> int:
        """See RegionBytes.load16()."""
        return self._bytes.load16(self._at + off)

    def store16(self, off: int, value: int) -> None:
        """See RegionBytes.store16()."""
        self._bytes.store16(self._at + off, value)


class _Placed:
    """A region and its bytes."""

    __slots__ = ("end", "region", "start", "store")

    def __init__(self, region: Region, store: RegionBytes) -> None:
        self.region = region
        self.store = store
        self.start = region.guest_addr
        self.end = region.guest_addr + region.size


class GuestMemory:
    """All regions of a guest. They do not overlap, neither in guest addresses nor in user addresses."""

    def __init__(self) -> None:
        self._placed: list[_Placed] = []
        self._last: _Placed | None = None
        """The region of the last access. The next one is most likely in it too."""

    def __len__(self) -> int:
        return len(self._placed)

    def refusal(self, region: Region) -> str:
        """Why this region cannot be added; "" if it can."""
        for placed in self._placed:
            other = placed.region
            if _overlap(other.guest_addr, region.guest_addr, other.size, region.size):
                return "two regions of memory have the same guest address"
            if _overlap(other.user_addr, region.user_addr, other.size, region.size):
                return "two regions of memory have the same user address"
        return ""

    def add(self, region: Region, store: RegionBytes) -> None:
        """Add a region that refusal() does not refuse. The memory owns its bytes from now on."""
        self._placed.append(_Placed(region, store))

    def remove(self, region: Region) -> bool:
        """Remove the region with these addresses and this size. False if there is none."""
        for placed in self._placed:
            if placed.region[:3] == region[:3]:
                self._placed.remove(placed)
                self._last = None
                placed.store.close()
                return True
        return False

    def clear(self) -> None:
        """Remove all regions."""
        placed, self._placed, self._last = self._placed, [], None
        for each in placed:
            each.store.close()

    def area(self, user_addr: int, length: int) -> Area:
        """The area at a user address. It must lie in one region. Raises RingError."""
        for placed in self._placed:
            off = user_addr - placed.region.user_addr
            if off >= 0 and off + length <= placed.region.size and not off & 1:
                return Area(placed.store, off)
        raise RingError("a ring lies outside of the guest's memory", BAD_ADDRESS)

    def read(self, addr: int, length: int) -> Bytes:
        """Bytes at a guest address, perhaps a live view. Raises RingError."""
        placed = self._last
        if placed is None or addr < placed.start or addr + length > placed.end:
            placed = self._find(addr)
            if addr + length > placed.end:
                parts = bytearray(length)
                self.read_into(addr, memoryview(parts))
                return bytes(parts)
        return placed.store.read(addr - placed.start, length)

    def read_into(self, addr: int, target: memoryview) -> None:
        """Copy bytes at a guest address to target, as many as fit. Raises RingError."""
        placed = self._last
        if placed is None or addr < placed.start or addr + len(target) > placed.end:
            placed = self._find(addr)
            while (room := placed.end - addr) < len(target):
                placed.store.read_into(addr - placed.start, target[:room])
                target = target[room:]
                addr = placed.end
                placed = self._find(addr)
        placed.store.read_into(addr - placed.start, target)

    def write(self, addr: int, data: Bytes) -> None:
        """Copy data to a guest address. Raises RingError."""
        placed = self._last
        if placed is None or addr < placed.start or addr + len(data) > placed.end:
            placed = self._find(addr)
            while (room := placed.end - addr) < len(data):
                placed.store.write(addr - placed.start, data[:room])
                data = data[room:]
                addr = placed.end
                placed = self._find(addr)
        placed.store.write(addr - placed.start, data)

    def _find(self, addr: int) -> _Placed:
        for placed in self._placed:
            if placed.start <= addr < placed.end:
                self._last = placed
                return placed
        raise RingError("a descriptor names an address outside of the guest's memory", BAD_ADDRESS)


def _overlap(one: int, other: int, one_size: int, other_size: int) -> bool:
    return one < other + other_size and other < one + one_size
