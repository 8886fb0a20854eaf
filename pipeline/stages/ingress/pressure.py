"""Decides how much processor time the guests' small work may take: less while time is short.

Small work (pipeline.stages.ingress.shares) is limited only if it takes time from other guests. So ingress
looks at itself every LOOK_EVERY_S. Time is short if ingress waited for a core, or was idle for less than a
quarter of the time. Then the limit on small work is halved, down to a floor. Else the limit grows slowly, up
to all cores. So two guests with many small frames can use all cores. A flood is held to the floor while
others need the cores.
"""

from collections.abc import Callable
from typing import Final

LOOK_EVERY_S: Final = 0.02
LONG_WAIT: Final = 0.1
"""Time is short if ingress spent more than this part of it in a run queue."""
ENOUGH_IDLE: Final = 0.25
"""Time is short if ingress was idle for less than this part of it."""
SHRINK: Final = 0.5
GROW: Final = 1.05
MAX_FLOOR_S: Final = 0.08
FLOOR_PART: Final = 0.0625
"""The floor is this part of all cores, but at most MAX_FLOOR_S of one: a flood may hit a single worker."""


class Pressure:
    """The limit on small work: all guests together may use ``small_s`` seconds of processor time a second."""

    def __init__(self, cores: int, waited: Callable[[], float | None], idle: Callable[[], float]) -> None:
        """waited: seconds that ingress waited for cores, None if unknown. idle: seconds that it was idle."""
        self._cores = float(cores)
        self._floor = min(FLOOR_PART * cores, MAX_FLOOR_S)
        self._waited = waited
        self._idle = idle
        self._looked_at = 0.0
        self._had_waited = 0.0
        self._had_idled = 0.0
        self.small_s = self._floor

    def adapt(self, now: float) -> None:
        """Adapt ``small_s``, at most once in LOOK_EVERY_S."""
        elapsed = now - self._looked_at
        if elapsed < LOOK_EVERY_S:
            return
        if self._is_short(elapsed):
            self.small_s = max(self.small_s * SHRINK, self._floor)
        else:
            self.small_s = min(self.small_s * GROW, self._cores)
        self._looked_at = now

    def _is_short(self, elapsed: float) -> bool:
        waited, idled = self._waited(), self._idle()
        rested = idled - self._had_idled >= ENOUGH_IDLE * elapsed
        self._had_idled = idled
        if waited is None:
            # The system does not say. Stay at the floor, which hurts no guest.
            return True
        long = waited - self._had_waited > LONG_WAIT * elapsed
        self._had_waited = waited
        return long or not rested
