"""Receive offload: the frames of one slot become as few records as they can (the program's "NIC").

In: one slot and where whole Ethernet frames lie in it. Out: one item for each run of
consecutive in-order segments of one TCP/IPv4 flow (checksums verified), one for each other
frame. A run stays where it was received: every segment keeps its headers in the slot, and
the item says how the payload pieces are strided (pipeline.shm.descriptor, TCP_RANGE). Datagrams of
one flow that follow each other are the same for UDP: pipeline.engines.gro_udp.

Segments merge only if all that matters is equal: Ethernet header, type of service, DF, TTL,
addresses, ports, acknowledgment, window, options byte for byte, ACK as the only flag; if the
sequence numbers follow each other; and if they lie at an equal stride. Only the last may be
shorter or carry PSH. Pure ACKs of one flow collapse into the latest when that one moves the
acknowledgment forward; a duplicate ACK (RFC 5681) and an ACK with SACK blocks (RFC 2018) stay
by themselves and nothing collapses across them.

A sender may have left the checksum to a network card whose header did not come along (libkrun strips it). The
field then holds the pseudo-header's sum. Such a frame is right. Its checksum is put in place, so that
whoever sees the frame later sees a whole one. That costs a comparison, and only where a sum is wrong.
Priority tags (pipeline.wire.ethernet) are removed, and the frames then merge like any others.

What is not plain TCP/IPv4 (other protocols, IP options, fragments, impossible lengths, no hop left) leaves
as a frame and is judged by demux. Nothing here knows connections, and no state outlives a call.

How it is fast: a burst of one flow is an array of equal rows, so numpy compares all headers
with the first, checks the sequence numbers and sums all frames in a few operations; whatever
is left is walked with one Struct a frame.
"""

from struct import Struct
from typing import Final

import numpy as np
from numpy.typing import NDArray

from pipeline.engines.offload import checksum as inet
from pipeline.engines.offload import gro_udp
from pipeline.wire import ethernet, tcp

FRAME: Final = 1
TCP_RANGE: Final = 2
"""Kinds of item; the numbers are those of pipeline.shm.descriptor (a test holds them together)."""

RUN_HAS_TIMESTAMPS: Final = 0x100
RUN_OTHER_OPTIONS: Final = 0x200
"""Bits of aux, beside the length of the headers in its low 8 bits: see pipeline.shm.descriptor."""

Item = tuple[int, ...]
"""The 19 fields of a descriptor in their order, ready for its Struct's pack()."""

DROP_RUNT: Final = "link_frame_dropped_runt"
DROP_IPV4_CHECKSUM: Final = "ipv4_packet_dropped_bad_checksum"
DROP_TCP_CHECKSUM: Final = "tcp_segment_dropped_bad_checksum"

ETHERNET_LEN: Final = 14
_TCP_OFF: Final = ETHERNET_LEN + 20
_PLAIN: Final = _TCP_OFF + tcp.HEADER_LEN
"""Bytes of the three headers without options; with the timestamps option in its usual form:"""
_TIMED: Final = _PLAIN + 12

# Ethernet header, version and TOS | total length | (ident) | fragment, TTL, protocol | (checksum) |
# addresses and ports | sequence number | ack, offset, flags, window | (checksum, urgent) | 12 of options
_HEAD: Final = Struct("!16sHxx4sxx12sIQ4x12s")
_HEAD_LEN: Final = _HEAD.size
_FLOW: Final = Struct("!III")
_TIMES: Final = Struct("!4xII")

_IPV4: Final = b"\x08\x00\x45"
"""EtherType IPv4, version 4, header length 20: bytes 12 to 14 of a frame."""
_CHECK_OFF: Final = 20 + tcp.CHECKSUM_OFFSET
"""Of the TCP checksum from the start of a packet without IP options."""
_VERSION_TOTAL: Final = 0xFF00FFFF
_FRAGMENT_PROTO: Final = 0xBFFF00FF
"""Of the first four bytes of a packet all but the type of service; of bytes 6 to 9 all but DF and the TTL."""
_TIMES_FORM: Final = b"\x01\x01\x08\x0a"
MIN_TTL: Final = 2
"""A packet with less has no hop left behind the gateway."""
_PLAIN_FTP: Final = frozenset(bytes((df, 0, ttl, 6)) for df in (0, 0x40) for ttl in range(MIN_TTL, 256))
"""Fragment field, TTL, protocol of a segment for this way: TCP, no fragment, DF or not, a hop left. To look
into a set costs no more than to mask and compare one of them."""
_FLAGS: Final = 0xFFF
"""With the reserved bits: a segment that has one of these set is never merged."""
_PSH: Final = tcp.PSH << 16
_OFFSET_FLAGS: Final = 0xFFFF0000
"""Of the 8 bytes from the acknowledgment on ("q"): data offset and flags."""
_MASK: Final = 0xFFFFFFFF
_HALF: Final = 0x80000000
_MAX_STRIDE: Final = 0xFFFF

_MIN_SUM_ROWS: Final = 3
"""From as many equal frames on, one numpy sum over all is cheaper than one for each."""
_MIN_BULK_ROWS: Final = 8
"""From as many equal frames on, comparing headers with numpy is cheaper than walking them."""
_MAX_ROWS: Final = 2048

_U4: Final = np.dtype("u4")
_WORD: Final = inet.WORD
_BIG4: Final = np.dtype(">u4")
_BIG2: Final = np.dtype(">u2")
_NUMBERS: Final = np.arange(1, _MAX_ROWS + 1, dtype=_U4)
# Which words of the headers must be equal in a run: all but ident, checksums and sequence number.
_EQUAL: Final = np.full((_PLAIN + tcp.MAX_OPTIONS_LEN) // 2, 0xFFFF, _WORD)
_EQUAL[[9, 12, 19, 20, 25]] = 0

_head = _HEAD.unpack_from
_ndarray = np.ndarray
_add = np.add.reduce
_or = np.bitwise_or.reduce


def coalesce(
    view: memoryview,
    frames: list[tuple[int, int]],
    link: int = 0,
    slot: int = 0,
    verify: bool = True,
    frame_flags: int = 0,
    run_bits: int = 0,
) -> tuple[list[Item], dict[str, int]]:
    """Merge the frames at [(off, len), ...] of the slot `view`; offsets rise and frames do not overlap.

    verify False: the link vouches for the TCP checksums (virtio-net), only IPv4's are checked.
    frame_flags go into the flags of every frame's item, run_bits into the aux of every run's. With
    frame_flags a header lies before each frame, and its owner has removed the tags (pipeline.engines.vnet).
    ``frames`` changes where tags are removed, and checksums in the slot where they were left out.
    Returns (items in order of arrival, {name of the drop counter: frames dropped}). Each
    item stands for one reference to the slot. Whatever the bytes are, nothing is raised.
    """
    burst = _Burst(view, frames, verify)
    items: list[Item | None] = []
    drops: dict[str, int] = {}
    # The latest pure ACK of each flow: (index in items, q, seq, pre, ftp, header, number merged).
    acks: dict[bytes, tuple[int, int, int, bytes, bytes, int, int]] = {}
    holes = False
    untagged = bool(frame_flags)
    size = len(view)
    index = 0
    count = len(frames)
    while index < count:
        off, length = frames[index]
        if length >= _PLAIN:
            if off + _HEAD_LEN <= size:
                pre, total, ftp, flow, seq, q, options = _head(view, off)
            else:
                pre, total, ftp, flow, seq, q, options = _head(view[off:].tobytes().ljust(_HEAD_LEN, b"\0"))
            header = _TCP_OFF + (q >> 26 & 0x3C)
            payload = total + ETHERNET_LEN - header
            plain = (
                pre[12:15] == _IPV4
                and ftp in _PLAIN_FTP
                and header >= _PLAIN
                and payload >= 0
                and total + ETHERNET_LEN <= length
            )
        else:
            plain = False
        if not plain:
            if length >= gro_udp.HEADERS_LEN and view[off + gro_udp.PROTO_OFF] == gro_udp.PROTO:
                taken = gro_udp.take(view, frames, index, link, slot, verify, run_bits, items, drops)
                if taken:
                    index += taken
                    continue
            if not untagged and length > ETHERNET_LEN and view[off + 12] in ethernet.TAG_FIRST_BYTES:
                # Once for all that follow, so that tagged segments lie as others do and merge.
                untagged = True
                _untag(view, frames, index)
                burst.end = 0
                continue
            index += 1
            if length >= ETHERNET_LEN:
                items.append(
                    (FRAME, frame_flags, link, 0, 0, slot, off, length, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0)
                )
            else:
                drops[DROP_RUNT] = drops.get(DROP_RUNT, 0) + 1
            continue
        # The common answer of wrong() without the call.
        if (index >= burst.end or total != burst.total or burst.bad) and (wrong := burst.wrong(index, total)):
            index += 1
            drops[wrong] = drops.get(wrong, 0) + 1
            continue

        if header == _TIMED and options[:4] == _TIMES_FORM:
            ts_val, ts_ecr = _TIMES.unpack(options)
            aux = _TIMED | RUN_HAS_TIMESTAMPS
        else:
            ts_val = ts_ecr = 0
            aux = header if header == _PLAIN else header | RUN_OTHER_OPTIONS
        flags = q >> 16 & _FLAGS
        number = 1
        run_length = payload
        stride = 0
        known = acks.pop(flow, None) if acks else None
        if flags == tcp.ACK:
            if payload:
                if index + 1 < count:
                    number, run_length, q, stride = burst.extend(
                        index, pre, ftp, flow, seq, q, options, header, payload
                    )
            elif not aux & RUN_OTHER_OPTIONS:
                advance = 1
                if known is not None:
                    at, known_q, known_seq, known_pre, known_ftp, known_header, merged = known
                    advance = (q >> 32) - (known_q >> 32) & _MASK
                    if (
                        0 < advance < _HALF
                        and seq == known_seq
                        and header == known_header
                        and pre == known_pre
                        and ftp == known_ftp
                    ):
                        items[at] = None
                        holes = True
                        number += merged
                # A duplicate stays by itself.
                if advance:
                    if index + 1 < count:
                        latest, q, options = burst.latest_ack(index, pre, ftp, flow, seq, q, header, options)
                        if latest != index:
                            number += latest - index
                            index = latest
                            off = frames[index][0]
                            if header == _TIMED:
                                ts_val, ts_ecr = _TIMES.unpack(options)
                    acks[flow] = (len(items), q, seq, pre, ftp, header, number)
        src, dst, ports = _FLOW.unpack(flow)
        items.append(
            (TCP_RANGE, q >> 16 & 0xFF, link, stride, payload, slot, off + header, run_length, 0, number,
             seq, q >> 32, q & 0xFFFF, ts_val, ts_ecr, src, dst, ports, aux | run_bits)
        )  # fmt: skip
        # Of collapsed ACKs this is the last frame already.
        index += number if payload else 1
    if holes:
        return [item for item in items if item is not None], drops
    return items, drops  # type: ignore[return-value]


class _Burst:
    """The frames of one call, and the checksums of those that lie at equal strides with equal lengths.

    Such frames are a *stretch*: sums over all of them are taken at once when its first is
    looked at, whatever flows they belong to. Frames of ``total`` bytes of packet before index
    ``end`` have been summed; what is wrong is in ``bad``.
    """

    __slots__ = ("_bulk", "_frames", "_stride", "_verify", "_view", "bad", "end", "total")

    def __init__(self, view: memoryview, frames: list[tuple[int, int]], verify: bool) -> None:
        self._view = view
        self._frames = frames
        self._verify = verify
        self._bulk = True
        self.end = 0
        self.total = 0
        self._stride = 0
        self.bad: dict[int, str] | None = None

    def wrong(self, index: int, total: int) -> str:
        """The drop counter for frame index, a TCP/IPv4 packet of total bytes; empty if its sums are right.

        Indices must not go down from call to call, but for one that was asked before.
        """
        if index >= self.end:
            self._measure(index, total)
        if total != self.total:
            # Not in a stretch, or in one of frames padded to the same length (Ethernet's minimum).
            return _wrong(self._view, self._frames[index][0] + ETHERNET_LEN, total, self._verify)
        return self.bad.get(index, "") if self.bad else ""

    def _measure(self, index: int, total: int) -> None:
        """Find the stretch that begins at index, and sum its packets of total bytes."""
        frames = self._frames
        self.end = end = index + 1
        self.total = 0
        if end + 1 >= len(frames):
            return
        off, length = frames[index]
        expected, next_length = frames[end]
        stride = expected - off
        if next_length != length or stride < length:
            return
        for next_off, next_length in frames[end : index + _MAX_ROWS]:
            if next_off != expected or next_length != length:
                break
            expected += stride
        self.end = end = index + (expected - off) // stride
        if end - index >= _MIN_SUM_ROWS:
            self._stride = stride
            self.total = total
            self.bad = _bad_rows(
                self._view, off + ETHERNET_LEN, stride, end - index, total, index, self._verify
            )

    def latest_ack(
        self, index: int, pre: bytes, ftp: bytes, flow: bytes, seq: int, q: int, header: int, options: bytes
    ) -> tuple[int, int, bytes]:
        """Where the pure ACKs end that follow the one at index and each move the acknowledgment forward.

        Returns (index, q, options) of the last of them.
        """
        view = self._view
        frames = self._frames
        limit = len(view) - _HEAD_LEN
        for later in range(index + 1, len(frames)):
            off, length = frames[later]
            if length < header or off > limit:
                break
            next_pre, total, next_ftp, next_flow, next_seq, next_q, next_options = _head(view, off)
            if (
                next_flow != flow
                or next_seq != seq
                or total + ETHERNET_LEN != header
                or (next_q ^ q) & _OFFSET_FLAGS
                or not 0 < (next_q >> 32) - (q >> 32) & _MASK < _HALF
                or next_pre != pre
                or next_ftp != ftp
                or (header == _TIMED and next_options[:4] != _TIMES_FORM)
                or ((later >= self.end or total != self.total or self.bad) and self.wrong(later, total))
            ):
                break
            index = later
            q = next_q
            options = next_options
        return index, q, options

    def extend(
        self, index: int, pre: bytes, ftp: bytes, flow: bytes, seq: int, q: int, options: bytes, header: int,
        gso_size: int,
    ) -> tuple[int, int, int, int]:  # fmt: skip
        """How far the run goes that begins with the data segment at index (flags ACK, fields as unpacked).

        Returns (segments, payload bytes, q of the last, stride; 0 for a single one).
        """
        view = self._view
        frames = self._frames
        size = len(view)
        off = frames[index][0]
        if header != _TIMED:
            options = view[off + _PLAIN : off + header].tobytes()
        stride = frames[index + 1][0] - off
        if stride > _MAX_STRIDE:
            return 1, gso_size, q, 0
        length = gso_size
        start = index
        end = len(frames)
        while True:
            rows = self.end - index - 1
            if (
                rows >= _MIN_BULK_ROWS
                and stride == self._stride
                and self._bulk
                and not self.bad
                and self.total
            ):
                rows = self._equal_rows(off, rows, header, gso_size, seq)
                self._bulk = rows >= _MIN_BULK_ROWS // 2
                index += rows
                off += rows * stride
                length += rows * gso_size
                seq = seq + rows * gso_size & _MASK
            index += 1
            if index == end:
                break
            off += stride
            seq = seq + gso_size & _MASK
            next_off, next_length = frames[index]
            if next_off != off or next_length < header or off + _HEAD_LEN > size:
                break
            next_pre, total, next_ftp, next_flow, next_seq, next_q, next_options = _head(view, off)
            if next_seq != seq or next_flow != flow or next_pre != pre or next_ftp != ftp:
                break
            if next_q != q and next_q != q | _PSH:
                break
            payload = total + ETHERNET_LEN - header
            if not 0 < payload <= gso_size or total + ETHERNET_LEN > next_length:
                break
            if header != _TIMED:
                next_options = view[off + _PLAIN : off + header].tobytes()
            if next_options != options:
                break
            if (index >= self.end or total != self.total or self.bad) and self.wrong(index, total):
                break
            length += payload
            if payload < gso_size or next_q != q:
                index += 1
                q = next_q
                break
        number = index - start
        return number, length, q, stride if number > 1 else 0

    def _equal_rows(self, first: int, count: int, header: int, gso_size: int, seq: int) -> int:
        """How many of count frames behind the one at first have its headers and the sequence numbers due."""
        view = self._view
        stride = self._stride
        words = header >> 1
        off = first + stride
        table = _ndarray((count, words), _WORD, view, off, (stride, 2))
        different = (table ^ _ndarray((words,), _WORD, view, first)) & _EQUAL[:words]
        due = _NUMBERS[:count] * gso_size
        due += seq
        due ^= _ndarray((count,), _BIG4, view, off + 38, (stride,))
        due |= _or(different, 1)
        wrong = due.nonzero()[0]
        return int(wrong[0]) if len(wrong) else count


def _untag(view: memoryview, frames: list[tuple[int, int]], first: int) -> None:
    """Remove the priority tags of frames[first:]."""
    for index in range(first, len(frames)):
        off, length = frames[index]
        removed = ethernet.remove_priority_tags(view, off, length)
        if removed:
            frames[index] = off + removed, length - removed


def _wrong(view: memoryview, off: int, total: int, verify: bool) -> str:
    """The drop counter for the TCP/IPv4 packet (no IP options) of total bytes at off; empty if right.

    A checksum that was left out is put in place.
    """
    if int.from_bytes(view[off : off + 20], "little") % 0xFFFF:
        return DROP_IPV4_CHECKSUM
    # The addresses before the TCP header are the rest of the pseudo-header.
    if verify and not inet.verify(view, off + 12, total - 12, 6 + total - 20):
        pseudo = int.from_bytes(view[off + 12 : off + 20], "big") + 6 + total - 20
        if not inet.complete_partial(view, off + 20, total - 20, pseudo, off + _CHECK_OFF):
            return DROP_TCP_CHECKSUM
    return ""


def _bad_rows(
    view: memoryview, off: int, stride: int, count: int, total: int, index: int, verify: bool
) -> dict[int, str] | None:
    """_wrong() of count packets at equal strides, by frame index (the first is index). None if all right."""
    ipv4 = _add(_ndarray((count, 10), _WORD, view, off, (stride, 2)), 1, _U4) % 0xFFFF
    if verify:
        segments = inet.row_sums(view, off + 12, stride, count, total - 12)
        segments += np.uint32((6 + total - 20) * inet.SWAP)
        segments %= 0xFFFF
        if not (ipv4 | segments).any():
            return None
        _complete_rows(view, off, stride, count, total, ipv4, segments)
        bad = {index + int(row): DROP_TCP_CHECKSUM for row in segments.nonzero()[0]}
    elif not ipv4.any():
        return None
    else:
        bad = {}
    bad.update((index + int(row), DROP_IPV4_CHECKSUM) for row in ipv4.nonzero()[0])
    return bad


def _complete_rows(
    view: memoryview,
    off: int,
    stride: int,
    count: int,
    total: int,
    ipv4: NDArray[np.uint32],
    sums: NDArray[np.uint32],
) -> None:
    """Put the checksums in place that senders left out; the sums of such rows become zero.

    Arguments as of _bad_rows(). ipv4 and sums: what is over in header and segment of each row. Rows
    of a stretch may be anything that is as long as a segment: only TCP/IPv4 is touched.
    """
    strides = (stride,)
    fields = _ndarray((count,), _WORD, view, off + _CHECK_OFF, strides)
    pseudo = inet.row_sums(view, off + 12, stride, count, 8)
    pseudo += np.uint32((6 + total - 20) * inet.SWAP)
    pseudo %= 0xFFFF
    # Of the two zeros of ones' complement it is 0xffff.
    pseudo[pseudo == 0] = 0xFFFF
    partial = (fields == pseudo) & (sums != 0) & (ipv4 == 0)
    if not partial.any():
        return
    partial &= _ndarray((count,), _BIG2, view, off - 2, strides) == ethernet.TYPE_IPV4
    first = _ndarray((count,), _BIG4, view, off, strides)
    partial &= first & np.uint32(_VERSION_TOTAL) == 0x45000000 | total
    third = _ndarray((count,), _BIG4, view, off + 6, strides)
    partial &= third & np.uint32(_FRAGMENT_PROTO) == 6
    whole = (fields + np.uint32(0xFFFF) - sums) % 0xFFFF
    fields[partial] = whole[partial]
    sums[partial] = 0
