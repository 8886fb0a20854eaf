"""Reports to ingress, egress and resolver the MAC and the link of each guest's address.

A guest can give its address another MAC with every packet, and can stop the ring to ingress by not reading
its frames. Its changes must not fill our memory. So while the ring is full, demux only notes the address, and
reports the newest MAC when there is room.
"""

from collections.abc import Sequence
from typing import Final

from pipeline.counters import INDEX
from pipeline.ipc.ring import Producer
from pipeline.records import kinds
from pipeline.records.guests import Neighbor, NeighborGone
from pipeline.stages.demux.network import Network

RETRY_S: Final = 0.01
"""Seconds until demux looks again whether the ring has room."""

_CHANGED: Final = INDEX["neighbor_mac_changed"]


class Bindings:
    """Sends these reports."""

    def __init__(self, network: Network) -> None:
        self._ring = network.ingress_out
        self._rings = [self._ring, *network.egress_out, network.resolver_out]
        """Rules may name a guest by any of its addresses, its MAC or its link. Egress and resolver judge."""
        self._counts = network.counts
        self._neighbors = network.neighbors
        self.unreported: dict[int, None] = {}
        """Addresses whose new MAC ingress does not know yet. Some may have left the neighbour table since."""

    def learned(self, addr: int, mac: bytes, link: int) -> None:
        """Report an address that is new or on another link, at once: later records in the ring rely on it."""
        record = Neighbor.pack(kinds.NEIGHBOR, addr, mac, link)
        for ring in self._rings:
            ring.push(record)

    def report_all(self, rings: Sequence[Producer]) -> None:
        """Report every address to workers that know none, over these rings."""
        for addr, (mac, link) in self._neighbors.snapshot().items():
            record = Neighbor.pack(kinds.NEIGHBOR, addr, mac, link)
            for ring in rings:
                ring.push(record)

    def changed(self, addr: int) -> None:
        """The address has another MAC on the same link. report_changes() sends it."""
        self._counts[_CHANGED] += 1
        self.unreported[addr] = None

    def lost(self, addr: int) -> None:
        """No guest has the address any more."""
        self.unreported.pop(addr, None)
        record = NeighborGone.pack(addr)
        for ring in self._rings:
            ring.push(record)

    def report_changes(self) -> None:
        """Report changed MACs as far as the ring has room."""
        while self.unreported and self._ring.room() > 0:
            addr, _ = self.unreported.popitem()
            neighbor = self._neighbors.get(addr)
            if neighbor is not None:
                self.learned(addr, neighbor.mac, neighbor.link)

    def deadline(self, now: float) -> float:
        """When report_changes() has to be called again."""
        return now + RETRY_S if self.unreported else float("inf")
