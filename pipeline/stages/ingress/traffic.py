"""What each guest link sent and got: one row of the worker's counter block for each link.

A link counts in its LinkTraffic. Once a second the counts are added to the rows, which costs less than adding
to shared memory for each burst. A row is free when its link is 0. Links that find no free row share the last
one.
"""

from typing import Final

from pipeline.counter_block import (
    BYTES_FROM_GUEST,
    BYTES_TO_GUEST,
    FRAMES_DROPPED,
    FRAMES_FROM_GUEST,
    FRAMES_TO_GUEST,
    GUEST_ROWS,
    GUEST_WORDS,
    GUESTS_AT,
    LINK,
    OTHERS,
)

WRITE_S: Final = 1.0
"""Seconds between two updates of the rows."""


class LinkTraffic:
    """What one link counted since the last update of its row."""

    __slots__ = (
        "bytes_from_guest",
        "bytes_to_guest",
        "frames_dropped",
        "frames_from_guest",
        "frames_to_guest",
        "row",
    )

    def __init__(self, row: int) -> None:
        self.row = row
        """Index of the first word of its row."""
        self.clear()

    def clear(self) -> None:
        """Begin again."""
        self.bytes_from_guest = 0
        self.frames_from_guest = 0
        self.bytes_to_guest = 0
        self.frames_to_guest = 0
        self.frames_dropped = 0


class TrafficRows:
    """The rows of the links that are attached now."""

    def __init__(self, counts: memoryview) -> None:
        self._counts = counts
        self._free = [GUESTS_AT + row * GUEST_WORDS for row in range(GUEST_ROWS)]
        self._shared = GUESTS_AT + GUEST_ROWS * GUEST_WORDS
        self._open: dict[LinkTraffic, None] = {}
        self._write_at = 0.0

    def open(self, link: int) -> LinkTraffic:
        """A link is attached. Its row begins with zeros, unless it shares one."""
        if self._free:
            # The row that is free for longest: a reader sees its old link for as short a time as possible.
            row, number = self._free.pop(0), link
            for word in range(row, row + GUEST_WORDS):
                self._counts[word] = 0
        else:
            row, number = self._shared, OTHERS
        self._counts[row + LINK] = number
        traffic = LinkTraffic(row)
        self._open[traffic] = None
        return traffic

    def close(self, traffic: LinkTraffic) -> None:
        """The link of this traffic is gone."""
        self._write(traffic)
        del self._open[traffic]
        if traffic.row != self._shared:
            self._counts[traffic.row + LINK] = 0
            self._free.append(traffic.row)

    def write(self, now: float) -> None:
        """Update the rows, if it is time."""
        if now >= self._write_at:
            self._write_at = now + WRITE_S
            for traffic in self._open:
                self._write(traffic)

    def _write(self, traffic: LinkTraffic) -> None:
        counts, row = self._counts, traffic.row
        counts[row + BYTES_FROM_GUEST] += traffic.bytes_from_guest
        counts[row + FRAMES_FROM_GUEST] += traffic.frames_from_guest
        counts[row + BYTES_TO_GUEST] += traffic.bytes_to_guest
        counts[row + FRAMES_TO_GUEST] += traffic.frames_to_guest
        counts[row + FRAMES_DROPPED] += traffic.frames_dropped
        traffic.clear()
