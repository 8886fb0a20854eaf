"""The device's side of one split virtqueue (virtio 1.2, section 2.7): takes chains, and gives them back.

::

    driver: table, available ring, its index --kick--> device: pending(), fetch(), chain()
    driver: used ring, its index <--call-- device: give_back(), publish()

A chain that was fetched stays the device's until it is given back. This device gives chains back in the order
in which it got them. So the index in the used ring is also where a new device continues
(docs/vhost-user.md). Every rule that the driver can break is checked here. Then RingError ends the ring.

Suppression: with EVENT_IDX each side writes the index for which it wants to be notified. Without it, each
side has one flag.
"""

from collections.abc import Callable
from struct import Struct, unpack_from
from typing import Final, NamedTuple

import numpy as np

from pipeline.engines.virtio.memory import Area, GuestMemory, RingError
from pipeline.wire import virtio

BAD_INDEX: Final = "vhost_user_link_closed_bad_index"
BAD_CHAIN: Final = "vhost_user_link_closed_bad_chain"
BAD_RING: Final = "vhost_user_link_closed_bad_ring"

MAX_CHAIN: Final = 1024
"""Descriptors in one chain, or in one table. More than that no driver makes, and each costs time."""
MIN_ROWS: Final = 8
"""From this number of chains on, numpy reads their first descriptors."""

_MASK: Final = 0xFFFF
_HEADER: Final = virtio.RING_HEADER_LEN
_ID: Final[np.dtype[np.uint16]] = np.dtype("<u2")
_ROW: Final = np.dtype([("addr", "<u8"), ("len", "<u4"), ("flags", "<u2"), ("next", "<u2")])
_USED: Final = np.dtype([("head", "<u4"), ("len", "<u4")])
_ONE_USED: Final = Struct("<II")

_unpack_descriptor = virtio.DESCRIPTOR.unpack_from

Segment = tuple[int, int]
"""(guest address, bytes) of a descriptor."""


class RingPlace(NamedTuple):
    """Size and user addresses of a ring."""

    size: int
    table: int
    avail: int
    used: int


class Fetched:
    """The first descriptors of chains, as columns. A chain is complete if its flags are 0 or WRITE."""

    __slots__ = ("addrs", "flags", "heads", "lengths", "nexts")

    def __init__(
        self, heads: list[int], addrs: list[int], lengths: list[int], flags: list[int], nexts: list[int]
    ) -> None:
        self.heads = heads
        self.addrs = addrs
        self.lengths = lengths
        self.flags = flags
        self.nexts = nexts


class SplitRing:
    """One virtqueue. ``index`` counts chains that were given back, modulo 2**16."""

    def __init__(
        self,
        memory: GuestMemory,
        place: RingPlace,
        features: int,
        full_fence: Callable[[], None],
        ordered: bool,
    ) -> None:
        """Continue at the index of the used ring.

        What an earlier device took and did not give back is taken again. features: those that the driver has
        accepted. ordered: whether the machine keeps the order of stores and of loads; else full_fence does.
        Raises RingError.
        """
        size = place.size
        if not 0 < size <= virtio.MAX_SIZE or size & (size - 1):
            raise RingError(f"a ring has {size} entries, which is not a power of two", BAD_RING)
        if (
            place.table % virtio.TABLE_ALIGN
            or place.avail % virtio.AVAIL_ALIGN
            or place.used % virtio.USED_ALIGN
        ):
            raise RingError("a ring is at an address that is not aligned", BAD_RING)
        self._memory = memory
        self._place = place
        self.size = size
        self._event_idx = bool(features & virtio.F_EVENT_IDX)
        self._indirect = bool(features & virtio.F_INDIRECT_DESC)
        self._fence = full_fence
        self._ordered = ordered
        self._table: Area
        self._avail: Area
        self._used: Area
        self.bind()
        self.index: int = self._used.load16(2)
        """The next chain to take, and the next entry of the used ring."""
        self._published: int = self.index
        """The same, as the driver sees it."""

    def bind(self) -> None:
        """Find the areas in the memory, whose regions may have changed. Raises RingError."""
        place, memory = self._place, self._memory
        self._table = memory.area(place.table, place.size * virtio.DESCRIPTOR_LEN)
        self._avail = memory.area(place.avail, virtio.avail_len(place.size))
        self._used = memory.area(place.used, virtio.used_len(place.size))

    # --- taking -------------------------------------------------------------------------

    def pending(self) -> int:
        """The number of chains to take. Raises RingError if the driver's index is impossible."""
        count: int = self._avail.load16(2) - self.index & _MASK
        if count > self.size:
            raise RingError(f"the available index is {count} ahead of a ring of {self.size}", BAD_INDEX)
        if count and not self._ordered:
            self._fence()
        return count

    def fetch(self, skip: int, count: int) -> Fetched:
        """The first descriptors of count chains that are pending, without the first skip. Takes nothing."""
        at = self.index + skip & self.size - 1
        first = min(count, self.size - at)
        raw = bytes(self._avail.read(_HEADER + at * virtio.HEAD_LEN, first * virtio.HEAD_LEN))
        if first < count:
            raw += bytes(self._avail.read(_HEADER, (count - first) * virtio.HEAD_LEN))
        if count < MIN_ROWS:
            return self._fetch_few(raw, count)
        heads = np.frombuffer(raw, _ID)
        if int(heads.max()) >= self.size:
            raise RingError(f"a head is outside of a ring of {self.size}", BAD_INDEX)
        rows = np.frombuffer(self._table.read(0, self.size * virtio.DESCRIPTOR_LEN), _ROW)[heads]
        return Fetched(
            heads.tolist(),
            rows["addr"].tolist(),
            rows["len"].tolist(),
            rows["flags"].tolist(),
            rows["next"].tolist(),
        )

    def _fetch_few(self, raw: bytes, count: int) -> Fetched:
        heads: list[int] = [*unpack_from(f"<{count}H", raw)]
        fetched = Fetched(heads, [], [], [], [])
        for head in heads:
            if head >= self.size:
                raise RingError(f"a head is outside of a ring of {self.size}", BAD_INDEX)
            row = self._table.read(head * virtio.DESCRIPTOR_LEN, virtio.DESCRIPTOR_LEN)
            addr, length, flags, following = _unpack_descriptor(row)
            fetched.addrs.append(addr)
            fetched.lengths.append(length)
            fetched.flags.append(flags)
            fetched.nexts.append(following)
        return fetched

    def chain(self, fetched: Fetched, at: int, write: int) -> list[Segment]:
        """The segments of the chain at a position of fetched.

        write: virtio.WRITE if the device writes to this queue's buffers, else 0. Raises RingError.
        """
        flags = fetched.flags[at]
        if flags & virtio.INDIRECT:
            return self._indirect_chain(fetched.addrs[at], fetched.lengths[at], flags, write)
        segments = [(fetched.addrs[at], fetched.lengths[at])]
        _check_direction(flags, write)
        following = fetched.nexts[at]
        while flags & virtio.NEXT:
            if following >= self.size:
                raise RingError(f"a chain leaves a ring of {self.size}", BAD_CHAIN)
            if len(segments) >= min(self.size, MAX_CHAIN):
                raise RingError("a chain has no end", BAD_CHAIN)
            row = self._table.read(following * virtio.DESCRIPTOR_LEN, virtio.DESCRIPTOR_LEN)
            addr, length, flags, following = _unpack_descriptor(row)
            if flags & virtio.INDIRECT:
                raise RingError("an indirect table follows in a chain", BAD_CHAIN)
            _check_direction(flags, write)
            segments.append((addr, length))
        return segments

    def _indirect_chain(self, addr: int, length: int, flags: int, write: int) -> list[Segment]:
        if not self._indirect or flags & virtio.NEXT:
            raise RingError("an indirect table that was not agreed on, or that is not the end", BAD_CHAIN)
        count = length // virtio.DESCRIPTOR_LEN
        if length % virtio.DESCRIPTOR_LEN or not 0 < count <= MAX_CHAIN:
            raise RingError(f"an indirect table has {length} bytes", BAD_CHAIN)
        rows = [*virtio.DESCRIPTOR.iter_unpack(bytes(self._memory.read(addr, length)))]
        segments: list[Segment] = []
        at = 0
        # Most tables are in order. Each entry is used once, so a longer walk is a loop.
        for _ in range(count):
            seg_addr, seg_len, flags, following = rows[at]
            if flags & virtio.INDIRECT:
                raise RingError("an indirect table lies in another one", BAD_CHAIN)
            _check_direction(flags, write)
            segments.append((seg_addr, seg_len))
            if not flags & virtio.NEXT:
                return segments
            if following >= count:
                raise RingError("a chain leaves its indirect table", BAD_CHAIN)
            at = following
        raise RingError("a chain has no end", BAD_CHAIN)

    # --- giving back --------------------------------------------------------------------

    def give_back(self, heads: list[int], lengths: list[int] | None = None) -> None:
        """Put chains into the used ring, in the order of their fetch. lengths: bytes written to each."""
        count = len(heads)
        at = self.index & self.size - 1
        if count == 1:
            entry = _ONE_USED.pack(heads[0], lengths[0] if lengths is not None else 0)
            self._used.write(_HEADER + at * virtio.USED_LEN, entry)
        else:
            rows = np.zeros(count, _USED)
            rows["head"] = heads
            if lengths is not None:
                rows["len"] = lengths
            data = memoryview(rows.tobytes())
            first = min(count, self.size - at) * virtio.USED_LEN
            self._used.write(_HEADER + at * virtio.USED_LEN, data[:first])
            if first < len(data):
                self._used.write(_HEADER, data[first:])
        self.index = self.index + count & _MASK

    def publish(self) -> bool:
        """Let the driver see what was given back. Returns whether it wants a call."""
        old, new = self._published, self.index
        if old == new:
            return False
        if not self._ordered:
            self._fence()
        self._used.store16(2, new)
        self._published = new
        # The driver may write what it wants, and look at the index then: the other way round here.
        self._fence()
        if self._event_idx:
            event: int = self._avail.load16(_HEADER + self.size * virtio.HEAD_LEN)
            return (new - event - 1 & _MASK) < (new - old & _MASK)
        return not self._avail.load16(0) & virtio.NO_INTERRUPT

    # --- kicks --------------------------------------------------------------------------

    def want_kick(self, known: int = 0) -> bool:
        """Ask for a kick when more chains come than the known ones. Returns whether they have come."""
        if self._event_idx:
            wanted = self.index + known & _MASK
            self._used.store16(_HEADER + self.size * virtio.USED_LEN, wanted)
        else:
            self._used.store16(0, 0)
        self._fence()
        return self.pending() > known

    def refuse_kicks(self) -> None:
        """The driver need not kick for now. With EVENT_IDX it does not unless want_kick() was called."""
        if not self._event_idx:
            self._used.store16(0, virtio.NO_NOTIFY)


def _check_direction(flags: int, write: int) -> None:
    if flags & virtio.WRITE != write:
        way = "read" if write else "written"
        raise RingError(f"a descriptor may only be {way} by the device", BAD_CHAIN)
