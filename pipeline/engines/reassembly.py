"""Reassembly of IPv4 fragments (RFC 791), robust against hostile senders.

The reassembler copies fragments out of their slots and returns one whole packet. If two fragments overlap, it
drops their datagram and all its later fragments, as RFC 5722 requires for IPv6: an honest sender does not
make overlapping fragments. It ignores an exact repetition, because networks duplicate packets.

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

from pipeline.wire import ipv4
from pipeline.wire.errors import WireError

REASSEMBLY_TIMEOUT: Final = 30.0
MAX_DATAGRAMS: Final = 256
MAX_DATAGRAMS_PER_SOURCE: Final = 64
MAX_BYTES: Final = 8 * 1024 * 1024
MAX_BYTES_PER_SOURCE: Final = 1024 * 1024
MAX_FRAGMENTS: Final = 128
"""The most fragments of one datagram: enough for 64 KiB at the smallest MTU of IPv4 hosts (576)."""

FRAGMENT_OVERHEAD: Final = 128
"""Bytes that the bounds count for each fragment in addition to its payload."""

Key = tuple[int, int, int, int, int]


class Expired(NamedTuple):
    """A datagram that timed out. packet: its first fragment, or b"" if that has not arrived."""

    packet: bytes
    source: int


class _Datagram:
    __slots__ = ("cost", "deadline", "header", "pieces", "received", "size", "source")

    def __init__(self, source: int, deadline: float) -> None:
        self.source = source
        self.deadline = deadline
        self.header = b""
        """The IPv4 header of the first fragment, options included."""
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

    def begin(self, header: bytes) -> None:
        """The first fragment has arrived, with this header."""
        self.header = header

    def charge(self, cost: int) -> None:
        """Count cost more bytes for the datagram."""
        self.cost += cost

    def condemn(self) -> None:
        """Keep nothing of the datagram, and accept no further fragment of it."""
        self.pieces = None
        self.header = b""

    def whole(self) -> bytes:
        """The whole packet, after all fragments have arrived. Raises WireError when it is too long."""
        pieces = self.pieces or {}
        payload = b"".join(pieces[start] for start in sorted(pieces))
        head = bytearray(self.header)
        if len(head) + len(payload) > ipv4.MAX_TOTAL_LEN:
            # This happens only when the first fragment had more options than the last.
            raise WireError("ipv4_fragment_dropped_too_long")
        head[2:4] = (len(head) + len(payload)).to_bytes(2, "big")
        head[6:8] = b"\0\0"
        head[10:12] = b"\0\0"
        head[10:12] = (0xFFFF - int.from_bytes(head, "big") % 0xFFFF).to_bytes(2, "big")
        return bytes(head) + payload


class Reassembler:
    """All partial datagrams of the virtual network. Bounds hold for all, and for each source (a guest)."""

    def __init__(
        self,
        timeout: float = REASSEMBLY_TIMEOUT,
        max_datagrams: int = MAX_DATAGRAMS,
        max_datagrams_per_source: int = MAX_DATAGRAMS_PER_SOURCE,
        max_bytes: int = MAX_BYTES,
        max_bytes_per_source: int = MAX_BYTES_PER_SOURCE,
        max_fragments: int = MAX_FRAGMENTS,
    ) -> None:
        self._timeout = timeout
        self._max_datagrams = max_datagrams
        self._max_per_source = max_datagrams_per_source
        self._max_bytes = max_bytes
        self._max_bytes_per_source = max_bytes_per_source
        self._max_fragments = max_fragments
        # Oldest first: every datagram has the same time to live.
        self._datagrams: OrderedDict[Key, _Datagram] = OrderedDict()
        self._by_source: dict[int, OrderedDict[Key, _Datagram]] = {}
        self._cost_of: dict[int, int] = {}
        self._cost = 0
        self.evicted = 0
        """Datagrams dropped because of a bound (counter ``ipv4_datagram_dropped_reassembly_full``)."""

    def set_bounds(
        self, *, max_datagrams: int, max_datagrams_per_source: int, max_bytes: int, max_bytes_per_source: int
    ) -> None:
        """Change the bounds. What exceeds lower ones goes when the next fragment comes."""
        self._max_datagrams = max_datagrams
        self._max_per_source = max_datagrams_per_source
        self._max_bytes = max_bytes
        self._max_bytes_per_source = max_bytes_per_source

    def on_fragment(
        self, view: memoryview | bytes, off: int, header: ipv4.Header, source: int, now: float
    ) -> bytes | None:
        """Add the fragment whose parsed header is at view[off:].

        Returns the whole packet when this was the last fragment missing, else None. The packet has the
        header of the first fragment without the fragment fields. Raises WireError when the fragment is
        dropped, and perhaps its datagram with it.
        """
        begin = off + header.ihl
        length = header.total_len - header.ihl
        more = header.flags & ipv4.FLAG_MF
        frag_off = header.frag_off
        if length == 0 or (more and length % 8):
            raise WireError("ipv4_fragment_dropped_bad_length")
        if header.ihl + frag_off + length > ipv4.MAX_TOTAL_LEN:
            raise WireError("ipv4_fragment_dropped_too_long")
        key = (source, header.src, header.dst, header.proto, header.ident)
        datagram = self._datagrams.get(key)
        if datagram is None:
            datagram = self._start(key, source, now)
        pieces = datagram.pieces
        if pieces is None:
            raise WireError("ipv4_fragment_dropped_overlap")
        if frag_off in pieces and pieces[frag_off] == view[begin : begin + length]:
            raise WireError("ipv4_fragment_dropped_duplicate")
        if len(pieces) >= self._max_fragments:
            self._condemn(datagram)
            raise WireError("ipv4_fragment_dropped_too_many")
        if datagram.overlaps(frag_off, length, not more):
            self._condemn(datagram)
            raise WireError("ipv4_fragment_dropped_overlap")
        if frag_off == 0:
            datagram.begin(bytes(view[off:begin]))
        datagram.add(pieces, frag_off, bytes(view[begin : begin + length]), not more)
        self._charge(datagram, length + FRAGMENT_OVERHEAD)
        if datagram.received == datagram.size:
            self._remove(key, datagram)
            return datagram.whole()
        self._make_room(source)
        return None

    def expire(self, now: float) -> list[Expired]:
        """Drop datagrams that are too old. About one with a first fragment, send time exceeded (RFC 792)."""
        expired = []
        while self._datagrams:
            key, datagram = next(iter(self._datagrams.items()))
            if datagram.deadline > now:
                break
            self._remove(key, datagram)
            first = datagram.pieces.get(0, b"") if datagram.pieces else b""
            packet = datagram.header + first if first else b""
            expired.append(Expired(packet, datagram.source))
        return expired

    def deadline(self) -> float:
        """When the next datagram times out; inf when there is none."""
        if not self._datagrams:
            return float("inf")
        return next(iter(self._datagrams.values())).deadline

    def forget(self, source: int) -> None:
        """The source is gone: drop its partial datagrams."""
        for key, datagram in list(self._by_source.get(source, {}).items()):
            self._remove(key, datagram)

    def __len__(self) -> int:
        return len(self._datagrams)

    @property
    def held_bytes(self) -> int:
        """Bytes that the bounds count: the payload kept, and FRAGMENT_OVERHEAD for each fragment."""
        return self._cost

    # --- bounds -------------------------------------------------------------------------

    def _start(self, key: Key, source: int, now: float) -> _Datagram:
        of_source = self._by_source.get(source)
        if of_source and len(of_source) >= self._max_per_source:
            self._evict(of_source)
        elif len(self._datagrams) >= self._max_datagrams:
            largest = max(self._by_source.values(), key=len)
            self._evict(of_source if of_source and len(of_source) >= len(largest) else largest)
        datagram = _Datagram(source, now + self._timeout)
        self._datagrams[key] = datagram
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
        self.evicted += 1

    def _charge(self, datagram: _Datagram, cost: int) -> None:
        datagram.charge(cost)
        self._cost += cost
        self._cost_of[datagram.source] = self._cost_of.get(datagram.source, 0) + cost

    def _condemn(self, datagram: _Datagram) -> None:
        datagram.condemn()
        self._charge(datagram, -datagram.cost)

    def _remove(self, key: Key, datagram: _Datagram) -> None:
        del self._datagrams[key]
        of_source = self._by_source[datagram.source]
        del of_source[key]
        self._charge(datagram, -datagram.cost)
        if not of_source:
            del self._by_source[datagram.source]
            self._cost_of.pop(datagram.source, None)
