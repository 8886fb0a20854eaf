"""The resolver worker: DHCP and DNS of the gateway.

Datagrams come from demux and replies go back to it, in slots of this worker's own pool; DNS over
TCP comes as sockets from the supervisor. What is answered how is decided by pipeline.engines.dhcp and
.dns; upstream servers are asked by pipeline.host.resolver. A reply that finds no slot, or
no room towards demux, is dropped and counted: these clients ask again.
"""

import os
import socket
from time import monotonic
from typing import Final, NamedTuple

from pipeline.config.model import Config
from pipeline.counters import INDEX
from pipeline.engines.dhcp.leases import DhcpConfig
from pipeline.engines.dhcp.server import Dhcp, Reply
from pipeline.engines.dns import server as dns
from pipeline.engines.dns.message import MAX_QUERY
from pipeline.engines.dns.zones import ZoneError, Zones, parse_zone
from pipeline.host import name_files
from pipeline.host.filler import SlotFiller
from pipeline.host.resolver import Upstream
from pipeline.ipc import messages
from pipeline.ipc.arena import HEADROOM, SLOT_BYTES
from pipeline.ipc.channel import close_all
from pipeline.records import descriptor as d
from pipeline.stages.resolver.leases import LeaseKeeper
from pipeline.stages.resolver.names import NameTeller
from pipeline.stages.resolver.streams import DnsStreams, StreamClient
from pipeline.stages.worker import Message, Worker
from pipeline.wire import ethernet, ipv4

DHCP_PORT: Final = 67
DNS_PORT: Final = 53
REPLY_GAP: Final = 64
"""Bytes before each reply in a slot: room for the headers that demux makes."""
MAX_BACKLOG: Final = 1024
"""Replies that wait for room in the ring to demux."""

_NO_SLOT: Final = INDEX["resolver_reply_dropped_no_slot"]
_RING_FULL: Final = INDEX["resolver_reply_dropped_ring_full"]
_UNKNOWN_PORT: Final = INDEX["resolver_datagram_dropped_unknown_port"]
_LEASES: Final = INDEX["dhcp_leases"]
_PENDING: Final = INDEX["dns_pending"]
_QUEUED: Final = INDEX["dns_queued"]
_WAITED: Final = INDEX["dns_query_refused_waited_too_long"]
_CACHED: Final = INDEX["dns_cache_entries"]
_FORGED: Final = INDEX["dns_upstream_response_ignored"]
_OVER_TCP: Final = INDEX["dns_upstream_asked_over_tcp"]


class UdpClient(NamedTuple):
    """Who waits for an answer: the datagram's addresses (as in SERVICE_DATAGRAM) and the id of the query."""

    link: int
    guest_addr: int
    remote_addr: int
    ports: int
    ident: bytes


Client = UdpClient | StreamClient


class ResolverStage:
    """DHCP and DNS of one virtual network."""

    def __init__(
        self,
        worker: Worker,
        config: Config,
        *,
        resolv_conf: str = name_files.RESOLV_CONF,
        hosts: str = name_files.HOSTS,
        dns_port: int = name_files.DNS_PORT,
    ) -> None:
        """resolv_conf, hosts: the host's files; dns_port: where the servers named there listen."""
        self.worker = worker
        self.counts = worker.counts
        self.slots = worker.ports.arena.slots
        self.demux_in = worker.ports.rings_in["demux"]
        self.demux_out = worker.ports.rings_out["demux"]
        self.filler = SlotFiller(worker.pool, SLOT_BYTES, HEADROOM, REPLY_GAP)
        self.gateway = config.gateway_ip
        self.dhcp = Dhcp(_dhcp_config(config))
        self.dns: dns.Dns[Client] = dns.Dns(self._zones(config))
        # A server with the gateway's address would be this program again.
        self.servers = name_files.ServerList(resolv_conf, {ipv4.addr_text(config.gateway_ip)}, dns_port)
        self.hosts = name_files.HostsFile(hosts)
        self.upstream: Upstream[dns.Key] = Upstream(
            worker, lambda: self.servers.servers, monotonic, os.urandom
        )
        self.streams = DnsStreams(worker, self.counts, self._on_stream_query, monotonic)
        self.leases = LeaseKeeper(worker, self.dhcp, config.state_file, monotonic())
        self.teller = NameTeller(config, self.demux_out)
        self._failing = False
        self._look_at_files(monotonic())
        self.counts[_LEASES] = self.dhcp.lease_count

    def _zones(self, config: Config) -> Zones:
        zones = Zones(subnet=(int(config.subnet.network_address), int(config.subnet.netmask)))
        for zone in config.dns_zones:
            records = [{"name": each.name, "ip": each.ip, "regexp": each.regexp} for each in zone.records]
            try:
                zones.add(parse_zone({"name": zone.name, "records": records, "defaultIP": zone.default_ip}))
            except ZoneError as error:
                self.worker.log.error("zone left out", zone=zone.name, error=str(error))
        return zones

    # --- the step -----------------------------------------------------------------------

    def step(self, now: float) -> int:
        """Answer what came from demux and from upstream servers. Returns the number of messages."""
        work = 0
        while burst := self.demux_in.peek():
            work += self._on_burst(burst, now)
            self.demux_in.release(len(burst) // d.DESCRIPTOR_BYTES)
        if self.upstream.deadline() <= now:
            self.upstream.on_timer(now)
        if self.streams.deadline() <= now:
            self.streams.expire(now)
        if self.leases.deadline() <= now:
            self.leases.save(now)
        if self.dns.deadline() <= now:
            work += self._give_up(now)
        # An answer may make a stream's next query ask again, and that may fail at once.
        while results := self.upstream.take_results():
            work += len(results)
            for key, response in results:
                self._on_result(key, response, now)
            for forward in self.dns.next_forwards():
                self._ask(forward, now)
        if work:
            counts = self.counts
            counts[_PENDING] = self.dns.pending_count
            counts[_QUEUED] = self.dns.queued_count
            counts[_CACHED] = len(self.dns.cache)
            counts[_FORGED] = self.upstream.ignored
            counts[_OVER_TCP] = self.upstream.over_tcp
        else:
            # A quiet worker holds no slot.
            self.filler.rest()
        return work

    def deadline(self) -> float:
        """When an upstream server has been silent for too long, or a connection idle."""
        return min(
            self.upstream.deadline(), self.dns.deadline(), self.streams.deadline(), self.leases.deadline()
        )

    def _on_burst(self, burst: memoryview, now: float) -> int:
        count = 0
        for (
            kind, _flags, link, _stride, _gso, slot, off, length, _skip, _number,
            _seq, _ack, _wnd, _ts_val, _ts_ecr, guest_addr, remote_addr, ports, _aux,
        ) in d.DESCRIPTOR.iter_unpack(burst):  # fmt: skip
            count += 1
            if kind == d.LINK_DOWN:
                self.dhcp.on_link_down(link)
            if kind != d.SERVICE_DATAGRAM:
                continue
            port = ports & 0xFFFF
            if port == DNS_PORT:
                # One byte more than a query may have shows that it is too long.
                wire = bytes(self.slots[slot][off : off + min(length, MAX_QUERY + 1)])
                self.worker.free(slot)
                client = UdpClient(link, guest_addr, remote_addr, ports, wire[:2])
                self._on_query(wire, client, link, now, tcp=False)
                continue
            if port == DHCP_PORT:
                self._on_dhcp(link, slot, off, length, guest_addr, ports >> 16, now)
            else:
                self.counts[_UNKNOWN_PORT] += 1
            self.worker.free(slot)
        return count

    def _send(self, link: int, guest_addr: int, remote_addr: int, ports: int, payload: bytes) -> None:
        """A datagram to a guest; ports = guest's << 16 | ours."""
        if self.demux_out.backlog >= MAX_BACKLOG:
            self.counts[_RING_FULL] += 1
            return
        length = len(payload)
        filler = self.filler
        if not filler.place(length):
            self.counts[_NO_SLOT] += 1
            return
        slot, off = filler.slot, filler.off
        self.slots[slot][off : off + length] = payload
        filler.commit(length)
        self.demux_out.push(
            d.record(
                d.SERVICE_DATAGRAM,
                link=link,
                slot=slot,
                off=off,
                length=length,
                guest_addr=guest_addr,
                remote_addr=remote_addr,
                ports=ports,
            )
        )

    # --- DHCP -----------------------------------------------------------------------------

    def _on_dhcp(
        self, link: int, slot: int, off: int, length: int, guest_addr: int, guest_port: int, now: float
    ) -> None:
        view = self.slots[slot]
        outcome = self.dhcp.on_message(view, off, off + length, link, guest_addr, guest_port, now)
        self.counts[INDEX[outcome.counter]] += 1
        self.counts[_LEASES] = self.dhcp.lease_count
        self.leases.on_change(now)
        if isinstance(outcome, Reply):
            ports = outcome.guest_port << 16 | DHCP_PORT
            self._send(link, outcome.guest_addr, self.gateway, ports, outcome.payload)

    # --- DNS ------------------------------------------------------------------------------

    def _on_query(self, wire: bytes, client: Client, link: int, now: float, *, tcp: bool) -> bool:
        """Decide on a query of the guest behind link; whether a reply was or will be sent."""
        self._look_at_files(now)
        decision = self.dns.on_query(wire, client, link, now, tcp=tcp)
        self.counts[INDEX[decision.counter]] += 1
        if isinstance(decision, dns.Answer):
            self._reply(client, decision.payload)
        elif isinstance(decision, dns.Forward):
            self._ask(decision, now)
        return not isinstance(decision, dns.Ignored)

    def _ask(self, forward: dns.Forward, now: float) -> None:
        self.upstream.ask(forward.key, forward.payload, now, forward.since)

    def _give_up(self, now: float) -> int:
        """Answer those whose turn did not come. Returns how many."""
        replies = self.dns.expire(now)
        self.counts[_WAITED] += len(replies)
        for client, payload in replies:
            self._reply(client, payload)
        return len(replies)

    def _on_stream_query(self, wire: bytes, client: StreamClient, link: int) -> bool:
        return self._on_query(wire, client, link, monotonic(), tcp=True)

    def _on_result(self, key: dns.Key, response: bytes | None, now: float) -> None:
        replies, counter = self.dns.on_upstream(key, response, now)
        self.counts[INDEX[counter]] += 1
        for client, payload in replies:
            self._reply(client, payload)
        if (response is None) != self._failing:
            self._failing = response is None
            servers = [server.address[0] for server in self.servers.servers]
            if self._failing:
                self.worker.log.warning("no upstream name server answers", servers=servers)
            else:
                self.worker.log.info("upstream name servers answer again", servers=servers)

    def _reply(self, client: Client, payload: bytes) -> None:
        if self.teller.wanted:
            guest = client.guest_addr if isinstance(client, UdpClient) else self.streams.guest_of(client)
            self.teller.on_reply(guest, payload)
        if isinstance(client, UdpClient):
            self._send(client.link, client.guest_addr, client.remote_addr, client.ports, payload)
        else:
            self.streams.reply(client, payload)

    def _look_at_files(self, now: float) -> None:
        """Take over what changed in the host's files; answers of servers before are not kept."""
        if self.servers.refresh(now):
            self.dns.cache.clear()
            self.upstream.forget_servers()
            servers = [server.address[0] for server in self.servers.servers]
            self.worker.log.info("upstream name servers", servers=servers)
        if self.hosts.refresh(now):
            self.dns.set_hosts(self.hosts.names)

    # --- control --------------------------------------------------------------------------

    def on_control(self, message: Message, fds: list[int]) -> Message | None:
        """Requests of the supervisor: leases, dns_all, dns_add, serve_tcp (with a socket)."""
        match messages.request_of(message):
            case messages.Leases():
                leases = self.dhcp.leases().items()
                texts = {ipv4.addr_text(addr): ethernet.mac_text(mac) for addr, mac in leases}
                return messages.LeasesAnswer(texts).encode()
            case messages.DnsAll():
                return messages.DnsAllAnswer(self.dns.zones.as_list()).encode()
            case messages.DnsAdd() as ask:
                try:
                    self.dns.zones.add(parse_zone(ask.zone))
                except ZoneError as error:
                    return {"error": str(error)}
                return {}
            case messages.ServeTcp() as ask if len(fds) == 1:
                addr = ipv4.addr_parse(ask.guest.rpartition(":")[0])
                self.streams.serve(socket.socket(fileno=fds[0]), addr, ask.link)
                return {}
        close_all(fds)
        return {"error": f"resolver knows no request {message.get('op')!r} like this"}

    def close(self) -> None:
        """Close all sockets, write the leases and give the slot back that is being filled."""
        self.leases.save(monotonic())
        self.streams.close()
        self.upstream.close()
        self.filler.retire()


def _dhcp_config(config: Config) -> DhcpConfig:
    return DhcpConfig(
        network=int(config.subnet.network_address),
        prefix_len=config.subnet.prefixlen,
        gateway_addr=config.gateway_ip,
        gateway_mac=config.gateway_mac,
        mtu=config.mtu,
        search_domains=config.dns_search_domains,
        static_leases=config.dhcp_static_leases,
        # Addresses that mean something else to the gateway than a guest.
        reserved=frozenset({config.host_ip, *config.gateway_virtual_ips, *config.nat}),
    )
