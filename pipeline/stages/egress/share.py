"""How much of egress's pool each guest may hold: what hosts sent and the guest has not acknowledged.

A guest that opens connections and acknowledges nothing keeps the slots of all of them for as
long as it likes. So each guest has a filler of its own, which keeps the slots of guests apart,
and may hold twice as many slots as are free (the dynamic threshold of Choudhury and Hahne): a
single guest gets two thirds of the pool, and for every further one something is left.

Among the flows of a guest it is the same. Each may hold a part of what is left to the guest and,
once the guest holds a quarter of the pool, no more than its window takes. When the share is used
up, a flow that holds nothing may still read a little, so that hundreds of receivers that have
stopped reading do not stop one that goes on. A flow that finds no room waits until slots come
home; the flows of other guests do not.
"""

from collections.abc import Iterable
from itertools import takewhile
from typing import Any, Final, Protocol

from pipeline.host.credit import FLOOR
from pipeline.host.filler import SlotFiller
from pipeline.host.stream import HostStream
from pipeline.ipc.arena import Pool

SHARE_OF_FREE: Final = 2
MAX_FLOW_REFS: Final = 32
MIN_FLOW_REFS: Final = 2
PART_OF_REST: Final = 4
"""A flow may hold one of so many parts of the slots that are left to its guest."""
PLENTY_PART: Final = 4
"""While a guest holds less than one of so many parts of the pool, nobody asks what its windows take."""
TIGHT_SLOTS: Final = 4
"""With fewer slots left to it a guest's flows read a little at a time."""
EXTRA_SLOTS: Final = 8
"""Slots over its share that a guest may take for that."""
TIGHT_READ: Final = 1024
"""Bytes of such a read."""
CLOSING_FLOW_BYTES: Final = 65536
"""What a connection that is over counts for beside its bytes: its socket, and what the system keeps in it."""
CLOSING_PATIENCE: Final = 180.0
"""Seconds that its host may take nothing. Linux waits about as long when the window of a peer stays closed
and no process has the socket any more."""


class Reader(Protocol):
    """A flow that reads from its host socket."""

    state: str


class Share:
    """One guest's part of the pool."""

    __slots__ = ("_owners", "_pool", "_slots", "filler", "flows", "link", "placed", "small", "waiting")

    def __init__(
        self, link: int, pool: Pool, filler: SlotFiller, small: SlotFiller, owners: dict[int, "Share"]
    ) -> None:
        self.link = link
        self.flows = 0
        """Flows that count for this guest."""
        self._pool = pool
        self._owners = owners
        self.filler = self.placed = filler
        self.small = small
        self._slots: set[int] = set()
        """Slots that this guest's reads went to; some may be home again, see _sweep()."""
        self.waiting: dict[Reader, None] = {}
        """Flows that found no room, the first one first: one is tried at a time."""

    def rest(self) -> int:
        """Slots that the guest may still take; negative when it has more than its share."""
        left = SHARE_OF_FREE * self._pool.free_count - len(self._slots)
        if left < TIGHT_SLOTS:
            self._sweep()
            left = SHARE_OF_FREE * self._pool.free_count - len(self._slots)
        return left

    def held(self) -> int:
        """Slots that the guest holds, counted afresh."""
        self._sweep()
        return len(self._slots)

    def plenty(self) -> bool:
        """Whether the guest holds so little that its flows may read ahead of their windows."""
        bound = self._pool.count // PLENTY_PART
        if len(self._slots) > bound:
            self._sweep()
        return len(self._slots) <= bound

    def may_hold(self) -> int:
        """References that one flow of the guest may have out now; 0 when only a little may be read."""
        rest = self.rest()
        if rest < TIGHT_SLOTS:
            return 0
        return min(MAX_FLOW_REFS, max(MIN_FLOW_REFS, rest // PART_OF_REST))

    def place(self, room: int) -> bool:
        """Room for a read in the filler ``placed``. False: over the share, or no slot is free.

        Small reads have slots of their own: many of them stay for long, and would keep large ones.
        """
        filler = self.small if room <= FLOOR else self.filler
        self.placed = filler
        before = filler.slot
        if not filler.fits(room) and self.rest() <= -EXTRA_SLOTS:
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
            filler, small = (SlotFiller(self._pool, *self._form) for _ in range(2))
            share = self._shares[link] = Share(link, self._pool, filler, small, self._owners)
        return share

    def links(self) -> Iterable[int]:
        """The links that have a share."""
        return self._shares

    def flows_of(self, link: int) -> int:
        """Connections of the guest behind link."""
        share = self._shares.get(link)
        return 0 if share is None else share.flows

    def wake(self) -> list[Reader]:
        """Slots came home: the flows to try again, one of each guest."""
        return [flow for share in self._shares.values() if (flow := share.next_waiting()) is not None]

    def rest(self) -> None:
        """Give back the slots that are only held to be filled on, and forget guests that have nothing.

        That a guest's link is gone would be no sign: a connection that it asked for just before comes later.
        """
        over = []
        for link, share in self._shares.items():
            share.filler.rest()
            share.small.rest()
            if not share.flows and not share.held():
                over.append(link)
        for link in over:
            del self._shares[link]

    def retire(self) -> None:
        """Give back every slot that is being filled."""
        for share in self._shares.values():
            share.filler.retire()
            share.small.retire()


class ClosingFlow(Protocol):
    """A flow whose guest is done, with bytes that the host has not taken."""

    @property
    def stream(self) -> HostStream: ...


class ClosingFlows:
    """Bounds what waits for hosts on behalf of connections that are over: bytes, sockets, and for how long.

    A host that never reads would keep them for ever, and no limit of a guest bounds them any more. As in
    Linux for sockets without a process, some are reset to make room, and each when its host took nothing for
    long. Those whose hosts took nothing for longest come first.
    """

    def __init__(self, max_bytes: int, max_flows: int) -> None:
        self._max_bytes = max_bytes
        self._max_flows = max_flows
        self._bytes = 0
        self._flows: dict[ClosingFlow, tuple[int, float]] = {}
        """What each is charged, and since when its host takes nothing; the longest time first."""

    def wait(self, flow: ClosingFlow, taken: int, now: float) -> list[Any]:
        """The host took so many bytes and left some. Returns the flows to reset, which may be this one."""
        if not taken and flow in self._flows:
            return []
        self.remove(flow)
        charged = CLOSING_FLOW_BYTES + flow.stream.queued_bytes
        self._flows[flow] = charged, now
        self._bytes += charged
        victims = []
        bytes_over = self._bytes - self._max_bytes
        flows_over = len(self._flows) - self._max_flows
        for other, (held, _) in self._flows.items():
            if bytes_over <= 0 and flows_over <= 0:
                break
            bytes_over -= held
            flows_over -= 1
            victims.append(other)
        return victims

    def due(self, now: float) -> list[Any]:
        """Flows whose hosts took nothing for CLOSING_PATIENCE."""
        late = takewhile(lambda entry: entry[1][1] + CLOSING_PATIENCE <= now, self._flows.items())
        return [flow for flow, _ in late]

    def deadline(self) -> float:
        """When the next flow is due."""
        for _, since in self._flows.values():
            return since + CLOSING_PATIENCE
        return float("inf")

    def remove(self, flow: ClosingFlow) -> None:
        """The flow is forgotten."""
        charged, _ = self._flows.pop(flow, (0, 0.0))
        self._bytes -= charged
