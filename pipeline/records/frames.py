"""Whole Ethernet frames that ingress and demux exchange."""

from struct import Struct
from typing import Final

from pipeline.records.kinds import DROPPED, FRAME, FRAME_OUT, MISBEHAVED, WATCH_DROPS

ALL_LINKS: Final = 0xFFFF
"""Stands for all links, where a link's number is expected."""
NO_LINK: Final = 0
"""No link has this number."""

_BORROWED: Final = 1
_VNET: Final = 2

_FRAME: Final = Struct("<BBH4xIII76x")  # kind, bits, link, slot, off, length
_FRAME_OUT: Final = Struct("<BBH4xIII40xI32x")  # kind, bits, link, slot, off, length, except_link
_MISBEHAVED: Final = Struct("<BxH56xI32x")  # kind, link, frames
_WATCH_DROPS: Final = Struct("<B?94x")  # kind, on
_DROPPED: Final = Struct("<B?HHHIIIII68x")  # kind, vnet, link, stride, reason, slot, off, length, last, count


class Frame:
    """FRAME: one frame of a guest, from its Ethernet header on.

    vnet: right before the frame lies a virtio-net header of 12 bytes (pipeline.wire.virtio_net). Ingress has
    checked that it describes the frame, which may be a super-segment and have a partial checksum.
    """

    def __init__(self, link: int, slot: int, off: int, length: int, vnet: bool) -> None:
        self.link = link
        self.slot = slot
        self.off = off
        self.length = length
        self.vnet = vnet

    @staticmethod
    def unpack(burst: memoryview, at: int) -> "Frame":
        """The record at burst[at:]."""
        bits: int
        _, bits, link, slot, off, length = _FRAME.unpack_from(burst, at)
        return Frame(link, slot, off, length, bits & _VNET != 0)

    def pack(self) -> bytes:
        """The record of this frame."""
        return _FRAME.pack(FRAME, _VNET if self.vnet else 0, self.link, self.slot, self.off, self.length)


class FrameOut:
    """FRAME_OUT: one whole frame for the guest on ``link``, or for all guests but one (ALL_LINKS).

    vnet: as in Frame. borrowed: a later record names the same slot, and the reference moves with that one.
    except_link: with ALL_LINKS, the link that does not get the frame; NO_LINK if all get it.
    """

    def __init__(
        self, link: int, slot: int, off: int, length: int, vnet: bool, borrowed: bool, except_link: int
    ) -> None:
        self.link = link
        self.slot = slot
        self.off = off
        self.length = length
        self.vnet = vnet
        self.borrowed = borrowed
        self.except_link = except_link

    @staticmethod
    def unpack(burst: memoryview, at: int) -> "FrameOut":
        """The record at burst[at:]."""
        bits: int
        _, bits, link, slot, off, length, except_link = _FRAME_OUT.unpack_from(burst, at)
        return FrameOut(link, slot, off, length, bits & _VNET != 0, bits & _BORROWED != 0, except_link)

    @staticmethod
    def pack(
        link: int,
        slot: int,
        off: int,
        length: int,
        vnet: bool = False,
        borrowed: bool = False,
        except_link: int = NO_LINK,
    ) -> bytes:
        """A record with these fields."""
        bits = (_VNET if vnet else 0) | (_BORROWED if borrowed else 0)
        return _FRAME_OUT.pack(FRAME_OUT, bits, link, slot, off, length, except_link)


def is_borrowed(burst: bytes | memoryview, at: int) -> bool:
    """Whether the FRAME_OUT at burst[at:] leaves the reference to a later record."""
    return burst[at + 1] & _BORROWED != 0


class Misbehaved:
    """MISBEHAVED: ``frames`` frames of the guest on ``link`` were dropped since the last such record."""

    def __init__(self, link: int, frames: int) -> None:
        self.link = link
        self.frames = frames

    @staticmethod
    def unpack(burst: memoryview, at: int) -> "Misbehaved":
        """The record at burst[at:]."""
        _, link, frames = _MISBEHAVED.unpack_from(burst, at)
        return Misbehaved(link, frames)

    @staticmethod
    def pack(link: int, frames: int) -> bytes:
        """A record with these fields."""
        return _MISBEHAVED.pack(MISBEHAVED, link, frames)


class WatchDrops:
    """WATCH_DROPS: whether a capture of drops is running."""

    def __init__(self, on: bool) -> None:
        self.on = on

    @staticmethod
    def unpack(burst: memoryview, at: int) -> "WatchDrops":
        """The record at burst[at:]."""
        _, on = _WATCH_DROPS.unpack_from(burst, at)
        return WatchDrops(on)

    @staticmethod
    def pack(on: bool) -> bytes:
        """A record with this field."""
        return _WATCH_DROPS.pack(WATCH_DROPS, on)


class Dropped:
    """DROPPED: ``count`` frames of the guest on ``link`` in one slot, which demux dropped.

    The first begins at off, each further one stride bytes later. All have length bytes, but the last has
    ``last``. vnet: right before each lies a virtio-net header, as in Frame. reason: index of the counter.
    """

    def __init__(
        self,
        vnet: bool,
        link: int,
        stride: int,
        reason: int,
        slot: int,
        off: int,
        length: int,
        last: int,
        count: int,
    ) -> None:
        self.vnet = vnet
        self.link = link
        self.stride = stride
        self.reason = reason
        self.slot = slot
        self.off = off
        self.length = length
        self.last = last
        self.count = count

    @staticmethod
    def unpack(burst: memoryview, at: int) -> "Dropped":
        """The record at burst[at:]."""
        _, vnet, link, stride, reason, slot, off, length, last, count = _DROPPED.unpack_from(burst, at)
        return Dropped(vnet, link, stride, reason, slot, off, length, last, count)

    def pack(self) -> bytes:
        """The record of these frames."""
        return _DROPPED.pack(
            DROPPED,
            self.vnet,
            self.link,
            self.stride,
            self.reason,
            self.slot,
            self.off,
            self.length,
            self.last,
            self.count,
        )

    def places(self) -> list[tuple[int, int]]:
        """(offset, length) of each frame."""
        places = [(self.off + number * self.stride, self.length) for number in range(self.count - 1)]
        return [*places, (self.off + (self.count - 1) * self.stride, self.last)]
