"""What configuration and system mean for the two servers: parameters, local DNS zones, descriptors."""

import sys
from typing import Final

from structlog.typing import FilteringBoundLogger

from pipeline.config.model import Network
from pipeline.engines.dhcp.leases import DhcpConfig
from pipeline.engines.dns.zones import ZoneError, Zones, parse_zone
from pipeline.host.upstream.resolver import MAX_SOCKETS
from pipeline.stages.resolver.streams import MAX_CONNECTIONS

if sys.platform != "win32":
    import resource

OTHER_DESCRIPTORS: Final = 128
"""Descriptors of the process that are not for DNS: bells, control sockets, files, listeners."""
LEAST_SOCKETS: Final = 64
"""Sockets for questions upstream, however few descriptors the system gives."""


def dhcp_config(network: Network) -> DhcpConfig:
    """The DHCP server's parameters."""
    return DhcpConfig(
        network=int(network.subnet.network_address),
        prefix_len=network.subnet.prefixlen,
        gateway_addr=network.gateway_ip,
        gateway_mac=network.gateway_mac,
        mtu=network.mtu,
        search_domains=network.dns_search_domains,
        static_leases=network.dhcp_static_leases,
        # These addresses mean something else to the gateway than a guest.
        reserved=frozenset({network.host_ip, *network.gateway_virtual_ips, *network.nat}),
    )


def local_zones(network: Network, log: FilteringBoundLogger) -> Zones:
    """The configured zones. A zone with an error is logged and left out."""
    zones = Zones(subnet=(int(network.subnet.network_address), int(network.subnet.netmask)))
    for zone in network.dns_zones:
        records = [{"name": each.name, "ip": each.ip, "regexp": each.regexp} for each in zone.records]
        try:
            zones.add(parse_zone({"name": zone.name, "records": records, "defaultIP": zone.default_ip}))
        except ZoneError as error:
            log.error("zone left out", zone=zone.name, error=str(error))
    return zones


def question_sockets() -> int:
    """How many sockets may be open for questions upstream: what DNS connections of guests leave over."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return MAX_SOCKETS
    return max(LEAST_SOCKETS, min(MAX_SOCKETS, soft - MAX_CONNECTIONS - OTHER_DESCRIPTORS))
