"""Slots and references that out-of-order data of guests hold.

The guest that holds most of them loses its oldest such data, and sends them again (RFC 2018 section 8
allows it).

To count the slots exactly for each segment would be expensive. At most the ranges added since the last
count can have taken new slots, so the count is repeated only after that many. Each range is also a
reference. A slot of small frames may have hundreds, and ingress reads nothing while too many are out.
"""

from pipeline.records.run import Run
from pipeline.stages.tcp.flow import Flow, Guest


class OutOfOrder:
    """Keeps the slots and ranges that all connections hold together below two bounds."""

    def __init__(self, max_slots: int, max_ranges: int) -> None:
        self.max_slots = max_slots
        self.max_ranges = max_ranges
        self.ranges = 0
        """Ranges of all connections."""
        self._holders: dict[Flow, int] = {}
        """How many ranges each connection holds. The one that began to hold some first comes first."""
        self._until_count = max_slots

    def __len__(self) -> int:
        """Connections that hold such data."""
        return len(self._holders)

    def holds(self, flow: Flow) -> bool:
        """Whether the connection held such data when it was last noted."""
        return flow in self._holders

    def note(self, flow: Flow) -> list[Flow]:
        """The connection's ranges may have changed. Returns those that lost theirs: they need a flush."""
        held = len(flow.conn.reassembly.ranges)
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
        """Take from a connection what it holds. It needs a flush."""
        flow.conn.forget_out_of_order()
        self.forget(flow)

    def forget(self, flow: Flow) -> None:
        """The connection is over."""
        self.ranges -= self._holders.pop(flow, 0)

    def _drop_ranges(self) -> list[Flow]:
        """The guest with most ranges loses its oldest, until a quarter of the bound is free again."""
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
        """The guest with most slots loses its oldest data, until a quarter of the bound is free again."""
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
            for _, _, buf, _ in flow.conn.reassembly.ranges:
                assert isinstance(buf, Run)
                slots.add(buf.slot)
        return set().union(*by_guest.values()), by_guest
