"""Limits how often a connection answers segments that it did not accept.

A challenge ACK tells an honest peer the right sequence number (RFC 5961). Both limits are those of one
connection: a limit for all would let an attacker learn about other connections (CVE-2016-5696).
"""

from pipeline.engines.tcp.config import TcpConfig


class Challenges:
    """Limits challenge ACKs (RFC 5961 section 7), and ends endless ACK loops between two stacks."""

    __slots__ = ("_cfg", "_challenges", "_interval_ends_at", "_invalid_ack_at")

    def __init__(self, cfg: TcpConfig) -> None:
        self._cfg = cfg
        self._interval_ends_at = 0.0
        self._challenges = 0
        self._invalid_ack_at = -1e9

    def may_challenge(self, now: float) -> bool:
        """Whether one more challenge ACK may be sent in this interval. If so, counts it."""
        if now >= self._interval_ends_at:
            self._interval_ends_at = now + self._cfg.challenge_interval
            self._challenges = 0
        if self._challenges >= self._cfg.challenge_acks:
            return False
        self._challenges += 1
        return True

    def may_answer_invalid(self, now: float) -> bool:
        """Whether an unacceptable segment without data or FIN may be answered now. If so, notes the time."""
        if now - self._invalid_ack_at < self._cfg.invalid_ack_interval:
            return False
        self._invalid_ack_at = now
        return True
