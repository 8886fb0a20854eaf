"""Notices when the wall clock is set back, by a person or by a time service.

A worker without sockets sleeps on a semaphore, and the timed wait of POSIX goes by the wall clock. If that
is set back by an hour during a sleep, the sleep lasts an hour longer. So somebody must wake it.
"""

import time
from collections.abc import Callable
from typing import Final

TOLERANCE: Final = 0.02
"""Seconds that do not count: two clocks are read, and time services make the wall clock a little slower."""


class WallClock:
    """Compares the wall clock with one that nobody sets."""

    def __init__(
        self, wall: Callable[[], float] = time.time, steady: Callable[[], float] = time.monotonic
    ) -> None:
        self._wall = wall
        self._steady = steady
        self._ahead = wall() - steady()

    def was_set_back(self) -> bool:
        """Whether the wall clock was set back since the last call."""
        ahead = self._wall() - self._steady()
        back = ahead < self._ahead - TOLERANCE
        self._ahead = ahead
        return back
