"""What demux tells ingress of guests' addresses: the link and the MAC that each is reached by.

A guest can give its address another MAC with every packet. While the ring to ingress is full, only the
address is noted, and ingress is told the newest MAC when there is room: a guest that does not read stops
that ring, and must not fill our memory with its changes.
"""

from typing import Final

from pipeline.counters import INDEX
from pipeline.engines.neighbors import Neighbors
from pipeline.records import descriptor as d
from pipeline.stages.worker import Worker

TELL_AGAIN_S: Final = 0.01
"""How soon to look again whether the ring has room."""

_CHANGED: Final = INDEX["neighbor_mac_changed"]


class Bindings:
    """Tells ingress of each address."""

    def __init__(self, worker: Worker, known: Neighbors) -> None:
        self._ring = worker.ports.rings_out["ingress"]
        self._counts = worker.counts
        self._neighbors = known
        self.untold: dict[int, None] = {}
        """Addresses whose new MAC ingress does not know yet; each is an address of the table, or was."""

    def learned(self, addr: int, mac: bytes, link: int) -> None:
        """The address is new, or is behind another link. What follows in the ring relies on it."""
        self._ring.push(d.binding(d.NEIGHBOR, addr, mac, link))

    def changed(self, addr: int) -> None:
        """The address has another MAC behind the same link: see tell()."""
        self._counts[_CHANGED] += 1
        self.untold[addr] = None

    def lost(self, addr: int) -> None:
        """Nobody has the address any more."""
        self.untold.pop(addr, None)
        self._ring.push(d.record(d.NEIGHBOR_GONE, guest_addr=addr))

    def tell(self) -> None:
        """Tell of changed MACs as far as the ring has room."""
        while self.untold and self._ring.room() > 0:
            addr, _ = self.untold.popitem()
            neighbor = self._neighbors.get(addr)
            if neighbor is not None:
                self.learned(addr, neighbor.mac, neighbor.link)

    def deadline(self, now: float) -> float:
        """When to call tell() again."""
        return now + TELL_AGAIN_S if self.untold else float("inf")
