"""One worker's block of shared memory: its counters, its histograms, and what it counts by guest.

::

    | counters, by counters.INDEX | buckets of histograms, by Histogram.at | rows of guests |

All are 64-bit words. Only the worker writes its block. Every process may read it. A reader may see one word
of a row before the next, which is harmless for numbers that only grow.

Ingress counts by guest link. The number of rows is fixed, and so the number of series of the Prometheus page
is bounded. Links beyond GUEST_ROWS share one row, whose link is OTHERS.
"""

from typing import Final, NamedTuple

from pipeline import histograms
from pipeline.counters import INDEX, TABLE

GUEST_ROWS: Final = 64
OTHERS: Final = 0xFFFF
"""In place of a link's number: the row of the links that found no row of their own."""

GUESTS_AT: Final = len(TABLE) + histograms.WORDS
"""Index of the first row's first word."""
GUEST_WORDS: Final = 6

# The words of a row.
LINK: Final = 0
BYTES_FROM_GUEST: Final = 1
FRAMES_FROM_GUEST: Final = 2
BYTES_TO_GUEST: Final = 3
FRAMES_TO_GUEST: Final = 4
FRAMES_DROPPED: Final = 5

_WORDS: Final = GUESTS_AT + (GUEST_ROWS + 1) * GUEST_WORDS


def add(counts: memoryview, index: int, n: int) -> None:
    """counts[index] += n, for what each packet does. Compiled, += would make three Python numbers."""
    counts[index] += n


class GuestRow(NamedTuple):
    """What one link's guest sent and got."""

    link: int
    bytes_from_guest: int
    frames_from_guest: int
    bytes_to_guest: int
    frames_to_guest: int
    frames_dropped: int


class CounterBlock:
    """One worker's counters in shared memory: ``counts[INDEX[name]] += n``.

    ``counts`` is a memoryview of 64-bit words. Hot code looks the index up once, at import, and adds in
    place. Other code calls ``add``.
    """

    BYTES: Final = (_WORDS * 8 + 63) // 64 * 64

    def __init__(self, buf: memoryview) -> None:
        self.counts = buf[: _WORDS * 8].cast("Q")

    def add(self, name: str, n: int = 1) -> None:
        """Add n to the counter. Raises KeyError if the table has no such row."""
        self.counts[INDEX[name]] += n

    def set(self, name: str, value: int) -> None:
        """Set the gauge to a value."""
        self.counts[INDEX[name]] = value

    def get(self, name: str) -> int:
        """The value of one counter."""
        value: int = self.counts[INDEX[name]]
        return value

    def begin_again(self) -> None:
        """For a successor of a worker that died: levels and rows of guests begin at zero. Counters go on."""
        for index, row in enumerate(TABLE):
            if row.kind == "gauge":
                self.counts[index] = 0
        for index in range(GUESTS_AT, _WORDS):
            self.counts[index] = 0

    def snapshot(self) -> dict[str, int]:
        """All counters of this block by name."""
        return dict(zip(INDEX, self.counts[: len(TABLE)].tolist(), strict=True))

    def histogram(self, row: histograms.Histogram) -> list[int]:
        """The buckets of a histogram, the one for larger values, and the sum."""
        return self.counts[row.at : row.at + row.words].tolist()

    def guests(self) -> list[GuestRow]:
        """The rows that are in use."""
        words = self.counts[GUESTS_AT:_WORDS].tolist()
        rows = [GuestRow(*words[at : at + GUEST_WORDS]) for at in range(0, len(words), GUEST_WORDS)]
        return [row for row in rows if row.link]
