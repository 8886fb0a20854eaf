"""The addresses of a virtual network that guests may have: all host addresses except the gateway's own."""

from collections.abc import Iterable

from pipeline.wire import ip, ipv6


class Ipv6Addresses:
    """The IPv6 addresses of a network: a /64 and the link-local ones."""

    def __init__(self, prefix: int, mac: bytes, *, gateway: int, host: int, name_server: int = 0) -> None:
        """prefix: the first address of the /64. mac: the gateway's.

        gateway, host: addresses of the /64 that mean the gateway, and the host's ::1.
        name_server: the address of the network's name server; 0 for the gateway's.
        """
        self.prefix = prefix
        self.gateway = gateway
        self.host = host
        self.name_server = name_server
        self.link_local = ipv6.link_local(mac)
        """The address from which the gateway asks and advertises (RFC 4861 section 6.1.2)."""
        self.own = frozenset((prefix, gateway, self.link_local, host, name_server or gateway))
        """Addresses that no guest may have, since the gateway answers for them. The first of the /64 means
        any router of it (RFC 4291 section 2.6.1)."""

    def inside(self, addr: int) -> bool:
        """Whether addr is an address of this network."""
        return addr >> 64 == self.prefix >> 64 or addr >> 64 == self.link_local >> 64


class GuestAddresses:
    """Says of an address whether a guest of one network may have it."""

    def __init__(
        self,
        network: int,
        prefix_len: int,
        own: Iterable[int] = (),
        v6: Ipv6Addresses | None = None,
        further: tuple[int, int] = (0, -1),
    ) -> None:
        """own: the gateway's address and its virtual addresses. v6: None if guests have no IPv6.

        further: the first and the last IPv4 address of another network that guests may have.
        """
        self._further = further
        first, last = ip.prefix(network, prefix_len)
        self._first = first + 1
        self._last = last - 1
        self._v6 = v6
        self._gateways = frozenset(own) if v6 is None else v6.own.union(own)
        self.own = self._gateways

    def set_station(self, addrs: Iterable[int]) -> None:
        """The host itself has these addresses too, and no guest may."""
        self.own = self._gateways.union(addrs)

    def inside(self, addr: int) -> bool:
        """Whether addr is a host address of the subnet, or an IPv6 address of the network."""
        if self._first <= addr <= self._last:
            return True
        return (self._v6 is not None and self._v6.inside(addr)) or (
            self._further[0] <= addr <= self._further[1]
        )

    def may_have(self, addr: int) -> bool:
        """Whether a guest may have addr."""
        return self.inside(addr) and addr not in self.own
