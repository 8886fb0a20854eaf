"""Detects that a retransmission was not needed: the Eifel algorithm (RFC 3522, RFC 4015).

The first ACK after a retransmission echoes a timestamp. If this is older than the retransmission, the
original has arrived, and the congestion window was reduced by mistake. Recovery then restores it.
"""

from pipeline.engines.tcp.congestion import Congestion
from pipeline.engines.tcp.seq import MASK, NO_POSITION, lt


class Undo:
    """The congestion window from before the reduction, and the time of the first retransmission."""

    __slots__ = ("_ts", "cwnd", "ssthresh")

    def __init__(self) -> None:
        self.cwnd = 0
        """0 when there is nothing to undo."""
        self.ssthresh = 0
        self._ts = NO_POSITION
        """Timestamp of the first retransmission."""

    def remember(self, cc: Congestion) -> None:
        """The congestion window is about to be reduced."""
        self.cwnd = cc.cwnd
        self.ssthresh = cc.ssthresh
        self._ts = NO_POSITION

    def retransmitted(self, now: float) -> None:
        """A lost range is sent again."""
        if self.cwnd and self._ts == NO_POSITION:
            self._ts = int(now * 1000) & MASK

    def spurious(self, ts_ecr: int) -> bool:
        """Whether an ACK of new data with this echo shows that the original had arrived."""
        return self._ts != NO_POSITION and lt(ts_ecr, self._ts)

    def forget(self) -> None:
        """There is nothing to undo any more."""
        self.cwnd = 0
        self._ts = NO_POSITION
