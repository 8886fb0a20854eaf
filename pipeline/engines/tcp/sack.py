"""The SACK scoreboard: which of the bytes between snd_una and snd_nxt are in flight, lost or received.

RFC 2018, RFC 6675, and for RFC 8985 the time of each range's last transmission. Numbers are positions (see
seq.py).

The scoreboard covers snd_una..snd_nxt with adjacent ranges. One transmission makes one range of up to 64 KiB,
not a range for each segment. A range is cut only at the edge of a SACK block, a partial ACK or a partial
retransmission. A range is in flight, ``lost`` (to be sent again) or ``sacked``. Adjacent sacked ranges are
joined.

RFC 6675's pipe is counted incrementally: pipe = HighData - snd_una - sacked - lost. A lost range that was
sent again is in flight again, as in RFC 8985. So RFC 6675's HighRxt is not needed.
"""

from bisect import bisect_right
from operator import attrgetter
from typing import Final

from pipeline.engines.tcp.seq import unwrap

MAX_SACK_BLOCKS: Final = 4
"""The most blocks that fit into the options of a segment."""

_start = attrgetter("start")


def _inside(left: int, right: int, block: tuple[int, int], near: int) -> bool:
    """Whether positions [left, right) lie inside a block as on the wire."""
    return unwrap(block[0], near) <= left and right <= unwrap(block[1], near)


class SentRange:
    """Positions [start, end), last sent at xmit_ts (seconds). A FIN is one position."""

    __slots__ = ("end", "lost", "retransmitted", "sacked", "start", "xmit_ts")

    def __init__(self, start: int, end: int, xmit_ts: float, retransmitted: bool = False) -> None:
        self.start = start
        self.end = end
        self.xmit_ts = xmit_ts
        self.retransmitted = retransmitted
        self.sacked = False
        self.lost = False


class Scoreboard:
    """The ranges that are sent and not yet acknowledged, in order of position.

    high_sacked: the highest position that was SACKed or acknowledged so far.
    """

    __slots__ = (
        "_max_ranges",
        "high_sacked",
        "lost_bytes",
        "ranges",
        "retransmitted_bytes",
        "retransmitted_out",
        "sacked_bytes",
    )

    def __init__(self, position: int, max_ranges: int) -> None:
        self._max_ranges = max_ranges
        self.ranges: list[SentRange] = []
        self.sacked_bytes = 0
        self.lost_bytes = 0
        self.retransmitted_out = 0
        """Ranges in flight that were sent more than once."""
        self.retransmitted_bytes = 0
        """Bytes of all retransmissions so far."""
        self.high_sacked = position

    def sent(self, start: int, end: int, now: float) -> None:
        """New positions were sent. If the last range was sent at the same time, they extend it."""
        ranges = self.ranges
        if ranges:
            last = ranges[-1]
            if last.xmit_ts == now and not (last.sacked or last.lost or last.retransmitted):
                last.end = end
                return
        ranges.append(SentRange(start, end, now))

    def acknowledge(self, una: int) -> list[SentRange]:
        """Remove everything before una, which is acknowledged.

        Returns the ranges that were not SACKed before, with their times and flags. If una lies inside a
        range, its front is returned as a new object.
        """
        ranges = self.ranges
        newly: list[SentRange] = []
        done = 0
        for sent in ranges:
            if sent.end > una:
                if sent.start < una:
                    self._account(sent, sent.start - una)
                    if not sent.sacked:
                        front = SentRange(sent.start, una, sent.xmit_ts, sent.retransmitted)
                        newly.append(front)
                    sent.start = una
                break
            done += 1
            if sent.sacked:
                self.sacked_bytes -= sent.end - sent.start
                continue
            if sent.lost:
                self.lost_bytes -= sent.end - sent.start
            if sent.retransmitted:
                self.retransmitted_out -= 1
            newly.append(sent)
        if done:
            del ranges[:done]
        if una > self.high_sacked:
            self.high_sacked = una
        return newly

    def read_blocks(
        self, blocks: tuple[tuple[int, int], ...], una: int, nxt: int, newly: list[SentRange]
    ) -> int:
        """Process the SACK blocks of an ACK, as on the wire. una, nxt: snd_una and snd_nxt.

        Appends to newly as sack() does. A first block before snd_una, or inside the second block, reports
        bytes that were received twice (RFC 2883). Returns the number of these bytes, or 0.
        """
        blocks = blocks[:MAX_SACK_BLOCKS]
        duplicate = 0
        for index, (left_edge, right_edge) in enumerate(blocks):
            left = unwrap(left_edge, una)
            right = unwrap(right_edge, una)
            if left >= right or right > nxt:
                continue
            if index == 0 and (right <= una or (len(blocks) > 1 and _inside(left, right, blocks[1], una))):
                duplicate = right - left
            elif right > una:
                self.sack(max(left, una), right, newly)
        return duplicate

    def sack(self, left: int, right: int, newly: list[SentRange]) -> int:
        """The peer has [left, right). The caller has checked that this is in snd_una..snd_nxt.

        Appends a copy of each range that was not SACKed before to newly. Returns the bytes of these ranges.
        """
        ranges = self.ranges
        index = max(0, bisect_right(ranges, left, key=_start) - 1)
        news = 0
        while index < len(ranges):
            sent = ranges[index]
            if sent.start >= right:
                break
            if sent.sacked or sent.end <= left:
                index += 1
                continue
            if sent.start < left:
                if not self._cut(index, left):
                    break
                index += 1
                continue
            if sent.end > right and not self._cut(index, right):
                break
            size = sent.end - sent.start
            news += size
            copy = SentRange(sent.start, sent.end, sent.xmit_ts, sent.retransmitted)
            copy.lost = sent.lost
            newly.append(copy)
            self._account_sacked(sent, size)
            if sent.end > self.high_sacked:
                self.high_sacked = sent.end
            index = self._join(index)
        return news

    def mark_lost(self, sent: SentRange) -> None:
        """Mark a range to be retransmitted, unless it is sacked or already lost."""
        if not (sent.sacked or sent.lost):
            sent.lost = True
            self.lost_bytes += sent.end - sent.start

    def mark_all_lost(self, reneged: bool) -> None:
        """Mark all ranges lost that are not sacked (RFC 6675 5.1). reneged: also the sacked ones."""
        for sent in self.ranges:
            if reneged and sent.sacked:
                sent.sacked = False
                self.sacked_bytes -= sent.end - sent.start
                if sent.retransmitted:
                    self.retransmitted_out += 1
            self.mark_lost(sent)

    def mark_front_lost(self, size: int) -> None:
        """Mark the first size positions lost, for peers without SACK (RFC 6582 section 3.2)."""
        if self.ranges:
            front = self.ranges[0]
            if not front.lost and front.end - front.start > size:
                self._cut(0, front.start + size)
            self.mark_lost(front)

    def unmark_lost(self) -> None:
        """Nothing was lost (undo): lost ranges are in flight again."""
        for sent in self.ranges:
            sent.lost = False
        self.lost_bytes = 0

    def retransmitted(self, index: int, end: int, now: float) -> None:
        """The front of ranges[index], up to end, was sent again: it is in flight."""
        sent = self.ranges[index]
        if sent.end > end and not self._cut(index, end, forced=True):
            return
        if sent.lost:
            sent.lost = False
            self.lost_bytes -= sent.end - sent.start
        if not sent.retransmitted:
            sent.retransmitted = True
            self.retransmitted_out += 1
        sent.xmit_ts = now
        self.retransmitted_bytes += sent.end - sent.start

    def tail_retransmitted(self, start: int, now: float) -> None:
        """The positions from start to the end of the last range were sent again as a probe."""
        index = len(self.ranges) - 1
        if self.ranges[index].start < start:
            self._cut(index, start, forced=True)
            index += 1
        self.retransmitted(index, self.ranges[index].end, now)

    def clear(self) -> None:
        """Remove all ranges: the connection is over."""
        self.ranges = []
        self.sacked_bytes = 0
        self.lost_bytes = 0
        self.retransmitted_out = 0

    def _cut(self, index: int, at: int, forced: bool = False) -> bool:
        """Split ranges[index] at position at. Returns False if there are too many ranges to do so."""
        if not forced and len(self.ranges) >= self._max_ranges:
            return False
        sent = self.ranges[index]
        tail = SentRange(at, sent.end, sent.xmit_ts, sent.retransmitted)
        tail.sacked = sent.sacked
        tail.lost = sent.lost
        if sent.retransmitted and not sent.sacked:
            self.retransmitted_out += 1
        sent.end = at
        self.ranges.insert(index + 1, tail)
        return True

    def _join(self, index: int) -> int:
        """Join ranges[index], just sacked, with sacked neighbours. Returns the index after the result."""
        ranges = self.ranges
        sent = ranges[index]
        if index + 1 < len(ranges) and ranges[index + 1].sacked:
            sent.end = ranges[index + 1].end
            del ranges[index + 1]
        if index and ranges[index - 1].sacked:
            ranges[index - 1].end = sent.end
            del ranges[index]
            return index
        return index + 1

    def _account(self, sent: SentRange, change: int) -> None:
        if sent.sacked:
            self.sacked_bytes += change
        elif sent.lost:
            self.lost_bytes += change

    def _account_sacked(self, sent: SentRange, size: int) -> None:
        if sent.lost:
            sent.lost = False
            self.lost_bytes -= size
        if sent.retransmitted:
            self.retransmitted_out -= 1
        sent.sacked = True
        self.sacked_bytes += size
