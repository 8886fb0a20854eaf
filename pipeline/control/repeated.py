"""Log lines about events that a guest can cause at any rate: the first at once, then at most one a period.

Each line has the number of events since the line before. Events after the last line are not reported.
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
        """The event happened once more, at now (seconds, monotonic), with these details."""
        self._times += 1
        if now >= self._due_at:
            self._log.warning(self._event, times=self._times, **details)
            self._due_at = now + self._period
            self._times = 0
