"""What the configuration means for the two servers: the DHCP server's parameters, and the local DNS zones."""

from structlog.typing import FilteringBoundLogger

from pipeline.config.model import Config
from pipeline.engines.dhcp.leases import DhcpConfig
from pipeline.engines.dns.zones import ZoneError, Zones, parse_zone


def dhcp_config(config: Config) -> DhcpConfig:
    """The DHCP server's parameters."""
    return DhcpConfig(
        network=int(config.subnet.network_address),
        prefix_len=config.subnet.prefixlen,
        gateway_addr=config.gateway_ip,
        gateway_mac=config.gateway_mac,
        mtu=config.mtu,
        search_domains=config.dns_search_domains,
        static_leases=config.dhcp_static_leases,
        # These addresses mean something else to the gateway than a guest.
        reserved=frozenset({config.host_ip, *config.gateway_virtual_ips, *config.nat}),
    )


def local_zones(config: Config, log: FilteringBoundLogger) -> Zones:
    """The configured zones. A zone with an error is logged and left out."""
    zones = Zones(subnet=(int(config.subnet.network_address), int(config.subnet.netmask)))
    for zone in config.dns_zones:
        records = [{"name": each.name, "ip": each.ip, "regexp": each.regexp} for each in zone.records]
        try:
            zones.add(parse_zone({"name": zone.name, "records": records, "defaultIP": zone.default_ip}))
        except ZoneError as error:
            log.error("zone left out", zone=zone.name, error=str(error))
    return zones
