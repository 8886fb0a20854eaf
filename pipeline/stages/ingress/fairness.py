"""Keeps a guest that sends bad frames, or fills the slots, from stopping other guests.

*Bad frames.* A frame that is dropped costs as much as one that is used, and nothing slows down the guest that
sends it. So frames that ingress drops, and those that demux and tcp report (MISBEHAVED), are charged to a
bucket of the guest. While the bucket is empty and other guests are active, ingress does not read the guest's
links. Their sockets fill up, so the guest waits.

*Slots.* While few slots are free, no link is read for GRACE_S. That is backpressure and loses nothing. If no
slot is returned meanwhile, a host that does not read holds them, or a guest that leaves holes in its streams.
Waiting longer would stop every other flow. So links are read, but of a segment with data only the
acknowledgment goes on. No ACK waits for data, and the guest sends the data again.
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
"""Free slots that are kept for reading acknowledgments when data fill all others."""
GRACE_S: Final = 0.005
"""Seconds for which no link is read before data are dropped."""
BURST_S: Final = 0.25
"""Seconds' worth of bad frames, at the allowed rate, that a guest may send at once."""

_NEVER: Final = float("inf")

_MISBEHAVING: Final = INDEX["link_reads_paused_misbehaving"]
_DATA_DROPPED: Final = INDEX["link_data_dropped_no_slot"]


class Fairness:
    """Decides which guests may be read, and when data are dropped."""

    def __init__(self, pool: Pool, counts: memoryview, bad_frames_per_second: int) -> None:
        self._pool = pool
        self._counts = counts
        self._reserve = min(RESERVE, pool.count // 8)
        self._buckets = Buckets(bad_frames_per_second, bad_frames_per_second * BURST_S)
        self._wanted = bad_frames_per_second * BURST_S / 4
        """Tokens that an empty bucket must have again before its guest is read."""
        self._paused: dict[int, float] = {}
        """Guests that are not read while other guests are active, and until when."""
        self._holders: dict[int, int] = {}
        """The guest whose bytes were last read into each slot, while there are several guests."""
        self._plenty_at = 0.0
        self.waits = False
        """Whether no link is read for a moment, because few slots are free."""
        self.scarce = False
        """Whether the data of segments are to be dropped."""

    def set_rate(self, bad_frames_per_second: int) -> None:
        """Change how many bad frames a guest may send in a second."""
        self._buckets.set_rate(bad_frames_per_second, bad_frames_per_second * BURST_S)
        self._wanted = bad_frames_per_second * BURST_S / 4

    # --- slots ----------------------------------------------------------------------------

    def may_read(self, now: float) -> bool:
        """Whether any link may be read now. Also sets ``scarce``. Call this before links are read."""
        if self._pool.free_count > self._reserve:
            self._plenty_at = now
            self.scarce = self.waits = False
            return True
        self.scarce = now >= self._plenty_at + GRACE_S
        self.waits = not self.scarce
        return self.scarce

    def holds(self, guest: int, slot: int) -> None:
        """Bytes of this guest were read into this slot."""
        if self._holders.get(slot) != guest:
            self._holders[slot] = guest

    def forget_holders(self) -> None:
        """A second guest is there. While the first was alone, holds() was not called: forget old holders."""
        self._holders.clear()

    def holding_too_many(self) -> set[int]:
        """The guests that hold more slots than are free (a dynamic threshold, as in switches).

        So the next guest finds free slots even when several guests use all that they may.
        """
        free = self._pool.free_count
        if free * 2 >= self._pool.count:
            return set()
        refs = self._pool.refs
        held = Counter([holder for slot, holder in self._holders.items() if refs(slot)])
        return {guest for guest, count in held.items() if count > free}

    def drop_data(self, items: Collection[Item]) -> None:
        """Turn runs with data into bare acknowledgments."""
        for item in items:
            if isinstance(item, TcpRange) and item.length:
                self._counts[_DATA_DROPPED] += item.segments
                item.length = item.stride = item.piece_size = 0
                item.flags &= ~tcp.FIN

    # --- bad frames -----------------------------------------------------------------------

    def charge(self, guest: int, frames: int, now: float) -> None:
        """This many frames of a guest were dropped."""
        self._buckets.charge(guest, frames, now)
        if self._buckets.level(guest, now) < 0 and guest not in self._paused:
            self._paused[guest] = self._buckets.ready_at(guest, self._wanted)
            self._counts[_MISBEHAVING] += 1

    def may_read_guest(self, guest: int, now: float) -> bool:
        """Whether a guest may be read while other guests are active."""
        until = self._paused.get(guest)
        if until is None:
            return True
        if now < until:
            return False
        # Frames that were on their way when the pause began have been charged meanwhile.
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
        """When a guest that is not read now may be read again; inf if none waits.

        readable: guests that have something to read. many: whether several guests are active. Without that,
        a pause has no effect.
        """
        if not readable:
            return _NEVER
        if self.waits:
            return self._plenty_at + GRACE_S
        if not many or not self._paused:
            return _NEVER
        return min(self._paused.get(guest, _NEVER) for guest in readable)
