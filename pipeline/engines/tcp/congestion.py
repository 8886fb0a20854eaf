"""The congestion window, as far as all algorithms of congestion control share it (RFC 5681).

An algorithm owns cwnd and ssthresh (bytes). It does not detect losses: recovery.py reports them. cwnd grows
with acknowledged bytes (RFC 3465), since one ACK may acknowledge a whole burst. It grows only if cwnd limited
the sender.
"""

from typing import Final

INFINITE_SSTHRESH: Final = 1 << 40


class Congestion:
    """Slow start, idle restart and the reaction to a time-out; subclasses say how to avoid congestion."""

    __slots__ = ("cwnd", "initial_window", "mss", "ssthresh")

    name = "none"

    def __init__(self, mss: int, initial_window_segments: int) -> None:
        self.mss = mss
        self.initial_window = initial_window_segments * mss
        self.cwnd = self.initial_window
        self.ssthresh = INFINITE_SSTHRESH

    def on_ack(self, acked: int, now: float, srtt: float) -> None:
        """acked new bytes were acknowledged, outside of fast recovery, while cwnd limited the sender."""
        cwnd = self.cwnd
        if cwnd < self.ssthresh:
            cwnd += acked
            if cwnd <= self.ssthresh:
                self.cwnd = cwnd
                return
            acked = cwnd - self.ssthresh
            self.cwnd = self.ssthresh
        self.avoid(acked, now, srtt)

    def avoid(self, acked: int, now: float, srtt: float) -> None:
        """Congestion avoidance: grow cwnd for acked bytes."""
        raise NotImplementedError

    def reduced(self, flight_size: int) -> int:
        """The new ssthresh after a loss with flight_size bytes in flight. The algorithm notes the event."""
        raise NotImplementedError

    def on_loss(self, flight_size: int, now: float) -> None:
        """Duplicate ACKs, SACK or RACK found a loss. Called once per round trip (RFC 5681 3.2, 6675 5.0)."""
        self.ssthresh = self.reduced(flight_size)
        self.cwnd = self.ssthresh

    def on_rto(self, flight_size: int, now: float, first: bool) -> None:
        """The retransmission timer expired. first: not a repeated time-out (RFC 5681 3.1)."""
        if first:
            self.ssthresh = self.reduced(flight_size)
        self.cwnd = self.mss

    def on_idle(self) -> None:
        """Nothing was sent for one RTO: use the restart window (RFC 5681 4.1)."""
        if self.cwnd > self.initial_window:
            self.cwnd = self.initial_window

    def on_syn_loss(self) -> None:
        """The SYN was retransmitted: start with one segment (RFC 5681 3.1)."""
        self.cwnd = self.mss

    def on_recovery_exit(self) -> None:
        """Fast recovery is over: continue from ssthresh (RFC 6675 section 5.1, RFC 6582 section 3.2)."""
        self.cwnd = max(min(self.cwnd, self.ssthresh), self.mss)

    def undo(self, cwnd: int, ssthresh: int) -> None:
        """The reduction was a mistake: restore the values from before it (RFC 3522, 4015)."""
        self.cwnd = max(self.cwnd, cwnd)
        self.ssthresh = ssthresh

    def restart(self, mss: int, initial_window_segments: int) -> None:
        """The peer's SYN has arrived: mss is known, and the initial window counts segments of it."""
        self.mss = mss
        self.cwnd = self.initial_window = initial_window_segments * mss

    def set_mss(self, mss: int) -> None:
        """Segments have mss bytes from now on. cwnd stays at least one of them."""
        self.mss = mss
        self.cwnd = max(self.cwnd, mss)
