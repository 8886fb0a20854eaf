"""What demux learns from DHCP: who holds an address that it has not used yet.

Between the server's ACK and the guest's first packet nobody has shown the address, and whoever showed it
first would have it. So it is the holder's from the ACK on; like any other owner it must then fail a probe
before somebody else gets it. Holders of leases from a state file have no link yet: their addresses are kept
until they come back, or are asked for in vain.

The client's MAC in a request is what the guest says: it counts only if the switch has seen it on that
link, and then as any other claim: whoever has the address behind another link is asked first.
"""

from pipeline.counters import INDEX
from pipeline.engines.neighbors import Neighbors
from pipeline.engines.switch import Switch
from pipeline.stages.worker import Worker
from pipeline.wire import dhcp
from pipeline.wire.errors import WireError


class LeaseHolders:
    """Reads the server's answers on their way to the guests, and what it knows from an earlier run."""

    def __init__(self, worker: Worker, known: Neighbors, switch: Switch) -> None:
        self._slots = worker.ports.arena.slots
        self._counts = worker.counts
        self._neighbors = known
        self._switch = switch

    def on_answer(self, link: int, slot: int, off: int, length: int, now: float) -> None:
        """A message of the server goes to a guest behind link."""
        message = dhcp.parse(self._slots[slot], off, off + length)
        given = message.kind == dhcp.ACK or message.is_bootp
        if not given or not message.yiaddr:
            return
        self._neighbors.unhold(message.yiaddr, message.chaddr)
        if self._switch.link_of(message.chaddr) != link:
            return
        try:
            self._neighbors.learn(message.yiaddr, message.chaddr, link, now)
        except WireError as error:
            # The link has more addresses than it may, or somebody behind another link is asked for this one.
            self._counts[INDEX[error.reason]] += 1

    def on_restored(self, addr: int, mac: bytes, now: float) -> None:
        """The server took a lease over from its state file."""
        self._neighbors.hold(addr, mac, now)
