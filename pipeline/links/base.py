"""A link is one guest's Ethernet cable: the connection that carries its frames. This is its interface.

The owner of a link is the ingress worker. A link reads frames into slots, which are buffers of a pool that
the owner gives it. It sends lists of buffers. A link never blocks and keeps no time. It does not look into
frames.

References: a link holds one reference to the slot that it is filling. It gives that back when it changes to
another slot or is closed. The owner makes records from a burst. It takes one more reference
(``pool.ref``) for each record before it calls ``read_burst`` again.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar, Final, Protocol

from pipeline.ipc import events as ev
from pipeline.records.kinds import NO_SLOT
from pipeline.wire import offload
from pipeline.wire.framing import EVERY_FRAME, Framing

HEADROOM: Final = 256
"""Bytes left free at the start of a slot."""
MIN_READ: Final = 10 * 1024
"""If a slot has less room than this, the link reads on in a fresh slot.

The longest packets of a guest with offload leave 8 to 9 KiB. A read into these would cut the next packet,
which would then take two reads and a copy.
"""
FULL_READ: Final = 131072
"""A read limit that never applies: more bytes than a slot holds."""
MAX_BACKLOG: Final = 4 * 1024 * 1024
"""Bytes of copied frames that a link keeps for a guest that does not read. The owner stops long before."""

Buffer = bytes | memoryview
Burst = tuple[int, list[tuple[int, int]]]
"""(slot, [(off, len)]): where whole Ethernet frames lie. The list may be empty."""


class LinkClosed(Exception):  # noqa: N818  a guest that leaves is not an error
    """The link has ended: the guest left, or broke the framing. The text says why, for the log.

    ``reason`` is the name of a drop counter, or empty if nothing was dropped.
    """

    def __init__(self, text: str, reason: str = "") -> None:
        super().__init__(text)
        self.reason = reason

    def log_text(self, peer: str) -> str:
        """The log line about the end of this guest. It has gvproxy's words, since scripts look for them."""
        return f"cannot receive packets from {peer}, disconnecting: {self}"


class SlotPool(Protocol):
    """What a link needs from an allocator (pipeline.ipc.arena.Pool has it)."""

    def alloc(self) -> int:
        """A slot with one reference, or NO_SLOT."""

    def ref(self, slot: int, n: int = 1) -> None:
        """Count n more references."""

    def unref(self, slot: int) -> None:
        """Count one reference less."""

    def refs(self, slot: int) -> int:
        """The number of references to slot."""


class Link(ABC):
    """One guest's link.

    ==============  ===================================================================
    attribute       meaning
    ==============  ===================================================================
    starved         the last read_burst() returned None because no slot was free
    drained         the last read_burst() emptied the socket: the next one returns None without reading
    blocked         the guest does not read: copied bytes wait for flush()
    backlog_bytes   the number of these bytes
    verify          whether the owner must verify the checksums of received frames
    read_limit      bytes that one read_burst() reads at most, about; the owner may set it
    frame_limit     frames that one read_burst() returns at most, about; the owner may set it
    holds_frames    whether whole frames were read and wait for the next read_burst(), because of frame_limit
    vnet_len        bytes of the virtio-net header before each frame, in both directions; 0 without offload
    features        the work that the guest may leave to us (pipeline.wire.offload); 0 without vnet_len
    guest_features  the work that we may leave to the guest; 0 without vnet_len
    drops           frames that the link itself dropped since take_drops(), by counter name
    tunnel_mtu      bytes of the longest packet that the link can carry to other hosts; 0 for a guest's link
    ==============  ===================================================================
    """

    write_mask: ClassVar[int] = ev.WRITE | ev.EDGE
    """The events that report room at write_fileno(), if that is another descriptor than fileno()."""

    def __init__(self, pool: SlotPool, slots: list[memoryview]) -> None:
        """pool: has the slots that the link reads into. slots: the memory of each, by number."""
        self._cursor = SlotCursor(pool, slots)
        self.starved = False
        self.verify = True
        self.read_limit = FULL_READ
        self.frame_limit = EVERY_FRAME
        self.holds_frames = False
        self.vnet_len = 0
        self.features = 0
        self.guest_features = 0
        self.drops: dict[str, int] = {}
        self.tunnel_mtu = 0
        self.drained = False
        self._short_is_all = False

    def begin_vnet(self, guest_features: int) -> None:
        """Each frame has a virtio-net header, in both directions. Call this before the first read.

        guest_features: what we may leave to the guest. It may leave to us all that we know, since the machine
        monitor does not say what it has offered to its guest.
        """
        self.vnet_len = offload.VNET_LEN
        self.features = offload.FEATURES | offload.UFO
        self.guest_features = guest_features

    def on_readable(self, short_is_all: bool) -> None:
        """The poller reports that the link may have something to read.

        short_is_all: if a read does not fill its room, the link may assume that nothing more comes until the
        next event. See read_burst().
        """
        # New bytes may have arrived since the last read emptied the socket.
        self._short_is_all = short_is_all
        self.drained = False

    def take_drops(self) -> dict[str, int]:
        """Return ``drops`` and clear it."""
        drops, self.drops = self.drops, {}
        return drops

    @property
    def framing(self) -> Framing | None:
        """How frames given to send() are delimited; None if each buffer is a frame."""
        return None

    @property
    @abstractmethod
    def blocked(self) -> bool:
        """Whether bytes given to send() still wait for the socket."""

    @property
    @abstractmethod
    def backlog_bytes(self) -> int:
        """Bytes copied and not yet sent."""

    @abstractmethod
    def fileno(self) -> int:
        """The descriptor to poll for reading. Usually it is also the one for writing, see write_fileno()."""

    def write_fileno(self) -> int:
        """The descriptor to poll for writing."""
        return self.fileno()

    @abstractmethod
    def read_burst(self) -> Burst | None:
        """Read what has arrived, at most what one slot takes. Returns where the frames lie.

        None: nothing is there now (poll again), or ``starved``. Raises LinkClosed. Consecutive bursts may lie
        in the same slot.

        An owner that polls edge-triggered can save a system call with on_readable(True). If a read then does
        not fill its room, the next call returns None without reading. The owner must call on_readable() at
        every event. If the event has a hang-up bit (READ_HANGUP, HANGUP, ERROR), it must pass False.
        Bytes that arrive later cause a new event, so the next call reads again.
        """

    @abstractmethod
    def send(self, buffers: Sequence[Buffer]) -> bool:
        """Send frames with their framing, as pipeline.engines.offload.gso makes them.

        A link with virtio-net headers always has a framing: its frames may consist of several buffers.
        The link copies what the socket does not accept, so the caller may reuse the memory of the buffers.
        False: the backlog is full, and nothing was sent. Raises LinkClosed.
        """

    @abstractmethod
    def flush(self) -> None:
        """Send copied bytes. The owner calls this when the descriptor reports room. Raises LinkClosed."""

    def slots_held(self) -> list[int]:
        """The slots to which the link holds a reference."""
        return self._cursor.slots_held()

    def release_idle(self) -> None:
        """The link is idle: give back its slot, unless a record refers to it or it holds a partial frame."""
        self._cursor.release_idle()

    @abstractmethod
    def close(self) -> None:
        """Give back the slot and close the descriptor. May be called twice."""


_NOTHING: Final = memoryview(b"")


class SlotCursor:
    """The slot being filled: bytes [begin, end) are read and not yet handed out."""

    __slots__ = ("_pool", "_slots", "begin", "end", "slot", "view")

    def __init__(self, pool: SlotPool, slots: list[memoryview]) -> None:
        self._pool = pool
        self._slots = slots
        self.slot = NO_SLOT
        self.view = _NOTHING
        self.begin = 0
        self.end = 0

    def fresh(self) -> bool:
        """Change to another slot and copy the bytes not yet handed out into it. False: no slot is free."""
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

    def slots_held(self) -> list[int]:
        """The slot that is being filled; none if there is none."""
        return [] if self.slot == NO_SLOT else [self.slot]

    def release_idle(self) -> None:
        """Give back the slot if it holds no unread bytes and no record refers to it."""
        if self.slot != NO_SLOT and self.begin == self.end and self._pool.refs(self.slot) == 1:
            self.release()

    def release(self) -> None:
        """Give back the slot, with the bytes in it."""
        if self.slot != NO_SLOT:
            self._pool.unref(self.slot)
            self.slot = NO_SLOT
            self.view = _NOTHING
            self.begin = self.end = 0
