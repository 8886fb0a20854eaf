"""Limits how much a flow reads from its host socket before the guest has acknowledged it.

The bytes that a flow reads stay in slots until the guest has acknowledged them. So a flow reads no more than
the guest's receive window, and holds a limited number of references to slots. For a guest that does not
read, a flow keeps only FLOOR bytes. They share a slot with bytes of other flows. The tcp worker probes the
closed window with them.
"""

from collections import deque
from typing import Final

FLOOR: Final = 4096
"""Bytes that may always be in flight. Without them tcp could not probe a closed window."""
UNKNOWN: Final = 64 * 1024
"""The window that is assumed until tcp reports the guest's window."""


class ReadCredit:
    """The bytes of one flow that the guest has not acknowledged, and their references, oldest first."""

    def __init__(self) -> None:
        self._lengths: deque[int] = deque()
        self.out_bytes = 0
        self.window = UNKNOWN

    def room(self, chunk: int, max_refs: int) -> int:
        """Bytes that the flow may read now, at most chunk. 0: the guest must acknowledge first.

        A flow does not read less than a quarter of chunk, unless nothing is out. RFC 9293 section 3.8.6.2 has
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
        """The number of references that are out."""
        return len(self._lengths)

    def on_window(self, window: int) -> None:
        """The guest's receive window is now about ``window`` bytes."""
        self.window = window

    def sent(self, length: int) -> None:
        """length bytes are on their way to the guest, under one reference."""
        self._lengths.append(length)
        self.out_bytes += length

    def returned(self) -> None:
        """The oldest reference is back: the guest has acknowledged its bytes."""
        self.out_bytes -= self._lengths.popleft()
