"""Estimates the round-trip time, and computes the retransmission time-out (RTO) from it (RFC 6298).

round_trip.py measures the samples, one for each round trip. The clock granularity G is 1 ms. The minimum RTO
is 200 ms as in Linux, instead of 1 s.
"""

from typing import Final

from pipeline.engines.tcp.config import TcpConfig

CLOCK_GRANULARITY: Final = 0.001
MIN_RTT_LIFETIME: Final = 300.0
"""Seconds after which an old minimum is replaced (RFC 8985 section 6.2 step 1)."""


class RttEstimator:
    """srtt, rttvar and rto are in seconds. srtt is 0.0 before the first sample."""

    __slots__ = ("_base", "_max", "_min", "_min_at", "backoffs", "min_rtt", "rto", "rttvar", "srtt")

    def __init__(self, cfg: TcpConfig) -> None:
        self._min = cfg.min_rto
        self._max = cfg.max_rto
        self._base = cfg.initial_rto
        self._min_at = 0.0
        self.backoffs = 0
        """Doublings since the last sample."""
        self.srtt = 0.0
        self.rttvar = 0.0
        self.min_rtt = 0.0
        self.rto = cfg.initial_rto

    def sample(self, rtt: float, now: float) -> None:
        """Use a measured round trip (sections 2.2, 2.3). This ends the back-off."""
        if rtt < 1e-6:
            rtt = 1e-6
        if self.srtt == 0.0:
            self.srtt = rtt
            self.rttvar = rtt / 2
            self.min_rtt = rtt
            self._min_at = now
        else:
            error = self.srtt - rtt
            self.rttvar += ((error if error >= 0.0 else -error) - self.rttvar) * 0.25
            self.srtt -= error * 0.125
            if rtt <= self.min_rtt or now - self._min_at > MIN_RTT_LIFETIME:
                self.min_rtt = rtt
                self._min_at = now
        spread = 4 * self.rttvar
        rto = self.srtt + (spread if spread > CLOCK_GRANULARITY else CLOCK_GRANULARITY)
        if rto < self._min:
            rto = self._min
        elif rto > self._max:
            rto = self._max
        self._base = self.rto = rto
        self.backoffs = 0

    def back_off(self) -> None:
        """The timer expired: double the RTO, up to the maximum (section 5.5)."""
        self.rto = min(self.rto * 2, self._max)
        self.backoffs += 1

    def backed_off(self, times: int) -> float:
        """The last computed RTO, doubled ``times`` times. Changes nothing."""
        return min(self._base * (1 << min(times, 20)), self._max)

    def undo_back_off(self) -> None:
        """The time-out was spurious: go back to the computed RTO."""
        self.rto = self._base
        self.backoffs = 0

    def restart(self, rto: float) -> None:
        """The SYN timed out, and there is no sample: set the RTO for the data (3 s by section 5.7)."""
        self._base = self.rto = min(max(rto, self._min), self._max)
