"""Reassembly of fragments of both families (RFC 791, RFC 8200 section 4.5), robust against hostile senders.

The reassembler copies fragments out of their slots and returns one whole packet. pipeline.wire.fragment knows
what differs by family. If two fragments overlap, the reassembler drops their packet and all its later
fragments (RFC 8200; RFC 5722): an honest sender does not make overlapping fragments. It ignores an exact
repetition, because networks duplicate packets. A fragment that is a whole packet waits for nobody, even if
other fragments have the same identification (RFC 6946 section 4).

::

    state      means                                       becomes
    partial    some fragments have arrived                 whole, condemned, or timed out
    condemned  only the key is kept                        timed out
    (whole and timed out are not kept)

The timer starts with the first fragment and is not renewed (RFC 1122 section 3.3.2). When a source reaches
its bound, its oldest datagram is dropped. When all sources together reach a bound, the source with most loses
its oldest datagram. So sources that fill the memory leave a share to the next one.
"""

from collections import OrderedDict
from typing import Final, NamedTuple

from pipeline.wire import fragment
from pipeline.wire.errors import WireError

MAX_DATAGRAMS: Final = 256
MAX_DATAGRAMS_PER_SOURCE: Final = 64
MAX_BYTES: Final = 8 * 1024 * 1024
MAX_BYTES_PER_SOURCE: Final = 1024 * 1024
MAX_FRAGMENTS: Final = 128
"""The most fragments of one datagram: enough for 64 KiB at the smallest MTU of IPv4 hosts (576).

No fragment but an empty one is too small: RFC 8200 names no least size.
"""

FRAGMENT_OVERHEAD: Final = 128
"""Bytes that the bounds count for each fragment in addition to its payload, or those of a longer head."""

Key = tuple[int, int, int, int, int]


class Expired(NamedTuple):
    """A datagram that timed out. packet: its first fragment, or b"" if that has not arrived.

    reason: the name of the counter.
    """

    packet: bytes
    source: int
    reason: str


class _Datagram:
    __slots__ = (
        "cost", "deadline", "family", "head", "next_header_at", "pieces", "received", "size", "source"
    )  # fmt: skip

    def __init__(self, family: fragment.Family, source: int, now: float) -> None:
        self.family = family
        self.source = source
        self.deadline = now + family.lifetime
        self.head = b""
        """What lies before the payload of the first fragment."""
        self.next_header_at = 0
        self.pieces: dict[int, bytes] | None = {}
        """Payload by offset; None once condemned."""
        self.received = 0
        self.size = -1
        """Payload bytes of the whole datagram; -1 until the last fragment has arrived."""
        self.cost = 0

    def overlaps(self, frag_off: int, length: int, last: bool) -> bool:
        """Whether a piece contradicts others: two share bytes, or one lies after the last."""
        end = frag_off + length
        pieces = self.pieces or {}
        if 0 <= self.size < end:
            return True
        if last:
            return any(start + len(piece) > frag_off for start, piece in pieces.items())
        return any(start < end and start + len(piece) > frag_off for start, piece in pieces.items())

    def add(self, pieces: dict[int, bytes], frag_off: int, piece: bytes, last: bool) -> None:
        """Keep a piece. pieces: self.pieces, which is not None."""
        pieces[frag_off] = piece
        self.received += len(piece)
        if last:
            self.size = frag_off + len(piece)

    def begin(self, head: bytes, next_header_at: int) -> None:
        """The first fragment has arrived, with this head."""
        self.head = head
        self.next_header_at = next_header_at

    def charge(self, cost: int) -> None:
        """Count cost more bytes for the datagram."""
        self.cost += cost

    def condemn(self) -> None:
        """Keep nothing of the datagram, and accept no further fragment of it."""
        self.pieces = None
        self.head = b""

    def whole(self) -> bytes:
        """The whole packet, after all fragments have arrived. Raises WireError when it is too long."""
        pieces = self.pieces or {}
        payload = b"".join(pieces[start] for start in sorted(pieces))
        return fragment.join(self.head, self.next_header_at, payload)


class Reassembler:
    """All partial datagrams of the virtual network. Bounds hold for all, and for each source (a guest)."""

    def __init__(
        self,
        max_datagrams: int = MAX_DATAGRAMS,
        max_datagrams_per_source: int = MAX_DATAGRAMS_PER_SOURCE,
        max_bytes: int = MAX_BYTES,
        max_bytes_per_source: int = MAX_BYTES_PER_SOURCE,
        max_fragments: int = MAX_FRAGMENTS,
    ) -> None:
        self._max_datagrams = max_datagrams
        self._max_per_source = max_datagrams_per_source
        self._max_bytes = max_bytes
        self._max_bytes_per_source = max_bytes_per_source
        self._max_fragments = max_fragments
        self._datagrams: dict[Key, _Datagram] = {}
        # By their time to live, and then oldest first.
        self._by_lifetime: dict[float, OrderedDict[Key, _Datagram]] = {}
        self._by_source: dict[int, OrderedDict[Key, _Datagram]] = {}
        self._cost_of: dict[int, int] = {}
        self._cost = 0
        self.evicted = {family.full: 0 for family in fragment.FAMILIES}
        """Datagrams dropped because of a bound, by the name of their counter."""

    def set_bounds(
        self, *, max_datagrams: int, max_datagrams_per_source: int, max_bytes: int, max_bytes_per_source: int
    ) -> None:
        """Change the bounds. What exceeds lower ones goes when the next fragment comes."""
        self._max_datagrams = max_datagrams
        self._max_per_source = max_datagrams_per_source
        self._max_bytes = max_bytes
        self._max_bytes_per_source = max_bytes_per_source

    def on_fragment(
        self, view: memoryview | bytes, off: int, piece: fragment.Piece, source: int, now: float
    ) -> bytes | None:
        """Add the fragment whose header is at view[off:].

        Returns the whole packet when this was the last fragment missing, else None. The packet has the
        head of the first fragment without the fragment fields. Raises WireError when the fragment is
        dropped, and perhaps its datagram with it.
        """
        if not piece.frag_off and not piece.more:
            return fragment.join(
                bytes(view[off : piece.begin]), piece.next_header_at, bytes(view[piece.begin : piece.end])
            )
        key = (source, piece.src, piece.dst, piece.proto, piece.ident)
        datagram = self._datagrams.get(key)
        if datagram is None:
            datagram = self._start(key, piece.family, source, now)
        if not self._add(datagram, view, off, piece):
            self._make_room(source)
            return None
        self._remove(key, datagram)
        return datagram.whole()

    def _add(self, datagram: _Datagram, view: memoryview | bytes, off: int, piece: fragment.Piece) -> bool:
        """Keep the fragment. Returns whether all have arrived now. Raises WireError."""
        family, frag_off, begin = piece.family, piece.frag_off, piece.begin
        pieces = datagram.pieces
        if pieces is None:
            raise WireError(family.overlap)
        payload = bytes(view[begin : piece.end])
        if pieces.get(frag_off) == payload:
            raise WireError(family.duplicate)
        if len(pieces) >= self._max_fragments:
            self._condemn(datagram)
            raise WireError(family.too_many)
        if datagram.overlaps(frag_off, len(payload), not piece.more):
            self._condemn(datagram)
            raise WireError(family.overlap)
        overhead = FRAGMENT_OVERHEAD
        if not frag_off:
            datagram.begin(bytes(view[off:begin]), piece.next_header_at)
            overhead = max(overhead, begin - off)
        datagram.add(pieces, frag_off, payload, not piece.more)
        self._charge(datagram, len(payload) + overhead)
        return datagram.received == datagram.size

    def expire(self, now: float) -> list[Expired]:
        """Drop datagrams that are too old. About one with a first fragment, send time exceeded.

        RFC 792; RFC 4443 section 3.3.
        """
        expired = []
        for waiting in self._by_lifetime.values():
            while waiting:
                key, datagram = next(iter(waiting.items()))
                if datagram.deadline > now:
                    break
                self._remove(key, datagram)
                first = datagram.pieces.get(0, b"") if datagram.pieces else b""
                packet = datagram.head + first if first else b""
                expired.append(Expired(packet, datagram.source, datagram.family.timeout))
        return expired

    def deadline(self) -> float:
        """When the next datagram times out; inf when there is none."""
        found = float("inf")
        for waiting in self._by_lifetime.values():
            if waiting:
                found = min(found, next(iter(waiting.values())).deadline)
        return found

    def forget(self, source: int) -> None:
        """The source is gone: drop its partial datagrams."""
        for key, datagram in list(self._by_source.get(source, {}).items()):
            self._remove(key, datagram)

    def __len__(self) -> int:
        return len(self._datagrams)

    @property
    def held_bytes(self) -> int:
        """Bytes that the bounds count: the payload kept, and the overhead of each fragment."""
        return self._cost

    # --- bounds -------------------------------------------------------------------------

    def _start(self, key: Key, family: fragment.Family, source: int, now: float) -> _Datagram:
        of_source = self._by_source.get(source)
        if of_source and len(of_source) >= self._max_per_source:
            self._evict(of_source)
        elif len(self._datagrams) >= self._max_datagrams:
            largest = max(self._by_source.values(), key=len)
            self._evict(of_source if of_source and len(of_source) >= len(largest) else largest)
        datagram = _Datagram(family, source, now)
        self._datagrams[key] = datagram
        self._by_lifetime.setdefault(family.lifetime, OrderedDict())[key] = datagram
        self._by_source.setdefault(source, OrderedDict())[key] = datagram
        return datagram

    def _make_room(self, source: int) -> None:
        """Drop the oldest datagrams of the source or of the largest one, until the bounds hold.

        One of them may be the datagram that just grew.
        """
        while self._cost_of.get(source, 0) > self._max_bytes_per_source:
            self._evict(self._by_source[source])
        while self._cost > self._max_bytes:
            self._evict(self._by_source[max(self._cost_of, key=self._cost_of.__getitem__)])

    def _evict(self, of: OrderedDict[Key, _Datagram]) -> None:
        key, datagram = next(iter(of.items()))
        self._remove(key, datagram)
        self.evicted[datagram.family.full] += 1

    def _charge(self, datagram: _Datagram, cost: int) -> None:
        datagram.charge(cost)
        self._cost += cost
        self._cost_of[datagram.source] = self._cost_of.get(datagram.source, 0) + cost

    def _condemn(self, datagram: _Datagram) -> None:
        datagram.condemn()
        self._charge(datagram, -datagram.cost)

    def _remove(self, key: Key, datagram: _Datagram) -> None:
        del self._datagrams[key]
        del self._by_lifetime[datagram.family.lifetime][key]
        of_source = self._by_source[datagram.source]
        del of_source[key]
        self._charge(datagram, -datagram.cost)
        if not of_source:
            del self._by_source[datagram.source]
            self._cost_of.pop(datagram.source, None)
