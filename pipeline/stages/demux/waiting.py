"""How many of egress's slots datagrams may keep that wait for their guest to answer ARP.

A guest that is absent keeps them for seconds, and senders of the host go on: without a bound they would have
every slot, and no connection would be read from. Slots are counted, not bytes: a short datagram keeps
its slot from going home as a long one does.
"""

from typing import Final

from pipeline.engines import tally

PART: Final = 16
"""All of them together keep one in so many of all slots, which is a seventh of what egress has."""
ADDRS: Final = 8
"""One address keeps one in so many of those: a few absent guests leave some to one that has just started."""


class WaitingSlots:
    """Counts datagrams by address and slot. A slot that several addresses wait in counts for each.

    Each shard of egress has slots of its own, and a bound of its own.
    """

    def __init__(self, slots: int, egress_workers: int) -> None:
        self._most = max(1, slots // PART // egress_workers)
        self._most_of_addr = max(1, self._most // ADDRS)
        self._datagrams: dict[tuple[int, int], int] = {}
        """By (address, slot); nothing is kept of what has no datagram."""
        self._of_addr: dict[tuple[int, int], int] = {}
        """Entries by (shard, address)."""
        self._of_shard = [0] * egress_workers

    def __len__(self) -> int:
        return len(self._datagrams)

    def take(self, shard: int, addr: int, slot: int) -> bool:
        """One more datagram for addr wants to wait in a slot of shard; False if it must not."""
        if (addr, slot) not in self._datagrams:
            mine = self._of_addr.get((shard, addr), 0)
            if self._of_shard[shard] >= self._most or mine >= self._most_of_addr:
                return False
            self._of_shard[shard] += 1
            tally.add(self._of_addr, (shard, addr), 1)
        tally.add(self._datagrams, (addr, slot), 1)
        return True

    def give_back(self, shard: int, addr: int, slot: int) -> None:
        """One that was taken waits no more."""
        tally.add(self._datagrams, (addr, slot), -1)
        if (addr, slot) not in self._datagrams:
            self._of_shard[shard] -= 1
            tally.add(self._of_addr, (shard, addr), -1)
