"""Connections of guests whose link is gone.

A guest may come back on another link, and its connections go on. An idle one costs little: it waits until
keep-alive gives it up, or its place in the table is needed. What none may do is keep memory that nobody else
can have, slots with bytes for a guest that is not there: those that hold any end after COMES_BACK_S, or when
another guest goes as well. Else who has a new link again and again would have a new share of what is left
each time.
"""

from collections.abc import Iterable
from typing import Final, Generic, Protocol, TypeVar

from pipeline.engines.tcp.connection import Connection
from pipeline.records.addresses import Addr
from pipeline.records.flows import Ends, FlowKey

COMES_BACK_S: Final = 30.0
"""How long a connection may hold bytes for a guest without a link."""


class Orphan(Protocol):
    """What is needed of a flow of the stage."""

    key: FlowKey
    conn: Connection


F = TypeVar("F", bound=Orphan)


class Orphans(Generic[F]):
    """All of them, those of the guest that went first at the front."""

    def __init__(self) -> None:
        self._until: dict[F, float] = {}
        self.due_at = float("inf")
        """When to ask overdue()."""

    def add(self, flows: Iterable[F], now: float) -> None:
        """A guest is gone, and these are its connections."""
        for flow in self._until:
            self._until[flow] = now
        for flow in flows:
            self._until[flow] = now + COMES_BACK_S
        self._set_due()

    def remove(self, flow: F) -> None:
        """The connection is over, or its guest is back."""
        self._until.pop(flow, None)

    def of(self, guest_addr: Addr) -> list[F]:
        """The connections of an address of the network."""
        return [flow for flow in self._until if Ends.of(flow.key).guest_addr == guest_addr]

    def first(self) -> F | None:
        """The one to be given up for a new connection."""
        return next(iter(self._until), None)

    def overdue(self, now: float) -> list[F]:
        """Those that have to end now; the idle ones are looked at again later."""
        late = [flow for flow, until in self._until.items() if until <= now]
        for flow in late:
            self._until[flow] = now + COMES_BACK_S
        self._set_due()
        return [flow for flow in late if flow.conn.holds_bytes()]

    def _set_due(self) -> None:
        self.due_at = min(self._until.values(), default=float("inf"))
