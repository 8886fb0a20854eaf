"""Keeps the connections of guests whose link is gone (orphans).

A guest may come back on another link, and its connections then go on. An idle orphan costs little. It stays
until keep-alive ends it, or until a new connection needs its place in the table.

An orphan must not pin slots. If it holds any, it ends after COMES_BACK_S, or as soon as a second guest
disconnects. Without the second rule, a machine that reconnects again and again would get a new share of the
remaining slots each time.
"""

from collections.abc import Iterable
from typing import Final

from pipeline.records.addresses import Addr
from pipeline.records.flows import Ends
from pipeline.stages.tcp.flow import Flow

COMES_BACK_S: Final = 30.0
"""Seconds for which a connection may hold bytes for a guest without a link."""


class Orphans:
    """All orphans of a tcp worker. Those of the guest that left first come first."""

    def __init__(self) -> None:
        self._until: dict[Flow, float] = {}
        self.due_at = float("inf")
        """The time at which to call overdue()."""

    def __len__(self) -> int:
        return len(self._until)

    def add(self, flows: Iterable[Flow], now: float) -> None:
        """A guest is gone. flows: its connections."""
        for flow in self._until:
            self._until[flow] = now
        for flow in flows:
            self._until[flow] = now + COMES_BACK_S
        self._set_due()

    def remove(self, flow: Flow) -> None:
        """The connection has ended, or its guest is back."""
        self._until.pop(flow, None)

    def of(self, guest_addr: Addr) -> list[Flow]:
        """The orphans of the guest with this address."""
        return [flow for flow in self._until if Ends.of(flow.key).guest_addr == guest_addr]

    def first(self) -> Flow | None:
        """The orphan to end if a new connection needs its place; None if there is none."""
        return next(iter(self._until), None)

    def overdue(self, now: float) -> list[Flow]:
        """The orphans that must end now. The others are checked again after COMES_BACK_S."""
        late = [flow for flow, until in self._until.items() if until <= now]
        for flow in late:
            self._until[flow] = now + COMES_BACK_S
        self._set_due()
        return [flow for flow in late if flow.conn.holds_bytes()]

    def _set_due(self) -> None:
        self.due_at = min(self._until.values(), default=float("inf"))
