"""The demux worker: the network's Ethernet switch and the gateway's IP layer.

Frames go through the switch first (frames.py): to another guest, to all guests, or to the gateway. The
gateway answers ARP, neighbour discovery and pings, and reassembles IPv4 fragments (ip.py, icmp.py, ipv6.py).
It passes datagrams to an egress worker (udp.py) or to the resolver (services.py). RSS spreads TCP over the
tcp workers; runs that GRO made in ingress are passed on as they are. For a connection that the host opens to
a guest, demux finds the guest (dials.py).
"""

from time import monotonic
from typing import Final

from pipeline.config.choices import HIDDEN
from pipeline.config.model import Config
from pipeline.counters import INDEX
from pipeline.engines.arp import ArpResponder
from pipeline.engines.neighbors.actions import Changed, Learned, Lost, Request
from pipeline.ipc import fleet_messages, healing_messages, message_table, messages
from pipeline.records import kinds
from pipeline.records.addresses import addr_of
from pipeline.records.dials import Dial
from pipeline.records.flows import flow_of
from pipeline.records.frames import ALL_LINKS, NO_LINK, Frame, WatchDrops
from pipeline.records.guests import LinkNotice, Neighbor, Renamed, Shared, Tunnel
from pipeline.records.icmp import EchoError, EchoReply, Unreachable
from pipeline.records.kinds import RECORD_BYTES
from pipeline.records.tcp import TcpRange
from pipeline.records.udp import UdpData, UdpNotice, UdpRange
from pipeline.stages.bad_frames import BadFrames
from pipeline.stages.demux import guest_report
from pipeline.stages.demux.bindings import Bindings
from pipeline.stages.demux.dials import DialRouter
from pipeline.stages.demux.dropped import (
    DroppedFrames,
    Shape,
    shape_of_datagrams,
    shape_of_frame,
    shape_of_segments,
)
from pipeline.stages.demux.events import AddressEvents
from pipeline.stages.demux.frames import FrameInput
from pipeline.stages.demux.guard import REPORTED
from pipeline.stages.demux.icmp import IcmpDispatch
from pipeline.stages.demux.ip import IpInput
from pipeline.stages.demux.ipv6 import Ipv6Input
from pipeline.stages.demux.network import Network
from pipeline.stages.demux.renamed import RenamedGuests
from pipeline.stages.demux.services import Services
from pipeline.stages.demux.stations import StationReports
from pipeline.stages.demux.udp import UdpDispatch
from pipeline.stages.holdings import Holdings, count
from pipeline.stages.losses import Losses
from pipeline.stages.work_meter import WorkMeter
from pipeline.stages.worker import Message, Worker
from pipeline.topology import EGRESS, INGRESS, RESOLVER, TCP
from pipeline.wire import ethernet, ip
from pipeline.wire.errors import WireError

BURSTS_A_STEP: Final = 4
"""The most bursts of guests' frames in a step, before records of other workers are read."""

_ARP_OUT: Final = INDEX["arp_requests_sent"]
_ND_OUT: Final = INDEX["nd_solicitations_sent"]


class DemuxStage:
    """The virtual network's switch and the gateway's IP layer."""

    def __init__(self, worker: Worker, config: Config) -> None:
        ports = worker.ports
        self.worker = worker
        self.counts = worker.counts
        network = Network(worker, config)
        self.network = network
        self.neighbors = network.neighbors
        self.switch = network.switch
        self.links = network.links
        self.output = network.output
        self.arp = ArpResponder(config.network.gateway_mac, config.network.gateway_ip, network.own)
        self.services = Services(network)
        self.icmp = IcmpDispatch(network)
        self.udp = UdpDispatch(network, self.services, self.icmp)
        self.ip = IpInput(network, self.udp, self.icmp)
        self.dropped = DroppedFrames(network)
        self.ipv6 = Ipv6Input(network, network.ipv6, self.ip, self.dropped) if network.ipv6 else None
        """None while IPv6 is off."""
        self.frames = FrameInput(network, self.arp, self.ip, self.ipv6, self.dropped)
        self.dials = DialRouter(network)
        self.events = AddressEvents(worker, network.switch, config.network.gateway_mac)
        self.bindings = Bindings(network)
        self.renamed = RenamedGuests(network)
        self.stations = StationReports(network)
        self.announces = config.access.guests not in HIDDEN
        """Whether demux announces an address that changed hands to the other guests."""
        self.bad_frames = BadFrames(network.ingress_out)
        self.meter = WorkMeter(network.ingress_out)
        self.ingress_in = ports.rings_in["ingress"]
        self.egress_in = [ports.rings_in[f"egress{i}"] for i in range(config.workers.egress_workers)]
        self.resolver_in = ports.rings_in["resolver"]
        self.now = 0.0
        self.due = 0.0

    # --- the step ---------------------------------------------------------------------

    def step(self, now: float) -> int:
        """Serve the rings, then the timers. Returns the number of records."""
        self.now = now
        work = 0
        # Bounded: demux must publish its records even while a guest sends without a pause.
        for _ in range(BURSTS_A_STEP):
            if not (burst := self.ingress_in.peek()):
                break
            began = self.meter.begin() if self.meter.on else 0
            work += self._on_guest_burst(burst, now)
            if began:
                self.meter.charge(burst, began)
            if self.neighbors.has_actions:
                # A guest has just answered. Packets that waited for it must be sent before later ones.
                self._carry_out()
            # Publish before the entries are released: then ingress may steer later datagrams to egress.
            self.worker.publish()
            self.ingress_in.release(len(burst) // RECORD_BYTES)
        for egress, ring in enumerate(self.egress_in):
            while burst := ring.peek():
                work += self._on_egress_burst(egress, burst, now)
                ring.release(len(burst) // RECORD_BYTES)
        while burst := self.resolver_in.peek():
            work += self.services.on_resolver_burst(burst, now)
            self.resolver_in.release(len(burst) // RECORD_BYTES)
        if now >= self.due:
            if self.neighbors.deadline() <= now:
                self.neighbors.on_timer(now)
            self.switch.on_timer(now)
            self.ip.expire(now)
            self.udp.expire(now)
            if self.ipv6 is not None:
                self.ipv6.discovery.on_timer(now)
            self._carry_out()
            self.stations.report(now)
            self.due = self._next_timeout()
        elif work:
            self.udp.notify_closed()
            self._carry_out()
            self.due = self._next_timeout()
        else:
            self.output.filler.release_idle()
        return work

    def deadline(self) -> float:
        """The next time-out of the engines, computed after the last work; 0 if ingress has sent more."""
        return 0.0 if self.ingress_in.pending() else self.due

    def _next_timeout(self) -> float:
        return min(
            self.neighbors.deadline(),
            self.switch.deadline(),
            self.ip.deadline(),
            self.udp.deadline(),
            self.bindings.deadline(self.now),
            self.stations.deadline(),
            float("inf") if self.ipv6 is None else self.ipv6.discovery.deadline(),
        )

    # --- from ingress -------------------------------------------------------------------

    def _on_guest_burst(self, burst: memoryview, now: float) -> int:
        saw = self.services.rates.saw
        for at in range(0, len(burst), RECORD_BYTES):
            kind = burst[at]
            if kind == kinds.TCP_RANGE:
                run = TcpRange.unpack(burst, at)
                saw(run.link, now)
                try:
                    self.frames.on_tcp_range(run, burst[at : at + RECORD_BYTES].tobytes(), now)
                except WireError as error:
                    self._drop(error.reason, run.link, run.slot, shape_of_segments(run), run.segments)
            elif kind == kinds.UDP_RANGE:
                datagrams = UdpRange.unpack(burst, at)
                saw(datagrams.link, now)
                try:
                    self.frames.on_udp_range(datagrams, now)
                except WireError as error:
                    shape, count = shape_of_datagrams(datagrams), datagrams.piece_count()
                    self._drop(error.reason, datagrams.link, datagrams.slot, shape, count)
            elif kind == kinds.FRAME:
                frame = Frame.unpack(burst, at)
                saw(frame.link, now)
                try:
                    self.frames.on_frame(frame, now)
                except WireError as error:
                    self._drop(error.reason, frame.link, frame.slot, shape_of_frame(frame), 1)
            else:
                self._on_notice(kind, burst, at, now)
        return len(burst) // RECORD_BYTES

    def _drop(self, reason: str, link: int, slot: int, shape: Shape, frames: int) -> None:
        """Drop frames of a guest. ``shape`` says where they are in the slot."""
        self.counts[INDEX[reason]] += frames
        if reason in REPORTED:
            self.events.report_refused(reason, link, self.network.slots[slot], shape.off)
        self.dropped.take(INDEX[reason], link, slot, shape)
        if link != self.network.tunnel.link:
            # Other hosts send what they cannot place to all hosts, and many guests share that link.
            self.bad_frames.note(link, frames)

    def _on_notice(self, kind: int, burst: memoryview, at: int, now: float) -> None:
        """A record of ingress without frames."""
        if kind == kinds.HEARD:
            heard = Neighbor.unpack(burst, at)
            self.services.rates.saw(heard.link, now)
            self.frames.on_heard(heard, now)
        elif kind == kinds.UDP_USED:
            self.udp.on_used_by_guest(UdpNotice.unpack(burst, at).key, now)
        elif kind == kinds.UDP_FRAGMENTED:
            self.udp.on_unsteered(UdpNotice.unpack(burst, at).key, now)
        elif kind == kinds.SHARED:
            self.meter.switch(Shared.unpack(burst, at).shared)
        elif kind == kinds.WATCH_DROPS:
            self.dropped.watched = WatchDrops.unpack(burst, at).on
        elif kind == kinds.RENAMED:
            self.renamed.add(Renamed.unpack(burst, at))
        elif kind == kinds.TUNNEL:
            self.network.set_tunnel(Tunnel.unpack(burst, at))
        elif kind == kinds.LINK_UP:
            up = LinkNotice.unpack(burst, at)
            self.links[up.link] = up.guest
            if self.ipv6 is not None:
                self.ipv6.discovery.on_link_up(up.link, now)
            self._report_link(kinds.LINK_UP, up)
        elif kind == kinds.LINK_DOWN:
            down = LinkNotice.unpack(burst, at)
            self._on_link_down(down.link, down.guest)
            self._report_link(kinds.LINK_DOWN, down)

    def _report_link(self, kind: int, notice: LinkNotice) -> None:
        network = self.network
        for ring in (*network.tcp_out.rings, *network.egress_out, network.resolver_out):
            ring.push(LinkNotice.pack(kind, notice.link, notice.guest))

    def _on_link_down(self, link: int, guest: int) -> None:
        # The switch and the neighbour table still ask whose link it was.
        self.switch.forget_link(link)
        self.neighbors.forget_link(link)
        self.renamed.forget_link(link)
        self.network.forget_tunnel(link)
        self.links.pop(link, None)
        last = guest not in self.links.values()
        self.udp.forget_link(link, guest, last=last)
        if last:
            self._on_guest_gone(guest)
        self.bad_frames.forget(link)
        self.events.forget_link(link)

    def _on_guest_gone(self, guest: int) -> None:
        """The last link of a guest is gone."""
        now = self.now
        self.switch.on_guest_gone(now)
        self.neighbors.on_guest_gone(now)
        self.ip.forget_guest(guest, now)
        self.services.rates.on_guest_gone(now)
        self.frames.gate.on_guest_gone(now)

    # --- from egress --------------------------------------------------------------------

    def _on_egress_burst(self, egress: int, burst: memoryview, now: float) -> int:
        for at in range(0, len(burst), RECORD_BYTES):
            kind = burst[at]
            if kind == kinds.UDP_DATA:
                self.udp.on_host_datagrams(egress, UdpData.unpack(burst, at), now)
            elif kind == kinds.UDP_CLOSE:
                self.udp.on_host_close(egress, flow_of(burst, at))
            elif kind == kinds.UDP_ANSWERED:
                self.udp.on_used_by_host(egress, flow_of(burst, at), now)
            elif kind == kinds.DIAL:
                self.dials.on_dial(egress, Dial.unpack(burst, at), now)
            elif kind == kinds.ICMP_REPLY:
                self.icmp.on_reply(EchoReply.unpack(burst, at))
            elif kind == kinds.ICMP_ERROR:
                self.icmp.on_error(EchoError.unpack(burst, at), now)
            elif kind == kinds.UNREACHABLE:
                self.icmp.refuse_flow(Unreachable.unpack(burst, at), now)
        return len(burst) // RECORD_BYTES

    # --- what the engines ask for ------------------------------------------------------------

    def _carry_out(self) -> None:
        """Carry out the actions of the neighbour table, then report events and counters."""
        for action in self.neighbors.take_actions():
            self.stations.on_neighbor(action)
            if isinstance(action, Request):
                self._ask(action)
            elif isinstance(action, Learned):
                self.bindings.learned(action.addr, action.mac, action.link)
                if action.announce and self.announces:
                    # The claimant's own announcements were dropped while the address was contested.
                    self._announce(action)
                for waiter in action.waiting:
                    waiter.on_resolved(action.link)
            elif isinstance(action, Changed):
                self.bindings.changed(action.addr)
            elif isinstance(action, Lost):
                self.bindings.lost(action.addr)
                for waiter in action.waiting:
                    waiter.on_lost()
            else:
                self.events.report_contested(action)
        self.bindings.report_changes()
        self.events.report_switch(self.stations)
        self.ip.update_counters()

    def _ask(self, request: Request) -> None:
        """Send a request for an address, by ARP or neighbour discovery."""
        if request.link == self.network.tunnel.link:
            frame = self.network.tunnel.question(request.addr, request.mac)
        elif self.ipv6 is None or ip.is_ipv4(request.addr):
            self.counts[_ARP_OUT] += 1
            frame = self.arp.request(request.addr, request.mac)
        else:
            self.counts[_ND_OUT] += 1
            frame = self.ipv6.discovery.messages.request(request.addr, request.mac)
        self.output.frame(ALL_LINKS if request.link < 0 else request.link, frame)
        tunnel = self.network.tunnel
        if request.link < 0 and tunnel.link != NO_LINK and tunnel.source_for(request.addr):
            # The gateway's question has not gone to other hosts.
            self.output.frame(tunnel.link, tunnel.question(request.addr))

    def _announce(self, moved: Learned) -> None:
        """Announce an address that moved to the other guests."""
        if self.ipv6 is None or ip.is_ipv4(moved.addr):
            frame = self.arp.announcement(moved.addr, moved.mac)
        else:
            frame = self.ipv6.discovery.messages.announcement(moved.addr, moved.mac)
        self.output.frame(ALL_LINKS, frame, except_link=moved.link)

    # --- what the worker asks for ------------------------------------------------------------

    def on_control(self, message: Message, fds: list[int]) -> Message:
        """Requests ``cam`` (MAC to link), ``neighbors`` (which guests have addresses), ``guests``,
        ``seek`` and ``withdraw_route``, and of a fleet ``station``, ``far_stations``, ``stations_all`` and
        ``stations_away``.
        """
        match message_table.request_of(message):
            case messages.Guests():
                found = guest_report.answer(
                    self.links, self.switch.cam(), self.neighbors.snapshot(), self.udp.flows.sums()
                )
                return found.encode()
            case messages.Cam():
                cam = {ethernet.mac_text(mac): link for mac, link in self.switch.cam().items()}
                return messages.CamAnswer(cam).encode()
            case messages.Neighbors() as ask:
                return guest_report.neighbors(self.links, self.neighbors, ask.addresses).encode()
            case healing_messages.Seek() as ask:
                for addr in map(addr_of, ask.addrs):
                    self.neighbors.resolve(addr, monotonic())
                return {}
            case fleet_messages.Stations():
                self.stations.report_all()
                return {}
            case fleet_messages.StationsAway() as ask:
                self.stations.on_away(ask, self.now, self._carry_out)
                self.due = self.now
                return {}
            case fleet_messages.Station() as ask:
                self.frames.station.set_addr(ip.of_packed(ask.addr) if ask.addr else 0)
                self._carry_out()
                self.due = self.now
                return {}
            case fleet_messages.FarStations() as ask:
                self.frames.station.set_far(ask.macs)
                self._carry_out()
                self.due = self.now
                return {}
            case messages.WithdrawRoute() if self.ipv6 is not None:
                self.ipv6.discovery.withdraw()
                return {}
        return {"error": f"demux knows no request {message.get('op')!r}"}

    def reload(self, config: Config) -> None:
        """See Stage.reload: the limits."""
        limits = config.limits
        self.network.reload(config)
        self.services.rates.set_limits(limits)
        self.udp.set_limits(limits)
        self.icmp.set_limits(limits)
        self.ip.set_limits(limits)
        self.frames.gate.set_limits(limits)
        if self.ipv6 is not None:
            self.ipv6.discovery.set_search_domains(config.network.dns_search_domains)

    def slots_held(self) -> Holdings:
        """See Stage.slots_held. Fragments are copied, so they hold nothing."""
        found: Holdings = {}
        count(found, self.udp.waiting.slots_held())
        count(found, self.output.filler.slots_held())
        return found

    def on_workers_lost(self, losses: Losses, now: float) -> None:
        """See Stage.on_workers_lost: end what lived there, and tell successors of guests and links."""
        self.now = now
        network = self.network
        shards = losses.shards(EGRESS)
        for egress in shards:
            self.udp.on_egress_lost(egress)
        if losses.has(INGRESS):
            self._on_ingress_lost(losses)
        rings = [network.tcp_out.rings[shard] for shard in losses.shards(TCP)]
        rings += [network.egress_out[shard] for shard in shards]
        rings += [network.resolver_out] if losses.has(RESOLVER) else []
        for link, guest in self.links.items():
            for ring in rings:
                ring.push(LinkNotice.pack(kinds.LINK_UP, link, guest))
        judges = [network.egress_out[shard] for shard in shards]
        judges += [network.resolver_out] if losses.has(RESOLVER) else []
        self.renamed.report_all(judges)
        self.bindings.report_all(judges)
        self.due = now

    def _on_ingress_lost(self, losses: Losses) -> None:
        """Ingress has died, with the links that are not up any more. What is steered begins anew."""
        for link, guest in list(self.links.items()):
            if link not in losses.links:
                self._on_link_down(link, guest)
                self._report_link(kinds.LINK_DOWN, LinkNotice(link, guest))
        self.udp.flows.forget_steering()
        self.bindings.report_all([self.network.ingress_out])
        self.meter.switch(False)
        self.dropped.watched = False

    def held(self) -> dict[str, int]:
        """What demux holds for guests; all zero when no guest has a link any more."""
        return {
            "links": len(self.links),
            "macs": len(self.switch),
            "neighbors": len(self.neighbors),
            "inner_addresses": len(self.renamed),
            "fragmented_datagrams": len(self.ip.fragments),
            "udp_flows": len(self.udp.flows),
            "waiting_datagrams": len(self.udp.waiting),
            "waiting_addresses": self.udp.waiting.addresses,
            "unreported_addresses": len(self.bindings.unreported),
            "links_with_bad_frames": len(self.bad_frames),
        }

    def on_released(self, source: str, tags: list[int]) -> None:
        """Nothing to do: other workers return demux's slots without a tag."""

    def close(self) -> None:
        """Give back the slot that is being filled."""
        self.output.filler.retire()
