"""Verifies the checksums of received TCP segments (RFC 1071), for many frames in one operation.

A guest may leave the TCP checksum to its network card. The field then holds the sum of the pseudo-header.
libkrun strips the virtio-net header that would say so. Such a segment is valid. This module completes its
checksum, so that later readers see a whole segment. The check costs a comparison where a sum is wrong.
"""

from typing import Final

import numpy as np
from numpy.typing import NDArray

from pipeline.engines.offload import checksum as inet
from pipeline.engines.offload.headers import (
    DROP_IPV4_CHECKSUM,
    DROP_TCP_CHECKSUM,
    ETHERNET_LEN,
    FRAGMENT_PROTO,
    IPV4_LEN,
    TCP_CHECK_OFF,
)
from pipeline.wire import ethernet
from pipeline.wire.ipv4 import PROTO_TCP

MIN_SUM_ROWS: Final = 3
"""From this number of equal frames on, one numpy sum over all is cheaper than one for each."""
MAX_ROWS: Final = 2048
"""The most frames that are summed in one operation."""

_CHECK_OFF: Final = TCP_CHECK_OFF - ETHERNET_LEN
"""Offset of the TCP checksum from the start of the packet."""
_ADDRESSES: Final = 12
"""Offset of the addresses from the start of the packet. The pseudo-header begins with them."""
_VERSION_TOTAL: Final = 0xFF00FFFF
"""Of the first four bytes of a packet: all bits but the type of service."""

_U4: Final = np.dtype("u4")
_WORD: Final = inet.WORD
_BIG4: Final = np.dtype(">u4")
_BIG2: Final = np.dtype(">u2")

_ndarray = np.ndarray
_add = np.add.reduce


class Sums:
    """Finds the frames of a burst that have wrong checksums.

    Frames of equal length at equal strides are a *stretch*, whatever flows they belong to. All frames of a
    stretch are summed when the first one is asked for. The current stretch ends before index ``end``. Its
    frames whose packet has ``total`` bytes are summed. bad: the wrong ones, {index: drop counter}.
    """

    __slots__ = ("_frames", "_verify", "_view", "bad", "end", "stride", "total")

    def __init__(self, view: memoryview, frames: list[tuple[int, int]], verify: bool) -> None:
        """verify False: only the IPv4 checksums are verified."""
        self._view = view
        self._frames = frames
        self._verify = verify
        self.end = 0
        self.total = 0
        self.stride = 0
        self.bad: dict[int, str] | None = None

    def are_right(self, stride: int) -> bool:
        """Whether the current stretch has this stride, and none of its frames is wrong."""
        return stride == self.stride and self.total > 0 and not self.bad

    def forget(self) -> None:
        """Forget the current stretch, because the list of frames has changed."""
        self.end = 0

    def wrong(self, index: int, total: int) -> str:
        """The drop counter for frame index, a TCP/IPv4 packet of total bytes; empty if its sums are right.

        Call it with rising indices. Only an index that was asked for before may come again.
        """
        if index >= self.end:
            self._measure(index, total)
        if total != self.total:
            # The frame is not in a stretch, or packets of several lengths are padded to Ethernet's minimum.
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
        for next_off, next_length in frames[end : index + MAX_ROWS]:
            if next_off != expected or next_length != length:
                break
            expected += stride
        self.end = end = index + (expected - off) // stride
        if end - index >= MIN_SUM_ROWS:
            self.stride = stride
            self.total = total
            found = _bad_rows(self._view, off + ETHERNET_LEN, stride, end - index, total, self._verify)
            self.bad = {index + row: reason for row, reason in found.items()} if found else None


def _wrong(view: memoryview, off: int, total: int, verify: bool) -> str:
    """The drop counter for the TCP/IPv4 packet (no IP options) of total bytes at off; empty if it is right.

    Completes a partial checksum.
    """
    if int.from_bytes(view[off : off + IPV4_LEN], "little") % 0xFFFF:
        return DROP_IPV4_CHECKSUM
    # The addresses, which are part of the pseudo-header, lie right before the TCP header.
    start = off + _ADDRESSES
    length = total - IPV4_LEN
    if verify and not inet.verify(view, start, total - _ADDRESSES, PROTO_TCP + length):
        pseudo = int.from_bytes(view[start : off + IPV4_LEN], "big") + PROTO_TCP + length
        if not inet.complete_partial(view, off + IPV4_LEN, length, pseudo, off + _CHECK_OFF):
            return DROP_TCP_CHECKSUM
    return ""


def _bad_rows(
    view: memoryview, off: int, stride: int, count: int, total: int, verify: bool
) -> dict[int, str] | None:
    """The same as _wrong() for count packets at equal strides, by row. None if all are right."""
    ipv4 = _add(_ndarray((count, IPV4_LEN // 2), _WORD, view, off, (stride, 2)), 1, _U4) % 0xFFFF
    if verify:
        segments = inet.row_sums(view, off + _ADDRESSES, stride, count, total - _ADDRESSES)
        segments += np.uint32((PROTO_TCP + total - IPV4_LEN) * inet.SWAP)
        segments %= 0xFFFF
        if not (ipv4 | segments).any():
            return None
        _complete_rows(view, off, stride, total, ipv4, segments)
        bad = {int(row): DROP_TCP_CHECKSUM for row in segments.nonzero()[0]}
    elif not ipv4.any():
        return None
    else:
        bad = {}
    bad.update((int(row), DROP_IPV4_CHECKSUM) for row in ipv4.nonzero()[0])
    return bad


def _complete_rows(
    view: memoryview, off: int, stride: int, total: int, ipv4: NDArray[np.uint32], sums: NDArray[np.uint32]
) -> None:
    """Complete partial checksums. The entries of these rows in sums become zero.

    Arguments as in _bad_rows(). ipv4, sums: for each row the sums of IP header and segment modulo 0xffff. A
    row need not be TCP/IPv4: a stretch has all frames of the same length. Other rows are left alone.
    """
    count = len(sums)
    strides = (stride,)
    fields = _ndarray((count,), _WORD, view, off + _CHECK_OFF, strides)
    pseudo = inet.row_sums(view, off + _ADDRESSES, stride, count, 8)
    pseudo += np.uint32((PROTO_TCP + total - IPV4_LEN) * inet.SWAP)
    pseudo %= 0xFFFF
    # The pseudo-header is never all zero, so a sum of zero is written as 0xffff.
    pseudo[pseudo == 0] = 0xFFFF
    partial = (fields == pseudo) & (sums != 0) & (ipv4 == 0)
    if not partial.any():
        return
    partial &= _ndarray((count,), _BIG2, view, off - 2, strides) == ethernet.TYPE_IPV4
    first = _ndarray((count,), _BIG4, view, off, strides)
    partial &= first & np.uint32(_VERSION_TOTAL) == 0x45000000 | total
    third = _ndarray((count,), _BIG4, view, off + 6, strides)
    partial &= third & np.uint32(FRAGMENT_PROTO) == PROTO_TCP
    whole = (fields + np.uint32(0xFFFF) - sums) % 0xFFFF
    fields[partial] = whole[partial]
    sums[partial] = 0
