"""A run: bytes of one flow that lie in one slot, in equal pieces with gaps between them.

GRO leaves segments where they were received, so the headers of each segment still lie before its payload.
A run describes such bytes on the whole way from GRO to the host socket::

    off                     off + stride            off + 2 * stride
     |                       |                       |
     v                       v                       v
     |<--- piece_size --->|  |<--- piece_size --->|  |<- the last ->|
     [ skip |  bytes      ]..[       bytes        ]..[    bytes     ]    ".." are headers

Byte i of a run lies, for 0 <= i < length, in its slot at

    off + (skip + i) // piece_size * stride + (skip + i) % piece_size

``skip`` counts bytes at the front that no longer belong to the run: the guest sent them twice, or the host
socket has taken them. Only the last piece may be shorter. If the run is one piece, piece_size is at least
skip + length, and stride does not matter. A run without bytes has length 0.
"""


class Run:
    """Bytes in a slot, and the reference to that slot. The owner may change it (see drop_front)."""

    def __init__(self, slot: int, off: int, length: int, stride: int, piece_size: int, skip: int = 0) -> None:
        self.slot = slot
        self.off = off
        """Where the first piece begins."""
        self.length = length
        """Bytes in all pieces, without the skipped ones."""
        self.stride = stride
        """Bytes from the start of one piece to the start of the next."""
        self.piece_size = piece_size
        self.skip = skip

    def piece_count(self) -> int:
        """Number of pieces with bytes of the run; 1 for a run without bytes."""
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
        """The pieces themselves. slot: the memory of the slot with number ``self.slot``."""
        size = self.piece_size
        left = self.length
        begin = self.off + self.skip
        if self.skip + left <= size or not size:
            return [slot[begin : begin + left]]
        # The same as in piece_bounds(), without a tuple for each piece: a run of 64 KiB has 45 pieces.
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
        """Remove count bytes from the front. count is at most length."""
        self.skip += count
        self.length -= count
