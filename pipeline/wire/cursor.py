"""A reader of bytes that cannot leave its bounds, for lists of options (DHCP).

Use it for rare messages only. One Struct reads a fixed header faster.
"""

from pipeline.wire.errors import WireError


class Cursor:
    """Reads view[off:end] from front to back. Raises WireError(reason) when there are too few bytes."""

    __slots__ = ("_end", "_off", "_reason", "_view")

    def __init__(self, view: memoryview | bytes, off: int, end: int, reason: str) -> None:
        if not 0 <= off <= end <= len(view):
            raise WireError(reason)
        self._view = view
        self._off = off
        self._end = end
        self._reason = reason

    @property
    def off(self) -> int:
        """The offset of the next byte."""
        return self._off

    @property
    def remaining(self) -> int:
        """Bytes not read yet."""
        return self._end - self._off

    def u8(self) -> int:
        """The next byte."""
        return self.take(1)[0]

    def take(self, count: int) -> bytes:
        """A copy of the next count bytes."""
        off = self._off
        after = off + count
        if count < 0 or after > self._end:
            raise WireError(self._reason)
        self._off = after
        return bytes(self._view[off:after])

    def skip(self, count: int) -> None:
        """Skip count bytes."""
        if not 0 <= count <= self._end - self._off:
            raise WireError(self._reason)
        self._off += count
