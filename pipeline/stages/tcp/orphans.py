"""Connections of guests whose link is gone.

A guest may come back on another link, and its connections go on. An idle orphan costs little: it stays
until keep-alive ends it, or until its place in the table is needed. An orphaned connection must not pin
slots. If it holds any, it is ended after COMES_BACK_S, or as soon as a second guest disconnects. Without
the second rule, a machine that reconnects again and again would get a new share of the remaining slots each
time.
"""

from collections.abc import Iterable
from typing import Final

from pipeline.records.addresses import Addr
from pipeline.records.flows import Ends
from pipeline.stages.tcp.flow import Flow

COMES_BACK_S: Final = 30.0
"""How long a connection may hold bytes for a guest without a link."""


class Orphans:
    """All of them. The guest that left first is at the front."""

    def __init__(self) -> None:
        self._until: dict[Flow, float] = {}
        self.due_at = float("inf")
        """When to call overdue()."""

    def __len__(self) -> int:
        return len(self._until)

    def add(self, flows: Iterable[Flow], now: float) -> None:
        """A guest is gone, and these are its connections."""
        for flow in self._until:
            self._until[flow] = now
        for flow in flows:
            self._until[flow] = now + COMES_BACK_S
        self._set_due()

    def remove(self, flow: Flow) -> None:
        """The connection is over, or its guest is back."""
        self._until.pop(flow, None)

    def of(self, guest_addr: Addr) -> list[Flow]:
        """The connections of a guest's address."""
        return [flow for flow in self._until if Ends.of(flow.key).guest_addr == guest_addr]

    def first(self) -> Flow | None:
        """The one to be ended for a new connection."""
        return next(iter(self._until), None)

    def overdue(self, now: float) -> list[Flow]:
        """Those that have to end now. Idle ones are looked at again later."""
        late = [flow for flow, until in self._until.items() if until <= now]
        for flow in late:
            self._until[flow] = now + COMES_BACK_S
        self._set_due()
        return [flow for flow in late if flow.conn.holds_bytes()]

    def _set_due(self) -> None:
        self.due_at = min(self._until.values(), default=float("inf"))
