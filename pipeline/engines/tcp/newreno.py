"""NewReno congestion avoidance (RFC 5681): cwnd grows by one segment a round trip, and a loss halves it.

The recovery procedure of RFC 6582 for peers without SACK is in recovery.py.
"""

from pipeline.engines.tcp.congestion import Congestion


class NewReno(Congestion):
    """Additive increase, multiplicative decrease."""

    __slots__ = ("_counted",)

    name = "newreno"

    def __init__(self, mss: int, initial_window_segments: int) -> None:
        super().__init__(mss, initial_window_segments)
        self._counted = 0

    def avoid(self, acked: int, now: float, srtt: float) -> None:
        """RFC 3465: one mss for each cwnd's worth of acknowledged bytes."""
        self._counted += acked
        if self._counted >= self.cwnd:
            self._counted -= self.cwnd
            self.cwnd += self.mss
            if self._counted > self.cwnd:
                self._counted = 0

    def reduced(self, flight_size: int) -> int:
        """RFC 5681 equation 4."""
        self._counted = 0
        return max(flight_size // 2, 2 * self.mss)
