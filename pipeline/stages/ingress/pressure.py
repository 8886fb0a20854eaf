"""Whether small work of guests hurts: cores are short, or ingress never rests.

Small work (pipeline.stages.ingress.shares) is limited only as far as it takes time from other guests. Ingress
looks at itself every LOOK_EVERY_S. If it waited for a core, or did not sleep once, time is short: what small
work may take is halved, down to a floor. Else it grows again, slowly, until it is no limit. So two guests
with many small frames use all cores, and a flood keeps the floor beside a guest that needs them.
"""

from collections.abc import Callable
from typing import Final

LOOK_EVERY_S: Final = 0.02
LONG_WAIT: Final = 0.1
"""Part of the time in run queues from which on cores are short."""
SHRINK: Final = 0.5
GROW: Final = 1.1
LEAST_S: Final = 0.15
PART: Final = 0.125
"""The floor: this part of all cores, and at most LEAST_S of one, since a flood may hit one worker alone."""


class Pressure:
    """What small work of all guests may take: ``small_s`` seconds of processor time in a second."""

    def __init__(self, cores: int, waited: Callable[[], float | None], sleeps: Callable[[], int]) -> None:
        """waited: seconds that ingress waited for cores, None if unknown. sleeps: how often it slept."""
        self._cores = float(cores)
        self._floor = min(PART * cores, LEAST_S)
        self._waited = waited
        self._sleeps = sleeps
        self._looked_at = 0.0
        self._had_waited = 0.0
        self._had_slept = 0
        self.small_s = self._floor

    def look(self, now: float) -> None:
        """Adapt ``small_s``, if it is time."""
        elapsed = now - self._looked_at
        if elapsed < LOOK_EVERY_S:
            return
        if self._is_short(elapsed):
            self.small_s = max(self.small_s * SHRINK, self._floor)
        else:
            self.small_s = min(self.small_s * GROW, self._cores)
        self._looked_at = now

    def _is_short(self, elapsed: float) -> bool:
        waited, slept = self._waited(), self._sleeps()
        rested = slept != self._had_slept
        self._had_slept = slept
        if waited is None:
            # Unknown: only what is sure not to hurt is allowed.
            return True
        long = waited - self._had_waited > LONG_WAIT * elapsed
        self._had_waited = waited
        return long or not rested
