"""Bounds the slots of egress whose datagrams wait for an absent guest to answer ARP.

These datagrams wait for seconds, and the host's programs go on sending. Without a bound they would use up all
slots, and egress could not read any connection. The bound counts slots, not bytes: a short datagram keeps its
slot in use just as a long one does.
"""

from typing import Final

from pipeline.engines import tally

SHARE: Final = 16
"""All waiting datagrams together may use 1/SHARE of all slots, which is a seventh of egress's slots."""
ADDRS: Final = 8
"""One address may use 1/ADDRS of these. So absent guests leave some to a guest that has just started."""


class WaitingSlots:
    """Counts datagrams by address and slot. A slot in which several addresses have datagrams counts for each.

    Each egress worker has slots of its own, and a bound of its own.
    """

    def __init__(self, slots: int, egress_workers: int) -> None:
        self._most = max(1, slots // SHARE // egress_workers)
        self._most_of_addr = max(1, self._most // ADDRS)
        self._datagrams: dict[tuple[int, int], int] = {}
        """Datagrams by (address, slot). There are no entries of 0."""
        self._of_addr: dict[tuple[int, int], int] = {}
        """Slots by (egress worker, address). There are no entries of 0."""
        self._of_egress = [0] * egress_workers

    def __len__(self) -> int:
        return len(self._datagrams)

    @property
    def addresses(self) -> int:
        """How many addresses have waiting datagrams, for each egress worker."""
        return len(self._of_addr)

    def slots_held(self) -> list[int]:
        """The slots of all waiting datagrams, one entry for each datagram."""
        return [slot for (_, slot), number in self._datagrams.items() for _ in range(number)]

    def add(self, egress: int, addr: int, slot: int) -> bool:
        """Count one more datagram for addr in a slot of an egress worker; False if it must not wait."""
        if (addr, slot) not in self._datagrams:
            of_addr = self._of_addr.get((egress, addr), 0)
            if self._of_egress[egress] >= self._most or of_addr >= self._most_of_addr:
                return False
            self._of_egress[egress] += 1
            tally.add(self._of_addr, (egress, addr), 1)
        tally.add(self._datagrams, (addr, slot), 1)
        return True

    def remove(self, egress: int, addr: int, slot: int) -> None:
        """A datagram that add() counted does not wait any more."""
        tally.add(self._datagrams, (addr, slot), -1)
        if (addr, slot) not in self._datagrams:
            self._of_egress[egress] -= 1
            tally.add(self._of_addr, (egress, addr), -1)
