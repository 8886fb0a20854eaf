"""Packs several short reads into one slot.

The length of a read is not known before. So each read gets as much room as it may need. The next read uses
what it leaves over, if that is enough. The filler holds one reference to the slot that it is filling, and
adds one for each read that is committed.
"""

from typing import Final, Protocol

from pipeline.records.kinds import NO_SLOT

ALIGN: Final = 64


class SlotPool(Protocol):
    """What the filler needs from an allocator (pipeline.ipc.arena.Pool has it)."""

    def alloc(self) -> int:
        """A slot with one reference, or NO_SLOT."""
        ...

    def ref(self, slot: int, n: int = 1) -> None:
        """Count n more references."""
        ...

    def unref(self, slot: int) -> None:
        """Count one reference less."""
        ...

    def refs(self, slot: int) -> int:
        """The number of references to slot."""
        ...


class SlotFiller:
    """Use: call ``place(room)``, read into [off, off + room) of ``slot``, then call ``commit(n)``."""

    def __init__(self, pool: SlotPool, slot_bytes: int, headroom: int, gap: int) -> None:
        """headroom: bytes kept free before the first read of a slot. gap: bytes before each further read."""
        self._pool = pool
        self._slot_bytes = slot_bytes
        self._headroom = headroom
        self._gap = gap
        self.slot = NO_SLOT
        self.off = 0

    def fits(self, room: int) -> bool:
        """Whether the present slot has enough room."""
        return self.slot != NO_SLOT and self._slot_bytes - self.off >= room

    def place(self, room: int) -> bool:
        """Make sure that room bytes lie free at ``off`` of ``slot``. False when no slot is free."""
        if self.slot != NO_SLOT:
            if self._slot_bytes - self.off >= room:
                return True
            self._pool.unref(self.slot)
        self.slot = self._pool.alloc()
        self.off = self._headroom
        return self.slot != NO_SLOT

    def commit(self, length: int) -> None:
        """Keep length bytes at ``off``. They get a reference of their own."""
        self._pool.ref(self.slot)
        self.off = (self.off + length + self._gap + ALIGN - 1) // ALIGN * ALIGN

    def slots_held(self) -> list[int]:
        """The slot that the filler is filling, to which it holds a reference; no slot if there is none."""
        return [] if self.slot == NO_SLOT else [self.slot]

    def release_idle(self) -> None:
        """Give the slot back if no record refers to it, so that an idle worker holds none."""
        if self.slot != NO_SLOT and self._pool.refs(self.slot) == 1:
            self.retire()

    def retire(self) -> None:
        """Give back the slot that the filler is filling."""
        if self.slot != NO_SLOT:
            self._pool.unref(self.slot)
            self.slot = NO_SLOT
