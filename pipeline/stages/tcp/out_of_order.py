"""Limits the slots and references that out-of-order data of guests hold.

At a limit, the guest that holds most loses its oldest out-of-order data, and has to send them again. RFC 2018
section 8 allows this.

It would be expensive to count the slots for each segment. A new range takes at most one new slot. So the
slots are counted again only after as many new ranges as slots were free. Each range is also a reference. A
slot of small frames may have hundreds of references, and ingress does not read while too many are out.
"""

from pipeline.engines.tcp.connection import Connection
from pipeline.engines.tcp.reassembly import Held
from pipeline.records.run import Run
from pipeline.stages.tcp.flow import Flow, Guest


class OutOfOrder:
    """Keeps the number of slots and of ranges that all connections hold below two limits."""

    def __init__(self, max_slots: int, max_ranges: int) -> None:
        self.max_slots = max_slots
        self.max_ranges = max_ranges
        self.ranges = 0
        """The number of ranges of all connections."""
        self._holders: dict[Flow, int] = {}
        """The number of ranges of each connection, in the order in which they began to hold some."""
        self._until_count = max_slots

    def __len__(self) -> int:
        """The number of connections that hold such data."""
        return len(self._holders)

    def set_max_slots(self, max_slots: int) -> None:
        """Change the limit on slots. What exceeds a lower one goes with the next new range."""
        self._until_count += max_slots - self.max_slots
        self.max_slots = max_slots

    def holds(self, flow: Flow) -> bool:
        """Whether the connection held such data at the last call of note()."""
        return flow in self._holders

    def note(self, flow: Flow) -> list[Flow]:
        """Update the ranges of a connection. Returns the connections that lost theirs. They need a flush."""
        held = len(_ranges(flow))
        added = held - self._holders.get(flow, 0)
        self.ranges += added
        if not held:
            self._holders.pop(flow, None)
            return []
        self._holders[flow] = held
        if added <= 0:
            return []
        self._until_count -= added
        lost = self._drop_ranges() if self.ranges > self.max_ranges else []
        if self._until_count < 0:
            lost += self._drop_slots()
        return lost

    def lose(self, flow: Flow) -> None:
        """Drop the out-of-order data of a connection. It needs a flush."""
        conn = flow.conn
        if isinstance(conn, Connection):
            conn.forget_out_of_order()
        self.forget(flow)

    def forget(self, flow: Flow) -> None:
        """Stop counting the ranges of a connection."""
        self.ranges -= self._holders.pop(flow, 0)

    def _drop_ranges(self) -> list[Flow]:
        """The guest with most ranges loses its oldest ones, until a quarter of the limit is free again."""
        by_guest: dict[Guest, list[Flow]] = {}
        ranges: dict[Guest, int] = {}
        for flow, count in self._holders.items():
            by_guest.setdefault(flow.guest, []).append(flow)
            ranges[flow.guest] = ranges.get(flow.guest, 0) + count
        for flows in by_guest.values():
            flows.reverse()
        lost: list[Flow] = []
        while self.ranges > self.max_ranges * 3 // 4:
            worst = max(ranges, key=lambda guest: ranges[guest])
            oldest = by_guest[worst].pop()
            ranges[worst] -= self._holders[oldest]
            self.lose(oldest)
            lost.append(oldest)
        return lost

    def _drop_slots(self) -> list[Flow]:
        """The guest with most slots loses its oldest data, until a quarter of the limit is free again."""
        lost: list[Flow] = []
        slots, by_guest = self._slots()
        while len(slots) > self.max_slots * 3 // 4:
            worst = max(by_guest, key=lambda guest: len(by_guest[guest]))
            oldest = next(flow for flow in self._holders if flow.guest is worst)
            self.lose(oldest)
            lost.append(oldest)
            slots, by_guest = self._slots()
        self._until_count = self.max_slots - len(slots)
        return lost

    def _slots(self) -> tuple[set[int], dict[Guest, set[int]]]:
        """The slots in use, in all and by guest."""
        by_guest: dict[Guest, set[int]] = {}
        for flow in self._holders:
            slots = by_guest.setdefault(flow.guest, set())
            for _, _, buf, _ in _ranges(flow):
                assert isinstance(buf, Run)
                slots.add(buf.slot)
        return set().union(*by_guest.values()), by_guest


def _ranges(flow: Flow) -> list[Held]:
    """The out-of-order data of a connection. In TIME-WAIT there are none."""
    conn = flow.conn
    return conn.reassembly.ranges if isinstance(conn, Connection) else []
