"""Receive offload for UDP: merges consecutive datagrams of one flow into one record.

This is the UDP half of pipeline.engines.offload.gro. Datagrams merge if their headers are equal except for
identification and checksums, and if they lie at an equal stride. Only the last may be shorter, and none is
empty. Each keeps its bounds: the run says where each payload lies (pipeline.records.udp.UdpRange).

The checksums of a run are verified in one operation (RFC 1071). An IPv4 datagram without a checksum is valid
(RFC 768). A partial checksum is completed, as in pipeline.engines.offload.gro_sums. A datagram with a wrong
one is dropped and counted, and a new run begins after it. Packets with IP options or extension headers,
fragments, and lengths that contradict each other are left to demux.
"""

from typing import Final

import numpy as np

from pipeline.engines.offload import checksum as inet
from pipeline.engines.offload.burst import Burst
from pipeline.engines.offload.headers import (
    DROP_IPV4_CHECKSUM,
    DROP_UDP_CHECKSUM,
    ETHERNET_LEN,
    MAX_STRIDE,
    UDP_CHECK,
    UDP_LEN,
)
from pipeline.engines.offload.layouts import Layout, UdpHead
from pipeline.records.udp import UdpRange
from pipeline.wire.ipv4 import PROTO_UDP

_MIN_SUM_ROWS: Final = 4
"""From this number of frames on, one numpy sum over all is cheaper than one for each."""
_MIN_BULK_ROWS: Final = 6
"""From this number of frames on, numpy compares headers faster than a loop."""
_FIRST_CHUNK: Final = 64
"""Frames in the first comparison. Each further one has four times as many, so few are compared in vain."""

_WORD: Final = inet.WORD

_ndarray = np.ndarray
_or = np.bitwise_or.reduce


def add(layout: Layout, burst: Burst, index: int) -> int:
    """Add the run that begins with frames[index], of at least layout.udp_headers_len bytes.

    Returns the number of frames in the run, 0 if this one is not a plain datagram. Whatever the bytes are,
    nothing is raised.
    """
    view = burst.view
    frames = burst.frames
    off, length = frames[index]
    head = layout.udp_head(view, off)
    pre, total, hops, flow, udp_len, _ = head
    payload = udp_len - UDP_LEN
    end = total + layout.counted_off
    if (
        payload < 0
        or end != udp_len + layout.l4_off
        or end > length
        or pre[12:15] not in layout.plain
        or hops & layout.udp_mask != layout.udp_hops
        # If no hop is left, demux must answer the sender.
        or not hops & layout.udp_hops_left
    ):
        return 0
    key = layout.key(flow)
    if not key:
        return 0
    rows = 1
    tail = stride = 0
    if payload and index + 1 < len(frames):
        stride = frames[index + 1][0] - off
        if stride <= MAX_STRIDE:
            rows = _rows(layout, view, frames, index, head, stride)
            tail = _tail(layout, view, frames, index + rows, head, off + rows * stride)
    count = rows + (tail > 0)
    wrong = _drop_reasons(layout, view, off, stride, rows, udp_len, burst.verify)
    if tail and (reason := _drop_reason(layout, view, off + rows * stride, tail + UDP_LEN, burst.verify)):
        wrong[rows] = reason
    headers_len = layout.udp_headers_len
    begin = 0
    for row in (*sorted(wrong), count):
        number = row - begin
        if number:
            burst.items.append(
                UdpRange(
                    slot=burst.slot,
                    off=off + begin * stride + headers_len,
                    length=number * payload if row <= rows else (rows - begin) * payload + tail,
                    stride=stride if number > 1 else 0,
                    piece_size=payload if begin < rows else tail,
                    link=burst.link,
                    key=key,
                    vnet=burst.vnet,
                    header_len=headers_len,
                )
            )
        begin = row + 1
    for reason in wrong.values():
        burst.drop(reason)
    return count


def _rows(
    layout: Layout,
    view: memoryview,
    frames: list[tuple[int, int]],
    index: int,
    first: UdpHead,
    stride: int,
) -> int:
    """How many frames from index on have the headers of the first, at equal strides."""
    off = frames[index][0]
    need = first[1] + layout.counted_off
    chunk = _FIRST_CHUNK
    # If flows alternate frame by frame, this cheap check ends the run.
    next_off, next_length = frames[index + 1]
    if next_length < need or layout.udp_head(view, next_off)[:5] != first[:5]:
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
                if layout.udp_head(view, at)[:5] != first[:5]:
                    break
                rows += 1
            return rows
        good = _equal(layout, view, off, stride, rows, number)
        rows += good
        if good < chunk:
            return rows
        chunk *= 4


def _equal(layout: Layout, view: memoryview, off: int, stride: int, skip: int, count: int) -> int:
    """How many of count frames, the first skip ones left out, have the headers of the frame at off."""
    mask = layout.udp_equal
    words = len(mask)
    table = _ndarray((count, words), _WORD, view, off + skip * stride, (stride, 2))
    different = _or((table ^ _ndarray((words,), _WORD, view, off)) & mask, 1).nonzero()[0]
    return int(different[0]) if len(different) else count


def _tail(
    layout: Layout,
    view: memoryview,
    frames: list[tuple[int, int]],
    index: int,
    first: UdpHead,
    off: int,
) -> int:
    """The payload bytes of frame index if it is a shorter datagram that ends the run, else 0."""
    if index >= len(frames):
        return 0
    next_off, length = frames[index]
    if next_off != off or length < layout.udp_headers_len:
        return 0
    pre, total, hops, flow, udp_len, _ = layout.udp_head(view, off)
    end = total + layout.counted_off
    if (
        not UDP_LEN < udp_len < first[4]
        or end != udp_len + layout.l4_off
        or end > length
        or flow != first[3]
        or pre != first[0]
        or hops != first[2]
    ):
        return 0
    return udp_len - UDP_LEN


def _drop_reason(layout: Layout, view: memoryview, off: int, udp_len: int, verify: bool) -> str:
    """The drop counter for the frame at off with a datagram of udp_len bytes; empty if its sums are right."""
    start = off + ETHERNET_LEN
    if int.from_bytes(view[start : start + layout.summed_len], "little") % 0xFFFF:
        return DROP_IPV4_CHECKSUM
    # The addresses, which are part of the pseudo-header, lie right before the UDP header.
    addresses, begin = off + layout.addresses_off, off + layout.l4_off
    field = begin + UDP_CHECK
    if not verify or inet.verify(view, addresses, begin - addresses + udp_len, PROTO_UDP + udp_len):
        return ""
    if not (view[field] or view[field + 1]):
        return DROP_UDP_CHECKSUM if layout.needs_udp_checksum else ""
    pseudo = int.from_bytes(view[addresses:begin], "big") + PROTO_UDP + udp_len
    if inet.complete_partial(view, begin, udp_len, pseudo, field, inet.MODULUS):
        return ""
    return DROP_UDP_CHECKSUM


def _drop_reasons(
    layout: Layout, view: memoryview, off: int, stride: int, count: int, udp_len: int, verify: bool
) -> dict[int, str]:
    """_drop_reason() by row, for count frames of one length at equal strides. Good ones are left out."""
    if count < _MIN_SUM_ROWS:
        found = {row: _drop_reason(layout, view, off + row * stride, udp_len, verify) for row in range(count)}
        return {row: reason for row, reason in found.items() if reason}
    headers = layout.header_sums(view, off, stride, count)
    bad = {}
    if verify:
        addresses, begin = off + layout.addresses_off, off + layout.l4_off
        sums = inet.row_sums(view, addresses, stride, count, begin - addresses + udp_len)
        sums += np.uint32((PROTO_UDP + udp_len) * inet.SWAP)
        sums %= 0xFFFF
        if sums.any():
            fields = _ndarray((count,), _WORD, view, begin + UDP_CHECK, (stride,))
            if not layout.needs_udp_checksum:
                sums *= fields != 0
            # The rows are of one flow and one length.
            total = int.from_bytes(view[addresses:begin], "little")
            pseudo = (total + (PROTO_UDP + udp_len) * inet.SWAP) % 0xFFFF or 0xFFFF
            partial = (fields == pseudo) & (sums != 0)
            if partial.any():
                whole = (fields + np.uint32(0xFFFF) - sums) % 0xFFFF
                # A field of zero means that there is no checksum.
                whole[whole == 0] = 0xFFFF
                fields[partial] = whole[partial]
                sums[partial] = 0
            bad = {int(row): DROP_UDP_CHECKSUM for row in sums.nonzero()[0]}
    if headers is not None and headers.any():
        bad.update((int(row), DROP_IPV4_CHECKSUM) for row in headers.nonzero()[0])
    return bad
