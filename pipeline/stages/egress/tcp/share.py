"""How much of egress's pool each guest may hold: bytes of hosts that the guest has not acknowledged.

A guest that opens connections and acknowledges nothing keeps the slots of all of them for as long as it
likes. So each guest has fillers of its own, which keep the slots of guests apart. A guest may hold twice as
many slots as are free (the dynamic threshold of Choudhury and Hahne). A single guest gets two thirds of the
pool, and every further guest finds free slots.

The flows of a guest follow the same rule: each may hold a part of the slots that are left to the guest. Once
the guest holds a quarter of the pool, each flow holds no more than its window takes. When the share is used
up, a flow that holds nothing may still read a little. So one receiver goes on although hundreds of others
have stopped reading. A flow that finds no room waits until slots are returned. Flows of other guests do not
wait for that.
"""

from typing import Final

from pipeline.host.credit import FLOOR
from pipeline.host.filler import SlotFiller
from pipeline.ipc.arena import Pool

SHARE_OF_FREE: Final = 2
MAX_FLOW_REFS: Final = 32
MIN_FLOW_REFS: Final = 2
PART_OF_REMAINING: Final = 4
"""A flow may hold 1/PART_OF_REMAINING of the slots that are left to its guest."""
PLENTY_PART: Final = 4
"""While a guest holds no more than 1/PLENTY_PART of the pool, its flows may read beyond their windows."""
TIGHT_SLOTS: Final = 4
"""If a guest has fewer slots left, its flows read TIGHT_READ bytes at a time."""
EXTRA_SLOTS: Final = 8
"""Slots beyond its share that a guest may take for these reads."""
TIGHT_READ: Final = 1024
"""Bytes of such a read."""


class Share:
    """One guest's part of the pool."""

    def __init__(
        self, guest: int, pool: Pool, filler: SlotFiller, small: SlotFiller, owners: dict[int, "Share"]
    ) -> None:
        """owners: the shares of all guests, by the slot that they fill or filled last."""
        self.guest = guest
        self.placed = filler
        """The filler in which place() found room."""
        self._flows = 0
        self._pool = pool
        self._owners = owners
        self._filler = filler
        self._small = small
        self._slots: set[int] = set()
        """Slots that this guest's reads went to. Some may be free again, see _sweep()."""

    def join(self) -> None:
        """One more flow counts for this guest."""
        self._flows += 1

    def leave(self) -> None:
        """One flow less counts for this guest."""
        self._flows -= 1

    def remaining(self) -> int:
        """Slots that the guest may still take; negative when it has more than its share."""
        left = SHARE_OF_FREE * self._pool.free_count - len(self._slots)
        if left < TIGHT_SLOTS:
            self._sweep()
            left = SHARE_OF_FREE * self._pool.free_count - len(self._slots)
        return left

    def plenty(self) -> bool:
        """Whether the guest holds so little that its flows may read more than their windows take."""
        bound = self._pool.count // PLENTY_PART
        if len(self._slots) > bound:
            self._sweep()
        return len(self._slots) <= bound

    def may_hold(self) -> int:
        """References that one flow of the guest may hold now; 0 if it may read only TIGHT_READ bytes."""
        remaining = self.remaining()
        if remaining < TIGHT_SLOTS:
            return 0
        return min(MAX_FLOW_REFS, max(MIN_FLOW_REFS, remaining // PART_OF_REMAINING))

    def place(self, room: int) -> bool:
        """Find room for a read, in the filler ``placed``. False if the share is used up or no slot is free.

        Small reads have slots of their own. Many wait for long, and would pin slots with large reads.
        """
        filler = self._small if room <= FLOOR else self._filler
        self.placed = filler
        before = filler.slot
        if not filler.fits(room) and self.remaining() <= -EXTRA_SLOTS:
            return False
        if not filler.place(room):
            return False
        if filler.slot != before:
            self._slots.add(filler.slot)
            self._owners[filler.slot] = self
        return True

    def release_idle(self) -> bool:
        """Give back slots that are kept only to be filled further. Returns whether the guest has no flow and
        no slot."""
        self._filler.release_idle()
        self._small.release_idle()
        if self._flows:
            return False
        self._sweep()
        return not self._slots

    def slots(self) -> int:
        """How many slots the guest holds."""
        self._sweep()
        return len(self._slots)

    def slots_held(self) -> list[int]:
        """The slots that are being filled."""
        return self._filler.slots_held() + self._small.slots_held()

    def retire(self) -> None:
        """Give back the slots that are being filled."""
        self._filler.retire()
        self._small.retire()

    def _sweep(self) -> None:
        """Forget slots that are free again, or that hold bytes of another guest since."""
        refs, owners = self._pool.refs, self._owners
        self._slots = {slot for slot in self._slots if refs(slot) and owners[slot] is self}


class Shares:
    """The shares of all guests, by number."""

    def __init__(self, pool: Pool, slot_bytes: int, headroom: int, gap: int) -> None:
        """headroom and gap as for SlotFiller."""
        self._pool = pool
        self._slot_bytes = slot_bytes
        self._headroom = headroom
        self._gap = gap
        self._shares: dict[int, Share] = {}
        self._owners: dict[int, Share] = {}

    def __len__(self) -> int:
        return len(self._shares)

    def of(self, guest: int) -> Share:
        """The share of the guest with this number."""
        share = self._shares.get(guest)
        if share is None:
            filler, small = self._new_filler(), self._new_filler()
            share = self._shares[guest] = Share(guest, self._pool, filler, small, self._owners)
        return share

    def _new_filler(self) -> SlotFiller:
        return SlotFiller(self._pool, self._slot_bytes, self._headroom, self._gap)

    def release_idle(self) -> None:
        """Give back slots that are kept only to be filled further. Forget guests without a flow and a slot.

        LINK_DOWN would be too early for that: a CONNECT of the guest may still be on its way.
        """
        for guest in [guest for guest, share in self._shares.items() if share.release_idle()]:
            del self._shares[guest]

    def sums(self) -> dict[int, int]:
        """How many slots each guest holds, by its number."""
        return {guest: share.slots() for guest, share in self._shares.items()}

    def slots_held(self) -> list[int]:
        """Every slot that is being filled."""
        return [slot for share in self._shares.values() for slot in share.slots_held()]

    def retire(self) -> None:
        """Give back every slot that is being filled."""
        for share in self._shares.values():
            share.retire()
