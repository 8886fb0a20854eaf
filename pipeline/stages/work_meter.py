"""What the records of each guest cost a worker, while several guests share it.

The worker measures the processor time of each burst that it takes from ingress. Every record of such a burst
names its link in the same place, and each record bears an equal part of the burst's time. Ingress hears the
sums (WORK) and charges the guests (pipeline.stages.ingress.shares). With one guest, nothing is measured.
"""

from collections import Counter
from time import thread_time_ns
from typing import Final

from pipeline.ipc.ring import Producer
from pipeline.records.guests import Work
from pipeline.records.kinds import RECORD_BYTES

REPORT_NS: Final = 100_000
"""Time of one link that is worth a record."""
MAX_NS: Final = 0xFFFFFFFF

_HALFWORDS: Final = RECORD_BYTES // 2
_LINK_AT: Final = 1
"""The halfword of a record from ingress that holds its link."""


class WorkMeter:
    """One worker's times by link."""

    def __init__(self, ingress: Producer) -> None:
        """ingress: the ring to it."""
        self._ring = ingress
        self._spent: dict[int, int] = {}
        """Nanoseconds that ingress has not heard of, by link."""
        self.on = False
        """Whether bursts are measured."""

    def switch(self, on: bool) -> None:
        """Measure from now on, or no more."""
        self.on = on
        self._spent.clear()

    def begin(self) -> int:
        """The processor time so far, ns; to be given to charge() after the burst."""
        return thread_time_ns()

    def charge(self, burst: memoryview, began: int) -> None:
        """The worker is done with this burst of ingress."""
        self.add(burst.cast("H")[_LINK_AT::_HALFWORDS].tolist(), thread_time_ns() - began)

    def add(self, links: list[int], spent: int) -> None:
        """This many nanoseconds went into records of these links, one for each record."""
        if links.count(links[0]) == len(links):
            self._add(links[0], spent)
            return
        each = spent // len(links)
        for link, count in Counter(links).items():
            self._add(link, each * count)

    def _add(self, link: int, spent: int) -> None:
        total = self._spent.get(link, 0) + spent
        if total >= REPORT_NS and link and self._ring.room() > 0:
            self._ring.push(Work.pack(link, min(total, MAX_NS)))
            total = 0
        self._spent[link] = total
