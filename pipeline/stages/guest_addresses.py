"""Which addresses guests of the configured network may have, for the stages that judge them."""

from pipeline.config.choices import APART, OPEN
from pipeline.config.model import Config
from pipeline.engines.apart.inner import FIRST_IPV4, LAST_IPV4, InnerAddresses
from pipeline.engines.neighbors.addresses import GuestAddresses
from pipeline.stages import ipv6_addresses
from pipeline.wire import ip


def own_of(config: Config) -> tuple[int, ...]:
    """The IPv4 addresses that the gateway answers ARP for."""
    network = config.network
    return (network.gateway_ip, network.name_server, *network.gateway_virtual_ips)


def of(config: Config, *, with_inner: bool = False) -> GuestAddresses:
    """The addresses. with_inner: also the inner ones of guests whose own ones are taken."""
    network = config.network
    own = own_of(config)
    return GuestAddresses(
        ip.of(network.subnet.network_address),
        network.subnet.prefixlen,
        own if config.access.guests == OPEN else (*own, network.host_ip),
        ipv6_addresses.of(config),
        (FIRST_IPV4, LAST_IPV4) if with_inner and config.access.guests == APART else (0, -1),
    )


def inner_of(config: Config) -> InnerAddresses:
    """The inner addresses."""
    return InnerAddresses(config.network.ipv6_first)
