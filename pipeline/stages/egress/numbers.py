"""Numbers for the flows that egress opens: connections that it dials, and clients of forwarded UDP ports."""

from typing import Final

from pipeline.records.flows import FLOW_FROM_EGRESS

INCARNATION_SHIFT: Final = 20
"""Each successor of a worker begins this far on: 2**20 numbers after its predecessor."""


class FlowNumbers:
    """Makes the numbers. Each comes again after 2**31 others. One object serves all flows of the worker."""

    def __init__(self, incarnation: int = 0) -> None:
        """incarnation: of the worker. Numbers that its dead predecessor gave must not come soon again."""
        self._last = incarnation << INCARNATION_SHIFT & ~FLOW_FROM_EGRESS

    def next(self) -> int:
        """A number, with FLOW_FROM_EGRESS set."""
        self._last = (self._last + 1) & ~FLOW_FROM_EGRESS
        return FLOW_FROM_EGRESS | self._last
