"""The timers of a connection: a list with one deadline for each kind of timer.

A deadline is a monotonic time in seconds, or NEVER if the timer is off. The earliest is the connection's
deadline. Setting a timer is a store into the list, so every ACK can restart the retransmission timer cheaply.
"""

from math import inf
from typing import Final

NEVER: Final = inf

RTO: Final = 0
"""Retransmission time-out (RFC 6298), also of SYN and SYN-ACK."""
PTO: Final = 1
"""Tail-loss probe (RFC 8985 section 7)."""
REORDER: Final = 2
"""RACK reordering window (RFC 8985 section 6.3)."""
PERSIST: Final = 3
"""Zero-window probe and override of silly-window avoidance (RFC 9293 section 3.8.6)."""
DELAYED_ACK: Final = 4
KEEPALIVE: Final = 5
LINGER: Final = 6
"""Limits a state: SYN-RECEIVED until the host connects, FIN-WAIT-2 without a host, TIME-WAIT."""
KINDS: Final = 7

NAMES: Final = ("rto", "pto", "reorder", "persist", "delayed_ack", "keepalive", "linger")


def all_off() -> list[float]:
    """Deadlines of a new connection, indexed by kind."""
    return [NEVER] * KINDS
