"""How large the receive window should be, measured in *turns*.

A turn begins when an ACK moves the right edge of the window, and ends when all bytes before that edge have
arrived. The bytes right before the edge may be sent only once the ACK has arrived. So a turn takes one round
trip with its queues if the sender always fills the window, and longer if it does not.

The window grows while it arrives in about one round trip without queues, and shrinks when it is late: more
bytes would only wait in queues, ahead of small flows of the same guest.
"""

from typing import Final

from pipeline.engines.tcp.config import TcpConfig
from pipeline.engines.tcp.seq import NO_POSITION

PAUSED: Final = 16
"""A window that seems more than PAUSED times too late: its sender had nothing to send for a while."""


class Turns:
    """Measures turns; edges are positions, times are seconds."""

    __slots__ = ("_began", "_rate", "_shortest", "_start", "edge")

    def __init__(self) -> None:
        self.edge = NO_POSITION
        """Right edge of the window when the turn under measurement began."""
        self._start = 0
        self._began = 0.0
        self._rate = float("inf")
        """Bytes a second of the last turn."""
        self._shortest = float("inf")

    def next(self, rcv_nxt: int, rcv_adv: int, now: float) -> None:
        """A segment that leaves now moves the right edge, after all bytes of the last turn have arrived."""
        if self.edge != NO_POSITION:
            elapsed = now - self._began
            if elapsed < self._shortest:
                self._shortest = elapsed
            self._rate = (self.edge - self._start) / elapsed if elapsed > 0 else float("inf")
        self._start = rcv_nxt
        self.edge = rcv_adv
        self._began = now

    def tuned(self, capacity: int, limit: int, cfg: TcpConfig) -> int:
        """The capacity after the peer has filled a window of ``capacity`` and the host has emptied it."""
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
