"""Token buckets by key: they limit how often something happens for each guest (like RFC 1812 4.3.2.8)."""

from collections.abc import Hashable
from typing import Final

_FOREVER: Final = float("-inf")


class Buckets:
    """One bucket for each key, full at first. Keys are guests or links, so they are few."""

    def __init__(self, per_second: float, burst: float) -> None:
        self.per_second = per_second
        self.burst = burst
        self._levels: dict[Hashable, tuple[float, float]] = {}
        """Tokens, and the time at which they were counted."""

    def take(self, key: Hashable, now: float) -> bool:
        """Take a token. Returns False when there is none."""
        level = self.level(key, now)
        if level < 1.0:
            return False
        self._levels[key] = (level - 1.0, now)
        return True

    def charge(self, key: Hashable, count: int, now: float) -> None:
        """Take count tokens even if there are fewer: the level may become negative."""
        self._levels[key] = (self.level(key, now) - count, now)

    def level(self, key: Hashable, now: float) -> float:
        """Tokens in the bucket now."""
        tokens, at = self._levels.get(key, (self.burst, _FOREVER))
        return min(self.burst, tokens + (now - at) * self.per_second)

    def ready_at(self, key: Hashable, wanted: float) -> float:
        """When the bucket will hold the wanted tokens. A time in the past if it does already."""
        tokens, at = self._levels.get(key, (self.burst, _FOREVER))
        return at + (wanted - tokens) / self.per_second

    def forget(self, key: Hashable) -> None:
        """The key is gone; if it comes again, its bucket is full."""
        self._levels.pop(key, None)
