"""Which guests were active lately: enough to know whether there are others beside a guest."""

from typing import Final

_NEVER: Final = float("-inf")


class Activity:
    """Remembers the guest that was active last, and when any other guest was."""

    def __init__(self, lasts_s: float) -> None:
        """lasts_s: the seconds for which a guest counts as active."""
        self._lasts_s = lasts_s
        self._last = 0
        """The guest that was active last."""
        self._last_at = _NEVER
        self._other_at = _NEVER
        """When another guest than that one was active for the last time."""

    def saw(self, guest: int, now: float) -> None:
        """A guest is active."""
        if guest != self._last:
            self._last = guest
            self._other_at = self._last_at
        self._last_at = now

    def others_end_at(self, guest: int) -> float:
        """When the others stop being active, unless they go on; -inf if they never were."""
        return (self._other_at if guest == self._last else self._last_at) + self._lasts_s

    def has_others(self, guest: int, now: float) -> bool:
        """Whether guests other than this one were active lately."""
        return now < self.others_end_at(guest)
