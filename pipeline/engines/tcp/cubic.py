"""CUBIC congestion avoidance (RFC 9438), the default.

Why CUBIC and not NewReno: the guests' own kernels use it, so both directions of a connection behave alike.
After a loss CUBIC reduces the window by 30 %, NewReno by half. CUBIC's growth depends on time and not on the
round trip. So it recovers from a loss on a long path (a vsock over a network, a remote hypervisor) in
seconds. On a link without loss the choice does not matter.

Windows in segments (float), times in seconds, as in the RFC:

    W_cubic(t) = C * (t - K)**3 + W_max         K = cbrt((W_max - cwnd_epoch) / C)
"""

from typing import Final

from pipeline.engines.tcp.congestion import Congestion

BETA: Final = 0.7
C: Final = 0.4
RENO_ALPHA: Final = 3 * (1 - BETA) / (1 + BETA)


class Cubic(Congestion):
    """Section numbers in the comments are RFC 9438's."""

    __slots__ = ("_epoch_start", "_k", "_residue", "_w_est", "_w_max", "_w_prior")

    name = "cubic"

    def __init__(self, mss: int, initial_window_segments: int) -> None:
        super().__init__(mss, initial_window_segments)
        self._w_max = 0.0
        self._w_prior = 0.0
        self._w_est = 0.0
        self._k = 0.0
        self._epoch_start = -1.0
        self._residue = 0.0

    def avoid(self, acked: int, now: float, srtt: float) -> None:
        """Sections 4.2 to 4.5."""
        mss = self.mss
        cwnd = self.cwnd / mss
        if self._epoch_start < 0:
            self._epoch_start = now
            self._w_est = cwnd
            self._residue = 0.0
            if cwnd < self._w_max:
                self._k = ((self._w_max - cwnd) / C) ** (1 / 3)
            else:
                self._k = 0.0
                self._w_max = cwnd
        elapsed = now - self._epoch_start
        segments = acked / mss
        # 4.3: the window that Reno would have. Beyond the old window it grows as fast as Reno's.
        alpha = RENO_ALPHA if self._w_est < self._w_prior else 1.0
        self._w_est += alpha * segments / cwnd
        if C * (elapsed - self._k) ** 3 + self._w_max < self._w_est:
            if self._w_est > cwnd:
                self.cwnd = int(self._w_est * mss)
            return
        # 4.4, 4.5: grow towards the curve's value one round trip from now, at most to 1.5 cwnd.
        target = C * (elapsed + srtt - self._k) ** 3 + self._w_max
        if target > 1.5 * cwnd:
            target = 1.5 * cwnd
        if target > cwnd:
            grown = (target - cwnd) / cwnd * acked + self._residue
            whole = int(grown)
            self._residue = grown - whole
            self.cwnd += whole

    def reduced(self, flight_size: int) -> int:
        """Sections 4.6 and 4.7 (fast convergence)."""
        mss = self.mss
        cwnd = self.cwnd / mss
        self._epoch_start = -1.0
        self._w_prior = cwnd
        self._w_max = cwnd * (1 + BETA) / 2 if cwnd < self._w_max else cwnd
        # From the bytes in flight: cwnd may be more than the sender ever used.
        return max(int(min(flight_size, self.cwnd) * BETA), 2 * mss)

    def on_idle(self) -> None:
        """Section 4.2: idle time does not count, so the next call of avoid() starts a new epoch."""
        super().on_idle()
        self._epoch_start = -1.0

    def undo(self, cwnd: int, ssthresh: int) -> None:
        """Section 4.9.1."""
        super().undo(cwnd, ssthresh)
        self._w_max = max(self._w_max, self.cwnd / self.mss)
        self._epoch_start = -1.0
