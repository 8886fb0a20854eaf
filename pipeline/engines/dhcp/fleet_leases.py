"""Leases of a server whose addresses come from the pool of a fleet (pipeline.engines.fleet).

The fleet decides which client gets which address, and for how long. It is asked for each message of a client
that wants an address, so a lease here is never longer than the fleet allows. What is here says which guest
has which leases, and who may give one back.

Each guest may have MAX_OF_A_GUEST leases. So a guest that makes up hardware addresses does not use up the
addresses of all hosts. There are no loans, and no lease is taken from one client for another: a lease that
has expired is forgotten.
"""

from typing import Final

from pipeline.engines.dhcp.leases import Leases

MAX_OF_A_GUEST: Final = 64


class FleetLeases(Leases):
    """The leases of this host's guests."""

    _granted: int = 0
    """The address that the fleet has given to the next new client."""

    def may_ask(self, client: bytes, link: int, now: float) -> bool:
        """Whether the fleet may be asked for an address for this client."""
        return client in self._leases or self._may_have_new(self._guest_of(link), now)

    def grant(self, client: bytes, addr: int) -> None:
        """The fleet gives the client this address. Nobody else has it, and the client has no other one."""
        for other, lease in list(self._leases.items()):
            if (other == client) != (lease.addr == addr):
                self._pool.put_back(self._forget(other))
        self._granted = addr

    def _may_have_new(self, guest: int, now: float) -> bool:
        return not self._is_full(guest, now)

    def _is_full(self, guest: int, now: float) -> bool:
        while addr := self._reclaim_expired(now):
            self._pool.put_back(addr)
        return self._of_guest.get(guest, 0) >= MAX_OF_A_GUEST

    def _reclaim_expired(self, now: float) -> int:
        return super()._reclaim(now)

    def _reclaim(self, now: float, guest: int | None = None) -> int:
        return 0

    def _may_borrow(self, state: str, now: float, used: int) -> bool:
        return False

    def _take_address(self, client: bytes, now: float, *, restored: bool) -> int:
        addr, self._granted = self._granted, 0
        return addr if self._pool.claim(addr) else 0
