"""The link of a guest agent that asked for offload: frames of up to 64 KiB (docs/offload.md).

The guest is on a /connect stream. Its link goes through these states:

::

    state      what the guest's bytes are             what ours are                 becomes
    offered    its first record decides               LE16 frames, after OFFER      agreed by ACCEPT,
                                                                                    plain by anything else
    agreed     frames after a virtio-net header       the same, after START         (stays)
    plain      LE16 frames                            LE16 frames                   (stays)

The owner must check ``vnet_len`` after each read_burst(). If it is not 0, a virtio-net header of that many
bytes lies before each frame. The owner must then also send a header before each frame, after the length of
the link's new framing. The link does not check the content of a header.
"""

import socket

from pipeline.links.base import LinkClosed, SlotPool
from pipeline.links.stream import StreamLink
from pipeline.wire import framing, offload
from pipeline.wire.framing import LE16


class OffloadLink(StreamLink):
    """A stream link in one of the three states above."""

    def __init__(
        self, sock: socket.socket, pool: SlotPool, slots: list[memoryview], head: bytes = b""
    ) -> None:
        super().__init__(sock, LE16, pool, slots, head)
        self._decided = False

    def offer(self) -> None:
        """Send OFFER. Call this once, before anything else is sent. Raises LinkClosed."""
        self.send([offload.build(offload.OFFER, offload.FEATURES)])

    @property
    def decided(self) -> bool:
        """Whether the link is agreed or plain."""
        return self._decided

    def begin_again(self, *, decided: bool, features: int | None) -> None:
        """Carry on a link of another process, in its state. features: None unless it is agreed."""
        self._decided = decided
        if features is not None:
            self._agree(features)

    def _agree(self, features: int) -> None:
        """The link is agreed. features: what the guest may leave to us."""
        self._decided = True
        self._framing = offload.FRAMING
        self.vnet_len = offload.VNET_LEN
        self.features = features
        # The agent's tap takes all of these, whatever its kernel leaves to us.
        self.guest_features = offload.FEATURES

    def _split(self, view: memoryview, begin: int, end: int) -> tuple[list[tuple[int, int]], int]:
        if not self._decided:
            begin = self._decide(view, begin, end)
        return super()._split(view, begin, end)

    def _decide(self, view: memoryview, begin: int, end: int) -> int:
        """Choose the state by the guest's first record, if it is whole. Returns where the frames begin."""
        first, after = framing.split(
            view, begin, min(end, begin + LE16.prefix_len + offload.RECORD_LEN), LE16
        )
        record = offload.parse(view, *first[0]) if len(first) == 1 else None
        if record is not None and record.kind == offload.ACCEPT and record.version == offload.VERSION:
            self._agree(offload.FEATURES & record.features)
            if not self.send([offload.build(offload.START, self.features)]):
                raise LinkClosed("the guest does not read")
            return after
        # It is not ACCEPT if it is complete, or longer than ACCEPT. Else more bytes must come first.
        self._decided = bool(first) or end - begin >= LE16.prefix_len + offload.RECORD_LEN
        return begin
