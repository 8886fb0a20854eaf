"""Generic receive offload (GRO): merges the TCP segments of a burst into few records, as a network card does.

The input is a slot and the places of whole Ethernet frames in it. The output is one record for each run of
consecutive in-order segments of a TCP flow, with verified checksums. Each other frame gets a record of
its own. A run stays where it was received. Every segment keeps its headers in the slot, and the record has
the stride of the payload pieces (pipeline.records.tcp.TcpRange). pipeline.engines.offload.gro_udp merges UDP
datagrams in the same way.

Segments merge only if these are equal: Ethernet header, type of service, DF, TTL, addresses, ports,
acknowledgment number, window, and all bytes of the options. In IPv6 it is traffic class, flow label and hop
limit. pipeline.engines.offload.layouts has what differs between the families. ACK must be the only flag. The
sequence numbers must follow each other, and the frames must lie at an equal stride. Only the last segment may
be shorter or have PSH. Pure ACKs of one flow collapse into the latest one, if it moves the acknowledgment
forward. A duplicate ACK (RFC 5681) and an ACK with SACK blocks (RFC 2018) stay alone, and ACKs do not
collapse across them.

Partial checksums are completed (pipeline.engines.offload.gro_sums). Priority tags (pipeline.wire.ethernet)
are removed, and the frames then merge like others.

All else becomes a FRAME, and demux decides about it: other protocols, IP options, extension headers,
fragments, impossible lengths, packets without a hop left, IPv6 to groups and of link-local addresses. This
module does not track connections, and keeps no state between calls.

A burst of one flow is an array of equal rows. So numpy compares all headers with the first, checks the
sequence numbers and sums all frames in a few operations. The other frames are unpacked one by one.
"""

from struct import Struct
from typing import Final

import numpy as np

from pipeline.engines.offload import checksum as inet
from pipeline.engines.offload import gro_udp
from pipeline.engines.offload.burst import Burst, Item
from pipeline.engines.offload.gro_sums import MAX_ROWS, Sums
from pipeline.engines.offload.headers import (
    DROP_RUNT,
    ETHERNET_LEN,
    IPV6_NEXT_OFF,
    L4_OFF6,
    MAX_STRIDE,
    PROTO_OFF,
    TCP_HEADERS_LEN,
    TCP_HEADERS_LEN6,
    TYPE_OFF,
    UDP_HEADERS_LEN,
    UDP_HEADERS_LEN6,
)
from pipeline.engines.offload.layouts import IPV4, IPV6, Layout
from pipeline.records.flows import FlowKey
from pipeline.records.frames import Frame
from pipeline.records.tcp import TcpRange
from pipeline.wire import ethernet, tcp
from pipeline.wire.ipv4 import PROTO_UDP

_TIMES: Final = Struct("!4xII")
_TIMES_FORM: Final = b"\x01\x01\x08\x0a"
_GROUP: Final = 1
"""The bit of a MAC address's first byte that says that it is a group's."""
_TYPE_IPV6: Final = ethernet.TYPE_IPV6 >> 8
"""The first byte of IPv6's EtherType. No other EtherType that GRO knows begins with it."""

_FLAGS: Final = 0xFFF
"""Flags and reserved bits. A segment with a reserved bit is never merged."""
_PSH: Final = tcp.PSH << 16
"""PSH in ack_word."""
_OFFSET_FLAGS: Final = 0xFFFF0000
"""Data offset and flags in ack_word."""
_MASK: Final = 0xFFFFFFFF
_HALF: Final = 0x80000000

_MIN_BULK_ROWS: Final = 8
"""From this number of equal frames on, numpy compares headers faster than a loop."""

_WORD: Final = inet.WORD
_BIG4: Final = np.dtype(">u4")
_NUMBERS: Final = np.arange(1, MAX_ROWS + 1, dtype="u4")

_ndarray = np.ndarray
_or = np.bitwise_or.reduce


def coalesce(
    view: memoryview,
    frames: list[tuple[int, int]],
    link: int = 0,
    slot: int = 0,
    verify: bool = True,
    vnet: bool = False,
    ipv6: bool = False,
) -> tuple[list[Item], dict[str, int]]:
    """Merge the frames at [(off, len), ...] of the slot ``view``. Offsets rise, and frames do not overlap.

    verify: False if TCP checksums need no check (virtio-net); IPv4's are always verified. vnet: a virtio-net
    header lies before each frame, and the caller has removed the tags (pipeline.engines.offload.vnet). ipv6:
    merge IPv6 packets too; else each is a FRAME.

    Returns (records in order of arrival, {drop counter: number of frames}). Each record holds one reference
    to the slot. Removing a tag changes ``frames``. Completing a checksum changes the slot. Whatever the bytes
    are, nothing is raised.
    """
    burst = Burst(view, frames, link, slot, verify, vnet)
    # Most bursts have one family. An object for the other one would cost each of them.
    segments: _Segments | None = None
    segments6: _Segments | None = None
    untagged = vnet
    index = 0
    count = len(frames)
    while index < count:
        off, length = frames[index]
        if ipv6 and length > L4_OFF6 and view[off + TYPE_OFF] == _TYPE_IPV6:
            if segments6 is None:
                segments6 = _Segments(IPV6, burst)
            taken = 0
            # Packets to groups have a meaning on the link. Demux judges each of them.
            if not view[off] & _GROUP:
                if length >= TCP_HEADERS_LEN6:
                    taken = segments6.add(index)
                if not taken and length >= UDP_HEADERS_LEN6 and view[off + IPV6_NEXT_OFF] == PROTO_UDP:
                    taken = gro_udp.add(IPV6, burst, index)
        else:
            if segments is None:
                segments = _Segments(IPV4, burst)
            taken = segments.add(index) if length >= TCP_HEADERS_LEN else 0
            if not taken and length >= UDP_HEADERS_LEN and view[off + PROTO_OFF] == PROTO_UDP:
                taken = gro_udp.add(IPV4, burst, index)
        if taken:
            index += taken
        elif not untagged and length > ETHERNET_LEN and view[off + TYPE_OFF] in ethernet.TAG_FIRST_BYTES:
            # Untag all later frames at once. Then tagged segments lie like others, and merge.
            untagged = True
            _untag(view, frames, index)
            for found in (segments, segments6):
                if found is not None:
                    found.sums.forget()
        else:
            index += 1
            if length >= ETHERNET_LEN:
                burst.items.append(Frame(link, slot, off, length, vnet))
            else:
                burst.drop(DROP_RUNT)
    superseded = segments.superseded if segments is not None else None
    if segments6 is not None and segments6.superseded is not None:
        superseded = segments6.superseded | (superseded or set())
    if superseded:
        return [item for at, item in enumerate(burst.items) if at not in superseded], burst.drops
    return burst.items, burst.drops


def _untag(view: memoryview, frames: list[tuple[int, int]], first: int) -> None:
    """Remove the priority tags of frames[first:]."""
    for index in range(first, len(frames)):
        off, length = frames[index]
        removed = ethernet.remove_priority_tags(view, off, length)
        if removed:
            frames[index] = off + removed, length - removed


class _Segments:
    """The TCP segments of a burst, of one family.

    The methods pass on the headers of a segment as the layout unpacks them: ``pre``, ``hops``, ``flow``,
    ``ack_word``, ``options`` (see pipeline.engines.offload.layouts).
    """

    __slots__ = ("_acks", "_bulk", "_burst", "_frames", "_layout", "_view", "sums", "superseded")

    def __init__(self, layout: Layout, burst: Burst) -> None:
        self._layout = layout
        self._burst = burst
        self._view = burst.view
        self._frames = burst.frames
        self._bulk = True
        """Whether numpy found enough equal headers the last time."""
        self._acks: dict[bytes, tuple[int, TcpRange, bytes, bytes]] = {}
        """The latest pure ACK of each flow: (index in items, record, pre, hops)."""
        self.sums = Sums(layout, burst.view, burst.frames, burst.verify)
        self.superseded: set[int] | None = None
        """Indices of pure ACKs in items that collapsed into a later one. None if there are none."""

    def add(self, index: int) -> int:
        """Add the run that begins with frames[index], of at least as many bytes as the headers have.

        Returns the number of frames in the run, 0 if this one is not a plain TCP segment.
        """
        view = self._view
        layout = self._layout
        off, length = self._frames[index]
        if off + layout.timed <= len(view):
            pre, total, hops, flow, seq, ack_word, options = layout.tcp_head(view, off)
        else:
            copy = view[off:].tobytes().ljust(layout.timed, b"\0")
            pre, total, hops, flow, seq, ack_word, options = layout.tcp_head(copy, 0)
        header_len = layout.l4_off + (ack_word >> 26 & 0x3C)
        end = total + layout.counted_off
        payload = end - header_len
        if (
            pre[12:15] not in layout.plain
            or hops not in layout.plain_hops
            or header_len < layout.tcp_headers_len
            or payload < 0
            or end > length
        ):
            return 0
        key = layout.key(flow)
        if not key:
            return 0
        burst = self._burst
        sums = self.sums
        # This test gives wrong()'s usual answer without the call.
        if (index >= sums.end or total != sums.total or sums.bad) and (reason := sums.wrong(index, total)):
            burst.drop(reason)
            return 1
        run = self._run(off + header_len, payload, header_len, key, seq, ack_word, options)
        only_ack = ack_word >> 16 & _FLAGS == tcp.ACK
        if only_ack and not payload and not run.has_other_options:
            return self._add_ack(run, index, pre, hops, flow, ack_word)
        if self._acks:
            self._acks.pop(flow, None)
        if only_ack and payload and index + 1 < len(self._frames):
            self._extend(run, index, pre, hops, flow, ack_word, options)
        burst.items.append(run)
        return run.segments if payload else 1

    def _run(
        self, off: int, length: int, header_len: int, key: FlowKey, seq: int, ack_word: int, options: bytes
    ) -> TcpRange:
        """A run of one segment, whose payload is at ``off``."""
        timed = header_len == self._layout.timed and options[:4] == _TIMES_FORM
        if timed:
            ts_val, ts_ecr = _TIMES.unpack(options)
        else:
            ts_val = ts_ecr = 0
        burst = self._burst
        return TcpRange(
            slot=burst.slot,
            off=off,
            length=length,
            stride=0,
            piece_size=length,
            link=burst.link,
            key=key,
            flags=ack_word >> 16 & 0xFF,
            segments=1,
            seq=seq,
            ack=ack_word >> 32,
            window=ack_word & 0xFFFF,
            ts_val=ts_val,
            ts_ecr=ts_ecr,
            header_len=header_len,
            has_timestamps=timed,
            has_other_options=not timed and header_len != self._layout.tcp_headers_len,
            vnet=burst.vnet,
        )

    def _add_ack(self, run: TcpRange, index: int, pre: bytes, hops: bytes, flow: bytes, ack_word: int) -> int:
        """Add the pure ACK of frames[index] and those that collapse with it. Returns their number."""
        items = self._burst.items
        known = self._acks.pop(flow, None) if self._acks else None
        if known is not None:
            at, earlier, known_pre, known_hops = known
            advance = run.ack - earlier.ack & _MASK
            if not advance:
                # A duplicate ACK stays alone.
                items.append(run)
                return 1
            if (
                advance < _HALF
                and run.seq == earlier.seq
                and run.header_len == earlier.header_len
                and pre == known_pre
                and hops == known_hops
            ):
                if self.superseded is None:
                    self.superseded = set()
                self.superseded.add(at)
                run.segments += earlier.segments
        taken = self._collapse(run, index, pre, hops, flow, ack_word) if index + 1 < len(self._frames) else 1
        self._acks[flow] = len(items), run, pre, hops
        items.append(run)
        return taken

    def _collapse(
        self, run: TcpRange, index: int, pre: bytes, hops: bytes, flow: bytes, ack_word: int
    ) -> int:
        """Collapse the pure ACK of frames[index] and those right after it that move the acknowledgment on.

        Returns the number of frames.
        """
        view = self._view
        frames = self._frames
        sums = self.sums
        seq = run.seq
        header_len = run.header_len
        layout = self._layout
        timed = layout.timed
        limit = len(view) - timed
        latest = index
        options = b""
        for later in range(index + 1, len(frames)):
            off, length = frames[later]
            if length < header_len or off > limit:
                break
            next_pre, total, next_hops, next_flow, next_seq, next_ack_word, next_options = layout.tcp_head(
                view, off
            )
            if (
                next_flow != flow
                or next_seq != seq
                or total + layout.counted_off != header_len
                or (next_ack_word ^ ack_word) & _OFFSET_FLAGS
                or not 0 < (next_ack_word >> 32) - (ack_word >> 32) & _MASK < _HALF
                or next_pre != pre
                or next_hops != hops
                or (header_len == timed and next_options[:4] != _TIMES_FORM)
                or ((later >= sums.end or total != sums.total or sums.bad) and sums.wrong(later, total))
            ):
                break
            latest = later
            ack_word = next_ack_word
            options = next_options
        if latest != index:
            run.segments += latest - index
            run.off = frames[latest][0] + header_len
            run.ack = ack_word >> 32
            run.window = ack_word & 0xFFFF
            if header_len == timed:
                run.ts_val, run.ts_ecr = _TIMES.unpack(options)
        return latest - index + 1

    def _extend(
        self,
        run: TcpRange,
        index: int,
        pre: bytes,
        hops: bytes,
        flow: bytes,
        ack_word: int,
        options: bytes,
    ) -> None:
        """Extend the run, which is the data segment of frames[index], by the frames that continue it."""
        view = self._view
        frames = self._frames
        sums = self.sums
        header_len = run.header_len
        size = run.piece_size
        first = run.off - header_len
        layout = self._layout
        counted_off = layout.counted_off
        options_off = layout.tcp_headers_len
        limit = len(view) - layout.timed
        if header_len != layout.timed:
            options = view[first + options_off : first + header_len].tobytes()
        stride = frames[index + 1][0] - first
        number = 1
        missing = 0
        while stride <= MAX_STRIDE:
            rows = sums.end - index - number
            if rows >= _MIN_BULK_ROWS and self._bulk and sums.are_right(stride):
                number += self._equal_rows(run, number, rows)
            at = index + number
            off = first + number * stride
            if at == len(frames):
                break
            next_off, next_length = frames[at]
            if next_off != off or next_length < header_len or off > limit:
                break
            next_pre, total, next_hops, next_flow, next_seq, next_ack_word, next_options = layout.tcp_head(
                view, off
            )
            if next_seq != run.seq + number * size & _MASK or next_flow != flow:
                break
            if next_pre != pre or next_hops != hops:
                break
            if next_ack_word != ack_word and next_ack_word != ack_word | _PSH:
                break
            payload = total + counted_off - header_len
            if not 0 < payload <= size or total + counted_off > next_length:
                break
            if header_len != layout.timed:
                next_options = view[off + options_off : off + header_len].tobytes()
            if next_options != options or (
                (at >= sums.end or total != sums.total or sums.bad) and sums.wrong(at, total)
            ):
                break
            number += 1
            if payload < size or next_ack_word != ack_word:
                missing = size - payload
                run.flags = next_ack_word >> 16 & 0xFF
                break
        if number > 1:
            run.segments = number
            run.length = number * size - missing
            run.stride = stride

    def _equal_rows(self, run: TcpRange, number: int, count: int) -> int:
        """How many of the next count frames continue a run of ``number`` segments."""
        view = self._view
        stride = self.sums.stride
        size = run.piece_size
        words = run.header_len >> 1
        first = run.off - run.header_len
        off = first + number * stride
        table = _ndarray((count, words), _WORD, view, off, (stride, 2))
        different = (table ^ _ndarray((words,), _WORD, view, first)) & self._layout.tcp_equal[:words]
        wanted = _NUMBERS[:count] * size
        wanted += run.seq + (number - 1) * size & _MASK
        wanted ^= _ndarray((count,), _BIG4, view, off + self._layout.seq_off, (stride,))
        wanted |= _or(different, 1)
        wrong = wanted.nonzero()[0]
        rows = int(wrong[0]) if len(wrong) else count
        self._bulk = rows >= _MIN_BULK_ROWS // 2
        return rows
