"""How much more a flow may read from its host socket before the guest acknowledges what was read.

The bytes that a flow reads stay in slots until the guest has acknowledged them. So a flow reads no more than
the guest's window takes, and holds no more than a number of references. A guest that does not read
therefore pins almost nothing: FLOOR bytes. They share a slot with those of other flows, and tcp probes
the closed window with them.
"""

from collections import deque
from typing import Final

FLOOR: Final = 4096
"""Bytes that may always be out. Without any, tcp would have nothing to probe a closed window with."""
UNKNOWN: Final = 64 * 1024
"""The window to assume until tcp reports the guest's."""


class ReadCredit:
    """Bytes and references of one flow that are out, oldest first."""

    def __init__(self) -> None:
        self._lengths: deque[int] = deque()
        self.out_bytes = 0
        self.window = UNKNOWN

    def room(self, chunk: int, max_refs: int) -> int:
        """Bytes that the flow may read now, at most chunk; 0 while the guest has to acknowledge first.

        Less than a quarter of chunk is not worth a read, unless nothing is out. RFC 9293 section 3.8.6.2 has
        the same rule for segments.
        """
        if len(self._lengths) >= max_refs:
            return 0
        left = max(self.window, FLOOR) - self.out_bytes
        if left >= chunk:
            return chunk
        if left <= 0 or (self.out_bytes and left * 4 < min(chunk, self.window)):
            return 0
        return left

    @property
    def out_refs(self) -> int:
        """References that are out."""
        return len(self._lengths)

    def on_window(self, window: int) -> None:
        """The guest takes about window bytes beyond what it has acknowledged."""
        self.window = window

    def sent(self, length: int) -> None:
        """length bytes are on their way to the guest, under one reference."""
        self._lengths.append(length)
        self.out_bytes += length

    def returned(self) -> None:
        """The oldest reference is back: the guest has acknowledged its bytes."""
        self.out_bytes -= self._lengths.popleft()
