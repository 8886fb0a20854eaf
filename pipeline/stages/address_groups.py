"""The groups of addresses of a configured network: what means the host, and what means a guest."""

from pipeline.config.model import Network
from pipeline.engines.groups import Groups
from pipeline.system.local_address import LocalAddresses
from pipeline.wire import ip


def of(network: Network) -> Groups:
    """The groups, as the egress policy and the name server see them."""
    hosts = {
        *(network.host_ip, network.gateway_ip, network.name_server, *network.gateway_virtual_ips),
        *(network.ipv6_host, network.ipv6_gateway, network.name_server6),
        *(addr for addr, to in network.nat.items() if ip.is_loopback(to)),
    } - {ip.NOTHING}
    subnet = network.subnet
    guests = [(ip.of(subnet.network_address), ip.of(subnet.broadcast_address))]
    if network.ipv6_first:
        guests.append(ip.network(network.ipv6_prefix))
    return Groups(hosts, guests, LocalAddresses().has)
