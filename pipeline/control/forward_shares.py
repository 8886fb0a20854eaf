"""How many forwards guests may open, and how often. The host's forwards always find room.

Guests together have a part of all forwards. Of this part, a guest may have twice as many as are left, and
SURE_FORWARDS while there are any. A forward of a guest that is gone counts too, since its guest may come
back. When a guest within its share finds no room, the oldest forward of a guest that is gone is closed. When
the host finds none, the newest forward of the guest with most forwards is closed. Opening and closing cost
other workers time, so each guest has a rate for both.
"""

from collections import Counter, OrderedDict
from collections.abc import Callable, Collection, Iterable
from typing import Final, NamedTuple, Protocol

from pipeline.config.limits import Limits
from pipeline.system import descriptor_limit

SURE_FORWARDS: Final = 16
"""Forwards that a guest may have while any are left."""
SHARE_OF_FREE: Final = 2
DESCRIPTORS_PART: Final = 4
"""Forwards of guests may take one part in this many of the descriptors of a process."""
MAX_GUESTS: Final = 4096
"""Guests whose rates are remembered."""
HOST: Final = 0
"""The number that stands for the host among the guests. Clients on vsock have negative ones."""


class Owned(Protocol):
    """A forward: what matters here is who opened it."""

    @property
    def guest(self) -> int:
        """The number of the guest, or HOST."""
        ...


class Change(NamedTuple):
    """Whether a forward may be opened: ``refusal`` is the text of why not. ``full``: another must close."""

    refusal: str = ""
    full: bool = False


class ForwardShares:
    """The limits on forwards."""

    def __init__(self, limits: Limits, count: Callable[[str], None]) -> None:
        """count: called with the name of a counter."""
        self._count = count
        self.set_limits(limits)
        self._tokens: OrderedDict[int, tuple[float, float]] = OrderedDict()
        """By guest: changes that it may make at once, and when they were counted. At most 2 s' worth."""

    def set_limits(self, limits: Limits) -> None:
        """Set the limits. Forwards that exceed lower ones stay."""
        self.max_forwards = limits.max_forwards
        self.max_of_guests = min(limits.max_forwards_of_guests, limits.max_forwards)
        descriptors = descriptor_limit.soft()
        if descriptors >= 0:
            self.max_of_guests = max(1, min(self.max_of_guests, descriptors // DESCRIPTORS_PART))
        self._rate = limits.max_forward_changes_per_second

    def refuses_change(self, guest: int, now: float) -> str:
        """Why the guest may open or close no forward now; "" if it may, as the host always does."""
        if guest == HOST:
            return ""
        burst = 2.0 * self._rate
        tokens, at = self._tokens.pop(guest, (burst, now))
        tokens = min(burst, tokens + (now - at) * self._rate)
        if len(self._tokens) >= MAX_GUESTS:
            self._tokens.popitem(last=False)
        self._tokens[guest] = (tokens - 1.0 if tokens >= 1.0 else tokens, now)
        if tokens >= 1.0:
            return ""
        self._count("api_forward_refused_rate")
        return f"a guest may open and close {self._rate} forwards a second"

    def refuses(self, guest: int, forwards: Collection[Owned]) -> Change:
        """Whether this guest or the host may open one more."""
        if guest == HOST:
            return Change(full=len(forwards) >= self.max_forwards)
        own = _by_guest(forwards)
        left = self.max_of_guests - own.total()
        if own[guest] >= max(SURE_FORWARDS, SHARE_OF_FREE * left):
            self._count("api_forward_refused_share")
            return Change(f"this guest has {own[guest]} forwards already, which is its share")
        return Change(full=left <= 0 or len(forwards) >= self.max_forwards)

    def to_close_for_host(self, forwards: Iterable[Owned]) -> Owned | None:
        """The newest forward of the guest with most; None if no guest has any. forwards: oldest first."""
        of_guests = [forward for forward in forwards if forward.guest != HOST]
        if not of_guests:
            return None
        most, _ = _by_guest(of_guests).most_common(1)[0]
        self._count("api_forward_closed")
        return [forward for forward in of_guests if forward.guest == most][-1]

    def to_close_for_guest(self, forwards: Iterable[Owned], there: Collection[int]) -> Owned | None:
        """The oldest forward of a guest that is gone; None if there is none. there: guests with links."""
        for forward in forwards:
            if forward.guest > HOST and forward.guest not in there:
                self._count("api_forward_closed")
                return forward
        self._count("api_forward_refused_share")
        return None


def _by_guest(forwards: Iterable[Owned]) -> Counter[int]:
    return Counter(forward.guest for forward in forwards if forward.guest != HOST)
