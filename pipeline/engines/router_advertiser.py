"""What the gateway advertises as a router (RFC 4861 section 6.2, RFC 8106, RFC 8781), and when.

Guests make addresses of the prefix (SLAAC, RFC 4862), and get the MTU, the name server and the search list.
With NAT64 they also get the prefix of addresses that stand for IPv4 addresses.
The gateway is a default router, or only a router of the prefix: then the router lifetime is 0.

An advertisement for one guest is an ordinary multicast packet in a frame to that guest alone. So the rate
limit and the delay of answers, which protect a shared link, are not needed (section 6.2.6).
"""

from collections.abc import Callable, Sequence
from typing import Final

from pipeline.engines.neighbors.addresses import Ipv6Addresses
from pipeline.wire import dhcp, icmpv6, ip, ipv6

MIN_INTERVAL: Final = 200.0
MAX_INTERVAL: Final = 600.0
"""Seconds between two advertisements that nobody asked for. Each interval is a random one of these."""
VALID_S: Final = 86400
PREFERRED_S: Final = 14400
"""Lifetimes of addresses made of the prefix, which is the same at every start."""
ROUTER_S: Final = 3 * int(MAX_INTERVAL)
"""Lifetime of the gateway as default router (RFC 4861 section 6.2.1, AdvDefaultLifetime)."""
NAMES_S: Final = 3 * int(MAX_INTERVAL)
"""Lifetime of the name server and the search list (RFC 8106 section 5.1)."""
NAT64_S: Final = 3 * int(MAX_INTERVAL)
"""Lifetime of the prefix of NAT64 (RFC 8781 section 4.1)."""
MAX_SEARCH_LIST: Final = 1024
"""Bytes of the search list. So an advertisement is shorter than IPv6's least MTU."""

_INF: Final = float("inf")


class RouterAdvertiser:
    """Makes the advertisements, and keeps the time of the next one. It reads no clock."""

    def __init__(
        self,
        mac: bytes,
        addresses: Ipv6Addresses,
        mtu: int,
        *,
        search_domains: Sequence[str],
        has_dns: bool,
        has_nat64: bool = False,
        random: Callable[[], float],
    ) -> None:
        """mtu: of guests' packets. has_dns: the gateway has a name server. has_nat64: guests reach IPv4
        hosts over IPv6. random: returns 0 to 1.
        """
        self._mac = mac
        self._addresses = addresses
        self._mtu = mtu
        self._has_dns = has_dns
        self._nat64 = ip.NAT64 if has_nat64 else 0
        self._random = random
        self._due = _INF
        self._search_domains = search_domains
        self._is_default = False
        self._message = self._made()

    def _made(self) -> bytes:
        """The ICMPv6 message, by the present settings."""
        says = icmpv6.RouterAdvertisement(
            mac=self._mac,
            lifetime=ROUTER_S if self._is_default else 0,
            mtu=self._mtu,
            prefix=self._addresses.prefix,
            valid=VALID_S,
            preferred=PREFERRED_S,
            name_server=(self._addresses.name_server or self._addresses.gateway) if self._has_dns else 0,
            search_list=self._search_list(),
            names_lifetime=NAMES_S,
            nat64=self._nat64,
            nat64_lifetime=NAT64_S,
        )
        return icmpv6.build_router_advertisement(says, self._addresses.link_local, ipv6.ALL_NODES)

    def _search_list(self) -> bytes:
        """The first valid domains in wire form, as many as fit."""
        return dhcp.search_list_of(self._search_domains, MAX_SEARCH_LIST) if self._has_dns else b""

    def set_search_domains(self, search_domains: Sequence[str]) -> bool:
        """Change the search list. Returns whether the advertisement is another one now."""
        self._search_domains = search_domains
        return self._is_another()

    def set_default(self, is_default: bool) -> bool:
        """Offer the gateway as default router or not. Returns whether the advertisement is another one."""
        self._is_default = is_default
        return self._is_another()

    def _is_another(self) -> bool:
        before, self._message = self._message, self._made()
        return self._message != before

    def frame(self, mac: bytes | None = None) -> bytes:
        """The advertisement, to all nodes of the link, or to the station with this MAC address alone."""
        to = ipv6.group_mac(ipv6.ALL_NODES) if mac is None else mac
        return icmpv6.frame(to, self._mac, self._addresses.link_local, ipv6.ALL_NODES, self._message)

    def start(self, now: float) -> None:
        """There is a guest. The first call sets the time of the next advertisement."""
        if self._due == _INF:
            self._due = now + MIN_INTERVAL + self._random() * (MAX_INTERVAL - MIN_INTERVAL)

    def stop(self) -> None:
        """There is no guest. Nothing is due until start()."""
        self._due = _INF

    def deadline(self) -> float:
        """When the next advertisement is due; inf when never."""
        return self._due
