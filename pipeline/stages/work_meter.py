"""What the records of each guest cost a worker, while several guests share it.

The worker measures the processor time of each burst that it takes from ingress. Every record of such a burst
names its link in the same place. Ingress hears the sums (WORK) and charges the guests
(pipeline.stages.ingress.shares). With one guest, nothing is measured.

The records of one burst may be of several links, and to read the clock for each of them would cost too much.
So the meter remembers what a record of each link costs in bursts of that link alone, and divides the time of
a mixed burst in proportion. Otherwise a guest would pay for the expensive records of another one.
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
NEWEST: Final = 0.25
"""Weight of the newest burst in what a record of a link costs."""
MAX_LINKS: Final = 1024
"""Links of which something is remembered. Links that are gone are not forgotten one by one."""

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
        self._each: dict[int, float] = {}
        """Nanoseconds of a record, by link: an average over bursts of this link alone."""
        self._charged = 0
        """Nanoseconds that were charged so far, to whatever link."""
        self.on = False
        """Whether bursts are measured."""

    def __len__(self) -> int:
        """Links of which something is remembered."""
        return len(self._spent.keys() | self._each.keys())

    def switch(self, on: bool) -> None:
        """Measure from now on, or no more."""
        self.on = on
        self._spent.clear()
        self._each.clear()

    def begin(self) -> int:
        """The processor time so far that nobody was charged for, ns; to be given to charge() after the burst.

        So work for one link may contain work for others. Nobody pays for that twice.
        """
        return thread_time_ns() - self._charged

    def charge(self, burst: memoryview, began: int) -> None:
        """The worker is done with this burst of ingress."""
        self.add(burst.cast("H")[_LINK_AT::_HALFWORDS].tolist(), self.begin() - began)

    def charge_link(self, link: int, began: int) -> None:
        """The worker is done with something that a link has asked for, besides its records."""
        spent = self.begin() - began
        self._charged += spent
        self._add(link, spent)
        self._bound()

    def add(self, links: list[int], spent: int) -> None:
        """This many nanoseconds went into records of these links, one for each record."""
        self._charged += spent
        link = links[0]
        average = spent / len(links)
        if links.count(link) == len(links):
            known = self._each.get(link, average)
            self._each[link] = known + (average - known) * NEWEST
            self._add(link, spent)
        else:
            costs = {link: count * self._each.get(link, average) for link, count in Counter(links).items()}
            part = spent / max(sum(costs.values()), 1.0)
            for link, cost in costs.items():
                self._add(link, int(cost * part))
        self._bound()

    def _bound(self) -> None:
        if len(self._spent) > MAX_LINKS or len(self._each) > MAX_LINKS:
            self.switch(self.on)

    def _add(self, link: int, spent: int) -> None:
        total = self._spent.get(link, 0) + spent
        if total >= REPORT_NS and link and self._ring.room() > 0:
            self._ring.push(Work.pack(link, min(total, MAX_NS)))
            total = 0
        self._spent[link] = total
