"""Static leases of DHCPv6 that belong to a DUID, and which link holds each of them.

All guests hear the DUIDs of the others. So a DUID does not prove which client sends a message. The first link
over which a client takes the lease holds it. Until that link is down or gives the address up, no other link
gets it. Within the link the client may have any MAC address.
"""

from collections.abc import Mapping
from typing import NamedTuple

from pipeline.engines.dhcp.lease import OFFERED, Grant


class _Holder(NamedTuple):
    """The link that took a lease, and the MAC address of its client."""

    link: int
    mac: bytes


class DuidLeases:
    """The addresses that the configuration gives to DUIDs."""

    def __init__(self, leases: Mapping[int, bytes]) -> None:
        """leases: address -> DUID. A DUID with two addresses gets the lower one, the same in every run."""
        self._addr_of = {duid: addr for addr, duid in sorted(leases.items(), reverse=True)}
        self._holders: dict[bytes, _Holder] = {}
        """DUID -> holder of its lease."""

    def by_addr(self) -> dict[int, bytes]:
        """Address -> MAC of its client. An address that no link holds is left out."""
        return {self._addr_of[duid]: holder.mac for duid, holder in self._holders.items()}

    def is_open_to(self, duid: bytes, link: int) -> bool:
        """Whether the DUID has a lease that this link holds, or that no link holds."""
        holder = self._holders.get(duid)
        return duid in self._addr_of and (holder is None or holder.link == link)

    def is_holder(self, duid: bytes, link: int) -> bool:
        """Whether this link holds the lease of the DUID."""
        holder = self._holders.get(duid)
        return holder is not None and holder.link == link

    def give(self, duid: bytes, link: int, mac: bytes, state: str) -> Grant:
        """Give the client with this MAC address the lease. It must be open to the link. An offer changes
        nothing.
        """
        fresh = not self.is_holder(duid, link)
        if state != OFFERED:
            self._holders[duid] = _Holder(link, mac)
        return Grant(self._addr_of[duid], fresh=fresh)

    def give_up(self, duid: bytes, addr: int, link: int) -> bool:
        """The link does not hold the lease any more. Returns False if it did not, or for another address."""
        if not self.is_holder(duid, link) or addr != self._addr_of[duid]:
            return False
        del self._holders[duid]
        return True

    def on_link_down(self, link: int) -> None:
        """A guest's link is gone. Another link may take its leases."""
        self._holders = {duid: each for duid, each in self._holders.items() if each.link != link}
