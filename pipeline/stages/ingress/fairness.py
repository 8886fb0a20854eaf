"""When guests want more than there is: which link is read, and what of a frame is kept.

Two resources run short at times, and one guest must not take either from another:

*Work.* A frame that is dropped costs as much as one that is used, and nothing slows down the guest
that sends it. Frames that ingress drops, and those that demux and tcp report (MISBEHAVED), are
charged to a bucket of the link. While the bucket is empty and other guests are there, ingress does not
read the link. Its socket fills up, so the guest waits.

*Slots.* While few are free, no link is read for a moment: that is backpressure and loses
nothing. If no slot comes home meanwhile, the holder is a host that does not read, or a guest that
leaves holes, and waiting would stop every other flow. Then links are read, but of segments with
data only the acknowledgment goes on, so that no ACK waits for data. The guest sends the data again.
"""

from collections import Counter
from collections.abc import Collection
from typing import Final

from pipeline.counters import INDEX
from pipeline.engines.buckets import Buckets
from pipeline.engines.offload.burst import Item
from pipeline.ipc.arena import Pool
from pipeline.records.tcp import TcpRange
from pipeline.wire import tcp

RESERVE: Final = 8
"""Slots kept for reading acknowledgments when data hold all others."""
GRACE_S: Final = 0.005
"""How long nothing is read before data are dropped."""
BURST_S: Final = 0.25
"""Seconds' worth of bad frames, at the allowed rate, that a guest may send at once."""

_NEVER: Final = float("inf")

_MISBEHAVING: Final = INDEX["link_reads_paused_misbehaving"]
_DATA_DROPPED: Final = INDEX["link_data_dropped_no_slot"]


class Fairness:
    """What the guests of ingress owe each other."""

    def __init__(self, pool: Pool, counts: memoryview, bad_frames_per_second: int) -> None:
        self._pool = pool
        self._counts = counts
        self._reserve = min(RESERVE, pool.count // 8)
        self._buckets = Buckets(bad_frames_per_second, bad_frames_per_second * BURST_S)
        self._wanted = bad_frames_per_second * BURST_S / 4
        """Tokens that an empty bucket must have again before its guest is read."""
        self._paused: dict[int, float] = {}
        """Guests that are not read while there are others, and until when."""
        self._holders: dict[int, int] = {}
        """The guest whose bytes were last read into each slot, while there are several guests."""
        self._plenty_at = 0.0
        self.waits = False
        """Whether no link is read for a moment, because few slots are free."""
        self.scarce = False
        """Whether data of segments are to be dropped."""

    # --- slots ----------------------------------------------------------------------------

    def may_read(self, now: float) -> bool:
        """Whether any link may be read now; sets ``scarce``. To be asked before links are read."""
        if self._pool.free_count > self._reserve:
            self._plenty_at = now
            self.scarce = self.waits = False
            return True
        self.scarce = now >= self._plenty_at + GRACE_S
        self.waits = not self.scarce
        return self.scarce

    def holds(self, guest: int, slot: int) -> None:
        """A guest's bytes lie in this slot now."""
        if self._holders.get(slot) != guest:
            self._holders[slot] = guest

    def forget_holders(self) -> None:
        """A guest was alone, and nobody has noted its slots: what was known before is about other bytes."""
        self._holders.clear()

    def holding_too_many(self) -> set[int]:
        """The guests that hold more slots than are free (a dynamic threshold, as in switches).

        So several guests that fill their slots still leave some to the next one.
        """
        free = self._pool.free_count
        if free * 2 >= self._pool.count:
            return set()
        refs = self._pool.refs
        held = Counter([holder for slot, holder in self._holders.items() if refs(slot)])
        return {guest for guest, count in held.items() if count > free}

    def drop_data(self, items: Collection[Item]) -> None:
        """Leave only the bare acknowledgment of runs with data."""
        for item in items:
            if isinstance(item, TcpRange) and item.length:
                self._counts[_DATA_DROPPED] += item.segments
                item.length = item.stride = item.piece_size = 0
                item.flags &= ~tcp.FIN

    # --- work -----------------------------------------------------------------------------

    def charge(self, guest: int, frames: int, now: float) -> None:
        """This many frames of a guest were dropped."""
        self._buckets.charge(guest, frames, now)
        if self._buckets.level(guest, now) < 0 and guest not in self._paused:
            self._paused[guest] = self._buckets.ready_at(guest, self._wanted)
            self._counts[_MISBEHAVING] += 1

    def may_read_guest(self, guest: int, now: float) -> bool:
        """Whether a guest may be read while there are others."""
        until = self._paused.get(guest)
        if until is None:
            return True
        if now < until:
            return False
        # What was still on its way when the pause began has been charged meanwhile.
        again = self._buckets.ready_at(guest, self._wanted)
        if again > now:
            self._paused[guest] = again
            return False
        del self._paused[guest]
        return True

    def forget(self, guest: int) -> None:
        """The guest is gone."""
        self._buckets.forget(guest)
        self._paused.pop(guest, None)

    def paused(self) -> int:
        """How many guests are paused."""
        return len(self._paused)

    def deadline(self, readable: Collection[int], *, many: bool) -> float:
        """When a guest that is not read now may be read again; inf if none is waiting.

        readable: guests that have something to read. many: whether there are others, so that a pause holds.
        """
        if not readable:
            return _NEVER
        if self.waits:
            return self._plenty_at + GRACE_S
        if not many or not self._paused:
            return _NEVER
        return min(self._paused.get(guest, _NEVER) for guest in readable)
