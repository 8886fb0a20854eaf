"""The gateway's DNS server: moves queries and answers between guests and the host's name servers.

pipeline.engines.dns decides about each query and makes the answers. pipeline.host.upstream asks upstream
servers. Before a query reaches the engine, it is judged by the egress policy, quotas and, over TCP, the
guest's rate. Each reply passes what egress and the supervisor have to know of it.
"""

import os
import socket
from collections.abc import Callable
from time import monotonic
from typing import Final, NamedTuple

from pipeline.config.choices import DNS
from pipeline.config.model import Config
from pipeline.counters import INDEX
from pipeline.engines.buckets import Buckets, for_questions
from pipeline.engines.dns import server
from pipeline.engines.dns.message import MAX_QUERY
from pipeline.engines.dns.pending import Key
from pipeline.engines.dns.zones import Zones, parse_zone
from pipeline.events.network import GATEWAY, UPSTREAM
from pipeline.histograms import BY_NAME
from pipeline.host import name_files
from pipeline.host.upstream.resolver import MAX_QUESTIONS, Upstream
from pipeline.records.flows import Ends, FlowKey
from pipeline.records.services import ServiceDatagram
from pipeline.stages.resolver.descriptors import question_sockets
from pipeline.stages.resolver.dns64 import dns64_of
from pipeline.stages.resolver.names import NameReports
from pipeline.stages.resolver.questions import QuestionPolicy, filter_of, set_filter
from pipeline.stages.resolver.replies import Replies
from pipeline.stages.resolver.reports import QUESTION, RULES, SOURCES, report_answer
from pipeline.stages.resolver.streams import DnsStreams, StreamClient
from pipeline.stages.resolver.told import ToldNames
from pipeline.stages.resolver.zones import LocalZones
from pipeline.stages.worker import Worker
from pipeline.system import outbound
from pipeline.wire import ip

PORT: Final = 53
CROWDED_S: Final = 1.0
"""Seconds for which clients have a rate after a question that came while several guests were active."""

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


class HostFiles(NamedTuple):
    """The host's files about names, and the port of the servers in resolv_conf."""

    resolv_conf: str = name_files.RESOLV_CONF
    hosts: str = name_files.HOSTS
    dns_port: int = name_files.DNS_PORT


ON_THIS_HOST: Final = HostFiles()


class DnsService:
    """DNS of one virtual network."""

    def __init__(
        self,
        worker: Worker,
        config: Config,
        replies: Replies,
        guest_of: Callable[[int], int],
        has_others: Callable[[int], bool],
        files: HostFiles,
    ) -> None:
        """replies: sends datagrams to guests. guest_of: the number of the guest with a link.

        has_others: whether a guest with another number than this has a link.
        """
        network, access, limits = config.network, config.access, config.limits
        self._worker = worker
        self._counts = worker.counts
        self._slots = worker.ports.arena.slots
        self._replies = replies
        self._guest_of = guest_of
        self._has_others = has_others
        self._local_zones = LocalZones()
        zones = self._local_zones.first(network, worker.log)
        sockets = question_sockets()
        self._filter = filter_of(config, lambda: self.zones)
        self._engine: server.Dns[Client] = server.Dns(
            zones,
            min(MAX_QUESTIONS, sockets),
            limits.max_dns_questions_per_second,
            dns64_of(network),
            self._filter,
        )
        self._questions = QuestionPolicy(config, self._engine.is_local)
        self.quotas = self._questions.quotas
        self.stations = self._questions.stations
        """Which addresses belong to one guest, for rules and quotas. The caller keeps it up to date."""
        self._rates = Buckets(*for_questions(limits.max_dns_queries_per_second))
        self._rates_alone = Buckets(*for_questions(limits.max_dns_queries_alone_per_second))
        """What is left of each guest's rate of queries for TCP. Demux limits queries over UDP."""
        self.servers: name_files.FixedServers | name_files.ServerList
        if network.dns_servers:
            self.servers = name_files.FixedServers(network.dns_servers)
            if len(self.servers.servers) < len(network.dns_servers):
                # The zone of a link-local address is not an interface of this host.
                worker.log.error("a name server is left out", servers=network.dns_servers)
        else:
            # A server with this address would be this program itself.
            ours = {ip.text(network.name_server)}
            self.servers = name_files.ServerList(files.resolv_conf, ours, files.dns_port)
        self._hosts = name_files.HostsFile(files.hosts)
        self.upstream: Upstream[Key] = Upstream(
            worker,
            lambda: self.servers.servers,
            monotonic,
            os.urandom,
            sockets,
            outbound.of(network.outbound_address, network.outbound_interface),
        )
        self.streams = DnsStreams(worker, self._counts, self._on_stream_query, monotonic)
        self.names = NameReports(
            access.policy, worker.ports.rings_out["demux"], has_ipv6=network.ipv6_first != 0
        )
        self.told = ToldNames()
        self._asked_at: dict[Key, float] = {}
        """When each question was sent upstream that has no result yet."""
        self._failing = False
        if DNS not in access.disable:
            self.reload_files(monotonic())

    # --- the step -----------------------------------------------------------------------

    def step(self, now: float) -> int:
        """Serve timers, and pass on what came from upstream servers. Returns the number of answers."""
        work = 0
        if self.upstream.deadline() <= now:
            self.upstream.on_timer(now)
        if self.streams.deadline() <= now:
            self.streams.expire(now)
        if self._engine.deadline() <= now:
            work += self._give_up(now)
            self._ask_next(now)
        # A reply may let a connection go on with its next query. That query may fail at once.
        while results := self.upstream.take_results():
            work += len(results)
            for key, response in results:
                self._on_result(key, response, now)
            self._ask_next(now)
        return work

    def write_gauges(self) -> None:
        """Write how much there is of everything."""
        counts = self._counts
        counts[_PENDING] = self._engine.pending_count
        counts[_QUEUED] = self._engine.queued_count
        counts[_CACHED] = len(self._engine.cache)
        counts[_MADE] = self._engine.made_count
        counts[_FORGED] = self.upstream.ignored
        counts[_OVER_TCP] = self.upstream.over_tcp

    def deadline(self) -> float:
        """When a time-out of the servers, queries or connections is due."""
        return min(self.upstream.deadline(), self._engine.deadline(), self.streams.deadline())

    def set_crowded(self, now: float) -> None:
        """Several guests are active, so each has a rate of questions for a while."""
        self._engine.set_crowded(now + CROWDED_S)

    def on_guest_gone(self, now: float) -> None:
        """A guest has no link any more."""
        self._engine.on_client_gone(now)
        self._rates.forget_full(now)
        self._rates_alone.forget_full(now)

    # --- queries --------------------------------------------------------------------------

    def on_datagram(self, datagram: ServiceDatagram, now: float) -> None:
        """A guest asks over UDP. Demux has looked at its rate. The slot stays the caller's."""
        # One byte more than a query may have is enough to see that it is too long.
        end = datagram.off + min(datagram.length, MAX_QUERY + 1)
        wire = bytes(self._slots[datagram.slot][datagram.off : end])
        client = UdpClient(datagram.link, datagram.key, wire[:2])
        guest = self._guest_of(datagram.link)
        if datagram.crowded:
            self._rates.charge(guest, 1, now)
        if self._rates_alone.per_second:
            self._rates_alone.charge(guest, 1, now)
        self._on_query(wire, client, guest, now, tcp=False)

    def serve(self, sock: socket.socket, guest: str, link: int) -> None:
        """Serve a guest's TCP connection, which becomes this object's. guest: ``address:port``."""
        self.streams.serve(sock, ip.parse(ip.host_of(guest)), self._guest_of(link))

    def _on_stream_query(self, wire: bytes, client: StreamClient, guest: int) -> bool:
        """Decide on a query over TCP, as _on_query(). Beside other guests, a guest has a rate for them."""
        now = monotonic()
        if self._rates_alone.per_second and not self._rates_alone.take(guest, now):
            self._counts[_OVER_RATE] += 1
            return False
        if self._has_others(guest):
            # Demux does not see queries over TCP. So every other guest counts as active.
            self.set_crowded(now)
            if not self._rates.take(guest, now):
                self._counts[_OVER_RATE] += 1
                return False
        return self._on_query(wire, client, guest, now, tcp=True)

    def _on_query(self, wire: bytes, client: Client, guest: int, now: float, *, tcp: bool) -> bool:
        """Decide on a query of the guest with this number. Returns whether a reply was or will be sent."""
        self.reload_files(now)
        refused = None
        if self._questions.judges:
            refused = self._questions.refusal(wire, guest, self._asker(client)[0], tcp=tcp)
        if refused is not None:
            self._counts[refused.counter] += 1
            self._reply(client, refused.payload, GATEWAY, rule=refused.rule)
            return True
        over_ipv6 = self._engine.dns64 is not None and _is_ipv6(self._asker(client)[0])
        decision = self._engine.on_query(wire, client, guest, now, tcp=tcp, over_ipv6=over_ipv6)
        self._counts[INDEX[decision.counter]] += 1
        if isinstance(decision, server.Answer):
            counter = decision.counter
            self._reply(client, decision.payload, SOURCES.get(counter, GATEWAY), rule=RULES.get(counter, ""))
        elif isinstance(decision, server.Forward):
            self._ask(decision, now)
        return not isinstance(decision, server.Ignored)

    # --- upstream servers -------------------------------------------------------------------

    def _ask(self, forward: server.Forward, now: float) -> None:
        self._asked_at.setdefault(forward.key, now)
        self.upstream.ask(forward.key, forward.payload, now, forward.since)

    def _ask_next(self, now: float) -> None:
        """Ask the questions whose turn has come."""
        for forward in self._engine.next_forwards(now):
            self._ask(forward, now)

    def _give_up(self, now: float) -> int:
        """Answer queries whose turn did not come in time. Returns how many."""
        replies = self._engine.expire(now)
        self._counts[_WAITED] += len(replies)
        for client, payload in replies:
            self._reply(client, payload, GATEWAY)
        return len(replies)

    def _on_result(self, key: Key, response: bytes | None, now: float) -> None:
        replies, counter = self._engine.on_upstream(key, response, now)
        self._counts[INDEX[counter]] += 1
        asked_at = self._asked_at.pop(key, now)
        if response is not None:
            _UPSTREAM_TIME.observe_seconds(self._counts, now - asked_at)
        for client, payload in replies:
            self._reply(client, payload, UPSTREAM, now - asked_at, RULES.get(counter, ""))
        if (response is None) != self._failing:
            self._failing = response is None
            servers = [each.address[0] for each in self.servers.servers]
            if self._failing:
                self._worker.log.warning("no upstream name server answers", servers=servers)
            else:
                self._worker.log.info("upstream name servers answer again", servers=servers)

    def reload_files(self, now: float) -> None:
        """Read the host's files again if they have changed. Answers of the previous servers are forgotten."""
        if self.servers.refresh(now):
            self._engine.forget_answers()
            self.upstream.forget_servers()
            servers = [each.address[0] for each in self.servers.servers]
            self._worker.log.info("upstream name servers", servers=servers)
        if self._hosts.refresh(now):
            self._engine.set_hosts(self._hosts.names)

    # --- replies ----------------------------------------------------------------------------

    def _reply(
        self, client: Client, payload: bytes, source: str, seconds: float | None = None, rule: str = ""
    ) -> None:
        """Answer a query. source, seconds, rule: see the event question-answered."""
        events = self._worker.events
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
            self._replies.send(client.link, client.key, payload)
        else:
            self.streams.reply(client, payload)

    def _asker(self, client: Client) -> tuple[int, int]:
        """Address and number of the guest that asked; zeros if its connection is gone."""
        if isinstance(client, UdpClient):
            return Ends.of(client.key).guest_addr, self._guest_of(client.link)
        return self.streams.asker(client)

    # --- settings -----------------------------------------------------------------------------

    @property
    def zones(self) -> Zones:
        """The gateway's zones. reload() replaces them."""
        return self._engine.zones

    def add_zone(self, document: dict[str, object]) -> None:
        """Add a zone, which is in the form of the HTTP API. Raises ZoneError."""
        zone = parse_zone(document)
        self._engine.add_zone(zone)
        self._local_zones.added(zone)

    def on_guest_names(self) -> None:
        """The zone of guests' names has changed."""
        self._engine.on_guest_names()

    def reload(self, config: Config) -> None:
        """Use these settings from now on. Raises ZoneError for a wrong zone, before anything has changed."""
        limits, policy = config.limits, config.access.policy
        self._engine.set_zones(self._local_zones.of(config.network))
        self._engine.set_rate(limits.max_dns_questions_per_second)
        self._rates.set_rate(*for_questions(limits.max_dns_queries_per_second))
        self._rates_alone.set_rate(*for_questions(limits.max_dns_queries_alone_per_second))
        self.names.replace(policy)
        self._questions.replace(policy)
        if set_filter(self._filter, policy):
            self._engine.forget_answers()

    # --- the end ------------------------------------------------------------------------------

    def held(self) -> dict[str, int]:
        """See Stage.held."""
        return {
            "dns_connections": len(self.streams),
            "dns_pending": self._engine.pending_count,
            "dns_queued": self._engine.queued_count,
        }

    def close(self) -> None:
        """Close all sockets."""
        self.streams.close()
        self.upstream.close()


def _is_ipv6(addr: int) -> bool:
    return addr != ip.NOTHING and not ip.is_ipv4(addr)
