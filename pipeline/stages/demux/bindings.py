"""Reports to ingress on which link and with which MAC each guest's address is reached.

A guest can give its address another MAC with every packet. While the ring to ingress is full, demux only
notes the address. It reports the newest MAC when there is room. A guest that does not read its frames stops
that ring, and its changes must not fill our memory.
"""

from typing import Final

from pipeline.counters import INDEX
from pipeline.records import kinds
from pipeline.records.guests import Neighbor, NeighborGone
from pipeline.stages.demux.network import Network

RETRY_S: Final = 0.01
"""Seconds until demux looks again whether the ring has room."""

_CHANGED: Final = INDEX["neighbor_mac_changed"]


class Bindings:
    """The reports about each address."""

    def __init__(self, network: Network) -> None:
        self._ring = network.ingress_out
        self._counts = network.counts
        self._neighbors = network.neighbors
        self.unreported: dict[int, None] = {}
        """Addresses whose new MAC ingress does not know yet. Each is in the neighbour table, or was."""

    def learned(self, addr: int, mac: bytes, link: int) -> None:
        """The address is new, or is on another link. Later records in the ring rely on this one."""
        self._ring.push(Neighbor.pack(kinds.NEIGHBOR, addr, mac, link))

    def changed(self, addr: int) -> None:
        """The address has another MAC on the same link. report_changes() sends it."""
        self._counts[_CHANGED] += 1
        self.unreported[addr] = None

    def lost(self, addr: int) -> None:
        """No guest has the address any more."""
        self.unreported.pop(addr, None)
        self._ring.push(NeighborGone.pack(addr))

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
