"""The resolver worker: the gateway's DHCP and DNS servers.

Guests' datagrams come from demux, and replies go back to it. For DNS over TCP, the supervisor passes sockets.
dhcp.py has the DHCP servers. pipeline.engines.dns makes the answers of DNS. pipeline.host.upstream asks
upstream servers.
"""

import os
import socket
from contextlib import suppress
from time import monotonic
from typing import Final, NamedTuple

from pipeline.config.choices import DNS
from pipeline.config.model import Config
from pipeline.counters import INDEX
from pipeline.engines.buckets import Buckets, for_questions
from pipeline.engines.dns import server as dns
from pipeline.engines.dns.message import MAX_QUERY
from pipeline.engines.dns.pending import Key
from pipeline.engines.dns.zones import ZoneError, parse_zone
from pipeline.events.network import GATEWAY, UPSTREAM
from pipeline.histograms import BY_NAME
from pipeline.host import name_files
from pipeline.host.upstream.resolver import MAX_QUESTIONS, Upstream
from pipeline.ipc import fleet_messages, flow_messages, healing_messages, messages, policy_messages
from pipeline.ipc.channel import close_all
from pipeline.records import kinds
from pipeline.records.flows import Ends, FlowKey
from pipeline.records.guests import UNKNOWN_GUESTS, LinkNotice, Neighbor, NeighborGone, Renamed
from pipeline.records.kinds import RECORD_BYTES
from pipeline.records.services import ServiceDatagram
from pipeline.stages import counting
from pipeline.stages.holdings import Holdings, count
from pipeline.stages.losses import Losses
from pipeline.stages.renaming import rename
from pipeline.stages.resolver.descriptors import question_sockets
from pipeline.stages.resolver.dhcp import DhcpService
from pipeline.stages.resolver.dns64 import dns64_of
from pipeline.stages.resolver.guest_names import GuestNames
from pipeline.stages.resolver.names import NameReports
from pipeline.stages.resolver.questions import QuestionPolicy, filter_of, set_filter
from pipeline.stages.resolver.replies import Replies
from pipeline.stages.resolver.reports import QUESTION, RULES, SOURCES, report_answer
from pipeline.stages.resolver.streams import DnsStreams, StreamClient
from pipeline.stages.resolver.told import ToldNames
from pipeline.stages.resolver.zones import LocalZones
from pipeline.stages.worker import Message, Worker
from pipeline.system import outbound
from pipeline.topology import DEMUX, EGRESS
from pipeline.wire import ethernet, ip

DNS_PORT: Final = 53
CROWDED_S: Final = 1.0
"""Seconds for which clients have a rate after a question that came while several guests were active."""
BURSTS_A_STEP: Final = 4
"""The most bursts of guests' datagrams before the answers to them are published."""

_UNKNOWN_PORT: Final = INDEX["resolver_datagram_dropped_unknown_port"]
_OVER_RATE: Final = INDEX["dns_query_dropped_rate_limit"]
_PENDING: Final = INDEX["dns_pending"]
_QUEUED: Final = INDEX["dns_queued"]
_WAITED: Final = INDEX["dns_query_refused_waited_too_long"]
_CACHED: Final = INDEX["dns_cache_entries"]
_MADE: Final = INDEX["dns_answers_synthesized"]
_FORGED: Final = INDEX["dns_upstream_response_ignored"]
_OVER_TCP: Final = INDEX["dns_upstream_asked_over_tcp"]
_UPSTREAM_TIME: Final = BY_NAME["dns_upstream"]


class UdpClient(NamedTuple):
    """A guest's query over UDP that waits for an answer: its link, both ends, and the id of the query."""

    link: int
    key: FlowKey
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
        """resolv_conf, hosts: the host's files. dns_port: the port of the servers in resolv_conf."""
        self.worker = worker
        self.counts = worker.counts
        self.slots = worker.ports.arena.slots
        self.demux_in = worker.ports.rings_in["demux"]
        self.replies = Replies(worker)
        self.guests: dict[int, int] = {}
        """The number of the guest that opened each link. Links of one peer are one guest."""
        self.zones = LocalZones()
        zones = self.zones.first(config.network, worker.log)
        self.guest_names = GuestNames(config.network.guest_names, zones, self.counts)
        self._in_fleet = bool(config.fleet.fleet_servers)
        has_dns = DNS not in config.access.disable
        self.dhcp = DhcpService(
            worker, config, self.guest_of, self.guest_names.names, self.replies, monotonic()
        )
        self.leases = self.dhcp.keeper
        sockets = question_sockets()
        self.filter = filter_of(config, lambda: self.dns.zones)
        self.dns: dns.Dns[Client] = dns.Dns(
            zones,
            min(MAX_QUESTIONS, sockets),
            config.limits.max_dns_questions_per_second,
            dns64_of(config.network),
            self.filter,
        )
        self.questions = QuestionPolicy(config, self.dns.is_local)
        self.rates = Buckets(*for_questions(config.limits.max_dns_queries_per_second))
        self.rates_alone = Buckets(*for_questions(config.limits.max_dns_queries_alone_per_second))
        """What is left of each guest's rate of queries for TCP. Demux limits queries over UDP."""
        self.servers: name_files.FixedServers | name_files.ServerList
        if config.network.dns_servers:
            self.servers = name_files.FixedServers(config.network.dns_servers)
            if len(self.servers.servers) < len(config.network.dns_servers):
                # The zone of a link-local address is not an interface of this host.
                worker.log.error("a name server is left out", servers=config.network.dns_servers)
        else:
            # A server with this address would be this program itself.
            self.servers = name_files.ServerList(resolv_conf, {ip.text(config.network.name_server)}, dns_port)
        self.hosts = name_files.HostsFile(hosts)
        self.upstream: Upstream[Key] = Upstream(
            worker,
            lambda: self.servers.servers,
            monotonic,
            os.urandom,
            sockets,
            outbound.of(config.network.outbound_address, config.network.outbound_interface),
        )
        self.streams = DnsStreams(worker, self.counts, self._on_stream_query, monotonic)
        self.names = NameReports(
            config.access.policy,
            worker.ports.rings_out["demux"],
            has_ipv6=config.network.ipv6_first != 0,
        )
        self.told = ToldNames()
        self._asked_at: dict[Key, float] = {}
        """When each question was sent upstream that has no result yet."""
        self._failing = False
        if has_dns:
            self._reload_files(monotonic())

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
        if self.upstream.deadline() <= now:
            self.upstream.on_timer(now)
        if self.streams.deadline() <= now:
            self.streams.expire(now)
        if self.leases.deadline() <= now:
            self.leases.on_timer(now)
        if self.guest_names.deadline() <= now:
            self._update_guest_names("", now)
        if self.dns.deadline() <= now:
            work += self._give_up(now)
            self._ask_next(now)
        # A reply may let a connection go on with its next query. That query may fail at once.
        while results := self.upstream.take_results():
            work += len(results)
            for key, response in results:
                self._on_result(key, response, now)
            self._ask_next(now)
        if work:
            counts = self.counts
            counts[_PENDING] = self.dns.pending_count
            counts[_QUEUED] = self.dns.queued_count
            counts[_CACHED] = len(self.dns.cache)
            counts[_MADE] = self.dns.made_count
            counts[_FORGED] = self.upstream.ignored
            counts[_OVER_TCP] = self.upstream.over_tcp
        else:
            self.replies.release_idle()
        return work

    def deadline(self) -> float:
        """When a time-out of the servers, queries, connections or the lease file is due."""
        if self.demux_in.pending():
            return 0.0
        return min(
            self.upstream.deadline(),
            self.dns.deadline(),
            self.streams.deadline(),
            self.leases.deadline(),
            self.guest_names.deadline(),
        )

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
                self.questions.stations.learn(neighbor.guest_addr, neighbor.mac, neighbor.link)
            elif kind == kinds.NEIGHBOR_GONE:
                self.questions.stations.forget(NeighborGone.unpack(burst, at).guest_addr)
            elif kind == kinds.RENAMED:
                rename(self.questions.stations, Renamed.unpack(burst, at))
            elif kind == kinds.LINK_DOWN:
                self._on_link_down(LinkNotice.unpack(burst, at).link, now)
        return len(burst) // RECORD_BYTES

    def _on_link_down(self, link: int, now: float) -> None:
        self.questions.stations.forget_link(link)
        self.dhcp.on_link_down(link)
        self._update_guest_names("", now)
        guest = self.guests.pop(link, 0)
        if guest not in self.guests.values():
            self.dns.on_client_gone(now)
            self.rates.forget_full(now)
            self.rates_alone.forget_full(now)

    def guest_of(self, link: int) -> int:
        """The number of the guest that opened a link. Each guest has one share and one turn.

        A link that is down or unknown is a guest of its own, with a number that no other guest has.
        """
        return self.guests.get(link, UNKNOWN_GUESTS + link)

    def _on_datagram(self, datagram: ServiceDatagram, now: float) -> None:
        ends = Ends.of(datagram.key)
        if datagram.crowded:
            self.dns.set_crowded(now + CROWDED_S)
        if ends.remote_port == DNS_PORT:
            # One byte more than a query may have is enough to see that it is too long.
            end = datagram.off + min(datagram.length, MAX_QUERY + 1)
            wire = bytes(self.slots[datagram.slot][datagram.off : end])
            self.worker.free(datagram.slot)
            client = UdpClient(datagram.link, datagram.key, wire[:2])
            guest = self.guest_of(datagram.link)
            if datagram.crowded:
                self.rates.charge(guest, 1, now)
            if self.rates_alone.per_second:
                self.rates_alone.charge(guest, 1, now)
            self._on_query(wire, client, guest, now, tcp=False)
            return
        if self.dhcp.takes(ends.remote_port):
            self._update_guest_names(self.dhcp.on_datagram(datagram, ends, now), now)
        else:
            self.counts[_UNKNOWN_PORT] += 1
        self.worker.free(datagram.slot)

    def _update_guest_names(self, refusal: str, now: float) -> None:
        if self.guest_names.update(refusal, now):
            self.dns.on_guest_names()
            if self._in_fleet:
                self.guest_names.tell_fleet(self.worker)

    # --- DNS ------------------------------------------------------------------------------

    def _on_query(self, wire: bytes, client: Client, guest: int, now: float, *, tcp: bool) -> bool:
        """Decide on a query of the guest with this number. Returns whether a reply was or will be sent."""
        self._reload_files(now)
        refused = None
        if self.questions.judges:
            refused = self.questions.refusal(wire, guest, self._asker(client)[0], tcp=tcp)
        if refused is not None:
            self.counts[refused.counter] += 1
            self._reply(client, refused.payload, GATEWAY, rule=refused.rule)
            return True
        over_ipv6 = self.dns.dns64 is not None and _is_ipv6(self._asker(client)[0])
        decision = self.dns.on_query(wire, client, guest, now, tcp=tcp, over_ipv6=over_ipv6)
        self.counts[INDEX[decision.counter]] += 1
        if isinstance(decision, dns.Answer):
            counter = decision.counter
            self._reply(client, decision.payload, SOURCES.get(counter, GATEWAY), rule=RULES.get(counter, ""))
        elif isinstance(decision, dns.Forward):
            self._ask(decision, now)
        return not isinstance(decision, dns.Ignored)

    def _ask(self, forward: dns.Forward, now: float) -> None:
        self._asked_at.setdefault(forward.key, now)
        self.upstream.ask(forward.key, forward.payload, now, forward.since)

    def _ask_next(self, now: float) -> None:
        """Ask the questions whose turn has come."""
        for forward in self.dns.next_forwards(now):
            self._ask(forward, now)

    def _give_up(self, now: float) -> int:
        """Answer queries whose turn did not come in time. Returns how many."""
        replies = self.dns.expire(now)
        self.counts[_WAITED] += len(replies)
        for client, payload in replies:
            self._reply(client, payload, GATEWAY)
        return len(replies)

    def _on_stream_query(self, wire: bytes, client: StreamClient, guest: int) -> bool:
        """Decide on a query over TCP, as _on_query(). Beside other guests, a guest has a rate for them."""
        now = monotonic()
        if self.rates_alone.per_second and not self.rates_alone.take(guest, now):
            self.counts[_OVER_RATE] += 1
            return False
        if any(each != guest for each in self.guests.values()):
            # Demux does not see queries over TCP. So every other guest counts as active.
            self.dns.set_crowded(now + CROWDED_S)
            if not self.rates.take(guest, now):
                self.counts[_OVER_RATE] += 1
                return False
        return self._on_query(wire, client, guest, now, tcp=True)

    def _on_result(self, key: Key, response: bytes | None, now: float) -> None:
        replies, counter = self.dns.on_upstream(key, response, now)
        self.counts[INDEX[counter]] += 1
        asked_at = self._asked_at.pop(key, now)
        if response is not None:
            _UPSTREAM_TIME.observe_seconds(self.counts, now - asked_at)
        for client, payload in replies:
            self._reply(client, payload, UPSTREAM, now - asked_at, RULES.get(counter, ""))
        if (response is None) != self._failing:
            self._failing = response is None
            servers = [server.address[0] for server in self.servers.servers]
            if self._failing:
                self.worker.log.warning("no upstream name server answers", servers=servers)
            else:
                self.worker.log.info("upstream name servers answer again", servers=servers)

    def _reply(
        self, client: Client, payload: bytes, source: str, seconds: float | None = None, rule: str = ""
    ) -> None:
        """Answer a query. source, seconds, rule: see the event question-answered."""
        events = self.worker.events
        address, guest = self._asker(client)
        self.told.on_reply(address, payload)
        if self.names.wanted:
            self.names.on_reply(address, payload)
        if events.wants(QUESTION):
            report_answer(
                events,
                payload,
                guest=guest,
                address=address,
                transport="udp" if isinstance(client, UdpClient) else "tcp",
                source=source,
                seconds=seconds,
                rule=rule,
            )
        if isinstance(client, UdpClient):
            self.replies.send(client.link, client.key, payload)
        else:
            self.streams.reply(client, payload)

    def _asker(self, client: Client) -> tuple[int, int]:
        """Address and number of the guest that asked; zeros if its connection is gone."""
        if isinstance(client, UdpClient):
            return Ends.of(client.key).guest_addr, self.guest_of(client.link)
        return self.streams.asker(client)

    def _reload_files(self, now: float) -> None:
        """Read the host's files again if they have changed. Answers of the previous servers are forgotten."""
        if self.servers.refresh(now):
            self.dns.forget_answers()
            self.upstream.forget_servers()
            servers = [server.address[0] for server in self.servers.servers]
            self.worker.log.info("upstream name servers", servers=servers)
        if self.hosts.refresh(now):
            self.dns.set_hosts(self.hosts.names)

    # --- control --------------------------------------------------------------------------

    def on_control(self, message: Message, fds: list[int]) -> Message | None:
        """Requests of the supervisor: leases, guests, names, dns_all, dns_add, serve_tcp (with a socket)."""
        match messages.request_of(message):
            case messages.Leases():
                leases = self.dhcp.leases().items()
                texts = {ip.text(addr): ethernet.mac_text(mac) for addr, mac in leases}
                return messages.LeasesAnswer(texts).encode()
            case messages.Guests():
                sums = {"leases": self.dhcp.sums(), "dns_connections": self.streams.sums()}
                return messages.GuestsAnswer.of(sums).encode()
            case flow_messages.Names() as ask:
                parsed = [[ip.parse(text) for text in pair] for pair in ask.pairs]
                return flow_messages.NamesAnswer(
                    [self.told.name(guest, host) for guest, host in parsed]
                ).encode()
            case policy_messages.Count() as ask:
                return counting.count(self.questions.quotas, ask, self.worker.ports.incarnation).encode()
            case messages.DnsAll():
                return messages.DnsAllAnswer(self.dns.zones.as_list()).encode()
            case messages.DnsAdd() as ask:
                try:
                    zone = parse_zone(ask.zone)
                    self.dns.add_zone(zone)
                    self.zones.added(zone)
                except ZoneError as error:
                    return {"error": str(error)}
                return {}
            case healing_messages.RestoreLeases() as ask:
                self.dhcp.restore(ask, monotonic())
                return {}
            case healing_messages.Know(names=list() as rows):
                self.names.restore(rows)
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
                addr = ip.parse(ip.host_of(ask.guest))
                self.streams.serve(sock, addr, self.guest_of(ask.link))
                return {}
        close_all(fds)
        return {"error": f"resolver knows no request {message.get('op')!r} like this"}

    def hand_over(self) -> None:
        """Report leases and told names as they are now: another supervisor's resolver will keep them."""
        self.dhcp.keeper.tell_supervisor(monotonic())
        with suppress(OSError):
            # A long message needs a descriptor. Without one, guests have to ask again.
            self.worker.send_event(healing_messages.KnowledgeEvent(names=self.names.rows()).encode())

    def reload(self, config: Config) -> None:
        """See Stage.reload: zones, search list, the policy's names, and the rate of questions.

        Raises ZoneError for a wrong zone, before anything has changed.
        """
        zones = self.zones.of(config.network)
        self.guest_names.attach(zones)
        self.dns.set_zones(zones)
        self.dns.set_rate(config.limits.max_dns_questions_per_second)
        self.rates.set_rate(*for_questions(config.limits.max_dns_queries_per_second))
        self.rates_alone.set_rate(*for_questions(config.limits.max_dns_queries_alone_per_second))
        self.dhcp.set_search_domains(config.network.dns_search_domains)
        self.names.replace(config.access.policy)
        self.questions.replace(config.access.policy)
        if set_filter(self.filter, config.access.policy):
            self.dns.forget_answers()

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
            self.names.report_again()

    def held(self) -> dict[str, int]:
        """What the resolver holds for guests, except leases; all zero when no guest has a link any more."""
        return {
            "dns_connections": len(self.streams),
            "dns_pending": self.dns.pending_count,
            "dns_queued": self.dns.queued_count,
        }

    def on_released(self, source: str, tags: list[int]) -> None:
        """Nothing to do: demux returns the resolver's slots without a tag."""

    def close(self) -> None:
        """Close all sockets, write the leases and give back the slot that is being filled."""
        self.leases.save(monotonic())
        self.streams.close()
        self.upstream.close()
        self.replies.close()


def _is_ipv6(addr: int) -> bool:
    return addr != ip.NOTHING and not ip.is_ipv4(addr)
