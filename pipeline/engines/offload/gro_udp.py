"""Receive offload for UDP: merges consecutive datagrams of one flow into one record.

This is the UDP half of pipeline.engines.offload.gro. Datagrams merge if their headers are equal except for
identification and checksums, and if they lie at an equal stride. Only the last may be shorter, and none is
empty. Each keeps its bounds: the run says where each payload lies (pipeline.records.udp.UdpRange).

The checksums of a run are verified in one operation (RFC 1071). A datagram without a checksum is valid (RFC
768). A partial checksum is completed, as in pipeline.engines.offload.gro_sums. A datagram with a wrong one is
dropped and counted, and a new run begins after it. Packets with IP options, fragments, and lengths that
contradict each other are left to demux.
"""

from struct import Struct
from typing import Final, TypeAlias

import numpy as np

from pipeline.engines.offload import checksum as inet
from pipeline.engines.offload.burst import Burst
from pipeline.engines.offload.headers import (
    ADDRESSES_OFF,
    DROP_IPV4_CHECKSUM,
    DROP_UDP_CHECKSUM,
    ENDS,
    ETHERNET_LEN,
    FRAGMENT_PROTO,
    IPV4_LEN,
    L4_OFF,
    MAX_STRIDE,
    PLAIN_IPV4,
    UDP_CHECK_OFF,
    UDP_LEN,
)
from pipeline.records.flows import flow_key
from pipeline.records.udp import HEADERS_LEN as UDP_HEADERS_LEN
from pipeline.records.udp import UdpRange
from pipeline.wire import ip
from pipeline.wire.ipv4 import PROTO_UDP

# Ethernet header, version and TOS (pre) | total length | (ident) | fragment field, TTL, protocol (frag_ttl) |
# (checksum) | addresses and ports (flow) | UDP length, checksum
_HEAD: Final = Struct("!16sHxxIxx12sHH")
_HOPS_LEFT: Final = 0xFE00
"""Of fragment field, TTL and protocol: the bits of which a TTL above 1 has at least one."""
_MIN_SUM_ROWS: Final = 4
"""From this number of frames on, one numpy sum over all is cheaper than one for each."""
_MIN_BULK_ROWS: Final = 6
"""From this number of frames on, numpy compares headers faster than a loop."""
_FIRST_CHUNK: Final = 64
"""Frames in the first comparison. Each further one has four times as many, so few are compared in vain."""

_WORD: Final = inet.WORD
_U4: Final = np.dtype("u4")
# The words of the headers that must be equal in a run: all but ident and checksums.
_EQUAL: Final = np.full(UDP_HEADERS_LEN // 2, 0xFFFF, _WORD)
_EQUAL[[9, 12, 20]] = 0

_head = _HEAD.unpack_from
_ndarray = np.ndarray
_add = np.add.reduce
_or = np.bitwise_or.reduce

Head: TypeAlias = tuple[bytes, int, int, bytes, int, int]


def add(burst: Burst, index: int) -> int:
    """Add the run that begins with frames[index], of at least UDP_HEADERS_LEN bytes.

    Returns the number of frames in the run, 0 if this one is not a plain datagram. Whatever the bytes are,
    nothing is raised.
    """
    view = burst.view
    frames = burst.frames
    off, length = frames[index]
    head: Head = _head(view, off)
    pre, total, frag_ttl, flow, udp_len, _ = head
    payload = udp_len - UDP_LEN
    if (
        payload < 0
        or total != udp_len + IPV4_LEN
        or total + ETHERNET_LEN > length
        or pre[12:15] != PLAIN_IPV4
        or frag_ttl & FRAGMENT_PROTO != PROTO_UDP
        # If no hop is left, demux must answer the sender.
        or not frag_ttl & _HOPS_LEFT
    ):
        return 0
    rows = 1
    tail = stride = 0
    if payload and index + 1 < len(frames):
        stride = frames[index + 1][0] - off
        if stride <= MAX_STRIDE:
            rows = _rows(view, frames, index, head, stride)
            tail = _tail(view, frames, index + rows, head, off + rows * stride)
    count = rows + (tail > 0)
    bad = _bad(view, off, stride, rows, total, burst.verify)
    if tail and (reason := _wrong(view, off + rows * stride, tail + UDP_LEN + IPV4_LEN, burst.verify)):
        bad[rows] = reason
    src, dst, src_port, dst_port = ENDS.unpack(flow)
    key = flow_key(ip.from_ipv4(src), src_port, ip.from_ipv4(dst), dst_port)
    begin = 0
    for end in (*sorted(bad), count):
        number = end - begin
        if number:
            burst.items.append(
                UdpRange(
                    slot=burst.slot,
                    off=off + begin * stride + UDP_HEADERS_LEN,
                    length=number * payload if end <= rows else (rows - begin) * payload + tail,
                    stride=stride if number > 1 else 0,
                    piece_size=payload if begin < rows else tail,
                    link=burst.link,
                    key=key,
                    vnet=burst.vnet,
                )
            )
        begin = end + 1
    for reason in bad.values():
        burst.drop(reason)
    return count


def _rows(view: memoryview, frames: list[tuple[int, int]], index: int, first: Head, stride: int) -> int:
    """How many frames from index on have the headers of the first, at equal strides."""
    off = frames[index][0]
    need = first[1] + ETHERNET_LEN
    chunk = _FIRST_CHUNK
    # If flows alternate frame by frame, this cheap check ends the run.
    next_off, next_length = frames[index + 1]
    if next_length < need or _head(view, next_off)[:5] != first[:5]:
        return 1
    rows = 2
    while True:
        expected = off + rows * stride
        begin = index + rows
        number = 0
        for next_off, next_length in frames[begin : begin + chunk]:
            if next_off != expected or next_length < need:
                break
            expected += stride
            number += 1
        if number < _MIN_BULK_ROWS:
            for at in range(off + rows * stride, expected, stride):
                if _head(view, at)[:5] != first[:5]:
                    break
                rows += 1
            return rows
        good = _equal(view, off, stride, rows, number)
        rows += good
        if good < chunk:
            return rows
        chunk *= 4


def _equal(view: memoryview, off: int, stride: int, skip: int, count: int) -> int:
    """How many of count frames, the first skip ones left out, have the headers of the frame at off."""
    words = len(_EQUAL)
    table = _ndarray((count, words), _WORD, view, off + skip * stride, (stride, 2))
    different = _or((table ^ _ndarray((words,), _WORD, view, off)) & _EQUAL, 1).nonzero()[0]
    return int(different[0]) if len(different) else count


def _tail(view: memoryview, frames: list[tuple[int, int]], index: int, first: Head, off: int) -> int:
    """The payload bytes of frame index if it is a shorter datagram that ends the run, else 0."""
    if index >= len(frames):
        return 0
    next_off, length = frames[index]
    if next_off != off or length < UDP_HEADERS_LEN:
        return 0
    pre, total, frag_ttl, flow, udp_len, _ = _head(view, off)
    if (
        not UDP_LEN < udp_len < first[4]
        or total != udp_len + IPV4_LEN
        or total + ETHERNET_LEN > length
        or flow != first[3]
        or pre != first[0]
        or frag_ttl != first[2]
    ):
        return 0
    return int(udp_len) - UDP_LEN


def _wrong(view: memoryview, off: int, total: int, verify: bool) -> str:
    """The drop counter for the frame at off, whose packet has total bytes; empty if its sums are right."""
    start = off + ETHERNET_LEN
    if int.from_bytes(view[start : start + IPV4_LEN], "little") % 0xFFFF:
        return DROP_IPV4_CHECKSUM
    # The addresses, which are part of the pseudo-header, lie right before the UDP header.
    addresses = off + ADDRESSES_OFF
    field = off + UDP_CHECK_OFF
    length = total - IPV4_LEN
    if (
        verify
        and not inet.verify(view, addresses, length + 8, PROTO_UDP + length)
        and (view[field] or view[field + 1])
    ):
        pseudo = int.from_bytes(view[addresses : addresses + 8], "big") + PROTO_UDP + length
        if not inet.complete_partial(view, off + L4_OFF, length, pseudo, field, inet.MODULUS):
            return DROP_UDP_CHECKSUM
    return ""


def _bad(view: memoryview, off: int, stride: int, count: int, total: int, verify: bool) -> dict[int, str]:
    """The same as _wrong() for count frames at equal strides with equal lengths, by their number."""
    if count < _MIN_SUM_ROWS:
        found = {row: _wrong(view, off + row * stride, total, verify) for row in range(count)}
        return {row: reason for row, reason in found.items() if reason}
    ipv4 = _add(_ndarray((count, 10), _WORD, view, off + ETHERNET_LEN, (stride, 2)), 1, _U4) % 0xFFFF
    bad = {}
    if verify:
        sums = inet.row_sums(view, off + ADDRESSES_OFF, stride, count, total - 12)
        sums += np.uint32((PROTO_UDP + total - IPV4_LEN) * inet.SWAP)
        sums %= 0xFFFF
        if sums.any():
            fields = _ndarray((count,), _WORD, view, off + UDP_CHECK_OFF, (stride,))
            sums *= fields != 0
            # The rows are of one flow and one length.
            addresses = int.from_bytes(view[off + ADDRESSES_OFF : off + ADDRESSES_OFF + 8], "little")
            pseudo = (addresses + (PROTO_UDP + total - IPV4_LEN) * inet.SWAP) % 0xFFFF or 0xFFFF
            partial = (fields == pseudo) & (sums != 0)
            if partial.any():
                whole = (fields + np.uint32(0xFFFF) - sums) % 0xFFFF
                # A field of zero means that there is no checksum.
                whole[whole == 0] = 0xFFFF
                fields[partial] = whole[partial]
                sums[partial] = 0
            bad = {int(row): DROP_UDP_CHECKSUM for row in sums.nonzero()[0]}
    if ipv4.any():
        bad.update((int(row), DROP_IPV4_CHECKSUM) for row in ipv4.nonzero()[0])
    return bad
