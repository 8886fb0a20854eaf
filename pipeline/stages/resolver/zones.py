"""The local DNS zones that the configuration asks for."""

from structlog.typing import FilteringBoundLogger

from pipeline.config.model import Network
from pipeline.engines.dns.zones import ZoneError, Zones, parse_zone


def local_zones(network: Network, log: FilteringBoundLogger) -> Zones:
    """The configured zones, then that of guests' names. A zone with an error is left out and logged."""
    zones = Zones(subnet=(int(network.subnet.network_address), int(network.subnet.netmask)))
    for zone in network.dns_zones:
        records = [{"name": each.name, "ip": each.ip, "regexp": each.regexp} for each in zone.records]
        try:
            zones.add(parse_zone({"name": zone.name, "records": records, "defaultIP": zone.default_ip}))
        except ZoneError as error:
            log.error("zone left out", zone=zone.name, error=str(error))
    if network.guest_names:
        zones.ensure(network.guest_names)
    return zones
