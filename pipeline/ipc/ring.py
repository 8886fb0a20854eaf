"""Single-producer single-consumer rings in shared memory, and nothing about what they carry.

::

    0                      64           128
    | prod_idx | wake_idx  | cons_idx   | entry 0 | entry 1 | ... | entry capacity - 1 |

Two free-running 64-bit counters on cache lines of their own: ``prod_idx`` is stored by the
producer alone, ``cons_idx`` by the consumer alone. Entry ``i`` of the stream lies at
``i & (capacity - 1)``. Each side keeps its own counter, and a copy of the other's which it
reads again only when the copy says full (or empty).

Life of an entry:

===========  ===========================  ===============  =====================================
state        index i                      bytes owned by   becomes
===========  ===========================  ===============  =====================================
backlog      private list of the producer producer         published, by ``publish`` when it fits
published    cons_idx <= i < prod_idx     consumer         in use, by ``peek``
in use       cons_idx <= i < prod_idx     consumer         released, by ``release``
released     i < cons_idx                 producer         overwritten by entry i + capacity
===========  ===========================  ===============  =====================================

``push`` never fails and never blocks: what does not fit waits in the backlog, and a stage
looks at ``room()`` to stop reading its sources (backpressure). Nothing is dropped here.

A producer that wants to sleep until the consumer has released something says so in
``wake_idx`` (0 = does not care): the consumer rings its bell when ``cons_idx`` gets there. The
producer arms it, announces its sleep and looks again (``released``); the consumer releases,
and looks after a fence (``wake_due``): the handshake of wake.py, the other way round.

The counters do not wrap: at a thousand million entries a second 2**64 takes 584 years, and
the store that would overflow raises instead of wrapping. Tests start them far into the count.

Memory order. A counter is stored and loaded through ``memoryview.cast("Q")``: for an aligned
word CPython does that with one 8-byte move, where ``struct`` with an explicit byte order
moves single bytes and tears. This is how CPython behaves, not a promise of the language; the
stress test watches it. The consumer must not see ``prod_idx`` before the entries, nor the
producer ``cons_idx`` before the consumer's last reads: x86 keeps stores in order and loads
in order, and does not move a store before an earlier load, so no barrier is needed there. On
weaker machines (Arm64) the interpreter's own work between the two accesses makes a
reordering unlikely but does not exclude it, so a fence stands there too (``ORDERED`` of fence.py). The
other pair, "publish, then look whether the consumer sleeps", needs a full fence everywhere: wake.py.
"""

from array import array
from collections.abc import Callable
from typing import Final, Generic, TypeVar

from pipeline.ipc.fence import ORDERED, full_fence
from pipeline.records.kinds import SLOT_ENTRY_BYTES

BURST: Final = 256
"""Entries of one peek, unless more or fewer are asked for."""
LINE: Final = 64
"""Bytes of a cache line: the two counters must not share one."""
HEADER_BYTES: Final = 2 * LINE

_PROD: Final = 0
_WAKE: Final = 1
_CONS: Final = LINE // 8

_EMPTY: Final = memoryview(b"")

T = TypeVar("T")


def ring_bytes(capacity: int, entry_bytes: int) -> int:
    """Bytes of the segment that a ring of capacity entries takes, rounded up to cache lines."""
    return HEADER_BYTES + (capacity * entry_bytes + LINE - 1) // LINE * LINE


def _parts(buf: memoryview, capacity: int, entry_bytes: int) -> tuple[memoryview, memoryview]:
    """Cut a ring's memory into its counters (as 64-bit words) and its entries (as bytes)."""
    if capacity <= 0 or capacity & (capacity - 1):
        raise ValueError(f"ring capacity must be a power of two, not {capacity}")
    if len(buf) < HEADER_BYTES + capacity * entry_bytes:
        raise ValueError(f"ring of {capacity} entries of {entry_bytes} bytes does not fit {len(buf)} bytes")
    return buf[:HEADER_BYTES].cast("Q"), buf[HEADER_BYTES : HEADER_BYTES + capacity * entry_bytes]


class _ProducerSide(Generic[T]):
    """What both producers share: the counters and the backlog."""

    push: Callable[[T], None]
    """Append one entry to the backlog. Never fails, never blocks; the consumer sees it after publish."""

    def __init__(self, buf: memoryview, capacity: int, entry_bytes: int) -> None:
        self._index, self._entries = _parts(buf, capacity, entry_bytes)
        self.capacity = capacity
        self.prod_idx: int = self._index[_PROD]
        """Entries published since the ring was made."""
        self._cons: int = self._index[_CONS]
        self.queue: list[T] = []
        """The backlog itself, to test whether publish has something to do. The list is never replaced."""
        self.push = self.queue.append  # a bound append is the cheapest push there is
        self.scarce = False
        """Whether publish or room() last found the ring more than half full."""
        self._watched = 0

    @property
    def backlog(self) -> int:
        """Entries pushed and not yet in the ring."""
        return len(self.queue)

    def push_idx(self) -> int:
        """Index of the entry pushed next: ``completed`` of it is true once all pushed so far is released."""
        return self.prod_idx + len(self.queue)

    def cons_idx(self) -> int:
        """Entries released by the consumer, read afresh."""
        self._cons = cons = self._index[_CONS]
        return cons

    def room(self) -> int:
        """Entries that still fit behind the backlog; zero or less asks the stage to stop its sources.

        A worker whose ring was found scarce here is woken when the consumer has emptied half of it.
        """
        room = self.capacity - (self.prod_idx - self.cons_idx()) - len(self.queue)
        self.scarce = room < self.capacity >> 1
        return room

    def completed(self, idx: int) -> bool:
        """Whether the consumer released every entry before index idx, so its bytes are read for good."""
        return self._cons >= idx or self.cons_idx() >= idx

    def watch(self, idx: int) -> None:
        """Let the worker's next sleep end when ``completed(idx)`` becomes true (the lowest idx counts)."""
        if not self._watched or idx < self._watched:
            self._watched = max(idx, 1)

    def arm(self) -> bool:
        """Before sleep: ask the consumer for a bell if anything here waits for it; whether it does."""
        idx = self._watched
        if self.scarce or self.queue:
            # Half empty, not one entry: a producer woken for each release would do nothing else.
            half = self.prod_idx - (self.capacity >> 1)
            idx = min(idx, half) if idx else half
        elif not idx:
            return False
        self._watched = idx
        self._index[_WAKE] = max(idx, 1)
        return True

    def released(self) -> bool:
        """After arm() and the announcement of sleep: whether what arm() asked for is already there."""
        return self.completed(self._watched)

    def disarm(self) -> None:
        """After sleep: the consumer need not ring any more."""
        self._watched = 0
        self.scarce = False
        self._index[_WAKE] = 0

    def publish(self) -> bool:
        """Move what fits from the backlog into the ring; whether anything moved.

        One counter store for the whole burst. True obliges the caller to ring the consumer's bell.
        """
        n = len(self.queue)
        if not n:
            return False
        prod = self.prod_idx
        room = self.capacity - prod + self._cons
        if n > room:
            room = self.capacity - prod + self.cons_idx()
            if n > room:
                n = room
                self.scarce = True
                if not n:
                    return False
            if not ORDERED:
                full_fence()
        at = prod & (self.capacity - 1)
        left = self.capacity - at
        if n <= left:
            self._write(at, n)
        else:
            self._write(at, left)
            self._write(0, n - left)
        if not ORDERED:
            full_fence()
        self.prod_idx = prod = prod + n
        self._index[_PROD] = prod
        return True

    def _write(self, at: int, n: int) -> None:
        """Copy the first n of the backlog to the entries from at on, and take them off the backlog."""
        raise NotImplementedError


class _ConsumerSide:
    """What both consumers share: the counters."""

    def __init__(self, buf: memoryview, capacity: int, entry_bytes: int) -> None:
        self._index, self._entries = _parts(buf, capacity, entry_bytes)
        self.capacity = capacity
        self.cons_idx: int = self._index[_CONS]
        """Entries released since the ring was made."""
        self._prod = self.cons_idx
        self._looked = self.cons_idx
        self._noticed = self.cons_idx

    def pending(self) -> bool:
        """Whether the ring holds an entry, read afresh."""
        return bool(self._index[_PROD] != self.cons_idx)

    def fresh(self) -> bool:
        """For the check before sleep: whether the ring holds an entry that no earlier call has reported.

        Entries that a consumer leaves in the ring on purpose (its own way out is blocked) keep it
        from sleeping once, not for ever.
        """
        prod = self._index[_PROD]
        if prod in (self.cons_idx, self._noticed):
            return False
        self._noticed = prod
        return True

    def wake_due(self) -> bool:
        """After releases: whether the producer sleeps until one of them and wants its bell rung."""
        cons = self.cons_idx
        if cons == self._looked:
            return False
        self._looked = cons
        full_fence()
        return 0 < self._index[_WAKE] <= cons

    def __len__(self) -> int:
        """Entries published and not released, read afresh."""
        return int(self._index[_PROD]) - self.cons_idx


class Producer(_ProducerSide[bytes]):
    """Producer of fixed records. A record of the wrong length makes ``publish`` raise ValueError."""

    def __init__(self, buf: memoryview, capacity: int, entry_bytes: int = 64) -> None:
        super().__init__(buf, capacity, entry_bytes)
        self.entry_bytes = entry_bytes

    def _write(self, at: int, n: int) -> None:
        size = self.entry_bytes
        queue = self.queue
        if n == len(queue):
            self._entries[at * size : (at + n) * size] = b"".join(queue)
            queue.clear()
        else:
            self._entries[at * size : (at + n) * size] = b"".join(queue[:n])
            del queue[:n]


class Consumer(_ConsumerSide):
    """Consumer of fixed records: ``peek``, use, ``release``."""

    def __init__(self, buf: memoryview, capacity: int, entry_bytes: int = 64) -> None:
        super().__init__(buf, capacity, entry_bytes)
        self.entry_bytes = entry_bytes

    def peek(self, limit: int = BURST) -> memoryview:
        """Up to limit published entries in one piece (to the end of the ring), empty when there is none.

        The bytes are the consumer's until it releases them. Peeking again without a release gives
        the same entries. Two peeks are needed where a burst runs over the end of the ring.
        """
        cons = self.cons_idx
        n = self._prod - cons
        if not n:
            self._prod = self._index[_PROD]
            n = self._prod - cons
            if not n:
                return _EMPTY
            if not ORDERED:
                full_fence()
        at = cons & (self.capacity - 1)
        if n > limit:
            n = limit
        if n > self.capacity - at:
            n = self.capacity - at
        size = self.entry_bytes
        return self._entries[at * size : (at + n) * size]

    def release(self, n: int) -> None:
        """Give the n oldest entries back to the producer. ValueError if they were never peeked."""
        cons = self.cons_idx + n
        if cons > self._prod:
            raise ValueError(f"release of {n} entries, {self._prod - self.cons_idx} are known")
        if not ORDERED:
            full_fence()
        self.cons_idx = cons
        self._index[_CONS] = cons


class SlotProducer(_ProducerSide[int]):
    """Producer of slot numbers: the way of references back to their home."""

    def __init__(self, buf: memoryview, capacity: int) -> None:
        super().__init__(buf, capacity, SLOT_ENTRY_BYTES)
        self._entries = self._entries.cast("Q")

    def _write(self, at: int, n: int) -> None:
        self._entries[at : at + n] = memoryview(array("Q", self.queue[:n]))
        del self.queue[:n]


class SlotConsumer(_ConsumerSide):
    """Consumer of slot numbers."""

    def __init__(self, buf: memoryview, capacity: int) -> None:
        super().__init__(buf, capacity, SLOT_ENTRY_BYTES)
        self._entries = self._entries.cast("Q")

    def drain(self) -> list[int]:
        """All published slot numbers, oldest first, already released."""
        prod = self._index[_PROD]
        cons = self.cons_idx
        n = prod - cons
        if not n:
            return []
        if not ORDERED:
            full_fence()
        at = cons & (self.capacity - 1)
        slots: list[int] = self._entries[at : at + n].tolist()
        if at + n > self.capacity:
            slots += self._entries[: at + n - self.capacity].tolist()
        if not ORDERED:
            full_fence()
        self.cons_idx = prod
        self._index[_CONS] = prod
        return slots
