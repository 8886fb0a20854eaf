"""Keeps the connections of guests whose link is gone (orphans).

A guest may come back on another link, and its connections then go on. An orphan costs a host socket and a
place in the table. So it ends after ``max-orphan-seconds``, or when another connection needs its place.

An orphan must not pin memory. If it holds slots, it ends after COMES_BACK_S, or as soon as a second guest
disconnects. Without the second rule, a machine that reconnects again and again would get a new share of the
remaining slots each time. If receive memory is short, orphans whose hosts do not read end at once.
"""

from collections.abc import Iterable
from typing import Final

from pipeline.records.addresses import Addr
from pipeline.records.flows import Ends
from pipeline.stages.tcp.flow import Flow, Guest

COMES_BACK_S: Final = 30.0
"""Seconds for which a connection may hold bytes for a guest without a link."""


class Orphans:
    """All orphans of a tcp worker. Those of the guest that left first come first."""

    def __init__(self, max_age: float) -> None:
        """max_age: seconds after which an orphan ends."""
        self._max_age = max_age
        self._ends_at: dict[Flow, float] = {}
        self._check_at: dict[Flow, float] = {}
        """When each orphan must not hold bytes any more."""
        self._by_addr: dict[Addr, dict[Flow, None]] = {}
        self._by_guest: dict[Guest, dict[Flow, None]] = {}
        self.due_at = float("inf")
        """The time at which to call overdue()."""

    def __len__(self) -> int:
        return len(self._ends_at)

    def set_max_age(self, max_age: float) -> None:
        """Change the age at which an orphan ends. Those that are orphans now keep theirs."""
        self._max_age = max_age

    def add(self, flows: Iterable[Flow], now: float) -> None:
        """A guest is gone. flows: its connections. Earlier orphans that hold bytes end now."""
        for flow in self._check_at:
            self._check_at[flow] = now
        for flow in flows:
            self._ends_at[flow] = now + self._max_age
            self._check_at[flow] = now + min(COMES_BACK_S, self._max_age)
            self._by_addr.setdefault(Ends.of(flow.key).guest_addr, {})[flow] = None
            self._by_guest.setdefault(flow.guest, {})[flow] = None
        self._set_due()

    def remove(self, flow: Flow) -> None:
        """The connection has ended, or its guest is back."""
        if self._ends_at.pop(flow, None) is None:
            return
        del self._check_at[flow]
        addr = Ends.of(flow.key).guest_addr
        of_addr, of_guest = self._by_addr[addr], self._by_guest[flow.guest]
        del of_addr[flow], of_guest[flow]
        if not of_addr:
            del self._by_addr[addr]
        if not of_guest:
            del self._by_guest[flow.guest]

    def of(self, guest_addr: Addr) -> list[Flow]:
        """The orphans of the guest with this address."""
        return list(self._by_addr.get(guest_addr, ()))

    def first(self) -> Flow | None:
        """The orphan to end if a new connection needs its place; None if there is none."""
        return next(iter(self._ends_at), None)

    def first_of(self, guest: Guest) -> Flow | None:
        """The orphan of another link of this guest to end; None if there is none."""
        return next(iter(self._by_guest.get(guest, ())), None)

    def with_untaken_bytes(self) -> list[Flow]:
        """Orphans whose hosts have not taken all bytes."""
        return [flow for flow in self._ends_at if flow.conn.rcv_untaken]

    def overdue(self, now: float) -> list[Flow]:
        """The orphans that must end now. The others are checked again later."""
        due = [flow for flow, at in self._check_at.items() if at <= now]
        late = [flow for flow in due if self._ends_at[flow] <= now or flow.conn.holds_bytes()]
        for flow in due:
            ends_at = self._ends_at[flow]
            self._check_at[flow] = min(now + COMES_BACK_S, ends_at if ends_at > now else float("inf"))
        self._set_due()
        return late

    def _set_due(self) -> None:
        self.due_at = min(self._check_at.values(), default=float("inf"))
