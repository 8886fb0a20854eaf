"""The states of a connection in egress (flow.py says what they mean)."""

from typing import Final

CONNECTING: Final = "CONNECTING"
DIALLING: Final = "DIALLING"
HELD: Final = "HELD"
OPEN: Final = "OPEN"
CLOSING: Final = "CLOSING"
DEAD: Final = "DEAD"
TUNNELLING: Final = "TUNNELLING"
REROUTING: Final = "REROUTING"

UNDER_WAY: Final = frozenset((TUNNELLING, REROUTING))
"""The guest's bytes wait, since nothing leads to the host yet."""
