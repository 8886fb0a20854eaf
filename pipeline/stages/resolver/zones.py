"""The local DNS zones: those of the configuration, then what the API has added."""

from structlog.typing import FilteringBoundLogger

from pipeline.config.model import Network
from pipeline.config.model import Zone as ZoneConfig
from pipeline.engines.dns.zones import Zone, ZoneError, Zones, parse_zone


class LocalZones:
    """Makes the list of zones anew for each configuration. What the API has added stays."""

    def __init__(self) -> None:
        self._added = Zones()

    def added(self, zone: Zone) -> None:
        """The API has added a zone to the present list, or has extended one of it."""
        self._added.add(zone)

    def first(self, network: Network, log: FilteringBoundLogger) -> Zones:
        """The zones at the start, then that of guests' names. One with an error is left out and logged."""
        zones = _empty(network)
        for zone in network.dns_zones:
            try:
                zones.add(_parsed(zone))
            except ZoneError as error:
                log.error("zone left out", zone=zone.name, error=str(error))
        if network.guest_names:
            zones.ensure(network.guest_names)
        return zones

    def of(self, network: Network) -> Zones:
        """The zones of another configuration. Raises ZoneError, which names the key."""
        zones = _empty(network)
        for index, zone in enumerate(network.dns_zones):
            try:
                zones.add(_parsed(zone))
            except ZoneError as error:
                raise ZoneError(f"stack.dns[{index}]: {error}") from None
        try:
            if network.guest_names:
                zones.ensure(network.guest_names)
            for each in self._added:
                zones.add(each)
        except ZoneError as error:
            raise ZoneError(f"stack.dns: with guests' names and what the API has added, {error}") from None
        return zones


def _empty(network: Network) -> Zones:
    return Zones(subnet=(int(network.subnet.network_address), int(network.subnet.netmask)))


def _parsed(zone: ZoneConfig) -> Zone:
    records = [{"name": each.name, "ip": each.ip, "regexp": each.regexp} for each in zone.records]
    return parse_zone({"name": zone.name, "records": records, "defaultIP": zone.default_ip})
