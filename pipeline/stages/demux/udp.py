"""UDP flows: demux finds the flow of each datagram, and passes datagrams between guests and egress.

Demux has the flow table (pipeline.engines.udp), and egress has the host sockets. DHCP, DHCPv6 and DNS of the
gateway are not flows: their datagrams go to the resolver (services.py).
"""

import os
from typing import Final

from pipeline.config.choices import FULL_CONE
from pipeline.config.limits import Limits
from pipeline.counters import INDEX
from pipeline.engines import nat, refusal
from pipeline.engines.buckets import Buckets
from pipeline.engines.flows import PortAllocator
from pipeline.engines.udp import UdpFlow, UdpFlows
from pipeline.records import kinds
from pipeline.records.flows import FLOW_FROM_EGRESS, Ends, FlowKey, FlowNotice, flow_key
from pipeline.records.icmp import Unreachable
from pipeline.records.run import Run
from pipeline.records.udp import SteerUdp, UdpData, UdpRange, UnsteerUdp
from pipeline.stages.demux.icmp import IcmpDispatch
from pipeline.stages.demux.network import Network
from pipeline.stages.demux.packet import Packet
from pipeline.stages.demux.services import Services
from pipeline.stages.demux.waiting import WaitingSlots
from pipeline.stages.flow_reports import FlowReports
from pipeline.wire import ip, ipv4, udp
from pipeline.wire.errors import WireError

INCARNATION_SHIFT: Final = 20
"""Each successor of demux numbers flows from this far on: 2**20 numbers after its predecessor. So datagrams
that were steered before do not get into another flow."""

_RECEIVED: Final = INDEX["udp_datagrams_from_guest"]
_SENT: Final = INDEX["udp_datagrams_to_guest"]
_FLOWS: Final = INDEX["udp_flows"]
_RATE: Final = "udp_datagram_dropped_flow_rate"
_NO_FLOW: Final = INDEX["udp_datagram_dropped_no_flow"]
_NO_NEIGHBOR: Final = INDEX["udp_datagram_dropped_no_neighbor"]
_TOO_MANY_WAIT: Final = INDEX["udp_datagram_dropped_too_many_waiting"]
_EVICTED: Final = INDEX["udp_flow_evicted"]


class UdpDispatch:
    """The flows between guests and egress."""

    def __init__(self, network: Network, services: Services, icmp: IcmpDispatch) -> None:
        config = network.config
        self.worker = network.worker
        self.counts = network.counts
        self.reports = FlowReports(network.worker.events)
        self.slots = network.slots
        self.output = network.output
        self.neighbors = network.neighbors
        self.targets = network.targets
        self.gateway_for = network.gateway_for
        self.source_for = network.source_for
        self.links = network.links
        self.services = services
        self.icmp = icmp
        self.flows = UdpFlows(
            PortAllocator(int.from_bytes(os.urandom(2), "big")),
            config.workers.egress_workers,
            max_per_guest=config.limits.max_udp_flows_per_guest,
            max_flows=config.limits.max_udp_flows,
            full_cone=config.network.udp_nat == FULL_CONE,
            first_number=network.worker.ports.incarnation << INCARNATION_SHIFT,
        )
        self.waiting = WaitingSlots(config.workers.slots, config.workers.egress_workers)
        self.new_flows = Buckets(
            config.limits.max_udp_flows_per_second, config.limits.max_udp_flows_per_second
        )
        self.egress_out = network.egress_out
        self.ingress_out = network.ingress_out

    def set_limits(self, limits: Limits) -> None:
        """Change the limits on flows."""
        self.flows.set_bounds(limits.max_udp_flows_per_guest, limits.max_udp_flows)
        self.new_flows.set_rate(limits.max_udp_flows_per_second, limits.max_udp_flows_per_second)

    # --- guest -> host ------------------------------------------------------------------

    def on_guest_packet(self, packet: Packet, now: float) -> None:
        """One whole datagram. Raises WireError while the caller owns the reference."""
        view = self.slots[packet.slot]
        ip = packet.header
        header = udp.parse(view, packet.begin, packet.end)
        if not packet.partial:
            udp.verify(view, packet.begin, header, ip.src, ip.dst)
        length = header.length - udp.HEADER_LEN
        datagram = UdpRange(
            slot=packet.slot,
            off=packet.begin + udp.HEADER_LEN,
            length=length,
            stride=0,
            piece_size=length,
            link=packet.link,
            key=flow_key(ip.src, header.src_port, ip.dst, header.dst_port),
            vnet=False,
        )
        self.on_guest_datagrams(datagram, packet.mac, now)

    def on_guest_datagrams(self, run: UdpRange, mac: bytes, now: float) -> None:
        """Datagrams with verified checksums, in frames from mac.

        Raises WireError while the caller owns the reference.
        """
        count = run.piece_count()
        self.counts[_RECEIVED] += count
        flow = self.flows.find(run.key, now)
        if flow is None:
            flow = self._open(run, now)
            if flow is None:
                self.services.to_resolver(run, Ends.of(run.key).remote_port, now, mac)
                return
        elif flow.link != run.link:
            # The guest is back, or uses another link.
            self.flows.adopt(flow, run.link, self._guest_of(run.link))
        elif not flow.steered and self._may_steer(flow):
            # This is not the flow's first datagram. Ingress sends the next ones straight to egress.
            flow.steer()
            self.ingress_out.push(SteerUdp.pack(flow.number, flow.key, flow.owner))
        if flow.remote_port == nat.DNS_PORT:
            flow.on_questions(count)
        after_steered = flow.take_after_steered()
        self.egress_out[flow.owner].push(
            UdpData.pack(flow.number, flow.key, run, after_steered, link=run.link)
        )

    def _open(self, run: UdpRange, now: float) -> UdpFlow | None:
        """Make the flow of these datagrams. None if they are for the resolver. Raises WireError."""
        ends = Ends.of(run.key)
        target = self.targets.udp_target(ends.remote_addr, ends.remote_port)
        broadcast = ends.remote_addr in (ip.BROADCAST, self.targets.broadcast)
        if target.service or (broadcast and ends.remote_port == nat.DHCP_PORT):
            return None
        guest = self._guest_of(run.link)
        if target.refused:
            self.reports.refused("udp", guest, ends, rule=target.refused, error=target.errno)
            if target.refused in nat.SWITCHED_OFF:
                code = refusal.answer_to_datagram(target.errno)
                self.icmp.refuse_flow(Unreachable(run.key, ipv4.PROTO_UDP, code, 0), now)
            raise WireError(target.refused)
        if not ends.guest_addr:
            raise WireError("udp_datagram_dropped_no_source_address")
        if not self.new_flows.take(guest, now):
            self.reports.refused("udp", guest, ends, limit=_RATE)
            raise WireError(_RATE)
        flow = self.flows.on_guest_datagram(run.key, run.link, guest, now)
        self.counts[_FLOWS] = len(self.flows)
        return flow

    def _guest_of(self, link: int) -> int:
        """The number of the guest that opened a link. An unknown link is a guest of its own."""
        return self.links.get(link, link)

    def _may_steer(self, flow: UdpFlow) -> bool:
        """Whether ingress may send the flow's datagrams past demux.

        It may not do so for a flow of a forwarded port, whose other direction passes demux too. Nor for DNS,
        whose answers demux counts. Nor while the ring to ingress is full: a guest can stop that ring by not
        reading its frames, and its flows must not fill our memory.
        """
        return not flow.from_egress and flow.remote_port != nat.DNS_PORT and self.ingress_out.room() > 0

    def on_used_by_guest(self, key: FlowKey, now: float) -> None:
        """Ingress steered datagrams of a guest past demux, so the flow is in use."""
        flow = self.flows.find(key, now)
        if flow is not None:
            neighbor = self.neighbors.get(flow.guest_addr)
            if neighbor is not None and neighbor.link != flow.link:
                self.flows.adopt(flow, neighbor.link, self._guest_of(neighbor.link))

    def on_unsteered(self, key: FlowKey, now: float) -> None:
        """Ingress does not steer the flow any more. Its next datagrams must stay after the steered ones."""
        flow = self.flows.find(key, now)
        if flow is not None:
            flow.on_unsteered()

    # --- host -> guest ------------------------------------------------------------------

    def on_used_by_host(self, egress: int, number: int, now: float) -> None:
        """Egress sent datagrams to the guest past demux. If the guest is silent, its address is confirmed."""
        flow = self.flows.on_host_datagram(egress, number, now)
        if flow is not None:
            self.neighbors.resolve(flow.guest_addr, now)

    def on_host_datagrams(self, egress: int, run: UdpData, now: float) -> None:
        """Datagrams that egress received. The first of a forwarded port opens its flow."""
        flow = self.flows.on_host_datagram(egress, run.flow, now)
        if flow is None and run.flow & FLOW_FROM_EGRESS:
            flow = self._dial(egress, run, now)
        if flow is None:
            self._drop_of_no_flow(run)
            return
        addr = flow.guest_addr
        if flow.from_egress and (known := self.neighbors.get(addr)) is not None:
            flow = self._answerable(egress, run, flow, known.link, now)
            if flow is None:
                self._drop_of_no_flow(run)
                return
        count = run.piece_count()
        if self.neighbors.get(addr) is None and self.waiting.add(egress, addr, run.slot):
            self.neighbors.resolve(addr, now, _WaitingDatagrams(self, egress, flow, run))
        elif (neighbor := self.neighbors.resolve(addr, now)) is not None:
            self.counts[_SENT] += count
            self.output.datagrams(neighbor.link, neighbor.mac, flow.key, run)
        else:
            self.counts[_TOO_MANY_WAIT] += count
            self.worker.free(run.slot)
        # A DNS client uses a new port for each question. A thousand names would keep a thousand sockets for
        # 90 s, so the flow ends with its answers.
        if flow.remote_port == nat.DNS_PORT and not flow.from_egress and flow.on_answers(count):
            self.flows.finish(flow)

    def _drop_of_no_flow(self, run: Run) -> None:
        self.counts[_NO_FLOW] += 1
        self.worker.free(run.slot)

    def _answerable(self, egress: int, run: UdpData, flow: UdpFlow, link: int, now: float) -> UdpFlow | None:
        """The flow of a forwarded port, or one in its place whose source the guest on this link can answer.

        The guest was not known when the flow began, or has moved between hosts. None: there can be none.
        """
        source = self.source_for(flow.guest_addr, link)
        if flow.remote_addr == source:
            return flow
        newer = self.flows.on_host_datagram(egress, run.flow, now)
        if newer is not None and newer.remote_addr == source:
            return newer
        self.flows.close(egress, run.flow)
        return self._dial(egress, run, now)

    def _dial(self, egress: int, run: UdpData, now: float) -> UdpFlow | None:
        """A new flow of a forwarded port; None if the gateway has no port left for it."""
        ends = Ends.of(run.key)
        neighbor = self.neighbors.get(ends.guest_addr)
        source = self.gateway_for(ends.guest_addr)
        if neighbor is not None:
            source = self.source_for(ends.guest_addr, neighbor.link)
        if not source:
            return None
        to = flow_key(ends.guest_addr, ends.guest_port, source, 0)
        # If nobody knows the guest yet, it gets the flow when it has answered.
        link = neighbor.link if neighbor is not None else 0
        return self.flows.on_dial(egress, run.flow, to, link, self._guest_of(link), now)

    def send_waiting(self, waiting: "_WaitingDatagrams") -> None:
        """The guest that these datagrams waited for has answered."""
        neighbor = self.neighbors.get(waiting.addr)
        if neighbor is None:
            self.drop_waiting(waiting)
            return
        self.waiting.remove(waiting.egress, waiting.addr, waiting.run.slot)
        flow: UdpFlow | None = waiting.flow
        assert flow is not None
        if flow.from_egress:
            flow = self._answerable(waiting.egress, waiting.run, flow, neighbor.link, flow.last_seen)
            if flow is None:
                self._drop_of_no_flow(waiting.run)
                return
        self.counts[_SENT] += waiting.run.piece_count()
        if flow.link != neighbor.link:
            self.flows.adopt(flow, neighbor.link, self._guest_of(neighbor.link))
        self.output.datagrams(neighbor.link, neighbor.mac, flow.key, waiting.run)

    def drop_waiting(self, waiting: "_WaitingDatagrams") -> None:
        """No guest has the address that these datagrams waited for."""
        self.waiting.remove(waiting.egress, waiting.addr, waiting.run.slot)
        self.counts[_NO_NEIGHBOR] += 1
        self.worker.free(waiting.run.slot)

    # --- ends -------------------------------------------------------------------------

    def on_egress_lost(self, egress: int) -> None:
        """An egress worker has died, with the host sockets of these flows. Its datagrams here may go on."""
        for flow in self.flows.of_owner(egress):
            self.flows.close(egress, flow.number)
            if flow.steered:
                self.ingress_out.push(UnsteerUdp.pack(flow.number, flow.key))
        self.counts[_FLOWS] = len(self.flows)

    def on_host_close(self, egress: int, number: int) -> None:
        """Egress ended the flow."""
        flow = self.flows.close(egress, number)
        if flow is not None and flow.steered:
            self.ingress_out.push(UnsteerUdp.pack(flow.number, flow.key))
        self.counts[_FLOWS] = len(self.flows)
        # Datagrams on their way may have made egress open the flow again. This record comes after them.
        self.egress_out[egress].push(FlowNotice.pack(kinds.UDP_CLOSE, number))

    def forget_link(self, link: int, guest: int, *, last: bool) -> None:
        """A link of this guest is gone. last: it was the guest's last one."""
        self.flows.forget_link(link, guest)
        if last:
            self.new_flows.forget(guest)

    def expire(self, now: float) -> None:
        """Close the flows that were idle for too long."""
        if self.flows.deadline() <= now:
            self.flows.expire(now)
        self.notify_closed()

    def notify_closed(self) -> None:
        """Notify egress of every flow that demux closed. If it was steered, notify ingress too."""
        for flow in self.flows.take_closed():
            self.egress_out[flow.owner].push(FlowNotice.pack(kinds.UDP_CLOSE, flow.number))
            if flow.steered:
                self.ingress_out.push(UnsteerUdp.pack(flow.number, flow.key))
            self.counts[_FLOWS] = len(self.flows)
        self.counts[_EVICTED] = self.flows.evicted

    def deadline(self) -> float:
        """When the oldest flow becomes idle."""
        return self.flows.deadline()


class _WaitingDatagrams:
    """Datagrams of an egress worker that wait until the MAC of their guest is known."""

    def __init__(self, dispatch: UdpDispatch, egress: int, flow: UdpFlow, run: UdpData) -> None:
        self.dispatch = dispatch
        self.egress = egress
        self.addr = flow.guest_addr
        self.flow = flow
        self.run = run

    def on_resolved(self, link: int) -> None:
        """The guest answered."""
        self.dispatch.send_waiting(self)

    def on_lost(self) -> None:
        """No guest has the address."""
        self.dispatch.drop_waiting(self)
