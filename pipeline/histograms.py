"""The table of all histograms: how long something took, or how much it was, in fixed buckets.

The buckets of all histograms follow the counters in each worker's block of shared memory (CounterBlock). A
worker calls ``observe()``, which adds to two words. The Prometheus page and docs/metrics.md take a histogram
from its row here.

Times are counted in whole microseconds, sizes in bytes. Each histogram has one word for each bucket, one for
larger values, and one for the sum of all values.
"""

from bisect import bisect_left
from typing import Final

from pipeline.counters import TABLE as COUNTERS

SECONDS: Final = "seconds"
BYTES: Final = "bytes"

WAITS: Final = (
    *(100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000),
    *(1_000_000, 2_500_000, 5_000_000, 10_000_000),
)
"""Bounds of times within which an answer comes: 100 µs to 10 s."""
LIVES: Final = (10_000, 100_000, 1_000_000, 10_000_000, 60_000_000, 600_000_000, 3_600_000_000)
"""Bounds of the times that connections live: 10 ms to an hour."""
SIZES: Final = (1_000, 10_000, 100_000, 1_000_000, 10_000_000, 100_000_000, 1_000_000_000, 10_000_000_000)


class Histogram:
    """One row. ``bounds``: the largest value of each bucket, in microseconds or bytes.

    ``direction``: "from_guest" or "to_guest", if the histogram of this family is for one direction.
    """

    def __init__(
        self, family: str, unit: str, help_text: str, bounds: tuple[int, ...], direction: str = ""
    ) -> None:
        self.family = family
        self.unit = unit
        self.help = help_text
        self.bounds = bounds
        self.direction = direction
        self.words = len(bounds) + 2
        self.at = 0
        """Index of its first word in the block, set by the table."""
        self._sum_at = 0

    @property
    def name(self) -> str:
        """Its name in the table."""
        return f"{self.family}_{self.direction}" if self.direction else self.family

    def place(self, at: int) -> None:
        """Its words begin at this index of the block."""
        self.at = at
        self._sum_at = at + self.words - 1

    def observe(self, counts: memoryview, value: int) -> None:
        """Count a value, in microseconds or bytes. counts: the words of the worker's block."""
        at = self.at + bisect_left(self.bounds, value)
        counts[at] = counts[at] + 1
        counts[self._sum_at] = counts[self._sum_at] + value

    def observe_seconds(self, counts: memoryview, seconds: float) -> None:
        """Count a time."""
        self.observe(counts, max(int(seconds * 1e6), 0))


TABLE: Final[tuple[Histogram, ...]] = (
    Histogram(
        "tcp_connect",
        SECONDS,
        "time until a host accepted a connection that a guest asked for; not of those that failed",
        WAITS,
    ),
    Histogram(
        "dns_upstream",
        SECONDS,
        "time until an upstream server answered a question; cached answers have none",
        WAITS,
    ),
    Histogram(
        "tcp_rtt", SECONDS, "smallest round-trip time to the guest, of each TCP connection that ended", WAITS
    ),
    Histogram(
        "tcp_flow_duration", SECONDS, "how long TCP connections lived that were established and ended", LIVES
    ),
    Histogram(
        "tcp_flow", BYTES, "payload of each TCP connection that ended, by direction", SIZES, "from_guest"
    ),
    Histogram(
        "tcp_flow", BYTES, "payload of each TCP connection that ended, by direction", SIZES, "to_guest"
    ),
)


def _placed() -> int:
    """Give each histogram its place after the counters. Returns how many words all have."""
    at = len(COUNTERS)
    for row in TABLE:
        row.place(at)
        at += row.words
    return at - len(COUNTERS)


WORDS: Final = _placed()
BY_NAME: Final[dict[str, Histogram]] = {row.name: row for row in TABLE}
