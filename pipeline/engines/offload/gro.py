"""Receive offload: the frames of one slot become as few records as possible (the program's "NIC").

In: one slot, and where whole Ethernet frames lie in it. Out: one record for each run of
consecutive in-order segments of one TCP/IPv4 flow (checksums verified), and one for each other
frame. A run stays where it was received: every segment keeps its headers in the slot, and the
record says how the payload pieces are strided (pipeline.records.tcp.TcpRange). UDP datagrams of one
flow are merged in the same way (pipeline.engines.offload.gro_udp).

Segments merge only if everything that matters is equal: Ethernet header, type of service, DF, TTL,
addresses, ports, acknowledgment, window, options byte for byte, and ACK as the only flag. Their
sequence numbers must follow each other, and they must lie at an equal stride. Only the last may be
shorter or carry PSH. Pure ACKs of one flow collapse into the latest if that one moves the
acknowledgment forward. A duplicate ACK (RFC 5681) and an ACK with SACK blocks (RFC 2018) stay
alone, and nothing collapses across them.

A checksum that the sender left to its network card is completed (pipeline.engines.offload.gro_sums).
Priority tags (pipeline.wire.ethernet) are removed, and the frames then merge like any others.

Everything else leaves as a frame, and demux judges it: other protocols, IP options, fragments, impossible
lengths, packets without a hop left. This module knows no connections, and keeps no state between calls.

How it is fast: a burst of one flow is an array of equal rows. So numpy compares all headers
with the first, checks the sequence numbers and sums all frames in a few operations. What
is left is walked with one Struct a frame.
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
    L4_OFF,
    MAX_STRIDE,
    MIN_TTL,
    PLAIN_IPV4,
    PROTO_OFF,
    TCP_HEADERS_LEN,
    TCP_SEQ_OFF,
    TYPE_OFF,
    UDP,
    UDP_HEADERS_LEN,
)
from pipeline.records.flows import flow_key
from pipeline.records.frames import Frame
from pipeline.records.tcp import TcpRange
from pipeline.wire import ethernet, tcp

_TIMED: Final = TCP_HEADERS_LEN + 12
"""Bytes of the three headers with the timestamps option in its usual form."""

# Ethernet header, version and TOS | total length | (ident) | fragment, TTL, protocol | (checksum) |
# addresses and ports | sequence number | ack, offset, flags, window | (checksum, urgent) | 12 of options
_HEAD: Final = Struct("!16sHxx4sxx12sIQ4x12s")
_HEAD_LEN: Final = TCP_HEADERS_LEN + 12
_ENDS: Final = Struct("!IIHH")
_TIMES: Final = Struct("!4xII")
_TIMES_FORM: Final = b"\x01\x01\x08\x0a"

_PLAIN_FTP: Final = frozenset(bytes((df, 0, ttl, 6)) for df in (0, 0x40) for ttl in range(MIN_TTL, 256))
"""Fragment field, TTL and protocol of a segment that may merge: TCP, no fragment, DF or not, a hop left.
Looking into a set costs no more than masking and comparing one of them."""
_FLAGS: Final = 0xFFF
"""With the reserved bits: a segment that has one of these set is never merged."""
_PSH: Final = 0x08 << 16
_OFFSET_FLAGS: Final = 0xFFFF0000
"""Of the 8 bytes from the acknowledgment on ("q"): data offset and flags."""
_MASK: Final = 0xFFFFFFFF
_HALF: Final = 0x80000000

_MIN_BULK_ROWS: Final = 8
"""From this many equal frames on, comparing headers with numpy is cheaper than walking them."""

_WORD: Final = inet.WORD
_BIG4: Final = np.dtype(">u4")
_NUMBERS: Final = np.arange(1, MAX_ROWS + 1, dtype="u4")
# Which words of the headers must be equal in a run: all but ident, checksums and sequence number.
_EQUAL: Final = np.full((TCP_HEADERS_LEN + tcp.MAX_OPTIONS_LEN) // 2, 0xFFFF, _WORD)
_EQUAL[[9, 12, 19, 20, 25]] = 0

_head = _HEAD.unpack_from
_ndarray = np.ndarray
_or = np.bitwise_or.reduce


def coalesce(
    view: memoryview,
    frames: list[tuple[int, int]],
    link: int = 0,
    slot: int = 0,
    verify: bool = True,
    vnet: bool = False,
) -> tuple[list[Item], dict[str, int]]:
    """Merge the frames at [(off, len), ...] of the slot `view`; offsets rise and frames do not overlap.

    verify False: the link vouches for the TCP checksums (virtio-net), and only IPv4's are verified.
    vnet: a virtio-net header lies before each frame, and its owner has removed the tags
    (pipeline.engines.offload.vnet). ``frames`` changes where tags are removed, and so do checksums in the
    slot where they were left out. Returns (records in order of arrival, {drop counter: frames dropped}).
    Each record stands for one reference to the slot. Whatever the bytes are, nothing is raised.
    """
    burst = Burst(view, frames, link, slot, verify, vnet)
    segments = _Segments(burst)
    untagged = vnet
    index = 0
    count = len(frames)
    while index < count:
        off, length = frames[index]
        taken = segments.take(index) if length >= TCP_HEADERS_LEN else 0
        if not taken and length >= UDP_HEADERS_LEN and view[off + PROTO_OFF] == UDP:
            taken = gro_udp.take(burst, index)
        if taken:
            index += taken
        elif not untagged and length > ETHERNET_LEN and view[off + TYPE_OFF] in ethernet.TAG_FIRST_BYTES:
            # Once for all that follow, so that tagged segments lie as others do and merge.
            untagged = True
            _untag(view, frames, index)
            segments.sums.forget()
        else:
            index += 1
            if length >= ETHERNET_LEN:
                burst.items.append(Frame(link, slot, off, length, vnet))
            else:
                burst.drop(DROP_RUNT)
    if segments.needless:
        return [item for at, item in enumerate(burst.items) if at not in segments.needless], burst.drops
    return burst.items, burst.drops


def _untag(view: memoryview, frames: list[tuple[int, int]], first: int) -> None:
    """Remove the priority tags of frames[first:]."""
    for index in range(first, len(frames)):
        off, length = frames[index]
        removed = ethernet.remove_priority_tags(view, off, length)
        if removed:
            frames[index] = off + removed, length - removed


class _Segments:
    """The TCP segments of a burst.

    Its methods hand on the header of a segment as _HEAD unpacks it: ``pre``, ``ftp``, ``flow``, ``q``,
    ``options``. All but q and, in pure ACKs, the options are compared as bytes.
    """

    __slots__ = ("_acks", "_bulk", "_burst", "_frames", "_view", "needless", "sums")

    def __init__(self, burst: Burst) -> None:
        self._burst = burst
        self._view = burst.view
        self._frames = burst.frames
        self._bulk = True
        """Whether comparing headers with numpy has paid so far."""
        self._acks: dict[bytes, tuple[int, TcpRange, bytes, bytes]] = {}
        """The latest pure ACK of each flow: (index in items, record, pre, ftp)."""
        self.sums = Sums(burst.view, burst.frames, burst.verify)
        self.needless: set[int] = set()
        """Indices of items that a later pure ACK stands for as well."""

    def take(self, index: int) -> int:
        """Add the run that begins with frames[index], of at least TCP_HEADERS_LEN bytes.

        Returns how many frames that used up, 0 if this one is not a plain TCP segment.
        """
        view = self._view
        off, length = self._frames[index]
        if off + _HEAD_LEN <= len(view):
            pre, total, ftp, flow, seq, q, options = _head(view, off)
        else:
            pre, total, ftp, flow, seq, q, options = _head(view[off:].tobytes().ljust(_HEAD_LEN, b"\0"))
        header_len = L4_OFF + (q >> 26 & 0x3C)
        payload = total + ETHERNET_LEN - header_len
        if (
            pre[12:15] != PLAIN_IPV4
            or ftp not in _PLAIN_FTP
            or header_len < TCP_HEADERS_LEN
            or payload < 0
            or total + ETHERNET_LEN > length
        ):
            return 0
        burst = self._burst
        sums = self.sums
        # The common answer of wrong() without the call.
        if (index >= sums.end or total != sums.total or sums.bad) and (reason := sums.wrong(index, total)):
            burst.drop(reason)
            return 1
        run = self._run(off + header_len, payload, header_len, flow, seq, q, options)
        only_ack = q >> 16 & _FLAGS == tcp.ACK
        if only_ack and not payload and not run.has_other_options:
            return self._add_ack(run, index, pre, ftp, flow, q)
        if self._acks:
            self._acks.pop(flow, None)
        if only_ack and payload and index + 1 < len(self._frames):
            self._extend(run, index, pre, ftp, flow, q, options)
        burst.items.append(run)
        return run.segments if payload else 1

    def _run(
        self, off: int, length: int, header_len: int, flow: bytes, seq: int, q: int, options: bytes
    ) -> TcpRange:
        """The run of a single segment, whose payload is at ``off``."""
        timed = header_len == _TIMED and options[:4] == _TIMES_FORM
        if timed:
            ts_val, ts_ecr = _TIMES.unpack(options)
        else:
            ts_val = ts_ecr = 0
        src, dst, src_port, dst_port = _ENDS.unpack(flow)
        burst = self._burst
        return TcpRange(
            slot=burst.slot,
            off=off,
            length=length,
            stride=0,
            piece_size=length,
            link=burst.link,
            key=flow_key(src, src_port, dst, dst_port),
            flags=q >> 16 & 0xFF,
            segments=1,
            seq=seq,
            ack=q >> 32,
            window=q & 0xFFFF,
            ts_val=ts_val,
            ts_ecr=ts_ecr,
            header_len=header_len,
            has_timestamps=timed,
            has_other_options=not timed and header_len != TCP_HEADERS_LEN,
            vnet=burst.vnet,
        )

    def _add_ack(self, run: TcpRange, index: int, pre: bytes, ftp: bytes, flow: bytes, q: int) -> int:
        """Add the pure ACK of frames[index], and those that follow it; how many frames that used up."""
        items = self._burst.items
        known = self._acks.pop(flow, None) if self._acks else None
        if known is not None:
            at, earlier, known_pre, known_ftp = known
            advance = run.ack - earlier.ack & _MASK
            if not advance:
                # A duplicate stays alone.
                items.append(run)
                return 1
            if (
                advance < _HALF
                and run.seq == earlier.seq
                and run.header_len == earlier.header_len
                and pre == known_pre
                and ftp == known_ftp
            ):
                self.needless.add(at)
                run.segments += earlier.segments
        taken = self._collapse(run, index, pre, ftp, flow, q) if index + 1 < len(self._frames) else 1
        self._acks[flow] = len(items), run, pre, ftp
        items.append(run)
        return taken

    def _collapse(self, run: TcpRange, index: int, pre: bytes, ftp: bytes, flow: bytes, q: int) -> int:
        """Let the pure ACK of frames[index] stand for those right after it that move the acknowledgment on.

        Returns how many frames that used up.
        """
        view = self._view
        frames = self._frames
        sums = self.sums
        seq = run.seq
        header_len = run.header_len
        limit = len(view) - _HEAD_LEN
        latest = index
        options = b""
        for later in range(index + 1, len(frames)):
            off, length = frames[later]
            if length < header_len or off > limit:
                break
            next_pre, total, next_ftp, next_flow, next_seq, next_q, next_options = _head(view, off)
            if (
                next_flow != flow
                or next_seq != seq
                or total + ETHERNET_LEN != header_len
                or (next_q ^ q) & _OFFSET_FLAGS
                or not 0 < (next_q >> 32) - (q >> 32) & _MASK < _HALF
                or next_pre != pre
                or next_ftp != ftp
                or (header_len == _TIMED and next_options[:4] != _TIMES_FORM)
                or ((later >= sums.end or total != sums.total or sums.bad) and sums.wrong(later, total))
            ):
                break
            latest = later
            q = next_q
            options = next_options
        if latest != index:
            run.segments += latest - index
            run.off = frames[latest][0] + header_len
            run.ack = q >> 32
            run.window = q & 0xFFFF
            if header_len == _TIMED:
                run.ts_val, run.ts_ecr = _TIMES.unpack(options)
        return latest - index + 1

    def _extend(
        self, run: TcpRange, index: int, pre: bytes, ftp: bytes, flow: bytes, q: int, options: bytes
    ) -> None:
        """Let the run go on, from the data segment of frames[index] (flags ACK), as far as it does."""
        view = self._view
        frames = self._frames
        sums = self.sums
        header_len = run.header_len
        size = run.piece_size
        first = run.off - header_len
        if header_len != _TIMED:
            options = view[first + TCP_HEADERS_LEN : first + header_len].tobytes()
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
            if next_off != off or next_length < header_len or off + _HEAD_LEN > len(view):
                break
            next_pre, total, next_ftp, next_flow, next_seq, next_q, next_options = _head(view, off)
            if next_seq != run.seq + number * size & _MASK or next_flow != flow:
                break
            if next_pre != pre or next_ftp != ftp or (next_q != q and next_q != q | _PSH):
                break
            payload = total + ETHERNET_LEN - header_len
            if not 0 < payload <= size or total + ETHERNET_LEN > next_length:
                break
            if header_len != _TIMED:
                next_options = view[off + TCP_HEADERS_LEN : off + header_len].tobytes()
            if next_options != options or (
                (at >= sums.end or total != sums.total or sums.bad) and sums.wrong(at, total)
            ):
                break
            number += 1
            if payload < size or next_q != q:
                missing = size - payload
                run.flags = next_q >> 16 & 0xFF
                break
        if number > 1:
            run.segments = number
            run.length = number * size - missing
            run.stride = stride

    def _equal_rows(self, run: TcpRange, number: int, count: int) -> int:
        """How many of count frames continue a run of ``number`` segments, by headers and sequence numbers."""
        view = self._view
        stride = self.sums.stride
        size = run.piece_size
        words = run.header_len >> 1
        first = run.off - run.header_len
        off = first + number * stride
        table = _ndarray((count, words), _WORD, view, off, (stride, 2))
        different = (table ^ _ndarray((words,), _WORD, view, first)) & _EQUAL[:words]
        wanted = _NUMBERS[:count] * size
        wanted += run.seq + (number - 1) * size & _MASK
        wanted ^= _ndarray((count,), _BIG4, view, off + TCP_SEQ_OFF, (stride,))
        wanted |= _or(different, 1)
        wrong = wanted.nonzero()[0]
        rows = int(wrong[0]) if len(wrong) else count
        self._bulk = rows >= _MIN_BULK_ROWS // 2
        return rows
