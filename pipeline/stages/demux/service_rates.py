"""Limits how often a guest may ask DNS and DHCP while other guests are active.

A question costs much more than a packet that is passed on: it goes to another process and back, and is
parsed there. So each guest has a rate for each service. Demux drops what exceeds it, before it is parsed or
flooded to other guests. A dropped question counts as a bad frame, so a guest that floods is read more slowly
(ingress/fairness.py). While no other guest is active, a guest may ask as often as it likes, unless
max-dns-queries-alone-per-second says otherwise.
"""

from collections.abc import Mapping, Set
from typing import Final

from pipeline.config.limits import Limits
from pipeline.engines import nat
from pipeline.engines.activity import Activity
from pipeline.engines.buckets import Buckets, for_questions
from pipeline.records.flows import Ends
from pipeline.records.kinds import REPORT_EVERY_S
from pipeline.wire import dhcpv6, ip, ipv6
from pipeline.wire.errors import WireError

_ALL_SERVERS: Final = frozenset((ip.BROADCAST, dhcpv6.ALL_SERVERS))
_ALL_SERVERS_MAC: Final = ipv6.group_mac(dhcpv6.ALL_SERVERS)
_DHCP_PORTS: Final = frozenset((nat.DHCP_PORT, nat.DHCPV6_PORT))
ACTIVE_S: Final = 1.5 * REPORT_EVERY_S
"""Seconds for which a guest counts as active after a frame. Ingress reports steered guests every
REPORT_EVERY_S."""


class ServiceRates:
    """The rates of all guests, by the number of the guest."""

    def __init__(self, limits: Limits, gateways: Set[int], links: Mapping[int, int]) -> None:
        """gateways: the addresses of the services. links: the number of the guest that opened each link."""
        self._activity = Activity(ACTIVE_S)
        self._gateways = gateways
        self._dhcp_addrs = frozenset(gateways) | _ALL_SERVERS
        self._links = links
        self._dns = Buckets(*for_questions(limits.max_dns_queries_per_second))
        self._dhcp = Buckets(*for_questions(limits.max_dhcp_messages_per_second))
        self._dns_alone = Buckets(*for_questions(limits.max_dns_queries_alone_per_second))

    def set_limits(self, limits: Limits) -> None:
        """Change the rates."""
        self._dns.set_rate(*for_questions(limits.max_dns_queries_per_second))
        self._dhcp.set_rate(*for_questions(limits.max_dhcp_messages_per_second))
        self._dns_alone.set_rate(*for_questions(limits.max_dns_queries_alone_per_second))

    def saw(self, link: int, now: float) -> None:
        """A frame of a link came."""
        self._activity.saw(self._links.get(link, 0), now)

    def check(self, ends: Ends, link: int, now: float) -> None:
        """Datagrams of a link came. Raises WireError if its guest asks this service too often."""
        port = ends.remote_port
        if port == nat.DNS_PORT:
            if ends.remote_addr not in self._gateways:
                return
        elif port not in _DHCP_PORTS or ends.remote_addr not in self._dhcp_addrs:
            return
        self._check(port, self._links.get(link, 0), now)

    def check_group(self, dst_mac: bytes, link: int, now: float) -> None:
        """A single frame of a link came, to this MAC address. Raises WireError as check() does.

        Messages for all DHCPv6 servers are never merged, and would be flooded to other guests.
        """
        if dst_mac == _ALL_SERVERS_MAC:
            self._check(nat.DHCPV6_PORT, self._links.get(link, 0), now)

    def admit(self, port: int, link: int, count: int, now: float) -> bool:
        """Datagrams of a link are for a service. Returns whether other guests are active.

        Raises WireError if the guest asks too often. Datagrams that came together pass together, and all of
        them are charged.
        """
        guest = self._links.get(link, 0)
        crowded = self._check(port, guest, now)
        if port == nat.DNS_PORT and self._dns_alone.per_second:
            self._dns_alone.charge(guest, count, now)
        if not crowded:
            return False
        (self._dhcp if port in _DHCP_PORTS else self._dns).charge(guest, count, now)
        return True

    def _check(self, port: int, guest: int, now: float) -> bool:
        """Whether other guests are active. Raises WireError if the guest asks too often."""
        if port == nat.DNS_PORT and self._dns_alone.per_second and self._dns_alone.level(guest, now) < 1.0:
            raise WireError("dns_query_dropped_rate_limit")
        if not self._activity.has_others(guest, now):
            return False
        if port in _DHCP_PORTS:
            if self._dhcp.level(guest, now) < 1.0:
                raise WireError("dhcp_message_dropped_rate_limit")
        elif self._dns.level(guest, now) < 1.0:
            raise WireError("dns_query_dropped_rate_limit")
        return True

    def on_guest_gone(self, now: float) -> None:
        """A guest has no link any more. If it comes back at once, it has no fresh rate."""
        self._dns.forget_full(now)
        self._dns_alone.forget_full(now)
        self._dhcp.forget_full(now)
