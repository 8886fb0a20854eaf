"""The states of a connection (RFC 9293 section 3.3.2), and the phases of its loss recovery."""

from typing import Final

CLOSED: Final = 0
LISTEN: Final = 1
"""Not used: the stage accepts SYNs for every address."""
SYN_SENT: Final = 2
SYN_RECEIVED: Final = 3
ESTABLISHED: Final = 4
FIN_WAIT_1: Final = 5
FIN_WAIT_2: Final = 6
CLOSE_WAIT: Final = 7
CLOSING: Final = 8
LAST_ACK: Final = 9
TIME_WAIT: Final = 10

STATE_NAMES: Final = (
    "CLOSED",
    "LISTEN",
    "SYN-SENT",
    "SYN-RECEIVED",
    "ESTABLISHED",
    "FIN-WAIT-1",
    "FIN-WAIT-2",
    "CLOSE-WAIT",
    "CLOSING",
    "LAST-ACK",
    "TIME-WAIT",
)

OPEN: Final = 0
"""No loss is known."""
RECOVERY: Final = 1
"""Fast recovery, until snd_una reaches recover (RFC 6675, 6582)."""
LOSS: Final = 2
"""After a retransmission time-out, until snd_una reaches recover."""

PHASE_NAMES: Final = ("open", "recovery", "loss")
