"""How much of egress's pool each guest may hold: what hosts sent and the guest has not acknowledged.

A guest that opens connections and acknowledges nothing keeps the slots of all of them for as
long as it likes. So each guest has a filler of its own, which keeps the slots of guests apart,
and may hold twice as many slots as are free (the dynamic threshold of Choudhury and Hahne): a
single guest gets two thirds of the pool, and for every further one something is left. A guest
over its share is not read for until it has acknowledged; the others go on.
"""

from typing import Any, Final, Protocol

from pipeline.host.filler import SlotFiller
from pipeline.host.stream import HostStream
from pipeline.shm.arena import Pool

SHARE_OF_FREE: Final = 2
MIN_SLOTS: Final = 2
"""Slots that any guest may hold as long as there are some."""


class Reader(Protocol):
    """A flow that reads from its host socket."""

    state: str


class Share:
    """One guest's part of the pool."""

    __slots__ = ("_owners", "_pool", "_slots", "filler", "waiting")

    def __init__(self, pool: Pool, filler: SlotFiller, owners: dict[int, "Share"]) -> None:
        self._pool = pool
        self._owners = owners
        self.filler = filler
        self._slots: set[int] = set()
        """Slots that this guest's reads went to; some may be home again, see _sweep()."""
        self.waiting: dict[Reader, None] = {}
        """Flows that found no room, the first one first: one is tried at a time."""

    def place(self, room: int) -> bool:
        """Room for a read at filler.off of filler.slot. False: over the share, or no slot is free."""
        filler = self.filler
        before = filler.slot
        if not filler.fits(room) and self._full():
            return False
        if not filler.place(room):
            return False
        if filler.slot != before:
            self._slots.add(filler.slot)
            self._owners[filler.slot] = self
        return True

    def next_waiting(self) -> Reader | None:
        """Take the flow that waits for longest; None if none does."""
        for flow in self.waiting:
            del self.waiting[flow]
            return flow
        return None

    def _full(self) -> bool:
        allowed = max(SHARE_OF_FREE * self._pool.free_count, MIN_SLOTS)
        if len(self._slots) < allowed:
            return False
        self._sweep()
        return len(self._slots) >= allowed

    def _sweep(self) -> None:
        """Forget slots that came home, or went to another guest since."""
        refs, owners = self._pool.refs, self._owners
        self._slots = {slot for slot in self._slots if refs(slot) and owners[slot] is self}


class Shares:
    """The shares of all guests, by link."""

    def __init__(self, pool: Pool, slot_bytes: int, headroom: int, gap: int) -> None:
        """headroom and gap as for SlotFiller."""
        self._pool = pool
        self._form = (slot_bytes, headroom, gap)
        self._shares: dict[int, Share] = {}
        self._owners: dict[int, Share] = {}

    def of(self, link: int) -> Share:
        """The share of the guest behind link."""
        share = self._shares.get(link)
        if share is None:
            filler = SlotFiller(self._pool, *self._form)
            share = self._shares[link] = Share(self._pool, filler, self._owners)
        return share

    def wake(self) -> list[Reader]:
        """Slots came home: the flows to try again, one of each guest."""
        return [flow for share in self._shares.values() if (flow := share.next_waiting()) is not None]

    def rest(self) -> None:
        """Give back the slots that are only held to be filled on."""
        for share in self._shares.values():
            share.filler.rest()

    def retire(self) -> None:
        """Give back every slot that is being filled."""
        for share in self._shares.values():
            share.filler.retire()


class ClosingFlow(Protocol):
    """A flow whose guest is done, with bytes that the host has not taken."""

    @property
    def stream(self) -> HostStream: ...


class ClosingFlows:
    """Bounds the bytes that wait for hosts on behalf of connections that are over.

    A host that never reads keeps them for ever, and no window of a guest bounds them any more.
    As in Linux for sockets without a process, the oldest is reset to make room.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._bytes = 0
        self._flows: dict[ClosingFlow, int] = {}

    def add(self, flow: ClosingFlow) -> list[Any]:
        """A flow's guest is done. Returns the flows that must be reset, which may be this one."""
        waiting = flow.stream.queued_bytes
        if not waiting or flow in self._flows:
            return []
        self._flows[flow] = waiting
        self._bytes += waiting
        victims = []
        over = self._bytes - self._max_bytes
        for other, held in self._flows.items():
            if over <= 0:
                break
            over -= held
            victims.append(other)
        return victims

    def remove(self, flow: ClosingFlow) -> None:
        """The flow is forgotten."""
        self._bytes -= self._flows.pop(flow, 0)
