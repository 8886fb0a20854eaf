"""Lines of the log that a guest could cause as often as it likes: the first at once, then one a period.

Each says how often it happened since the line before. What did not recur later is not told again.
"""

from typing import Final

import structlog

PERIOD: Final = 60.0
"""Seconds between two lines."""


class Repeated:
    """One kind of line."""

    def __init__(
        self, log: structlog.typing.FilteringBoundLogger, event: str, period: float = PERIOD
    ) -> None:
        self._log = log
        self._event = event
        self._period = period
        self._due_at = float("-inf")
        self._times = 0

    def warning(self, now: float, **details: object) -> None:
        """It happened once more, at now (seconds, monotonic); details are of this time."""
        self._times += 1
        if now >= self._due_at:
            self._log.warning(self._event, times=self._times, **details)
            self._due_at = now + self._period
            self._times = 0
