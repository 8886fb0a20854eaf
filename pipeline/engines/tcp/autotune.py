"""Autotuning of the receive window: how large it should be, from the duration of *rounds*.

A round begins when an ACK moves the right edge of the window. It ends when all bytes before that edge have
arrived. The sender may send the last of these bytes only after it has received the ACK. So a round takes one
round trip, queueing delay included, if the sender always fills the window. Otherwise it takes longer.

The window grows while its bytes arrive within about one round trip without queueing. It shrinks when they
arrive later: then they wait in queues, where they delay small flows of the same guest.
"""

from typing import Final

from pipeline.engines.tcp.config import TcpConfig
from pipeline.engines.tcp.seq import NO_POSITION

PAUSED: Final = 16
"""If a window arrives more than PAUSED times too late, its sender had nothing to send for a while."""


class Rounds:
    """Measures rounds. Edges are positions (seq.py), times are seconds."""

    __slots__ = ("_began", "_rate", "_shortest", "_start", "edge")

    def __init__(self) -> None:
        self.edge = NO_POSITION
        """Right edge of the window when the current round began."""
        self._start = 0
        self._began = 0.0
        self._rate = float("inf")
        """Bytes per second in the last round."""
        self._shortest = float("inf")
        """The duration of the shortest round."""

    def next(self, rcv_nxt: int, rcv_adv: int, now: float) -> None:
        """Begin a round: all bytes of the last one have arrived, and an ACK sent now moves the right edge."""
        if self.edge != NO_POSITION:
            elapsed = now - self._began
            if elapsed < self._shortest:
                self._shortest = elapsed
            self._rate = (self.edge - self._start) / elapsed if elapsed > 0 else float("inf")
        self._start = rcv_nxt
        self.edge = rcv_adv
        self._began = now

    def tuned(self, capacity: int, limit: int, cfg: TcpConfig) -> int:
        """The new capacity, after the peer has filled a window of ``capacity`` and the host has read it."""
        enough = 2 * self._shortest
        if enough < cfg.short_receive_window:
            enough = cfg.short_receive_window
        one = self._rate * enough
        if capacity <= one:
            if capacity < limit:
                return min(capacity * 2, limit)
        elif 2 * one < capacity < PAUSED * one:
            return max(capacity // 2, min(cfg.initial_receive_window, limit))
        return capacity
