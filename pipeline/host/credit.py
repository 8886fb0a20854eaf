"""How much more may be read from a host socket before the guest has taken what was read already.

A flow's read bytes stay in slots until the guest has acknowledged them. So a flow reads no
more than the guest's window takes (``window``, told by whoever knows it), and never more than a number of
references. A guest that does not read thus pins next to nothing: FLOOR bytes, which share a slot
with those of other flows and are what its closed window is probed with.
"""

from collections import deque
from typing import Final

FLOOR: Final = 4096
"""Bytes that may always be out: without any there would be nothing to probe a closed window with."""
UNKNOWN: Final = 64 * 1024
"""Window that is assumed until the guest has shown one."""


class ReadCredit:
    """Bytes and references of one flow that are out, oldest first."""

    __slots__ = ("_lengths", "out_bytes", "window")

    def __init__(self) -> None:
        self._lengths: deque[int] = deque()
        self.out_bytes = 0
        self.window = UNKNOWN

    def room(self, chunk: int, max_refs: int) -> int:
        """Bytes that may be read now, at most chunk; 0 while the guest is to acknowledge first.

        A rest of the window smaller than a quarter of chunk is not worth a read (as RFC 9293 section
        3.8.6.2 has it for segments), unless nothing is out.
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

    def took(self, length: int) -> None:
        """length bytes were read, under one reference."""
        self._lengths.append(length)
        self.out_bytes += length

    def came_home(self) -> None:
        """The oldest reference is home: the guest has acknowledged its bytes."""
        self.out_bytes -= self._lengths.popleft()
