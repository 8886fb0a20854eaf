"""The IPv6 addresses of the configured network, for the stages that need them."""

from pipeline.config.model import Config
from pipeline.engines.neighbors.addresses import Ipv6Addresses


def of(config: Config) -> Ipv6Addresses | None:
    """The addresses; None while IPv6 is off."""
    network = config.network
    if not network.ipv6_first:
        return None
    return Ipv6Addresses(
        network.ipv6_first,
        network.gateway_mac,
        gateway=network.ipv6_gateway,
        host=network.ipv6_host,
        name_server=network.ipv6_dns,
    )
