"""Guest memory in a bytearray, and a driver's rings in it, for tests of the engines."""

import struct

from pipeline.engines.virtio.memory import Bytes, GuestMemory, RegionBytes
from pipeline.engines.virtio.split_ring import RingPlace, SplitRing
from pipeline.wire.vhost_user import Region

GUEST = 0x10000
USER = 0x7000_0000
SIZE = 0x20000
TABLE, AVAIL, USED, BUFFERS = 0x0000, 0x4000, 0x5000, 0x8000


class Plain(RegionBytes):
    """A region whose bytes are here."""

    def __init__(self, size: int) -> None:
        self.bytes = bytearray(size)
        self.view = memoryview(self.bytes)
        self.closed = False

    def read(self, off: int, length: int) -> Bytes:
        assert 0 <= off <= off + length <= len(self.view)
        return self.view[off : off + length]

    def read_into(self, off: int, target: memoryview) -> None:
        assert 0 <= off <= off + len(target) <= len(self.view)
        target[:] = self.view[off : off + len(target)]

    def write(self, off: int, data: Bytes) -> None:
        assert 0 <= off <= off + len(data) <= len(self.view)
        self.view[off : off + len(data)] = data

    def load16(self, off: int) -> int:
        assert not off & 1
        return int.from_bytes(self.read(off, 2), "little")

    def store16(self, off: int, value: int) -> None:
        assert not off & 1
        self.write(off, value.to_bytes(2, "little"))

    def close(self) -> None:
        self.closed = True


class Guest:
    """A guest with one ring."""

    def __init__(self, size: int = 16, features: int = 0, ring: bool = True) -> None:
        self.plain = Plain(SIZE)
        self.bytes = self.plain.bytes
        self.memory = GuestMemory()
        self.memory.add(Region(GUEST, SIZE, USER, 0), self.plain)
        self.size = size
        self.features = features
        self.added = 0
        self.fences = 0
        self.place = RingPlace(size, USER + TABLE, USER + AVAIL, USER + USED)
        if ring:
            self.ring = self.start()

    def start(self) -> SplitRing:
        """A device's side of the ring, which goes on where it is."""
        return SplitRing(self.memory, self.place, self.features, self._fence, True)

    def _fence(self) -> None:
        self.fences += 1

    def describe(self, number: int, off: int, length: int, flags: int = 0, following: int = 0) -> None:
        """A descriptor of the table. off counts from the start of the memory."""
        struct.pack_into("<QIHH", self.bytes, TABLE + 16 * number, GUEST + off, length, flags, following)

    def add(self, *heads: int) -> None:
        """Put chains into the available ring, and let the device see them."""
        for head in heads:
            struct.pack_into("<H", self.bytes, AVAIL + 4 + 2 * (self.added % self.size), head)
            self.added = self.added + 1 & 0xFFFF
        struct.pack_into("<H", self.bytes, AVAIL + 2, self.added)

    def used(self) -> tuple[int, list[tuple[int, int]]]:
        """The index of the used ring, and the entries before it."""
        index: int = struct.unpack_from("<H", self.bytes, USED + 2)[0]
        first = max(index - self.size, 0)
        return index, [
            struct.unpack_from("<II", self.bytes, USED + 4 + 8 * (at % self.size))
            for at in range(first, index)
        ]
