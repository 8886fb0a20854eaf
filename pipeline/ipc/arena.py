"""Slots, the pieces of shared memory that hold payload, and the counts of references to them.

A slot has HEADROOM bytes for headers made later, up to 64 KiB that one system call read, and a tail. One read
may return many frames, so several records may name one slot. Each of these records holds one *reference*. A
reference has exactly one owner and moves with its record.

The worker that allocates a slot is its *home*. Only the home counts references, in private memory, so no two
processes change one count. A worker that no longer needs a reference sends the slot number home over a free
ring (ring.py). The home itself calls ``Pool.unref``.

===========  ======================  ====================================================
slot is      its references          becomes
===========  ======================  ====================================================
free         0, on the free list     taken by ``alloc``
taken        n >= 1, with n owners   n + m by ``ref``; n - 1 by ``unref``, and free at 0
===========  ======================  ====================================================

This module does not send, does not wait, and does not read the bytes of a slot.
"""

from collections.abc import Mapping
from typing import Final

from pipeline.records.kinds import NO_SLOT

HEADROOM: Final = 256
"""Bytes before the payload, for headers that another worker makes (64-byte aligned)."""
SLOT_BYTES: Final = 72 * 1024
"""Bytes of a slot: HEADROOM, 64 KiB of payload, and a tail for a read of a little more."""


class SlotError(Exception):
    """A reference was given back twice, or to a worker that is not the slot's home."""


class Arena:
    """The slots of a segment. ``slots[i]`` is a writable view of SLOT_BYTES bytes."""

    def __init__(self, buf: memoryview, slot_count: int) -> None:
        """buf: the slots' part of the segment, at least slot_count * SLOT_BYTES bytes."""
        if len(buf) < slot_count * SLOT_BYTES:
            raise ValueError(f"{slot_count} slots need {slot_count * SLOT_BYTES} bytes, not {len(buf)}")
        self.slots: list[memoryview] = [buf[i * SLOT_BYTES : (i + 1) * SLOT_BYTES] for i in range(slot_count)]


class Pool:
    """The free list and reference counts of the slots [first, first + count), kept by their home."""

    def __init__(self, first: int, count: int) -> None:
        self.first = first
        self.count = count
        self.refs_out = 0
        """References to all slots of the pool."""
        # Indexed by slot number. Entries below first stay 0, so ref() and unref() refuse a foreign slot.
        self._refs = [0] * (first + count)
        # A stack: the slot that was freed last is the most likely to be in a CPU's cache.
        self._free = list(range(first + count - 1, first - 1, -1))

    @property
    def free_count(self) -> int:
        """Number of free slots."""
        return len(self._free)

    def alloc(self) -> int:
        """Take a free slot. The caller owns its one reference. Returns NO_SLOT when none is free."""
        if not self._free:
            return NO_SLOT
        slot = self._free.pop()
        self._refs[slot] = 1
        self.refs_out += 1
        return slot

    def ref(self, slot: int, n: int = 1) -> None:
        """Count n more references to a taken slot. Raises SlotError if the slot is free or foreign."""
        if slot >= len(self._refs) or not self._refs[slot]:
            raise SlotError(f"ref of slot {slot}, which is free or foreign to {self!r}")
        self._refs[slot] += n
        self.refs_out += n

    def unref(self, slot: int) -> None:
        """Count one reference less. The last one frees the slot. Raises SlotError if there is none."""
        refs = self._refs
        if slot >= len(refs) or not (left := refs[slot]):
            raise SlotError(f"unref of slot {slot}, which is free or foreign to {self!r}")
        refs[slot] = left - 1
        self.refs_out -= 1
        if left == 1:
            self._free.append(slot)

    def refs(self, slot: int) -> int:
        """References to one slot of this pool."""
        return self._refs[slot]

    def held(self) -> dict[int, int]:
        """The references to each taken slot."""
        return {slot: refs for slot, refs in enumerate(self._refs) if refs}

    def restore(self, counts: Mapping[int, int]) -> int:
        """Set the references to those that living owners hold: others were lost with a dead worker.

        counts: for each slot that is held. Returns how many references were lost. Raises SlotError for a slot
        of another pool, before anything has changed.
        """
        for slot in counts:
            if not self.first <= slot < self.first + self.count:
                raise SlotError(f"slot {slot} is foreign to {self!r}")
        before = self.refs_out
        for slot in range(self.first, self.first + self.count):
            self._refs[slot] = counts.get(slot, 0)
        self.refs_out = sum(self._refs)
        # In place: others have the list's methods. The order is that of a new pool.
        self._free[:] = [
            slot for slot in reversed(range(self.first, len(self._refs))) if not self._refs[slot]
        ]
        return before - self.refs_out

    def audit(self) -> str | None:
        """Check that each slot is once on the free list without references, or has references.

        Returns what is wrong, or None.
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
