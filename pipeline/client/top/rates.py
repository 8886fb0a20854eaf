"""How fast counters grow: the difference of two polls, divided by the time between them."""

from collections.abc import Mapping
from typing import Generic, TypeVar

Key = TypeVar("Key")


class Rates(Generic[Key]):
    """The rates of counters that only grow, by key. What the last poll did not have is forgotten."""

    def __init__(self, missing: float | None = None) -> None:
        """missing: the count of a key that the poll before did not have. With None it has no rate."""
        self._missing = missing
        self._at: float | None = None
        self._values: Mapping[Key, float] = {}
        self._rates: dict[Key, float] = {}

    def take(self, at: float, values: Mapping[Key, float]) -> None:
        """Take a poll. at: its time in seconds, on any clock that does not go back."""
        if self._at is not None and at <= self._at:
            return
        elapsed = at - self._at if self._at is not None else 0.0
        # A counter that became smaller has begun again. It has no rate until the next poll.
        self._rates = {
            key: (value - before) / elapsed
            for key, value in values.items()
            if elapsed and (before := self._values.get(key, self._missing)) is not None and value >= before
        }
        self._at, self._values = at, values

    def of(self, key: Key) -> float | None:
        """Units a second; None before the second poll that has the key."""
        return self._rates.get(key)

    def forget(self) -> None:
        """Begin again: the next poll is the first."""
        self._at, self._values, self._rates = None, {}, {}
