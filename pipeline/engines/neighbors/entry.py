"""Entries of the neighbour table: an address with its state, and an address held for an earlier run's owner.

::

    state       means                             becomes
    INCOMPLETE  asked by broadcast, callers wait  KNOWN on a sign of life, else gone
    KNOWN       a station uses this address       PROBE when contested, or when a caller needs it
                                                  REACHABLE_TIME after the last sign of life
    PROBE       usable; the owner is asked by     KNOWN on a sign of life; without one, KNOWN for
                unicast                           the claimant if contested, else for the owner
"""

from typing import Final

from pipeline.engines.neighbors.actions import Waiter
from pipeline.wire import ethernet

MAX_REQUESTS: Final = 3
REQUEST_INTERVAL: Final = 1.0
"""Seconds between two requests for one address."""
CONTEST_SECONDS: Final = 1.0
"""How long the owner of an address has to answer when a station on another link claims it."""
CONTEST_REQUESTS: Final = 2
"""How often the owner is asked in that time, since one request may be lost."""
CONTEST_PAUSE: Final = 2.0
"""Seconds from the start of one contest to the next about the same address."""
CONTEST_INTERVAL: Final = 10.0
"""Seconds between two events while a station keeps claiming an address."""
HOLD_SECONDS: Final = 10.0
"""The least time for which an address is held for the owner of an earlier run: its link must come back."""

INCOMPLETE: Final = "INCOMPLETE"
KNOWN: Final = "KNOWN"
PROBE: Final = "PROBE"
_INF: Final = float("inf")


class Neighbor:
    """One address and the station that has it; mac and link are unset while INCOMPLETE."""

    __slots__ = (
        "_asked_at",
        "_interval",
        "_reported_at",
        "addr",
        "announced",
        "claimant",
        "confirmed",
        "contested",
        "link",
        "lost_at",
        "mac",
        "requests_left",
        "state",
        "timer",
        "waiting",
    )

    def __init__(self, addr: int) -> None:
        self.addr = addr
        self.mac = ethernet.ZERO
        self.link = -1
        self.state = INCOMPLETE
        self.confirmed = -_INF
        """When the station last gave a sign of life."""
        self.contested = False
        """Whether a station on another link claims the address."""
        self.claimant = (ethernet.ZERO, -1)
        """(MAC, link) of the station that gets the address if the owner stays silent; set by contest()."""
        self.announced = False
        """Whether the claimant claims it by ARP. Other guests must hear of it if the claim succeeds."""
        self.lost_at = _INF
        """When the owner loses a contest."""
        self.requests_left = 0
        self.timer = _INF
        """When the next request is due, or, after the last one, when the wait for an answer ends."""
        self.waiting: list[Waiter] = []
        self._asked_at = -_INF
        """When the last contest began."""
        self._reported_at = -_INF
        """When the last event about a contest was made."""
        self._interval = REQUEST_INTERVAL

    def settle(self) -> None:
        """The owner gave a sign of life, or a probe without a claimant ended: the address is KNOWN."""
        self.state = KNOWN
        self.contested = False
        self.lost_at = self.timer = _INF

    def confirm(self, now: float) -> None:
        """The owner gave a sign of life."""
        self.confirmed = now

    def move(self, mac: bytes, link: int, now: float) -> None:
        """The address is at (mac, link) from now on."""
        self.mac, self.link, self.confirmed = mac, link, now

    def add_waiting(self, waiters: tuple[Waiter, ...]) -> None:
        """Keep these until the address is known, or lost."""
        self.waiting.extend(waiters)

    def take_waiting(self) -> tuple[Waiter, ...]:
        """Remove and return everything that waits for the address."""
        waiting, self.waiting = tuple(self.waiting), []
        return waiting

    # --- requests -------------------------------------------------------------------------

    def ask(self, state: str) -> None:
        """Begin to ask, in state INCOMPLETE or PROBE; next_request() counts the requests."""
        self.state = state
        self.requests_left = CONTEST_REQUESTS if self.contested else MAX_REQUESTS
        self._interval = CONTEST_SECONDS / CONTEST_REQUESTS if self.contested else REQUEST_INTERVAL

    def ask_for_caller(self) -> None:
        """A caller waits for an address that was asked for only because of a claim: go on asking."""
        self.requests_left = MAX_REQUESTS
        self._interval = REQUEST_INTERVAL

    def next_request(self, now: float) -> None:
        """A request is sent now."""
        self.requests_left -= 1
        self.timer = now + self._interval

    # --- contests -------------------------------------------------------------------------

    def may_be_contested(self, now: float) -> bool:
        """Whether a new contest may begin: none is running, and the last one began long enough ago."""
        return not self.contested and now - self._asked_at >= CONTEST_PAUSE

    def contest(self, mac: bytes, link: int, now: float) -> bool:
        """A contest with this claimant begins. Returns whether an event about it is due."""
        self.contested = True
        self.claimant = (mac, link)
        self.announced = False
        self.lost_at = now + CONTEST_SECONDS
        self._asked_at = now
        due = now - self._reported_at >= CONTEST_INTERVAL
        if due:
            self._reported_at = now
        return due

    def announce(self, mac: bytes, link: int) -> None:
        """A station claims the address by ARP. That counts if it is the claimant."""
        self.announced = self.announced or self.claimant == (mac, link)

    def contest_held(self) -> None:
        """The address is held for another station, which is asked now."""
        self.contested = True

    def withdraw_claim(self) -> None:
        """The claimant is gone. The owner keeps the address whether it answers or not."""
        self.contested = False
        self.lost_at = _INF

    def contest_begun_at(self) -> float:
        """When the last contest began."""
        return self._asked_at


class Held:
    """An address that is kept for ``mac``, at least until ``until``."""

    __slots__ = ("_reported_at", "mac", "until")

    def __init__(self, mac: bytes, now: float) -> None:
        self.mac = mac
        self.until = now + HOLD_SECONDS
        self._reported_at = -_INF

    def report_due(self, now: float) -> bool:
        """Whether an event about a claim is due. If so, it counts as made now."""
        if now - self._reported_at < CONTEST_INTERVAL:
            return False
        self._reported_at = now
        return True
