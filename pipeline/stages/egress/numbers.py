"""Numbers for the flows that egress opens: connections that it dials, and clients of forwarded UDP ports."""

from pipeline.records.flows import FLOW_FROM_EGRESS


class FlowNumbers:
    """Makes the numbers. Each comes again after 2**31 others. One object serves all flows of the worker."""

    def __init__(self) -> None:
        self._last = 0

    def next(self) -> int:
        """A number, with FLOW_FROM_EGRESS set."""
        self._last = (self._last + 1) & ~FLOW_FROM_EGRESS
        return FLOW_FROM_EGRESS | self._last
