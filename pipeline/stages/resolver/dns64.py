"""What the name server synthesizes, by the configuration."""

from pipeline.config.choices import ON
from pipeline.config.model import Network
from pipeline.engines.dns.dns64 import Dns64
from pipeline.engines.neighbors.addresses import Ipv6Addresses


def dns64_of(network: Network) -> Dns64 | None:
    """The rules of DNS64; None without NAT64."""
    if not network.has_nat64:
        return None
    gateway6 = Ipv6Addresses(network.ipv6_first, network.gateway_mac).gateway
    return Dns64(network, gateway6, always=network.ipv6_nat64 == ON)
