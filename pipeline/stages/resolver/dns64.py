"""What the name server synthesizes, by the configuration."""

from pipeline.config.choices import ON
from pipeline.config.model import Network
from pipeline.engines.dns.dns64 import Dns64


def dns64_of(network: Network) -> Dns64 | None:
    """The rules of DNS64; None without NAT64."""
    if not network.has_nat64:
        return None
    return Dns64(network, network.ipv6_gateway, always=network.ipv6_nat64 == ON)
