"""The resolver worker: the gateway's DHCP and DNS servers.

Guests' datagrams come from demux, and replies go back to it. For DNS over TCP, the supervisor passes sockets.
dhcp.py has the DHCP servers, and dns.py has the DNS server.
"""

import socket
from contextlib import suppress
from time import monotonic
from typing import Final

from pipeline.config.model import Config
from pipeline.counters import INDEX
from pipeline.engines.dns.zones import ZoneError
from pipeline.ipc import (
    fleet_messages,
    flow_messages,
    healing_messages,
    message_table,
    messages,
    policy_messages,
)
from pipeline.ipc.channel import close_all
from pipeline.records import kinds
from pipeline.records.flows import Ends
from pipeline.records.guests import UNKNOWN_GUESTS, LinkNotice, Neighbor, NeighborGone, Renamed
from pipeline.records.kinds import RECORD_BYTES
from pipeline.records.services import ServiceDatagram
from pipeline.stages import counting
from pipeline.stages.holdings import Holdings, count
from pipeline.stages.losses import Losses
from pipeline.stages.renaming import rename
from pipeline.stages.resolver import dns
from pipeline.stages.resolver.dhcp import DhcpService
from pipeline.stages.resolver.dns import ON_THIS_HOST, DnsService, HostFiles
from pipeline.stages.resolver.guest_names import GuestNames
from pipeline.stages.resolver.replies import Replies
from pipeline.stages.worker import Message, Worker
from pipeline.topology import DEMUX, EGRESS
from pipeline.wire import ethernet, ip

BURSTS_A_STEP: Final = 4
"""The most bursts of guests' datagrams before the answers to them are published."""

_UNKNOWN_PORT: Final = INDEX["resolver_datagram_dropped_unknown_port"]


class ResolverStage:
    """DHCP and DNS of one virtual network."""

    def __init__(self, worker: Worker, config: Config, *, files: HostFiles = ON_THIS_HOST) -> None:
        self.worker = worker
        self.counts = worker.counts
        self.demux_in = worker.ports.rings_in["demux"]
        self.replies = Replies(worker)
        self.guests: dict[int, int] = {}
        """The number of the guest that opened each link. Links of one peer are one guest."""
        self._in_fleet = bool(config.fleet.fleet_servers)
        self.dns = DnsService(worker, config, self.replies, self.guest_of, self._has_others, files)
        self.guest_names = GuestNames(config.network.guest_names, self.dns.zones, self.counts)
        self.dhcp = DhcpService(
            worker, config, self.guest_of, self.guest_names.names, self.replies, monotonic()
        )
        self.leases = self.dhcp.keeper

    # --- the step -----------------------------------------------------------------------

    def step(self, now: float) -> int:
        """Answer what came from demux and from upstream servers. Returns the number of messages."""
        work = 0
        # Bounded: answers are published and servers are read even while a guest asks without a pause.
        for _ in range(BURSTS_A_STEP):
            if not (burst := self.demux_in.peek()):
                break
            work += self._on_burst(burst, now)
            self.demux_in.release(len(burst) // RECORD_BYTES)
        if self.leases.deadline() <= now:
            self.leases.on_timer(now)
        if self.guest_names.deadline() <= now:
            self._update_guest_names("", now)
        work += self.dns.step(now)
        if work:
            self.dns.write_gauges()
        else:
            self.replies.release_idle()
        return work

    def deadline(self) -> float:
        """When a time-out of the servers, queries, connections or the lease file is due."""
        if self.demux_in.pending():
            return 0.0
        return min(self.dns.deadline(), self.leases.deadline(), self.guest_names.deadline())

    def _on_burst(self, burst: memoryview, now: float) -> int:
        for at in range(0, len(burst), RECORD_BYTES):
            kind = burst[at]
            if kind == kinds.SERVICE_DATAGRAM:
                self._on_datagram(ServiceDatagram.unpack(burst, at), now)
            elif kind == kinds.LINK_UP:
                up = LinkNotice.unpack(burst, at)
                self.guests[up.link] = up.guest
            elif kind == kinds.NEIGHBOR:
                neighbor = Neighbor.unpack(burst, at)
                self.dns.stations.learn(neighbor.guest_addr, neighbor.mac, neighbor.link)
            elif kind == kinds.NEIGHBOR_GONE:
                self.dns.stations.forget(NeighborGone.unpack(burst, at).guest_addr)
            elif kind == kinds.RENAMED:
                rename(self.dns.stations, Renamed.unpack(burst, at))
            elif kind == kinds.LINK_DOWN:
                self._on_link_down(LinkNotice.unpack(burst, at).link, now)
        return len(burst) // RECORD_BYTES

    def _on_link_down(self, link: int, now: float) -> None:
        self.dns.stations.forget_link(link)
        self.dhcp.on_link_down(link)
        self._update_guest_names("", now)
        guest = self.guests.pop(link, 0)
        if guest not in self.guests.values():
            self.dns.on_guest_gone(now)

    def guest_of(self, link: int) -> int:
        """The number of the guest that opened a link. Each guest has one share and one turn.

        A link that is down or unknown is a guest of its own, with a number that no other guest has.
        """
        return self.guests.get(link, UNKNOWN_GUESTS + link)

    def _has_others(self, guest: int) -> bool:
        """Whether another guest than this has a link."""
        return any(each != guest for each in self.guests.values())

    def _on_datagram(self, datagram: ServiceDatagram, now: float) -> None:
        ends = Ends.of(datagram.key)
        if datagram.crowded:
            self.dns.set_crowded(now)
        if ends.remote_port == dns.PORT:
            self.dns.on_datagram(datagram, now)
        elif self.dhcp.takes(ends.remote_port):
            self._update_guest_names(self.dhcp.on_datagram(datagram, ends, now), now)
        else:
            self.counts[_UNKNOWN_PORT] += 1
        self.worker.free(datagram.slot)

    def _update_guest_names(self, refusal: str, now: float) -> None:
        if self.guest_names.update(refusal, now):
            self.dns.on_guest_names()
            if self._in_fleet:
                self.guest_names.tell_fleet(self.worker)

    # --- control --------------------------------------------------------------------------

    def on_control(self, message: Message, fds: list[int]) -> Message | None:
        """Requests of the supervisor: leases, guests, names, dns_all, dns_add, serve_tcp (with a socket)."""
        match message_table.request_of(message):
            case messages.Leases():
                leases = self.dhcp.leases().items()
                texts = {ip.text(addr): ethernet.mac_text(mac) for addr, mac in leases}
                return messages.LeasesAnswer(texts).encode()
            case messages.Guests():
                sums = {"leases": self.dhcp.sums(), "dns_connections": self.dns.streams.sums()}
                return messages.GuestsAnswer.of(sums).encode()
            case flow_messages.Names() as ask:
                parsed = [[ip.parse(text) for text in pair] for pair in ask.pairs]
                return flow_messages.NamesAnswer(
                    [self.dns.told.name(guest, host) for guest, host in parsed]
                ).encode()
            case policy_messages.Count() as ask:
                return counting.count(self.dns.quotas, ask, self.worker.ports.incarnation).encode()
            case messages.DnsAll():
                return messages.DnsAllAnswer(self.dns.zones.as_list()).encode()
            case messages.DnsAdd() as ask:
                try:
                    self.dns.add_zone(ask.zone)
                except ZoneError as error:
                    return {"error": str(error)}
                return {}
            case healing_messages.RestoreLeases() as ask:
                self.dhcp.restore(ask, monotonic())
                return {}
            case healing_messages.Know(names=list() as rows):
                self.dns.names.restore(rows)
                return {}
            case fleet_messages.LeaseGranted() as ask:
                now = monotonic()
                self._update_guest_names(self.dhcp.on_granted(ask, now), now)
                return {}
            case fleet_messages.NamesAway() as ask:
                self.guest_names.set_away(ask.names, complete=ask.complete)
                self.dns.on_guest_names()
                return {}
            case messages.ServeTcp() as ask if len(fds) == 1:
                # The socket first: then it is closed if the address is wrong.
                sock = socket.socket(fileno=fds[0])
                self.dns.serve(sock, ask.guest, ask.link)
                return {}
        close_all(fds)
        return {"error": f"resolver knows no request {message.get('op')!r} like this"}

    def hand_over(self) -> None:
        """Report leases and told names as they are now: another supervisor's resolver will keep them."""
        self.dhcp.keeper.tell_supervisor(monotonic())
        with suppress(OSError):
            # A long message needs a descriptor. Without one, guests have to ask again.
            self.worker.send_event(healing_messages.KnowledgeEvent(names=self.dns.names.rows()).encode())

    def reload(self, config: Config) -> None:
        """See Stage.reload: zones, search list, the policy's names, and the rate of questions.

        Raises ZoneError for a wrong zone, before anything has changed.
        """
        self.dns.reload(config)
        self.guest_names.attach(self.dns.zones)
        self.dhcp.set_search_domains(config.network.dns_search_domains)

    # --- what the worker asks for ------------------------------------------------------------

    def slots_held(self) -> Holdings:
        """See Stage.slots_held. Questions are copied, so they hold nothing."""
        found: Holdings = {}
        count(found, self.replies.slots_held())
        return found

    def on_workers_lost(self, losses: Losses, now: float) -> None:
        """See Stage.on_workers_lost: tell demux the leases, and egress the names."""
        if losses.has(DEMUX):
            self.leases.report(now)
            for link in [link for link in self.guests if link not in losses.links]:
                self._on_link_down(link, now)
        if losses.has(DEMUX) or losses.shards(EGRESS):
            self.dns.names.report_again()

    def held(self) -> dict[str, int]:
        """What the resolver holds for guests, except leases; all zero when no guest has a link any more."""
        return self.dns.held()

    def on_released(self, source: str, tags: list[int]) -> None:
        """Nothing to do: demux returns the resolver's slots without a tag."""

    def close(self) -> None:
        """Close all sockets, write the leases and give back the slot that is being filled."""
        self.leases.save(monotonic())
        self.dns.close()
        self.replies.close()
