"""The egress worker: it carries the guests' flows over ordinary host sockets.

For each connection of a guest, egress opens a host connection (pipeline.stages.egress.tcp.connections). It
writes the guest's bytes straight out of the slots in which they arrived. It reads the host's bytes into slots
of its own pool. Datagrams are in pipeline.stages.egress.udp.sockets, pings in pipeline.stages.egress.icmp.

Sockets are edge-triggered. Two rules keep a fast host from filling the memory. A flow is read only while few
of its references are in use. No socket is read while the records for another worker do not fit into its ring.
"""

import socket
from time import monotonic
from typing import Final

from pipeline.config.choices import FULL_CONE
from pipeline.config.model import Config
from pipeline.counters import INDEX
from pipeline.engines.nat import Nat
from pipeline.ipc import flow_messages, forward_messages, message_table, messages, policy_messages
from pipeline.ipc.channel import close_all
from pipeline.ipc.ring import BURST
from pipeline.records.addresses import addr_of
from pipeline.records.flows import flow_of
from pipeline.records.guests import LinkNotice, Neighbor, NeighborGone, Renamed, Shared
from pipeline.records.icmp import EchoRequest
from pipeline.records.kinds import (
    DIAL_FAILED,
    ICMP_ECHO,
    LINK_DOWN,
    LINK_UP,
    NAMED,
    NEIGHBOR,
    NEIGHBOR_GONE,
    RECORD_BYTES,
    RENAMED,
    SHARED,
    TOLD,
    UDP_CLOSE,
    UDP_DATA,
)
from pipeline.records.services import Named, Told
from pipeline.records.udp import UdpData
from pipeline.stages import counting, ipv6_addresses
from pipeline.stages.egress import explanation
from pipeline.stages.egress.context import EgressContext
from pipeline.stages.egress.icmp import EchoSockets
from pipeline.stages.egress.policy_filter import PolicyFilter
from pipeline.stages.egress.rows import FlowRows
from pipeline.stages.egress.tcp.connections import Connections
from pipeline.stages.egress.tcp.opener import Opener
from pipeline.stages.egress.udp.sockets import UdpSockets
from pipeline.stages.holdings import Holdings, count
from pipeline.stages.losses import Losses
from pipeline.stages.renaming import rename
from pipeline.stages.work_meter import WorkMeter
from pipeline.stages.worker import Worker
from pipeline.system import outbound
from pipeline.topology import DATA_CAPACITY, DEMUX, INGRESS, LISTEN, TCP

BURSTS_A_STEP: Final = 8
"""Bursts of datagrams to take from demux before TCP has its turn again."""
FEW_DATAGRAMS: Final = 2
"""A step that read at most this many datagrams from hosts counts as a small read."""
_BYTE_RATE: Final = INDEX["egress_reads_paused_byte_rate"]
WHOLE_RING: Final = DATA_CAPACITY // BURST + 2
"""Bursts that are enough to take everything that a ring held when the first was taken."""


class EgressStage:
    """Flows that RSS sent to this egress worker, from all tcp workers."""

    def __init__(self, worker: Worker, config: Config) -> None:
        ports = worker.ports
        targets = Nat(
            config.network,
            ec2_metadata_access=config.access.ec2_metadata_access,
            own_ports=config.links.loopback_ports,
            disable=config.access.disable,
            ipv6=ipv6_addresses.of(config),
            name_server=config.network.dns_address,
        )
        policy = PolicyFilter(worker, config.access.policy, config.network)
        source = outbound.for_guests(config.network.outbound_address, config.network.outbound_interface)
        self._quotas = policy.quotas
        self.context = EgressContext(worker, targets, policy, config.workers.tcp_workers, source)
        self._set_rate(config)
        self._meter = WorkMeter(ports.rings_out["ingress"])
        opener = Opener(self.context, self._drain_demux)
        self.connections = Connections(self.context, config, opener, self._meter)
        self.udp = UdpSockets(
            self.context,
            config.limits.max_udp_clients_per_forward,
            self.connections.asks,
            full_cone=config.network.udp_nat == FULL_CONE,
        )
        self._asks = self.connections.asks
        self.icmp = EchoSockets(self.context)
        self._rows = FlowRows(self.udp, self.icmp)
        self._tcp_in = [ports.rings_in[f"tcp{index}"] for index in range(config.workers.tcp_workers)]
        self._demux_in = ports.rings_in["demux"]
        self._ingress_in = ports.rings_in["ingress"]
        self._now = 0.0
        """The time of this step."""

    # --- the step ---------------------------------------------------------------------

    def step(self, now: float) -> int:
        """Rings -> sockets, then sockets -> rings. Returns the number of records and reads."""
        self._now = now
        connections = self.connections
        connections.flows.now = now
        work = 0
        for shard, ring in enumerate(self._tcp_in):
            while burst := ring.peek():
                count = connections.on_tcp_burst(shard, burst)
                ring.release(count)
                work += count
        work += self._drain_demux(BURSTS_A_STEP)
        work += self._drain_steered()
        self.icmp.expire(now)
        self.udp.expire(now)
        self._asks.expire(now)
        if self._quotas.cuts:
            self._end_used_up()
        connections.write(now)
        work += connections.read(now)
        if datagrams := self.udp.read_ready(now):
            work += datagrams
            if datagrams <= FEW_DATAGRAMS:
                connections.on_small_read(now)
        connections.write_gauges()
        rates = self.context.rates
        if rates.on:
            self.context.counts[_BYTE_RATE] = rates.pauses
        if not work:
            rates.forget_full(now)
            self.context.filler.release_idle()
            connections.release_idle()
        return work

    def deadline(self) -> float:
        """When the next step is due even without an event; 0 if there is more to read."""
        if self._demux_in.pending() or self._ingress_in.pending():
            return 0.0
        others = min(self._asks.deadline(), min(self.udp.deadline(), self.icmp.deadline()))
        return min(self.connections.deadline(), others)

    # --- records from demux and ingress ---------------------------------------------------

    def _drain_demux(self, bursts: int = WHOLE_RING) -> int:
        """Take what demux has sent, at most that many bursts. Returns the number of records."""
        work = 0
        ring = self._demux_in
        while bursts and (burst := ring.peek()):
            began = self._meter.begin() if self._meter.on else 0
            count = self._on_demux_burst(burst)
            if began:
                self._meter.charge(burst, began)
            ring.release(count)
            work += count
            bursts -= 1
        return work

    def _drain_steered(self) -> int:
        """Take datagrams that ingress has sent past demux. Returns the number of records."""
        work = 0
        ring = self._ingress_in
        for _ in range(BURSTS_A_STEP):
            if not (count := min(len(ring), BURST)):
                break
            until = ring.cons_idx + count
            if self._demux_in.pending():
                # Earlier datagrams of these flows may have come through demux. It published them before.
                work += self._drain_demux()
            work += self._take_steered(until)
        return work

    def _take_steered(self, until: int) -> int:
        """Take what ingress has sent, up to that index of its ring."""
        work = 0
        ring = self._ingress_in
        while (left := until - ring.cons_idx) > 0:
            burst = ring.peek(left)
            began = self._meter.begin() if self._meter.on else 0
            count = self._on_ingress_burst(burst)
            if began:
                self._meter.charge(burst, began)
            ring.release(count)
            work += count
        return work

    def _on_ingress_burst(self, burst: memoryview) -> int:
        """Records of ingress. Returns how many."""
        for at in range(0, len(burst), RECORD_BYTES):
            kind = burst[at]
            if kind == UDP_DATA:
                self.udp.on_steered(UdpData.unpack(burst, at), self._now)
            elif kind == SHARED:
                self._meter.switch(Shared.unpack(burst, at).shared)
        return len(burst) // RECORD_BYTES

    def _on_demux_burst(self, burst: memoryview) -> int:
        """Records of demux. Returns how many."""
        for at in range(0, len(burst), RECORD_BYTES):
            kind = burst[at]
            if kind == UDP_DATA:
                data = UdpData.unpack(burst, at)
                if data.after_steered:
                    self._take_steered(self._ingress_in.cons_idx + len(self._ingress_in))
                self.udp.to_host(data, self._now)
            elif kind == UDP_CLOSE:
                self.udp.close(flow_of(burst, at))
            elif kind == DIAL_FAILED:
                self.connections.dial_failed(flow_of(burst, at))
            elif kind == ICMP_ECHO:
                self.icmp.to_host(EchoRequest.unpack(burst, at))
            elif kind == LINK_UP:
                up = LinkNotice.unpack(burst, at)
                self.context.bound.link_up(up.link, up.guest)
            elif kind == LINK_DOWN:
                link = LinkNotice.unpack(burst, at).link
                self.context.bound.link_down(link)
                self.context.policy.stations.forget_link(link)
                self._asks.forget_link(link, self._now)
            elif kind == NEIGHBOR:
                neighbor = Neighbor.unpack(burst, at)
                self.context.policy.stations.learn(neighbor.guest_addr, neighbor.mac, neighbor.link)
            elif kind == NEIGHBOR_GONE:
                self.context.policy.stations.forget(NeighborGone.unpack(burst, at).guest_addr)
            elif kind == RENAMED:
                rename(self.context.policy.stations, Renamed.unpack(burst, at))
            elif kind == NAMED:
                self.context.policy.learn(Named.unpack(burst, at))
            elif kind == TOLD:
                self.context.policy.learn_text(Told.unpack(burst, at))
        return len(burst) // RECORD_BYTES

    # --- requests of listen -------------------------------------------------------------------

    def on_control(self, message: dict[str, object], fds: list[int]) -> dict[str, object]:
        """Requests of listen: ``accepted`` and ``udp_forward`` (each with a socket), ``udp_unforward``.

        Of the supervisor: ``guests``, ``flow_ids``, ``flows``, ``end_flow``, ``end_forbidden``, ``explain``,
        ``asks``, ``decide`` and ``count``.
        """
        match message_table.request_of(message):
            case forward_messages.Accepted() as ask:
                accepted = socket.socket(fileno=fds[0])
                self.connections.accepted(accepted, addr_of(ask.addr), ask.port, ask.first)
                return {"ok": True}
            case forward_messages.UdpForward() as ask:
                self.udp.forwards.add(ask.key, socket.socket(fileno=fds[0]), addr_of(ask.addr), ask.port)
                return {"ok": True}
            case messages.Guests():
                sums = {"sockets": self.context.bound.sums(), "slots": self.connections.slots()}
                return messages.GuestsAnswer.of(sums).encode()
            case flow_messages.FlowIds():
                return flow_messages.FlowIdsAnswer(self._rows.numbers()).encode()
            case flow_messages.Flows() as ask:
                return flow_messages.FlowsAnswer(self._rows.of_numbers(ask.numbers)).encode()
            case flow_messages.EndFlow() as ask:
                return flow_messages.EndFlowAnswer(self._rows.end(ask.number)).encode()
            case policy_messages.Asks():
                rows = self._asks.rows(monotonic())
                return policy_messages.AsksAnswer([list(row) for row in rows]).encode()
            case policy_messages.Decide() as ask:
                found = self._asks.decide(ask.number, ask.allow, ask.name, monotonic())
                return policy_messages.DecideAnswer(found).encode()
            case policy_messages.EndForbidden():
                return policy_messages.EndForbiddenAnswer(self._end_forbidden()).encode()
            case policy_messages.Count() as ask:
                return counting.count(self._quotas, ask, self.context.worker.ports.incarnation).encode()
            case policy_messages.Explain() as ask:
                return explanation.of(self.context, ask).encode()
            case forward_messages.UdpUnforward() as ask:
                self.udp.forwards.remove(ask.key)
                return {"ok": True}
        close_all(fds)
        return {"error": f"egress knows no request {message.get('op')!r}"}

    def reload(self, config: Config) -> None:
        """See Stage.reload: limits and policy. Open flows stay until the supervisor asks to end them."""
        self.connections.set_limits(config.limits)
        self.udp.forwards.set_max_clients(config.limits.max_udp_clients_per_forward)
        self.context.policy.replace(config.access.policy)
        if self.context.policy.follow_quotas(config.access.policy.quotas):
            self.connections.renew_meters()
            self.udp.renew_meters()
            self.icmp.renew_meters()
        self._asks.seconds = float(config.access.egress_policy.ask_seconds)
        self._set_rate(config)

    def _set_rate(self, config: Config) -> None:
        """Each egress worker has a part of each guest's rate."""
        self.context.rates.set_rate(
            config.limits.max_bytes_to_guest_per_second / config.workers.egress_workers
        )

    def _end_used_up(self) -> None:
        """Some guest has used up its bytes: end its flows, if the quota says so."""
        if self._quotas.take_cuts():
            self.connections.end_used_up()
            self.udp.end_used_up()
            self.icmp.end_used_up()

    def _end_forbidden(self) -> int:
        """End the open flows that the policy forbids. Returns how many."""
        ended = self.connections.end_forbidden() + self.udp.end_forbidden() + self.icmp.end_forbidden()
        if ended:
            self.context.worker.log.warning("flows ended by the new egress policy", count=ended)
        return ended

    # --- what the stage holds -------------------------------------------------------------

    def on_released(self, source: str, tags: list[int]) -> None:
        """A worker returned references; each tag is the number of the flow that used one."""
        self.connections.on_released(source, tags)

    def slots_held(self) -> Holdings:
        """See Stage.slots_held. Datagrams are sent as soon as they come, so they hold nothing."""
        found: Holdings = {}
        count(found, self.connections.slots_held())
        count(found, self.context.filler.slots_held())
        return found

    def on_workers_lost(self, losses: Losses, now: float) -> None:
        """See Stage.on_workers_lost: what a dead worker knew of a flow is lost, so the flow ends."""
        for shard in losses.shards(TCP):
            self.connections.on_tcp_lost(shard)
        if losses.has(LISTEN):
            # The supervisor opens the forwarded ports again.
            self.udp.forwards.close_all()
        if losses.has(DEMUX):
            # Stations stay: a rule about an address must hold for a guest's other addresses at any time.
            self.udp.on_demux_lost()
            self.connections.on_demux_lost()
        if losses.has(INGRESS):
            self._meter.switch(False)
        if losses.has(DEMUX) or losses.has(INGRESS):
            self.context.bound.keep_links(losses.links)
            self.context.policy.stations.keep_links(losses.links)
            self._asks.keep_links(losses.links, now)

    def held(self) -> dict[str, int]:
        """How many of each thing the stage holds for guests."""
        return {
            **self.connections.held(),
            **self.udp.held(),
            "asks": len(self._asks),
            "pings": len(self.icmp.flows),
            "sockets": len(self.context.bound),
            "stations": len(self.context.policy.stations),
            "evictable_sockets": self.context.bound.evictable,
        }

    def close(self) -> None:
        """Reset what is open and give every reference back."""
        self.connections.close()
        self.udp.close_all()
        self.icmp.close()
        self.context.filler.retire()
