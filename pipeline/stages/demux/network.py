"""What all parts of demux have in common: the worker, its rings, the tables of guests, and the output."""

from collections.abc import Collection

from pipeline.config.choices import APART, OPEN
from pipeline.config.model import Config
from pipeline.engines.flows import rss_hash
from pipeline.engines.nat import Nat
from pipeline.engines.neighbors.table import Neighbors
from pipeline.engines.switch import Switch
from pipeline.ipc.ring import Producer
from pipeline.records.flows import Ends
from pipeline.records.frames import NO_LINK
from pipeline.records.guests import UNKNOWN_GUESTS
from pipeline.records.guests import Tunnel as TunnelNotice
from pipeline.stages import guest_addresses, ipv6_addresses
from pipeline.stages.demux.output import Output
from pipeline.stages.demux.tunnel import Tunnel
from pipeline.stages.worker import Worker
from pipeline.wire import ip, ipv6


class TcpShards:
    """The rings to the tcp workers. RSS decides which worker has a flow."""

    def __init__(self, rings: list[Producer]) -> None:
        self.rings = rings

    def push(self, record: bytes, ends: Ends) -> None:
        """Push a record to the tcp worker that has the flow with these ends."""
        rings = self.rings
        if len(rings) == 1:
            rings[0].push(record)
        else:
            spread = rss_hash(ends.guest_addr, ends.guest_port, ends.remote_addr, ends.remote_port)
            rings[spread % len(rings)].push(record)


class Network:
    """One virtual network, as demux sees it."""

    def __init__(self, worker: Worker, config: Config) -> None:
        ports = worker.ports
        self.worker = worker
        self.config = config
        self.counts = worker.counts
        self.slots = ports.arena.slots
        self.own = guest_addresses.own_of(config)
        """The IPv4 addresses that the gateway answers ARP for."""
        self.ipv6 = ipv6_addresses.of(config)
        """None while IPv6 is off."""
        self.targets = Nat(
            config.network,
            ec2_metadata_access=config.access.ec2_metadata_access,
            disable=config.access.disable,
            ipv6=self.ipv6,
            name_server=config.network.dns_address,
        )
        newest_wins = config.access.guests == OPEN
        self.switch: Switch  # the compiler may see the lambda below before the assignment
        self.neighbors = Neighbors(
            guest_addresses.of(config, with_inner=True),
            config.network.gateway_mac,
            max_neighbors=config.limits.max_neighbors,
            max_per_guest=config.limits.max_neighbors_per_guest,
            link_of=lambda mac: self.switch.link_of(mac),
            guest_of=self.guest_of,
            newest_wins=newest_wins,
            first_keeps=config.access.guests == APART,
        )
        self.switch = Switch(
            config.network.gateway_mac,
            config.limits.max_macs_per_guest,
            config.limits.max_macs,
            self.neighbors.ask_station,
            guest_of=self.guest_of,
            newest_wins=newest_wins,
        )
        self.links: dict[int, int] = {}
        """The number of the guest that opened each link. A link that is down is not here."""
        self.tunnel = Tunnel(config)
        self.switch.set_station(self.tunnel.mac)
        self.set_station(0)
        self.output = Output(worker, config.network.gateway_mac, config.network.mtu)
        self.ingress_out = ports.rings_out["ingress"]
        self.resolver_out = ports.rings_out["resolver"]
        self.egress_out = [ports.rings_out[f"egress{i}"] for i in range(config.workers.egress_workers)]
        self.tcp_out = TcpShards([ports.rings_out[f"tcp{i}"] for i in range(config.workers.tcp_workers)])

    def gateway_for(self, addr: int) -> int:
        """The gateway's address from which connections to this guest come: the one of its family.

        A guest with a link-local address alone sees the gateway's link-local one.
        """
        network = self.config.network
        if self.ipv6 is None or ip.is_ipv4(addr):
            return network.gateway_ip
        return self.ipv6.link_local if ip.is_link_local(addr) else self.ipv6.gateway

    def source_for(self, addr: int, link: int) -> int:
        """The address from which this host connects to the guest with addr on link; 0 if it cannot.

        A guest of another host would answer the gateway of that host.
        """
        return self.tunnel.source_for(addr) if link == self.tunnel.link else self.gateway_for(addr)

    def set_station(self, addr: int) -> None:
        """This host is a station with this IPv4 address from now on; 0 for none."""
        self.tunnel.addr = addr
        self.neighbors.set_own(self.tunnel.own)

    def set_far_stations(self, macs: Collection[bytes]) -> None:
        """Other hosts are stations with these MAC addresses, and with the IPv6 addresses that these make."""
        self.switch.set_far_stations(macs)
        first = self.config.network.ipv6_first
        self.neighbors.set_far([ipv6.of_mac(first, mac) for mac in macs] if first else ())

    def guest_of(self, link: int) -> int:
        """The number of the guest that opened a link. Each guest has one share of a bounded resource."""
        return self.links.get(link, UNKNOWN_GUESTS + link)

    def set_tunnel(self, notice: TunnelNotice) -> None:
        """A link leads to other hosts, or carries packets of another length now."""
        self.tunnel.link, self.tunnel.mtu = notice.link, notice.mtu
        self.switch.set_uplink(notice.link)
        self.neighbors.set_uplink(notice.link)

    def forget_tunnel(self, link: int) -> None:
        """A link is down."""
        if link == self.tunnel.link:
            self.tunnel.link = NO_LINK
            self.switch.set_uplink(NO_LINK)
            self.neighbors.set_uplink(NO_LINK)

    def reload(self, config: Config) -> None:
        """Change the limits on addresses and MACs."""
        limits = config.limits
        self.neighbors.set_bounds(limits.max_neighbors, limits.max_neighbors_per_guest)
        self.switch.set_bounds(limits.max_macs_per_guest, limits.max_macs)
