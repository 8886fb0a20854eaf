"""Makes the agent of a fleet from the configuration. The daemon loads this module only with -fleet."""

import hashlib
import secrets

import structlog

from pipeline.config.fleet import station_addr6
from pipeline.config.model import Config
from pipeline.control.plane import ControlPlane
from pipeline.engines.fleet.values import Host
from pipeline.engines.fleet.view import FleetView
from pipeline.fleet.agent import Agent
from pipeline.fleet.feed import EventFeed
from pipeline.fleet.forwards import SharedForwards
from pipeline.fleet.hands import Hands
from pipeline.fleet.settings import SharedSettings
from pipeline.fleet.store import Access
from pipeline.links import vxlan_url
from pipeline.topology import TCP
from pipeline.wire import ip

MAX_POOL = 1 << 16
"""The most addresses of the pool. In a larger subnet these are the first ones."""


def make(config: Config, plane: ControlPlane, log: structlog.typing.FilteringBoundLogger) -> Agent:
    """The agent, which is not started yet. Raises OSError for a file that cannot be used."""
    fleet = config.fleet
    access = Access.of(fleet)
    own = own_row(config, secrets.token_hex(8))
    view = FleetView(fleet.fleet_host, own, float(fleet.fleet_ttl), pool(config), secrets.randbelow)
    hands = Hands(plane.channels, plane.shards(TCP))
    settings = SharedSettings(plane.live, plane.channels, plane.hub, log)
    forwards = SharedForwards(plane.forwarder, plane.hub, log)
    feed = EventFeed(plane.hub, fleet.fleet_network, fleet.fleet_host)
    own6 = station_addr6(config)
    addr6 = ip.packed(own6) if own6 else b""
    agent = Agent(access, view, hands, plane.hub, settings, forwards, feed, log, addr6)
    plane.meter.include("fleet_forwards_waiting", lambda: forwards.waiting_count)
    plane.meter.include("fleet_values_dropped_unreadable", lambda: agent.unread_count)
    return agent


def own_row(config: Config, run: str) -> Host:
    """What the other hosts have to know of this one."""
    place = next(
        vxlan_url.parse(url) for protocol, url in config.links.further if protocol == vxlan_url.PROTOCOL
    )
    return Host(place.local.address, place.local.port, network_text(config, place.vni), run, 0)


def network_text(config: Config, vni: int) -> str:
    """What must be equal on all hosts: the same text means the same network."""
    network = config.network
    parts = (
        *(str(network.subnet), ip.text(network.gateway_ip), network.gateway_mac.hex(), network.ipv6_prefix),
        *(str(network.dhcp_range), str(vni), network.guest_names),
    )
    return hashlib.blake2b("|".join(parts).encode(), digest_size=8).hexdigest()


def pool(config: Config) -> list[int]:
    """The addresses that the fleet gives to guests."""
    network = config.network
    first, last = network.dhcp_range
    if not first:
        first = ip.of(network.subnet.network_address) + 1
        last = ip.of(network.subnet.broadcast_address) - 1
    never = {network.gateway_ip, network.name_server, network.host_ip, *network.reserved}
    never |= network.dhcp_static_leases.keys()
    return [addr for addr in range(first, min(last, first + MAX_POOL) + 1) if addr not in never]
