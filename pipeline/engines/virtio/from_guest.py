"""Reads the frames of a transmit queue into a slot (virtio 1.2, section 5.1.6.2).

A chain is one frame after its virtio-net header. It is copied once, from guest memory to the slot, and its
chain is given back at once. In the slot a header of 12 bytes lies right before each frame. A driver from
before version 1 may have a header of 10 bytes, without num_buffers.

::

    slot    ... | header 12 | frame 1 | (pad) | header 12 | frame 2 | ...
"""

from collections.abc import Callable
from typing import Final

from pipeline.engines.virtio.memory import GuestMemory
from pipeline.engines.virtio.split_ring import Segment, SplitRing
from pipeline.wire import virtio, virtio_net

MAX_CHAINS: Final = 64
"""The most chains of one burst."""
MAX_SEGMENTS: Final = 2048
"""About how many descriptors are walked in one burst. Other guests wait meanwhile."""
ALIGN: Final = 8
"""A frame starts at a multiple of this, so frames of equal length lie at equal strides."""
LONGEST: Final = virtio_net.LONG_LEN + 0xFFFF + 40 + 14 + 8
"""Bytes of the longest chain that is accepted: the longest IPv6 packet, in a frame with two tags."""

ROOM: Final[int] = LONGEST + ALIGN
"""Bytes in which any frame fits."""

_LONG_LEN: Final[int] = virtio_net.LONG_LEN
_OVERSIZED: Final = "link_frame_dropped_oversized"
_BAD_HEADER: Final = "link_frame_dropped_bad_vnet_header"


class FrameReader:
    """Reads one transmit queue."""

    def __init__(
        self, ring: SplitRing, memory: GuestMemory, header_len: int, drop: Callable[[str], object]
    ) -> None:
        """header_len: 10 or 12. drop: called for each dropped frame, with the name of its counter."""
        self.ring = ring
        self._memory = memory
        self._header_len = header_len
        self._pad = virtio_net.LONG_LEN - header_len
        self._drop = drop

    def read(
        self, view: memoryview, end: int, enough: int, most: int = MAX_CHAINS
    ) -> tuple[list[tuple[int, int]], int]:
        """Read the frames that are pending to view[end:]. Returns [(off, len)] and where they end.

        No further frame begins at ``enough`` or after it, and no more than ``most`` are read. The result is
        empty if nothing is pending, if all was dropped, or if the next frame does not fit: ROOM bytes are
        enough for any. Raises RingError.
        """
        ring = self.ring
        frames: list[tuple[int, int]] = []
        count = min(ring.pending(), MAX_CHAINS, most)
        if not count:
            return frames, end
        fetched = ring.fetch(0, count)
        flags, lengths = fetched.flags, fetched.lengths
        done = walked = 0
        try:
            while done < count and walked < MAX_SEGMENTS and end < enough:
                off = (end + _LONG_LEN + ALIGN - 1) // ALIGN * ALIGN
                begin = off - self._header_len
                if flags[done]:
                    segments = ring.chain(fetched, done, 0)
                    walked += len(segments)
                    total = 0
                    for _, part in segments:
                        total += part
                else:
                    segments = []
                    total = lengths[done]
                if total > LONGEST or total <= self._header_len:
                    self._drop(_OVERSIZED if total > LONGEST else _BAD_HEADER)
                    done += 1
                    continue
                after = begin + total
                if after > len(view):
                    break
                if segments:
                    self._gather(segments, view, begin)
                else:
                    self._memory.read_into(fetched.addrs[done], view[begin:after])
                if self._pad:
                    self._lengthen(view, off)
                frames.append((off, after - off))
                end = after
                done += 1
        finally:
            if done:
                ring.give_back(fetched.heads[:done])
        return frames, end

    def _gather(self, segments: list[Segment], view: memoryview, begin: int) -> None:
        read_into = self._memory.read_into
        for addr, length in segments:
            if length:
                after = begin + length
                read_into(addr, view[begin:after])
                begin = after

    def _lengthen(self, view: memoryview, off: int) -> None:
        """Make 12 bytes of a header of 10 bytes."""
        view[off - virtio_net.LONG_LEN : off] = bytes(view[off - virtio_net.SHORT_LEN : off]) + b"\0\0"


def header_len(features: int) -> int:
    """Bytes of the virtio-net header with these features of the device."""
    has_buffers = features & (virtio.F_VERSION_1 | virtio.F_MRG_RXBUF)
    return virtio_net.LONG_LEN if has_buffers else virtio_net.SHORT_LEN
