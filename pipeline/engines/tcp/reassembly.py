"""The queue of bytes that arrived out of order, until the missing ones arrive (RFC 9293 section 3.10.7.4).

Ranges are kept in order of position and never overlap. A new range is trimmed at its front or tail. It
replaces ranges that it covers, because a handle cannot be split. The bytes and the number of ranges are
bounded. This module also keeps the SACK blocks that the ranges form, the most recently changed first (RFC
2018 section 4).

A range that is refused for lack of room is not reported, so the peer sends it again. A range at rcv_nxt is in
order and is not inserted here. A newer range does not replace an older one: RFC 2018 section 8 discourages
reneging.
"""

from bisect import bisect_right
from operator import itemgetter
from typing import Final

from pipeline.engines.tcp.seq import MASK

MAX_REPORTED_BLOCKS: Final = 3

_start = itemgetter(0)

Held = tuple[int, int, object, int]
"""Start and end (positions), handle, bytes to skip at the handle's front."""


class Reassembly:
    """The held ranges. All start after rcv_nxt."""

    __slots__ = ("_blocks", "_max_bytes", "_max_ranges", "_recent", "held_bytes", "ranges")

    def __init__(self, max_bytes: int, max_ranges: int) -> None:
        self._max_bytes = max_bytes
        self._max_ranges = max_ranges
        self.ranges: list[Held] = []
        self.held_bytes = 0
        self._blocks: list[list[int]] = []
        self._recent: list[list[int]] = []

    def insert(self, start: int, end: int, buf: object, skip: int, dropped: list[object]) -> bool:
        """Insert positions [start, end), which are the bytes of buf after its first skip bytes.

        Appends handles that are not needed (this one, or those that it covers) to dropped. Returns False if
        the range is refused for lack of room, True also for a duplicate.
        """
        ranges = self.ranges
        at = bisect_right(ranges, start, key=_start)
        report = start
        if at and ranges[at - 1][1] > start:
            before_end = ranges[at - 1][1]
            if before_end >= end:
                dropped.append(buf)
                self._touch(start)
                return True
            skip += before_end - start
            start = before_end
        stop = at
        covered = 0
        while stop < len(ranges) and ranges[stop][1] <= end:
            covered += ranges[stop][1] - ranges[stop][0]
            stop += 1
        if stop < len(ranges) and ranges[stop][0] < end:
            end = ranges[stop][0]
            if end <= start:
                dropped.append(buf)
                self._touch(report)
                return True
        if (
            self.held_bytes + end - start - covered > self._max_bytes
            or len(ranges) + 1 - (stop - at) > self._max_ranges
        ):
            dropped.append(buf)
            return False
        dropped.extend(held[2] for held in ranges[at:stop])
        ranges[at:stop] = [(start, end, buf, skip)]
        self.held_bytes += end - start - covered
        self._report(start, end)
        return True

    def next_at(self, rcv_nxt: int) -> Held | None:
        """Remove and return the first range if it starts at or before rcv_nxt; else None.

        The range may end before rcv_nxt: the caller trims or discards it.
        """
        ranges = self.ranges
        if not ranges or ranges[0][0] > rcv_nxt:
            return None
        held = ranges.pop(0)
        self.held_bytes -= held[1] - held[0]
        return held

    def forget_blocks(self, rcv_nxt: int) -> None:
        """Drop the SACK blocks that rcv_nxt has reached. Call it after next_at() has removed their ranges."""
        blocks = self._blocks
        reached = 0
        while reached < len(blocks) and blocks[reached][0] <= rcv_nxt:
            reached += 1
        if reached:
            del blocks[:reached]
            self._recent = [block for block in self._recent if block[0] > rcv_nxt]

    def sack_blocks(self) -> tuple[tuple[int, int], ...]:
        """Up to three SACK blocks as on the wire, the most recently changed first."""
        return tuple((left & MASK, right & MASK) for left, right in self._recent[:MAX_REPORTED_BLOCKS])

    def clear(self) -> list[object]:
        """Remove everything. Returns the handles that were held."""
        bufs = [held[2] for held in self.ranges]
        self.ranges = []
        self.held_bytes = 0
        self._blocks = []
        self._recent = []
        return bufs

    def _report(self, start: int, end: int) -> None:
        """Merge [start, end) into the blocks and move the result to the front of the report."""
        blocks = self._blocks
        at = bisect_right(blocks, start, key=_start)
        if at and blocks[at - 1][1] >= start:
            at -= 1
            block = blocks[at]
            if end > block[1]:
                block[1] = end
        else:
            block = [start, end]
            blocks.insert(at, block)
        stop = at + 1
        while stop < len(blocks) and blocks[stop][0] <= block[1]:
            if blocks[stop][1] > block[1]:
                block[1] = blocks[stop][1]
            stop += 1
        if stop > at + 1:
            gone = blocks[at + 1 : stop]
            del blocks[at + 1 : stop]
            # Compare by identity: two blocks may be equal, and a block changes as it grows.
            self._recent = [kept for kept in self._recent if not any(kept is old for old in gone)]
        self._to_front(block)

    def _touch(self, position: int) -> None:
        at = bisect_right(self._blocks, position, key=_start)
        if at:
            self._to_front(self._blocks[at - 1])

    def _to_front(self, block: list[int]) -> None:
        recent = self._recent
        if recent and recent[0] is block:
            return
        for index, kept in enumerate(recent):
            if kept is block:
                del recent[index]
                break
        recent.insert(0, block)
