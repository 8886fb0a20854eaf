"""Receive offload for UDP: equal datagrams of one flow that follow each other become one run.

The UDP half of pipeline.engines.gro. Datagrams merge if everything in their headers but
identification, checksums and, for the last, lengths is equal, and if they lie at an equal
stride; only the last may be shorter, and none is empty. Each keeps its bounds: a run says
where the payloads lie, nobody sees one datagram for two (pipeline.shm.descriptor, UDP_RANGE).

Checksums of a run are verified in one operation over all of its frames (RFC 1071); a datagram
without one is right (RFC 768), and one whose checksum was left to a network card gets it here, as in
pipeline.engines.gro. A wrong one is dropped and counted, the run goes on behind it as
another one. IP options, fragments and lengths that contradict each other are left to demux.
"""

from struct import Struct
from typing import Final

import numpy as np

from pipeline.engines.offload import checksum as inet

UDP_RANGE: Final = 5
"""Kind of item; the number is that of pipeline.shm.descriptor (a test holds them together)."""

HEADERS_LEN: Final = 42
"""Ethernet, IPv4 without options, UDP."""
PROTO_OFF: Final = 23
PROTO: Final = 17

DROP_IPV4_CHECKSUM: Final = "ipv4_packet_dropped_bad_checksum"
DROP_UDP_CHECKSUM: Final = "udp_datagram_dropped_bad_checksum"

# Ethernet header, version and TOS | total length | (ident) | fragment, TTL, protocol | (checksum) |
# addresses and ports | length, checksum
_HEAD: Final = Struct("!16sHxxIxx12sHH")
_FLOW: Final = Struct("!III")
_IPV4_OFF: Final = 14
_ADDRESSES_OFF: Final = 26
_CHECK_OFF: Final = 40
_IPV4: Final = b"\x08\x00\x45"
_FRAGMENT_PROTO: Final = 0xBFFF00FF
"""Of fragment field, TTL, protocol: all but DF and the TTL."""
_HOPS_LEFT: Final = 0xFE00
"""Of the same: bits of which one is set in a TTL above 1."""
_MAX_STRIDE: Final = 0xFFFF
_MIN_SUM_ROWS: Final = 4
"""From as many frames on, one numpy sum over all is cheaper than one for each."""
_MIN_BULK_ROWS: Final = 6
"""From as many frames on, comparing headers with numpy is cheaper than walking them."""
_FIRST_CHUNK: Final = 64
"""Frames compared at first; then four times as many: what is looked at in vain stays in proportion."""

_WORD: Final = inet.WORD
_U4: Final = np.dtype("u4")
# Which words of the headers must be equal in a run: all but ident and checksums.
_EQUAL: Final = np.full(HEADERS_LEN // 2, 0xFFFF, _WORD)
_EQUAL[[9, 12, 20]] = 0

_head = _HEAD.unpack_from
_ndarray = np.ndarray
_add = np.add.reduce
_or = np.bitwise_or.reduce

Head = tuple[bytes, int, int, bytes, int, int]


def take(
    view: memoryview,
    frames: list[tuple[int, int]],
    index: int,
    link: int,
    slot: int,
    verify: bool,
    run_bits: int,
    items: list[tuple[int, ...] | None],
    drops: dict[str, int],
) -> int:
    """Append the datagrams that begin with frames[index] to items, wrong ones to drops.

    Arguments as of gro.coalesce(); the frame must have HEADERS_LEN bytes. Returns how many
    frames that were, 0 if this one is no plain datagram. Whatever the bytes are, nothing is raised.
    """
    off, length = frames[index]
    head: Head = _head(view, off)
    pre, total, ftp, flow, udp_len, _ = head
    payload = udp_len - 8
    if (
        payload < 0
        or total != udp_len + 20
        or total + _IPV4_OFF > length
        or pre[12:15] != _IPV4
        or ftp & _FRAGMENT_PROTO != PROTO
        # One that has no hop left is not for this way: its sender gets an answer.
        or not ftp & _HOPS_LEFT
    ):
        return 0
    rows = 1
    tail = stride = 0
    if payload and index + 1 < len(frames):
        stride = frames[index + 1][0] - off
        if stride <= _MAX_STRIDE:
            rows = _rows(view, frames, index, head, stride)
            tail = _tail(view, frames, index + rows, head, off + rows * stride)
    count = rows + (tail > 0)
    bad = _bad(view, off, stride, rows, total, verify)
    if tail and (reason := _wrong(view, off + rows * stride, tail + 28, verify)):
        bad[rows] = reason
    src, dst, ports = _FLOW.unpack(flow)
    begin = 0
    for end in (*sorted(bad), count):
        number = end - begin
        if number:
            size = payload if begin < rows else tail
            bytes_left = number * payload if end <= rows else (rows - begin) * payload + tail
            items.append(
                (UDP_RANGE, 0, link, stride if number > 1 else 0, size, slot,
                 off + begin * stride + HEADERS_LEN, bytes_left, 0, number,
                 0, 0, 0, 0, 0, src, dst, ports, HEADERS_LEN | run_bits)
            )  # fmt: skip
        begin = end + 1
    for reason in bad.values():
        drops[reason] = drops.get(reason, 0) + 1
    return count


def _rows(view: memoryview, frames: list[tuple[int, int]], index: int, first: Head, stride: int) -> int:
    """How many frames from index on have the headers of the first, at equal strides."""
    off = frames[index][0]
    need = first[1] + _IPV4_OFF
    chunk = _FIRST_CHUNK
    # A flow that alternates with another one ends here, at little cost.
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
    """How many of count frames behind the first skip ones have the headers of the one at off."""
    words = len(_EQUAL)
    table = _ndarray((count, words), _WORD, view, off + skip * stride, (stride, 2))
    different = _or((table ^ _ndarray((words,), _WORD, view, off)) & _EQUAL, 1).nonzero()[0]
    return int(different[0]) if len(different) else count


def _tail(view: memoryview, frames: list[tuple[int, int]], index: int, first: Head, off: int) -> int:
    """Bytes of payload of the frame at index if it may end the run as a shorter datagram, else 0."""
    if index >= len(frames):
        return 0
    next_off, length = frames[index]
    if next_off != off or length < HEADERS_LEN:
        return 0
    pre, total, ftp, flow, udp_len, _ = _head(view, off)
    if (
        not 8 < udp_len < first[4]
        or total != udp_len + 20
        or total + _IPV4_OFF > length
        or flow != first[3]
        or pre != first[0]
        or ftp != first[2]
    ):
        return 0
    return int(udp_len) - 8


def _wrong(view: memoryview, off: int, total: int, verify: bool) -> str:
    """The drop counter for the frame at off with a packet of total bytes; empty if its sums are right."""
    start = off + _IPV4_OFF
    if int.from_bytes(view[start : start + 20], "little") % 0xFFFF:
        return DROP_IPV4_CHECKSUM
    # The addresses before the UDP header are the rest of the pseudo-header.
    if (
        verify
        and not inet.verify(view, start + 12, total - 12, PROTO + total - 20)
        and (view[off + _CHECK_OFF] or view[off + _CHECK_OFF + 1])
    ):
        pseudo = int.from_bytes(view[start + 12 : start + 20], "big") + PROTO + total - 20
        if not inet.complete_partial(view, start + 20, total - 20, pseudo, off + _CHECK_OFF, inet.MODULUS):
            return DROP_UDP_CHECKSUM
    return ""


def _bad(view: memoryview, off: int, stride: int, count: int, total: int, verify: bool) -> dict[int, str]:
    """_wrong() of count frames at equal strides with equal lengths, by their number."""
    if count < _MIN_SUM_ROWS:
        found = {row: _wrong(view, off + row * stride, total, verify) for row in range(count)}
        return {row: reason for row, reason in found.items() if reason}
    ipv4 = _add(_ndarray((count, 10), _WORD, view, off + _IPV4_OFF, (stride, 2)), 1, _U4) % 0xFFFF
    bad = {}
    if verify:
        sums = inet.row_sums(view, off + _ADDRESSES_OFF, stride, count, total - 12)
        sums += np.uint32((PROTO + total - 20) * inet.SWAP)
        sums %= 0xFFFF
        if sums.any():
            fields = _ndarray((count,), _WORD, view, off + _CHECK_OFF, (stride,))
            sums *= fields != 0
            # The rows are of one flow and one length.
            addresses = int.from_bytes(view[off + _ADDRESSES_OFF : off + _ADDRESSES_OFF + 8], "little")
            pseudo = (addresses + (PROTO + total - 20) * inet.SWAP) % 0xFFFF or 0xFFFF
            partial = (fields == pseudo) & (sums != 0)
            if partial.any():
                whole = (fields + np.uint32(0xFFFF) - sums) % 0xFFFF
                # Zero would say that there is none.
                whole[whole == 0] = 0xFFFF
                fields[partial] = whole[partial]
                sums[partial] = 0
            bad = {int(row): DROP_UDP_CHECKSUM for row in sums.nonzero()[0]}
    if ipv4.any():
        bad.update((int(row), DROP_IPV4_CHECKSUM) for row in ipv4.nonzero()[0])
    return bad
