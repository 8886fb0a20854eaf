"""A /connect stream whose guest asked for the offload extension (docs/offload.md).

::

    state      what the guest's bytes are             what ours are                 becomes
    offered    its first record decides               LE16 frames, after OFFER      agreed by ACCEPT,
                                                                                    plain by anything else
    agreed     frames after a virtio-net header       the same, after START         (stays)
    plain      LE16 frames                            LE16 frames                   (stays)

The owner has to look at ``vnet_len`` after each read_burst(). When it is not 0, a header of that many bytes
lies before each frame, and each frame that is sent must have one. The link does not judge what a
header says.
"""

import socket
from typing import Final

from pipeline.links.base import LinkClosed, SlotPool
from pipeline.links.stream import StreamLink
from pipeline.wire import framing, offload
from pipeline.wire.framing import LE16

_BAD: Final = "link_frame_dropped_bad_vnet_header"


class OffloadLink(StreamLink):
    """A stream link in one of the three states above."""

    def __init__(
        self, sock: socket.socket, pool: SlotPool, slots: list[memoryview], head: bytes = b""
    ) -> None:
        super().__init__(sock, LE16, pool, slots, head)
        self.features: int = offload.FEATURES
        """What the guest may leave undone: first as offered, after ACCEPT as far as the guest uses it."""
        self._decided = False

    def offer(self) -> None:
        """Send OFFER. To be called once, before anything is sent. Raises LinkClosed."""
        self.send([offload.build(offload.OFFER, self.features)])

    def _split(self, view: memoryview, begin: int, end: int) -> tuple[list[tuple[int, int]], int]:
        if not self._decided:
            begin = self._decide(view, begin, end)
        frames, begin = framing.split(view, begin, end, self._framing)
        length = self.vnet_len
        if not length:
            return frames, begin
        whole = [(off + length, size - length) for off, size in frames if size >= length]
        if len(whole) < len(frames):
            self.drops[_BAD] = self.drops.get(_BAD, 0) + len(frames) - len(whole)
        return whole, begin

    def _decide(self, view: memoryview, begin: int, end: int) -> int:
        """Decide by the guest's first record, if it is whole. Returns where the stream goes on."""
        first, after = framing.split(
            view, begin, min(end, begin + LE16.prefix_len + offload.RECORD_LEN), LE16
        )
        record = offload.parse(view, *first[0]) if len(first) == 1 else None
        if record is not None and record.kind == offload.ACCEPT and record.version == offload.VERSION:
            self._decided = True
            self._framing = offload.FRAMING
            self.vnet_len = offload.VNET_LEN
            self.features &= record.features
            if not self.send([offload.build(offload.START, self.features)]):
                raise LinkClosed("the guest does not read")
            return after
        # Of a longer record at least the length is here; a shorter one is whole.
        self._decided = bool(first) or end - begin >= LE16.prefix_len + offload.RECORD_LEN
        return begin
