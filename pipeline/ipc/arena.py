"""Slots: the memory that payload lies in, and the counting of who still needs it.

A slot is HEADROOM bytes for headers made later, then up to 64 KiB of what one system
call read, then some tail. It may be shared by several records (a burst read of many
frames): each of those holds one *reference*. A reference has exactly one owner and moves
with its record. The worker that allocates from a range of slots is their *home*; it
alone counts, in private memory, so no count is ever changed by two processes. Whoever is
done with a reference sends the slot number home over a free ring (ring.py), or calls
``Pool.unref`` when it is the home itself.

===========  ======================  ==========================================
slot is      its references          becomes
===========  ======================  ==========================================
free         0, on the free list     taken by ``alloc``
taken        n >= 1, with n owners   n + m by ``ref``; n - 1 by ``unref``, free at 0
===========  ======================  ==========================================

Nothing here sends or waits, and nothing here looks into the bytes of a slot.
"""

from typing import Final

from pipeline.records.kinds import NO_SLOT

HEADROOM: Final = 256
"""Bytes in front of the payload, for the headers that a later stage makes (64-byte aligned)."""
SLOT_BYTES: Final = 72 * 1024
"""A slot: HEADROOM, 64 KiB of payload, and a tail for what one read takes beyond it."""


class SlotError(Exception):
    """A reference was given back twice, or to a worker that is not the slot's home."""


class Arena:
    """The slots of a segment. ``slots[i]`` is a kept writable view of SLOT_BYTES bytes."""

    def __init__(self, buf: memoryview, slot_count: int) -> None:
        """``buf`` is the slots' part of the segment and at least slot_count * SLOT_BYTES long."""
        if len(buf) < slot_count * SLOT_BYTES:
            raise ValueError(f"{slot_count} slots need {slot_count * SLOT_BYTES} bytes, not {len(buf)}")
        self.slots: list[memoryview] = [buf[i * SLOT_BYTES : (i + 1) * SLOT_BYTES] for i in range(slot_count)]


class Pool:
    """Home side of the slots [first, first + count): free list and reference counts."""

    def __init__(self, first: int, count: int) -> None:
        self.first = first
        self.count = count
        self.refs_out = 0
        """References outstanding, over all slots."""
        # Indexed by slot number: entries below `first` stay 0, so a foreign slot is refused without a test.
        self._refs = [0] * (first + count)
        # A stack: the slot freed last is the one whose lines are still in a cache.
        self._free = list(range(first + count - 1, first - 1, -1))

    @property
    def free_count(self) -> int:
        """Slots that alloc can still give."""
        return len(self._free)

    def alloc(self) -> int:
        """A slot with one reference, owned by the caller; NO_SLOT when none is free."""
        if not self._free:
            return NO_SLOT
        slot = self._free.pop()
        self._refs[slot] = 1
        self.refs_out += 1
        return slot

    def ref(self, slot: int, n: int = 1) -> None:
        """n more references to a taken slot exist. SlotError if the slot is free or foreign."""
        if slot >= len(self._refs) or not self._refs[slot]:
            raise SlotError(f"ref of slot {slot}, which is free or foreign to {self!r}")
        self._refs[slot] += n
        self.refs_out += n

    def unref(self, slot: int) -> None:
        """One reference came home; the last one frees the slot. SlotError if none is outstanding."""
        refs = self._refs
        if slot >= len(refs) or not (left := refs[slot]):
            raise SlotError(f"unref of slot {slot}, which is free or foreign to {self!r}")
        refs[slot] = left - 1
        self.refs_out -= 1
        if left == 1:
            self._free.append(slot)

    def refs(self, slot: int) -> int:
        """References outstanding of one slot of this pool."""
        return self._refs[slot]

    def audit(self) -> str | None:
        """Check the pool against itself: each slot is free once with no reference, or taken with some.

        Returns what is wrong, None if nothing is.
        """
        free = set(self._free)
        if len(free) != len(self._free):
            return f"{self!r}: a slot is on the free list twice"
        for slot in range(self.first, self.first + self.count):
            refs = self._refs[slot]
            if refs < 0 or (refs == 0) != (slot in free):
                where = "free" if slot in free else "taken"
                return f"{self!r}: slot {slot} is {where} with {refs} references"
        if len(free) + sum(1 for refs in self._refs if refs) != self.count:
            return f"{self!r}: free and taken slots do not add up to {self.count}"
        if sum(self._refs) != self.refs_out:
            return f"{self!r}: {sum(self._refs)} references counted by slot, {self.refs_out} in total"
        return None

    def __repr__(self) -> str:
        return f"Pool({self.first}, {self.count})"
