"""Single-producer single-consumer rings in shared memory: queues from one process to another.

::

    0                      64           128
    | prod_idx | wake_idx  | cons_idx   | entry 0 | entry 1 | ... | entry capacity - 1 |

``prod_idx`` and ``cons_idx`` are 64-bit counters that never wrap, each on its own cache line. Only the
producer stores ``prod_idx``, and only the consumer stores ``cons_idx``. Entry ``i`` of the stream lies at
``i & (capacity - 1)``. Each side keeps its own counter, and a copy of the other side's. It reads the other
counter again only when by the copy the ring is full (or empty).

The states of an entry:

===========  ===========================  ===============  =====================================
state        index i                      bytes owned by   becomes
===========  ===========================  ===============  =====================================
backlog      private list of the producer producer         published, by ``publish`` when it fits
published    cons_idx <= i < prod_idx     consumer         in use, by ``peek``
in use       cons_idx <= i < prod_idx     consumer         released, by ``release``
released     i < cons_idx                 producer         overwritten by entry i + capacity
===========  ===========================  ===============  =====================================

``push`` never fails and never blocks: an entry that does not fit waits in the backlog. A stage stops reading
its sources when ``room()`` is used up (backpressure). A ring drops nothing.

A producer may sleep until the consumer has released entries. Before its sleep it stores the index that it
waits for in ``wake_idx`` (0: none). When ``cons_idx`` reaches it, the consumer rings the producer's bell. To
miss no release, the producer calls ``arm``, announces its sleep, and then checks ``released``. The consumer
calls ``release``, then ``wake_due``, which checks after a fence. This is the handshake of wake.py with the
roles exchanged.

The counters do not wrap: at a thousand million entries a second, 2**64 takes 584 years. A store that
overflows would raise. Tests start the counters near their end.

Memory order: a counter is stored and loaded through ``memoryview.cast("Q")``. CPython moves an aligned word
with one 8-byte access. (``struct`` with an explicit byte order moves single bytes, so a reader could see half
of a store.) The language does not promise this; a stress test checks it.

The consumer must not see a new ``prod_idx`` before the entries. The producer must not see a new ``cons_idx``
before the consumer's last reads are done. x86 keeps stores in order and loads in order, and does not move a
store before an earlier load, so it needs no barrier. Arm64 may reorder all of these, so a fence is there
(``ORDERED`` in fence.py). "Publish, then check whether the consumer sleeps" needs a full fence on every
machine: see wake.py. Compiled, each load of a counter has acquire order and each store release order (C11).
"""

from collections.abc import Callable
from typing import Final, Generic, TypeVar

from pipeline.ipc.entries import part, put_records, put_slots, take_slots
from pipeline.ipc.fence import ORDERED, full_fence
from pipeline.records.kinds import SLOT_ENTRY_BYTES

BURST: Final = 256
"""The largest number of entries that peek() returns by default."""
LINE: Final = 64
"""Bytes of a cache line. The two counters must not share one."""
HEADER_BYTES: Final = 2 * LINE

_PROD: Final = 0
_WAKE: Final = 1
_CONS: Final = LINE // 8

_EMPTY: Final = memoryview(b"")
_NONE: Final[list[int]] = []
"""No slots. It is one list for all, because a worker asks for slots more often than it gets some."""

T = TypeVar("T")


def ring_bytes(capacity: int, entry_bytes: int) -> int:
    """Bytes that a ring of capacity entries takes in the segment, rounded up to cache lines."""
    return HEADER_BYTES + (capacity * entry_bytes + LINE - 1) // LINE * LINE


def depth(buf: memoryview, capacity: int) -> int:
    """Entries in a ring of capacity entries now. For readers that have neither of its ends."""
    index = buf[:HEADER_BYTES].cast("Q")
    # In this order: the other one could give a negative number while entries pass.
    released = index[_CONS]
    return min(index[_PROD] - released, capacity)


def passed(buf: memoryview) -> int:
    """Entries published in a ring since it was made. For readers that have neither of its ends."""
    return buf[:HEADER_BYTES].cast("Q")[_PROD]


def _parts(buf: memoryview, capacity: int, entry_bytes: int) -> tuple[memoryview, memoryview]:
    """A ring's counters (as 64-bit words) and its entries (as bytes)."""
    if capacity <= 0 or capacity & (capacity - 1):
        raise ValueError(f"ring capacity must be a power of two, not {capacity}")
    if len(buf) < HEADER_BYTES + capacity * entry_bytes:
        raise ValueError(f"ring of {capacity} entries of {entry_bytes} bytes does not fit {len(buf)} bytes")
    return buf[:HEADER_BYTES].cast("Q"), buf[HEADER_BYTES : HEADER_BYTES + capacity * entry_bytes]


class _ProducerSide(Generic[T]):
    """What Producer and SlotProducer share: the counters and the backlog."""

    push: Callable[[T], None]
    """Append one entry to the backlog. Never fails, never blocks. The consumer sees it after publish()."""

    def __init__(self, buf: memoryview, capacity: int, entry_bytes: int) -> None:
        self._index, self._entries = _parts(buf, capacity, entry_bytes)
        self.capacity = capacity
        self.prod_idx: int = self._index[_PROD]
        """Entries published since the ring was made."""
        self._cons: int = self._index[_CONS]
        """cons_idx when it was last read."""
        self.queue: list[T] = []
        """The backlog. It is empty when publish() has nothing to do. The list is never replaced."""
        self.push = self.queue.append  # no other push is as cheap as a bound append
        self.scarce = False
        """Whether publish() or room() last found the ring more than half full."""
        self._watched = 0
        """The index that the next sleep waits for; 0 for none."""

    @property
    def backlog(self) -> int:
        """Number of entries that are pushed and not yet in the ring."""
        return len(self.queue)

    def push_idx(self) -> int:
        """The index that the next pushed entry will have. completed() of it covers all pushed so far."""
        return self.prod_idx + len(self.queue)

    def cons_idx(self) -> int:
        """Entries that the consumer has released, read from shared memory now."""
        self._cons = cons = self._index[_CONS]
        return cons

    def room(self) -> int:
        """Number of entries that still fit after the backlog. At zero or less, stop reading the sources.

        If the ring is scarce, the worker's next sleep ends when the consumer has emptied half of it.
        """
        room = self.capacity - (self.prod_idx - self.cons_idx()) - len(self.queue)
        self.scarce = room < self.capacity >> 1
        return room

    def has_room(self) -> bool:
        """Whether room() is more than zero.

        While the ring is at most half full by what is known, this reads no shared memory.
        """
        if self.prod_idx - self._cons + len(self.queue) <= self.capacity >> 1:
            self.scarce = False
            return True
        return self.room() > 0

    def completed(self, idx: int) -> bool:
        """Whether the consumer has released every entry before idx: it will not read their bytes again."""
        return self._cons >= idx or self.cons_idx() >= idx

    def watch(self, idx: int) -> None:
        """Let the worker's next sleep end when completed(idx) becomes true. The lowest idx counts."""
        if not self._watched or idx < self._watched:
            self._watched = max(idx, 1)

    def arm(self) -> bool:
        """Before a sleep: ask the consumer to ring, if this end waits for it. Returns whether it does."""
        idx = self._watched
        if self.scarce or self.queue:
            # Wait until half is empty: a producer that was woken for each release would do nothing else.
            half = self.prod_idx - (self.capacity >> 1)
            idx = min(idx, half) if idx else half
        elif not idx:
            return False
        self._watched = idx
        self._index[_WAKE] = max(idx, 1)
        return True

    def released(self) -> bool:
        """After arm() and the announcement of sleep: whether the entries are released already."""
        return self.completed(self._watched)

    def disarm(self) -> None:
        """After a sleep: the consumer need not ring any more."""
        self._watched = 0
        self.scarce = False
        self._index[_WAKE] = 0

    def forget(self) -> None:
        """The consumer is dead: drop the backlog, and count all entries as released.

        The indexes go on as if the consumer had released everything that was pushed. So completed() holds for
        each index that push_idx() has returned. A successor of the consumer begins with an empty ring.
        """
        self.prod_idx += len(self.queue)
        self.queue.clear()
        self._index[_PROD] = self._index[_CONS] = self._cons = self.prod_idx
        self.disarm()

    def publish(self) -> bool:
        """Move what fits from the backlog into the ring. Returns whether anything moved.

        If so, the caller must ring the consumer's bell. A whole burst costs one store of the counter.
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
        """Move the first n entries of the backlog to the ring, from entry ``at`` on."""
        raise NotImplementedError


class _ConsumerSide:
    """What Consumer and SlotConsumer share: the counters."""

    def __init__(self, buf: memoryview, capacity: int, entry_bytes: int) -> None:
        self._index, self._entries = _parts(buf, capacity, entry_bytes)
        self.capacity = capacity
        self.cons_idx: int = self._index[_CONS]
        """Entries released since the ring was made."""
        self._prod = self.cons_idx
        """prod_idx when it was last read."""
        self._checked = self.cons_idx
        """cons_idx at the last wake_due()."""
        self._noticed = self.cons_idx
        """prod_idx when fresh() last returned True."""

    def pending(self) -> bool:
        """Whether the ring holds an entry now."""
        return bool(self._index[_PROD] != self.cons_idx)

    def fresh(self) -> bool:
        """For the check before a sleep: whether the ring holds an entry that no earlier call has reported.

        A consumer whose own output is blocked leaves entries in the ring. They keep it awake once, not for
        ever.
        """
        prod = self._index[_PROD]
        if prod in (self.cons_idx, self._noticed):
            return False
        self._noticed = prod
        return True

    def wake_due(self) -> bool:
        """After releases: whether the producer sleeps and waits for one of them. If so, ring its bell."""
        cons = self.cons_idx
        if cons == self._checked:
            return False
        self._checked = cons
        full_fence()
        return 0 < self._index[_WAKE] <= cons

    def forget(self) -> None:
        """The producer is dead: skip what it has published. A successor begins with an empty ring."""
        self.cons_idx = self._prod = self._checked = self._noticed = self._index[_PROD]
        self._index[_CONS] = self.cons_idx
        self._index[_WAKE] = 0

    def __len__(self) -> int:
        """Number of entries that are published and not released now."""
        return int(self._index[_PROD]) - self.cons_idx


class Producer(_ProducerSide[bytes]):
    """Producer of records of fixed length. A record of another length makes publish() raise ValueError."""

    def __init__(self, buf: memoryview, capacity: int, entry_bytes: int = 64) -> None:
        super().__init__(buf, capacity, entry_bytes)
        self.entry_bytes = entry_bytes

    def _write(self, at: int, n: int) -> None:
        queue = self.queue
        put_records(self._entries, at, queue, n, self.entry_bytes)
        if n == len(queue):
            queue.clear()
        else:
            del queue[:n]


class Consumer(_ConsumerSide):
    """Consumer of records of fixed length. It peeks, uses the records, and releases them."""

    def __init__(self, buf: memoryview, capacity: int, entry_bytes: int = 64) -> None:
        super().__init__(buf, capacity, entry_bytes)
        self.entry_bytes = entry_bytes

    def peek(self, limit: int = BURST) -> memoryview:
        """Up to limit published entries, as one view; an empty view when there are none.

        The consumer owns the bytes until it releases them. A peek without a release in between returns the
        same entries. A view does not wrap: entries after the end of the ring need a second peek.
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
        return part(self._entries, at * size, (at + n) * size)

    def unread(self) -> bytes:
        """A copy of all entries that are published and not released. They stay in the ring."""
        begin = self.cons_idx & (self.capacity - 1)
        end = begin + len(self)
        size = self.entry_bytes
        found = bytes(self._entries[begin * size : min(end, self.capacity) * size])
        if end > self.capacity:
            found += bytes(self._entries[: (end - self.capacity) * size])
        return found

    def release(self, n: int) -> None:
        """Give the n oldest entries back to the producer. Raises ValueError if they were never peeked."""
        cons = self.cons_idx + n
        if cons > self._prod:
            raise ValueError(f"release of {n} entries, {self._prod - self.cons_idx} are known")
        if not ORDERED:
            full_fence()
        self.cons_idx = cons
        self._index[_CONS] = cons


class SlotProducer(_ProducerSide[int]):
    """Producer of slot numbers. Through it references go back to their home."""

    def __init__(self, buf: memoryview, capacity: int) -> None:
        super().__init__(buf, capacity, SLOT_ENTRY_BYTES)
        self._entries = self._entries.cast("Q")

    def _write(self, at: int, n: int) -> None:
        queue = self.queue
        put_slots(self._entries, at, queue, n)
        if n == len(queue):
            queue.clear()
        else:
            del queue[:n]


class SlotConsumer(_ConsumerSide):
    """Consumer of slot numbers."""

    def __init__(self, buf: memoryview, capacity: int) -> None:
        super().__init__(buf, capacity, SLOT_ENTRY_BYTES)
        self._entries = self._entries.cast("Q")

    def unread(self) -> list[int]:
        """All entries that are published and not drained. They stay in the ring."""
        mask = self.capacity - 1
        return [self._entries[index & mask] for index in range(self.cons_idx, self.cons_idx + len(self))]

    def drain(self) -> list[int]:
        """Take all published slot numbers, oldest first, and release them. Do not change the list."""
        prod = self._index[_PROD]
        cons = self.cons_idx
        n = prod - cons
        if not n:
            return _NONE
        if not ORDERED:
            full_fence()
        at = cons & (self.capacity - 1)
        left = self.capacity - at
        if n <= left:
            slots = take_slots(self._entries, at, n)
        else:
            slots = take_slots(self._entries, at, left) + take_slots(self._entries, 0, n - left)
        if not ORDERED:
            full_fence()
        self.cons_idx = prod
        self._index[_CONS] = prod
        return slots
