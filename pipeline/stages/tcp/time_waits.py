"""The connections of a tcp worker that are in TIME-WAIT: which one ends first, and when.

All of them wait equally long. So a dictionary keeps them in the order in which they end, and none has a timer
in the wheel. At the end of busy seconds thousands of waits end. A worker that woke for each of them would do
little else. So the waits of LOOK_EVERY_S end together, which makes a wait longer by at most this time.
"""

from typing import Final

from pipeline.stages.tcp.flow import Flow, Guest

LOOK_EVERY_S: Final = 0.1
"""The least time between two looks at the waits that have ended, in seconds."""


class TimeWaits:
    """Connections in TIME-WAIT. They are over, so the first one makes room when a new one needs it."""

    def __init__(self) -> None:
        self._flows: dict[Flow, float] = {}
        """Each with the time at which its wait ends."""
        self.due_at = float("inf")
        """The time at which to call due()."""

    def __len__(self) -> int:
        return len(self._flows)

    def __contains__(self, flow: Flow) -> bool:
        return flow in self._flows

    def add(self, flow: Flow) -> None:
        """A wait begins. It ends at the deadline of the engine."""
        self._flows[flow] = ends_at = flow.conn.deadline()
        self.due_at = min(self.due_at, ends_at)

    def update(self, flow: Flow, ends_at: float) -> None:
        """A segment arrived. Perhaps it has restarted the wait, which ends at ends_at now."""
        if self._flows.get(flow, ends_at) != ends_at:
            del self._flows[flow]
            self._flows[flow] = ends_at

    def forget(self, flow: Flow) -> None:
        """The connection has ended."""
        self._flows.pop(flow, None)

    def first(self) -> Flow | None:
        """The connection whose wait ends first; None if there is none."""
        return next(iter(self._flows), None)

    def first_of(self, guest: Guest) -> Flow | None:
        """The connection of this guest whose wait ends first; None if there is none."""
        return next((flow for flow in self._flows if flow.guest is guest), None)

    def due(self, now: float) -> list[Flow]:
        """The connections whose waits have ended. The caller ends these connections."""
        found = []
        self.due_at = float("inf")
        for flow, ends_at in self._flows.items():
            if ends_at > now:
                self.due_at = max(ends_at, now + LOOK_EVERY_S)
                break
            found.append(flow)
        return found
