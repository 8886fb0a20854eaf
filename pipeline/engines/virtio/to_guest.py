"""Writes frames into the buffers of a receive queue (virtio 1.2, section 5.1.6.3 and 5.1.6.4).

A frame comes as the segmenter makes it: a length, a virtio-net header of 12 bytes and the frame, in one
buffer or in several. With MRG_RXBUF a frame may fill several chains, and num_buffers says how many. Without
it, a frame that does not fit into one chain is dropped. Payload is copied once, from its slot to the guest.

::

    buffers     length 4 | header 12 | headers of the packet | payload ...
    the guest              header 12 | headers of the packet, payload | payload | payload ...
                           first chain                                  second    third
"""

from collections.abc import Callable, Sequence
from struct import Struct
from typing import Final

from pipeline.engines.virtio.memory import Bytes, GuestMemory, RingError
from pipeline.engines.virtio.split_ring import BAD_CHAIN, Fetched, Segment, SplitRing
from pipeline.wire import offload, virtio, virtio_net

MAX_SEGMENTS: Final = 512
"""Descriptors of the buffers for one frame. Drivers need a fraction of that, and each costs time."""
MAX_FETCH: Final = 256
"""Chains whose descriptors are read at once."""
FRAMING: Final = offload.FRAMING
PREFIX_LEN: Final[int] = FRAMING.prefix_len
HEAD_LEN: Final[int] = PREFIX_LEN + virtio_net.LONG_LEN

_NUM_BUFFERS: Final = Struct("<H")
_ONE_BUFFER: Final = _NUM_BUFFERS.pack(1)
_OVERSIZED: Final = "link_frame_dropped_oversized"

_LENGTH = FRAMING.prefix.unpack_from
_NO_FETCH: Final = Fetched([], [], [], [], [])


class FrameWriter:
    """Writes to one receive queue."""

    def __init__(
        self,
        ring: SplitRing,
        memory: GuestMemory,
        header_len: int,
        mergeable: bool,
        drop: Callable[[str], object],
    ) -> None:
        """header_len: 10 or 12. mergeable: whether a frame may fill several chains (MRG_RXBUF).

        drop: called for each dropped frame, with the name of its counter.
        """
        self.ring = ring
        self._memory = memory
        self._header_len = header_len
        self._mergeable = mergeable
        self._drop = drop
        self._fetched = _NO_FETCH
        self._at = 0
        """The next chain of _fetched. Those before it are full, and wait in _heads."""
        self._heads: list[int] = []
        self._lengths: list[int] = []

    def write(self, buffers: Sequence[Bytes]) -> tuple[int, int]:
        """Write whole frames as long as the guest has room. Raises RingError.

        Returns (number, offset) of the buffer where the first frame begins that does not fit. The number is
        that of buffers if all have fit.
        """
        number = 0
        count = len(buffers)
        off = 0
        try:
            while number < count:
                buffer = buffers[number]
                size = len(buffer)
                while off < size:
                    length: int = _LENGTH(buffer, off)[0]
                    after = off + PREFIX_LEN + length
                    if after <= size:
                        if not self._put(buffer[off + PREFIX_LEN : after], b"", length):
                            return number, off
                        off = after
                    else:
                        payload = buffers[number + 1] if number + 1 < count else b""
                        if after - size != len(payload):
                            raise ValueError("a frame must have one buffer or two")
                        if not self._put(buffer[off + PREFIX_LEN :], payload, length):
                            return number, off
                        number += 1
                        off = size
                number += 1
                off = 0
        finally:
            self._give_back()
        return number, 0

    # --- one frame ------------------------------------------------------------------------

    def _put(self, head: Bytes, payload: Bytes, length: int) -> bool:
        """Write a frame in two parts, after its header of 12 bytes. False if the guest has no room for it."""
        need = length - (virtio_net.LONG_LEN - self._header_len)
        chains = self._room_for(need)
        if not chains:
            return False
        if chains < 0:
            self._drop(_OVERSIZED)
            return True
        fetched, at = self._fetched, self._at
        if chains == 1 and fetched.flags[at] == virtio.WRITE:
            self._put_into_one(fetched.addrs[at], head, payload)
            self._heads.append(fetched.heads[at])
            self._lengths.append(need)
            self._at = at + 1
            return True
        numbers = _NUM_BUFFERS.pack(chains) if self._mergeable else _ONE_BUFFER
        header = bytes(head[: virtio_net.SHORT_LEN]) + numbers
        first = b"".join((header[: self._header_len], head[virtio_net.LONG_LEN :]))
        if payload:
            self._scatter([first, payload], chains, need)
        else:
            self._scatter([first], chains, need)
        return True

    def _put_into_one(self, addr: int, head: Bytes, payload: Bytes) -> None:
        """The most frequent case: the frame fits into one descriptor."""
        memory = self._memory
        if self._header_len == virtio_net.LONG_LEN:
            memory.write(addr, head)
            memory.write(addr + virtio_net.SHORT_LEN, _ONE_BUFFER)
        else:
            memory.write(addr, head[: virtio_net.SHORT_LEN])
            memory.write(addr + virtio_net.SHORT_LEN, head[virtio_net.LONG_LEN :])
        if payload:
            memory.write(addr + self._header_len + len(head) - virtio_net.LONG_LEN, payload)

    def _scatter(self, parts: list[Bytes], chains: int, need: int) -> None:
        """Write parts one after another into the next chains, need bytes in all."""
        fetched, write = self._fetched, self._memory.write
        addrs, lengths, flags = fetched.addrs, fetched.lengths, fetched.flags
        last, number = len(parts) - 1, 0
        part, begin, size = parts[0], 0, len(parts[0])
        for at in range(self._at, self._at + chains):
            filled = 0
            whole = flags[at] == virtio.WRITE
            for addr, room in [(addrs[at], lengths[at])] if whole else self._segments(at):
                room = min(room, need)
                need -= room
                filled += room
                while room:
                    count = min(room, size - begin)
                    after = begin + count
                    write(addr, part[begin:after])
                    addr += count
                    room -= count
                    begin = after
                    if begin == size and number < last:
                        number += 1
                        part, begin, size = parts[number], 0, len(parts[number])
            self._heads.append(fetched.heads[at])
            self._lengths.append(filled)
        self._at += chains

    def _room_for(self, need: int) -> int:
        """The number of chains that a frame fills. 0: the guest has no room now. -1: it never has.

        Afterwards these chains are fetched. Raises RingError if the guest makes this expensive.
        """
        at, room = self._at, 0
        chains = walked = 0
        while True:
            lengths, flags = self._fetched.lengths, self._fetched.flags
            count = len(lengths)
            while at < count:
                if flags[at] == virtio.WRITE:
                    room += lengths[at]
                else:
                    segments = self._segments(at)
                    walked += len(segments)
                    for _, part in segments:
                        room += part
                chains += 1
                at += 1
                if walked + chains > MAX_SEGMENTS:
                    raise RingError("the buffers of one frame have too many descriptors", BAD_CHAIN)
                if room >= need:
                    return chains
                if not self._mergeable:
                    return -1
            if chains >= self.ring.size:
                return -1
            if not self._fetch_more():
                return 0
            at = chains

    def _segments(self, at: int) -> list[Segment]:
        segments = self.ring.chain(self._fetched, at, virtio.WRITE)
        if not any(length for _, length in segments):
            raise RingError("a buffer for frames has no room", BAD_CHAIN)
        return segments

    def _fetch_more(self) -> bool:
        """Read more descriptors after those that were fetched and not used. False if there are none."""
        self._give_back()
        unused = len(self._fetched.heads) - self._at
        pending = self.ring.pending() - unused
        if pending <= 0:
            return False
        old, at = self._fetched, self._at
        new = self.ring.fetch(unused, min(pending, MAX_FETCH))
        if unused:
            new = Fetched(
                old.heads[at:] + new.heads,
                old.addrs[at:] + new.addrs,
                old.lengths[at:] + new.lengths,
                old.flags[at:] + new.flags,
                old.nexts[at:] + new.nexts,
            )
        self._fetched, self._at = new, 0
        return True

    def _give_back(self) -> None:
        if self._heads:
            self.ring.give_back(self._heads, self._lengths)
            self._heads, self._lengths = [], []

    def want_kick(self) -> bool:
        """Ask for a kick when there is more room than now. Returns whether there is already."""
        return self.ring.want_kick(len(self._fetched.heads) - self._at)
