"""The guest link as the ingress worker sees it, whatever carries its frames.

A link reads into slots of a pool that its owner gives it, and sends lists of buffers. It
never blocks, never waits and keeps no time. It does not look into frames.

References: a link holds one reference to the slot that it is filling. It gives that back when it
changes to another slot or is closed. The owner takes one more (``pool.ref``) for every record that
it makes of a burst, before the next ``read_burst``.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Final, Protocol

from pipeline.records.kinds import NO_SLOT

HEADROOM: Final = 256
"""Bytes left free at the start of a slot."""
MIN_READ: Final = 8192
"""With less room than this left in a slot, reading goes on in a fresh one."""
FULL_READ: Final = 131072
"""A limit for reads that is none: more than a slot holds."""
MAX_BACKLOG: Final = 4 * 1024 * 1024
"""Bytes of copied frames that a link keeps for a guest that does not read; the owner stops long before."""

Buffer = bytes | memoryview
Burst = tuple[int, list[tuple[int, int]]]
"""(slot, [(off, len)]): where whole Ethernet frames lie. The list may be empty."""


class LinkClosed(Exception):  # noqa: N818  a guest that leaves is not an error
    """The link is over: the guest left, or broke the framing. The text says why, for the log.

    ``reason`` is the name of a drop counter, or empty when nothing was dropped.
    """

    def __init__(self, text: str, reason: str = "") -> None:
        super().__init__(text)
        self.reason = reason

    def farewell(self, peer: str) -> str:
        """What the log says when that guest is gone. The words are gvproxy's: scripts look for them."""
        return f"cannot receive packets from {peer}, disconnecting: {self}"


class SlotPool(Protocol):
    """What a link needs of an allocator (pipeline.ipc.arena.Pool has it)."""

    def alloc(self) -> int:
        """A slot with one reference, or NO_SLOT."""

    def ref(self, slot: int, n: int = 1) -> None:
        """Count n more references."""

    def unref(self, slot: int) -> None:
        """Count one reference less."""

    def refs(self, slot: int) -> int:
        """References outstanding of slot."""


class Link(ABC):
    """One guest's link.

    ==============  ===================================================================
    attribute       meaning
    ==============  ===================================================================
    starved         the last read_burst() returned None because no slot was free
    blocked         the guest does not read: copied bytes wait for flush()
    backlog_bytes   how many
    verify          whether checksums of received frames are to be verified
    read_limit      bytes that one read_burst() takes, about; its owner may set it
    vnet_len        bytes of the virtio-net header right before each frame, both ways; mostly 0
    drops           frames that the link itself dropped, by counter name, until take_drops()
    ==============  ===================================================================
    """

    def __init__(self) -> None:
        self.starved = False
        self.verify = True
        self.read_limit = FULL_READ
        self.vnet_len = 0
        self.drops: dict[str, int] = {}
        self._drained = False
        self._short_is_all = False

    def on_readable(self, short_is_all: bool) -> None:
        """An event says that there may be something to read.

        short_is_all: a read that does not fill its room may be taken for the last one until the next event.
        See read_burst().
        """
        # What was known to be empty may not be empty any more.
        self._short_is_all = short_is_all
        self._drained = False

    def take_drops(self) -> dict[str, int]:
        """``drops``, which begins again without any."""
        drops, self.drops = self.drops, {}
        return drops

    @property
    @abstractmethod
    def blocked(self) -> bool:
        """Whether what was given to send() is not all out yet."""

    @property
    @abstractmethod
    def backlog_bytes(self) -> int:
        """Bytes copied and not yet sent."""

    @abstractmethod
    def fileno(self) -> int:
        """The descriptor to poll, for reading and, mostly, for writing."""

    def write_fileno(self) -> int:
        """The descriptor to poll for writing, where that is another one."""
        return self.fileno()

    @abstractmethod
    def read_burst(self) -> Burst | None:
        """Read what is there, as much as one slot takes: where the frames are.

        None: nothing is there now (poll again), or ``starved``. Raises LinkClosed. Consecutive
        bursts may lie in the same slot. An owner that polls edge-triggered can save a system call by
        on_readable(True): a read that did not fill its room is then taken for the last one, and the next
        call returns None without reading. The owner has to call on_readable() at every event,
        with False if that has a hang-up bit (READ_HANGUP, HANGUP, ERROR). Whatever comes later
        is a new event, and makes the next call read again.
        """

    @abstractmethod
    def send(self, buffers: Sequence[Buffer]) -> bool:
        """Send frames with their framing, as pipeline.engines.offload.gso makes them.

        What the socket does not take is copied, so the memory of the buffers is free. False: the backlog
        is full and nothing was taken. Raises LinkClosed.
        """

    @abstractmethod
    def flush(self) -> None:
        """Go on sending what was copied, when the descriptor is writable. Raises LinkClosed."""

    def release_idle(self) -> None:  # noqa: B027  most links hold nothing between reads
        """Nothing is arriving: give back a slot that no record refers to and that holds no partial frame."""

    @abstractmethod
    def close(self) -> None:
        """Give back the slot and close the descriptor. May be called twice."""


class SlotCursor:
    """The slot being filled: bytes [begin, end) are read and not yet handed out."""

    __slots__ = ("_pool", "_slots", "begin", "end", "slot", "view")

    def __init__(self, pool: SlotPool, slots: list[memoryview]) -> None:
        self._pool = pool
        self._slots = slots
        self.slot = NO_SLOT
        self.view = memoryview(b"")
        self.begin = 0
        self.end = 0

    def fresh(self) -> bool:
        """Change to another slot and carry over the bytes not yet handed out. False: none is free."""
        slot = self._pool.alloc()
        if slot == NO_SLOT:
            return False
        view = self._slots[slot]
        length = self.end - self.begin
        if length:
            view[HEADROOM : HEADROOM + length] = self.view[self.begin : self.end]
        self.release()
        self.slot = slot
        self.view = view
        self.begin = HEADROOM
        self.end = HEADROOM + length
        return True

    def release_idle(self) -> None:
        """Give back the slot if it holds no unread bytes and no record refers to it."""
        if self.slot != NO_SLOT and self.begin == self.end and self._pool.refs(self.slot) == 1:
            self.release()

    def release(self) -> None:
        """Give back the slot, with the bytes in it."""
        if self.slot != NO_SLOT:
            self._pool.unref(self.slot)
            self.slot = NO_SLOT
            self.view = memoryview(b"")
            self.begin = self.end = 0
