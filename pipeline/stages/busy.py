"""How busy a worker's process is, for /metrics and ``top``."""

from typing import Final

from pipeline.counters import INDEX

_BUSY: Final = INDEX["worker_busy"]
_BUSY_SHARE: Final = INDEX["worker_busy_share"]


class BusyGauge:
    """Writes how long the process was busy in all (µs), and its share of the last second (millionths)."""

    def __init__(self, counts: memoryview) -> None:
        self._counts = counts
        self._looked_at = -1.0
        """The time of the last write(), and how long the process was idle until then."""
        self._idle_s = 0.0
        self._busy_us = 0

    def write(self, now: float, idle_s: float) -> None:
        """Count the time since the last call. idle_s: for how long the process was idle since its start."""
        passed_us = int((now - self._looked_at) * 1e6)
        if self._looked_at >= 0.0 and passed_us > 0:
            busy_us = min(max(passed_us - int((idle_s - self._idle_s) * 1e6), 0), passed_us)
            self._busy_us += busy_us
            self._counts[_BUSY] = self._busy_us
            self._counts[_BUSY_SHARE] = busy_us * 1_000_000 // passed_us
        self._looked_at = now
        self._idle_s = idle_s
