"""Numbers the guests. All links that one peer opened belong to one guest (pipeline.system.peer).

A guest's limits and shares hold for all its links together. A link whose peer is unknown is a guest of its
own. A peer keeps its number for KEPT_S after its last link, so it gains nothing by reconnecting.
"""

from typing import Final

from pipeline.engines.buckets import Buckets
from pipeline.system.descriptor_limit import MAX_LINKS

MAX_NUMBER: Final = 0xFFFF
"""Guests are numbered from 1. A record has 16 bits for the number."""
SURE_LINKS: Final = 16
"""Links that each guest may have. It may have more while at least as many are free."""
LINKS_PER_SECOND: Final = 10.0
LINKS_AT_ONCE: Final = 2.0 * SURE_LINKS
"""Links that one peer may open, a second and at once."""
KEPT_S: Final = 10.0
"""Seconds for which a peer without links keeps its number."""

TOO_MANY: Final = "link_refused_too_many"
TOO_OFTEN: Final = "link_refused_too_often"


class GuestNumbers:
    """The guests that have links, or had some in the last KEPT_S. Numbers are reused as late as possible."""

    def __init__(self, max_links: int = MAX_LINKS) -> None:
        """max_links: of all guests."""
        self.max_links = max_links
        self._number_of: dict[str, int] = {}
        self._identity_of: dict[int, str] = {}
        self._links: dict[int, int] = {}
        """How many links each guest has, by its number."""
        self._left_at: dict[int, float] = {}
        """Guests without links, in the order in which they left."""
        self._opened = Buckets(LINKS_PER_SECOND, LINKS_AT_ONCE)
        self._total = 0
        self._last = 0

    def __len__(self) -> int:
        return len(self._links) - len(self._left_at)

    def links(self) -> dict[int, int]:
        """How many links each guest has, by its number. A guest without links is not there."""
        return {number: count for number, count in self._links.items() if count}

    def peers(self) -> dict[int, str]:
        """The peer of each guest, by its number, as far as it is known."""
        return dict(self._identity_of)

    def refusal(self, identity: str, now: float) -> str:
        """The name of the counter that says why this peer may not open another link now; "" if it may."""
        if self._total >= self.max_links:
            return TOO_MANY
        number = self._number_of.get(identity, 0) if identity else 0
        if not number:
            return ""
        if not self._opened.take(number, now):
            return TOO_OFTEN
        return TOO_MANY if self._links[number] >= max(SURE_LINKS, self.max_links - self._total) else ""

    def add_link(self, identity: str) -> int:
        """Count one more link of this peer. Returns the number of its guest."""
        number = self._number_of.get(identity, 0) if identity else 0
        if not number:
            number = self._free_number()
            self._links[number] = 0
            if identity:
                self._number_of[identity] = number
                self._identity_of[number] = identity
        self._left_at.pop(number, None)
        self._links[number] += 1
        self._total += 1
        return number

    def adopt_link(self, identity: str, number: int) -> None:
        """Count one more link of this peer, whose guest has that number already."""
        if identity:
            self._number_of[identity] = number
            self._identity_of[number] = identity
        self._links[number] = self._links.get(number, 0) + 1
        self._total += 1

    def number_from(self, last: int) -> None:
        """A predecessor has given numbers up to this one."""
        self._last = last % MAX_NUMBER

    def remove_link(self, number: int, now: float) -> None:
        """A link of this guest is over."""
        self._links[number] -= 1
        self._total -= 1
        if not self._links[number]:
            self._left_at[number] = now

    def expire(self, now: float) -> list[int]:
        """Forget the guests that are gone. Returns their numbers.

        A guest without links is gone after KEPT_S, and at once if its peer is unknown.
        """
        gone = [
            number
            for number, left_at in self._left_at.items()
            if number not in self._identity_of or now >= left_at + KEPT_S
        ]
        for number in gone:
            del self._links[number], self._left_at[number]
            self._number_of.pop(self._identity_of.pop(number, ""), None)
            self._opened.forget(number)
        return gone

    def _free_number(self) -> int:
        while True:
            self._last = self._last % MAX_NUMBER + 1
            if self._last not in self._links:
                return self._last
