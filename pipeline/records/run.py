"""A run: bytes of one flow that lie in one slot, in equal pieces with gaps between them.

GRO leaves segments where they were received, so each piece of payload still has its own headers before
it. This one shape describes bytes on the whole way from GRO to the host socket::

    off                     off + stride            off + 2 * stride
     |                       |                       |
     v                       v                       v
     |<--- piece_size --->|  |<--- piece_size --->|  |<- the rest ->|
     [ skip |  bytes      ]..[       bytes        ]..[    bytes     ]    ".." are headers

Byte i of a run lies, for 0 <= i < length, in its slot at

    off + (skip + i) // piece_size * stride + (skip + i) % piece_size

``skip`` counts bytes at the front that do not belong to the run any more: the guest sent them twice, or the
host socket has taken them. Only the last piece may be shorter. A run in one piece has piece_size >=
skip + length, and any stride. A run without bytes has length 0.
"""


class Run:
    """Bytes in a slot, and the reference to that slot. Its owner may change it (see drop_front)."""

    def __init__(self, slot: int, off: int, length: int, stride: int, piece_size: int, skip: int = 0) -> None:
        self.slot = slot
        self.off = off
        """Where the first piece begins."""
        self.length = length
        """Bytes in all pieces, without what is skipped."""
        self.stride = stride
        """From the begin of one piece to the begin of the next."""
        self.piece_size = piece_size
        self.skip = skip

    def piece_count(self) -> int:
        """How many pieces have bytes of the run; 1 for a run without bytes."""
        size = self.piece_size
        return (self.skip % size + self.length + size - 1) // size or 1 if size else 1

    def piece_bounds(self) -> list[tuple[int, int]]:
        """(begin, end) in the slot of each piece, in order. One empty piece for a run without bytes."""
        size = self.piece_size
        left = self.length
        skipped = self.skip % size if size else 0
        begin = self.off + skipped
        if size:
            begin += self.skip // size * self.stride
        if skipped + left <= size or not size:
            return [(begin, begin + left)]
        first = size - skipped
        bounds = [(begin, begin + first)]
        begin += self.stride - skipped
        left -= first
        while left > size:
            bounds.append((begin, begin + size))
            begin += self.stride
            left -= size
        bounds.append((begin, begin + left))
        return bounds

    def views(self, slot: memoryview) -> list[memoryview]:
        """The pieces themselves, of the slot that ``self.slot`` numbers."""
        size = self.piece_size
        left = self.length
        begin = self.off + self.skip
        if self.skip + left <= size or not size:
            return [slot[begin : begin + left]]
        # As piece_bounds() does it, without a tuple for each piece: a run of 64 KiB has 45 of them.
        skipped = self.skip % size
        begin = self.off + self.skip // size * self.stride
        if skipped + left <= size:
            begin += skipped
            return [slot[begin : begin + left]]
        parts = [slot[begin + skipped : begin + size]]
        begin += self.stride
        left -= size - skipped
        while left > size:
            parts.append(slot[begin : begin + size])
            begin += self.stride
            left -= size
        parts.append(slot[begin : begin + left])
        return parts

    def drop_front(self, count: int) -> None:
        """Take count bytes off the front; not more than length."""
        self.skip += count
        self.length -= count
