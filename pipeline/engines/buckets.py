"""Token buckets, one for each key: they limit the rate of an event for each guest (as RFC 1812 4.3.2.8)."""

from collections.abc import Hashable
from typing import Final

QUESTIONS_AT_ONCE_S: Final = 0.5
"""A guest may ask a service the questions of this many seconds at once."""

_LONG_AGO: Final = float("-inf")


def for_questions(per_second: float) -> tuple[float, float]:
    """The rate and the burst of buckets for questions to a service. At least one question may come."""
    return per_second, max(1.0, per_second * QUESTIONS_AT_ONCE_S)


class Buckets:
    """One bucket for each key, initially full. Keys are guests or links; forget() removes one."""

    def __init__(self, per_second: float, burst: float) -> None:
        self.per_second = per_second
        self.burst = burst
        self._levels: dict[Hashable, tuple[float, float]] = {}
        """By key: its tokens, and the time at which they were counted."""

    def __len__(self) -> int:
        return len(self._levels)

    def __contains__(self, key: Hashable) -> bool:
        return key in self._levels

    def set_rate(self, per_second: float, burst: float) -> None:
        """Change the rate. A bucket with more tokens than the new burst has the burst."""
        self.per_second = per_second
        self.burst = burst

    def take(self, key: Hashable, now: float) -> bool:
        """Take a token. Returns False when there is none."""
        level = self.level(key, now)
        if level < 1.0:
            return False
        self._levels[key] = (level - 1.0, now)
        return True

    def charge(self, key: Hashable, count: int, now: float) -> None:
        """Take count tokens, even if there are fewer. The level may become negative."""
        self._levels[key] = (self.level(key, now) - count, now)

    def level(self, key: Hashable, now: float) -> float:
        """Tokens in the bucket now."""
        tokens, at = self._levels.get(key, (self.burst, _LONG_AGO))
        return min(self.burst, tokens + (now - at) * self.per_second)

    def ready_at(self, key: Hashable, wanted: float) -> float:
        """The time at which the bucket holds the wanted tokens. It may be in the past."""
        tokens, at = self._levels.get(key, (self.burst, _LONG_AGO))
        return at + (wanted - tokens) / self.per_second

    def forget(self, key: Hashable) -> None:
        """Remove the key's bucket. If the key is used again, its bucket is full."""
        self._levels.pop(key, None)

    def forget_full(self, now: float) -> None:
        """Remove the buckets that are full again. A key that comes back soon does not gain by it."""
        for key in [key for key in self._levels if self.level(key, now) >= self.burst]:
            del self._levels[key]
