"""Verifies the checksums of received TCP segments (RFC 1071), for many frames of a family in one operation.

A guest may leave the TCP checksum to its network card. The field then holds the sum of the pseudo-header.
libkrun strips the virtio-net header that would say so. Such a segment is valid. This module completes its
checksum, so that later readers see a whole segment. The check costs a comparison where a sum is wrong.
"""

from typing import Final

import numpy as np
from numpy.typing import NDArray

from pipeline.engines.offload import checksum as inet
from pipeline.engines.offload.headers import DROP_IPV4_CHECKSUM, DROP_TCP_CHECKSUM, ETHERNET_LEN, TCP_CHECK
from pipeline.engines.offload.layouts import Layout
from pipeline.wire.ipv4 import PROTO_TCP

MIN_SUM_ROWS: Final = 3
"""From this number of equal frames on, one numpy sum over all is cheaper than one for each."""
MAX_ROWS: Final = 2048
"""The most frames that are summed in one operation."""

_WORD: Final = inet.WORD

_ndarray = np.ndarray


class Sums:
    """Finds the frames of a burst that have wrong checksums.

    Frames of equal length at equal strides are a *stretch*, whatever flows they belong to. All frames of a
    stretch are summed when the first one is asked for. The current stretch ends before index ``end``. Its
    frames whose packet has the length ``total`` are summed. bad: the wrong ones, {index: drop counter}.
    """

    __slots__ = ("_frames", "_layout", "_verify", "_view", "bad", "end", "stride", "total")

    def __init__(self, layout: Layout, view: memoryview, frames: list[tuple[int, int]], verify: bool) -> None:
        """verify False: only the IPv4 checksums are verified."""
        self._layout = layout
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
        """The drop counter for frame index, a plain segment of length ``total``; empty if its sums are right.

        Call it with rising indices. Only an index that was asked for before may come again.
        """
        if index >= self.end:
            self._measure(index, total)
        if total != self.total:
            # The frame is not in a stretch, or packets of several lengths are padded to Ethernet's minimum.
            return _wrong(self._layout, self._view, self._frames[index][0], total, self._verify)
        return self.bad.get(index, "") if self.bad else ""

    def _measure(self, index: int, total: int) -> None:
        """Find the stretch that begins at index, and sum its packets of length ``total``."""
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
            found = _bad_rows(self._layout, self._view, off, stride, end - index, total, self._verify)
            self.bad = {index + row: reason for row, reason in found.items()} if found else None


def _wrong(layout: Layout, view: memoryview, off: int, total: int, verify: bool) -> str:
    """The drop counter for the plain segment of length ``total`` in the frame at off; empty if it is right.

    Completes a partial checksum.
    """
    packet = off + ETHERNET_LEN
    if inet.word_sum(view, packet, layout.summed_len) % inet.MODULUS:
        return DROP_IPV4_CHECKSUM
    # The addresses, which are part of the pseudo-header, lie right before the TCP header.
    start, begin = off + layout.addresses_off, off + layout.l4_off
    length = total + layout.counted_off - layout.l4_off
    if verify and not inet.verify(view, start, begin - start + length, PROTO_TCP + length):
        pseudo = int.from_bytes(view[start:begin], "big") + PROTO_TCP + length
        if not inet.complete_partial(view, begin, length, pseudo, begin + TCP_CHECK):
            return DROP_TCP_CHECKSUM
    return ""


def _bad_rows(
    layout: Layout, view: memoryview, off: int, stride: int, count: int, total: int, verify: bool
) -> dict[int, str] | None:
    """The same as _wrong() for count frames at equal strides, by row. None if all are right."""
    headers = layout.header_sums(view, off, stride, count)
    bad = {}
    if verify:
        start, l4_off = layout.addresses_off, layout.l4_off
        length = total + layout.counted_off - l4_off
        segments = inet.row_sums(view, off + start, stride, count, l4_off - start + length)
        segments += np.uint32((PROTO_TCP + length) * inet.SWAP)
        segments %= 0xFFFF
        if not (segments if headers is None else headers | segments).any():
            return None
        _complete_rows(layout, view, off, stride, total, headers, segments)
        bad = {int(row): DROP_TCP_CHECKSUM for row in segments.nonzero()[0]}
    elif headers is None or not headers.any():
        return None
    if headers is not None:
        bad.update((int(row), DROP_IPV4_CHECKSUM) for row in headers.nonzero()[0])
    return bad


def _complete_rows(
    layout: Layout,
    view: memoryview,
    off: int,
    stride: int,
    total: int,
    headers: NDArray[np.uint32] | None,
    sums: NDArray[np.uint32],
) -> None:
    """Complete partial checksums. The entries of these rows in sums become zero.

    Arguments as in _bad_rows(). headers, sums: for each row the sums of IP header and segment modulo 0xffff.
    A row need not be a plain segment: a stretch has all frames of the same length. Other rows are left alone.
    """
    count = len(sums)
    start, l4_off = layout.addresses_off, layout.l4_off
    fields = _ndarray((count,), _WORD, view, off + l4_off + TCP_CHECK, (stride,))
    pseudo = inet.row_sums(view, off + start, stride, count, l4_off - start)
    pseudo += np.uint32((PROTO_TCP + total + layout.counted_off - l4_off) * inet.SWAP)
    pseudo %= 0xFFFF
    # The pseudo-header is never all zero, so a sum of zero is written as 0xffff.
    pseudo[pseudo == 0] = 0xFFFF
    partial = (fields == pseudo) & (sums != 0)
    if headers is not None:
        partial &= headers == 0
    if not partial.any():
        return
    partial &= layout.are_segments(view, off, stride, count, total)
    whole = (fields + np.uint32(0xFFFF) - sums) % 0xFFFF
    fields[partial] = whole[partial]
    sums[partial] = 0
