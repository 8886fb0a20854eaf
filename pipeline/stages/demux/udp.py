"""UDP in the demux worker: guests' datagrams to flows, services and back.

The flow table (pipeline.engines.udp) lives here, host sockets live in egress. DNS and DHCP
of the gateway are datagrams for the resolver and no flows.
"""

import secrets
from typing import Final, NamedTuple

from pipeline.config.model import FULL_CONE, Config
from pipeline.counters import INDEX
from pipeline.engines import nat, neighbors
from pipeline.engines.buckets import Buckets
from pipeline.engines.flows import PortAllocator
from pipeline.engines.udp import UdpFlow, UdpFlows
from pipeline.records import descriptor as d
from pipeline.stages.demux.leases import LeaseHolders
from pipeline.stages.demux.output import Output
from pipeline.stages.demux.waiting import WaitingSlots
from pipeline.stages.worker import Worker
from pipeline.wire import ethernet, ipv4, udp
from pipeline.wire.errors import WireError

_RECEIVED: Final = INDEX["udp_datagrams_from_guest"]
_SENT: Final = INDEX["udp_datagrams_to_guest"]
_FLOWS: Final = INDEX["udp_flows"]
_NO_FLOW: Final = INDEX["udp_datagram_dropped_no_flow"]
_NO_NEIGHBOR: Final = INDEX["udp_datagram_dropped_no_neighbor"]
_TOO_MANY_WAIT: Final = INDEX["udp_datagram_dropped_too_many_waiting"]
_EVICTED: Final = INDEX["udp_flow_evicted"]


class Waiting(NamedTuple):
    """Datagrams from outside, laid out as UDP_RANGE says, whose guest is being looked for."""

    slot: int
    off: int
    length: int
    src: int
    dst: int
    ports: int
    stride: int
    size: int

    @property
    def number(self) -> int:
        """How many they are."""
        return d.piece_count(self.length, self.size)


class UdpDispatch:
    """Flows between guests and egress, datagrams between guests and the resolver."""

    def __init__(
        self,
        worker: Worker,
        config: Config,
        output: Output,
        known: neighbors.Neighbors,
        holders: LeaseHolders,
    ) -> None:
        ports = worker.ports
        self.worker = worker
        self.counts = worker.counts
        self.slots = ports.arena.slots
        self.output = output
        self.neighbors = known
        self.holders = holders
        self.gateway = config.gateway_ip
        self.targets = nat.Nat.from_config(config)
        self.flows = UdpFlows(
            PortAllocator(secrets.randbits(16)),
            config.egress_workers,
            max_per_guest=config.max_udp_flows_per_guest,
            max_flows=config.max_udp_flows,
            full_cone=config.udp_nat == FULL_CONE,
        )
        self.waiting = WaitingSlots(config.slots, config.egress_workers)
        self.new_flows = Buckets(config.max_udp_flows_per_second, config.max_udp_flows_per_second)
        self.egress_out = [ports.rings_out[f"egress{i}"] for i in range(config.egress_workers)]
        self.resolver_out = ports.rings_out["resolver"]
        self.ingress_out = ports.rings_out["ingress"]

    # --- guest -> host ------------------------------------------------------------------

    def on_guest_packet(
        self, link: int, ip: ipv4.Header, slot: int, begin: int, end: int, partial: bool, now: float
    ) -> None:
        """One whole datagram for the gateway or beyond. Raises WireError while the reference is here.

        partial: its checksum is not there yet, since the guest's kernel left it to its card.
        """
        view = self.slots[slot]
        header = udp.parse(view, begin, end)
        if not partial:
            udp.verify(view, begin, header, ip.src, ip.dst)
        off = begin + udp.HEADER_LEN
        length = header.length - udp.HEADER_LEN
        ports = header.src_port << 16 | header.dst_port
        self.on_guest_datagrams(link, ip.src, ip.dst, ports, slot, off, length, 0, length, 1, now)

    def on_guest_datagrams(
        self, link: int, src: int, dst: int, ports: int, slot: int, off: int, length: int, stride: int,
        size: int, count: int, now: float,
    ) -> None:  # fmt: skip
        """count verified datagrams, laid out as UDP_RANGE says. Raises WireError as on_guest_packet."""
        self.counts[_RECEIVED] += count
        flow = self.flows.find(src, ports >> 16, dst, ports & 0xFFFF, now)
        if flow is None:
            port = ports & 0xFFFF
            target = self.targets.udp_target(dst, port)
            broadcast = dst in (ipv4.BROADCAST, self.targets.broadcast)
            if target.service or (broadcast and port == nat.DHCP_PORT):
                self._to_resolver(link, src, dst, ports, slot, off, length, stride, size)
                return
            if target.refused:
                raise WireError(target.refused)
            if not src:
                raise WireError("udp_datagram_dropped_no_source_address")
            if not self.new_flows.take(link, now):
                raise WireError("udp_datagram_dropped_flow_rate")
            flow = self.flows.on_guest_datagram(src, ports >> 16, dst, port, now)
            self.counts[_FLOWS] = len(self.flows)
        elif not flow.steered and self._may_steer(flow):
            # It has more than a question: ingress takes what follows straight to the socket. (A guest that
            # does not read stops that ring, and must not fill our memory with its flows.)
            flow.steered = True
            self._tell_ingress(d.STEER_UDP, flow)
        if ports & 0xFFFF == nat.DNS_PORT:
            flow.unanswered += count
        self.egress_out[flow.owner].push(
            d.DESCRIPTOR.pack(
                d.UDP_DATA, 0, link, stride, size, slot, off, length, 0, flow.number,
                0, 0, 0, 0, 0, src, dst, ports, d.UDP_BEHIND if flow.returns else 0,
            )
        )  # fmt: skip
        flow.returns = False

    def _may_steer(self, flow: UdpFlow) -> bool:
        """Not flows of forwarded ports, whose other half goes through here too; nor DNS, which is counted."""
        return (
            not flow.number & d.FLOW_FROM_EGRESS
            and flow.remote_port != nat.DNS_PORT
            and self.ingress_out.room() > 0
        )

    def on_used_by_guest(self, src: int, dst: int, ports: int, now: float) -> None:
        """Datagrams of a guest went past demux."""
        self.flows.find(src, ports >> 16, dst, ports & 0xFFFF, now)

    def on_unsteered(self, src: int, dst: int, ports: int, now: float) -> None:
        """What comes of a flow now is behind datagrams that went past demux."""
        flow = self.flows.find(src, ports >> 16, dst, ports & 0xFFFF, now)
        if flow is not None:
            flow.returns = True

    def on_used_by_host(self, shard: int, number: int, now: float) -> None:
        """Datagrams of the host went past demux. A guest that says nothing is looked for as ever."""
        flow = self.flows.on_host_datagram(shard, number, now)
        if flow is not None:
            self.neighbors.resolve(flow.guest_addr, now)

    def _tell_ingress(self, kind: int, flow: UdpFlow) -> None:
        self.ingress_out.push(
            d.record(
                kind,
                flow=flow.number,
                guest_addr=flow.guest_addr,
                remote_addr=flow.remote_addr,
                ports=flow.guest_port << 16 | flow.remote_port,
                aux=flow.owner,
            )
        )

    def _to_resolver(
        self,
        link: int,
        src: int,
        dst: int,
        ports: int,
        slot: int,
        off: int,
        length: int,
        stride: int,
        size: int,
    ) -> None:
        """Hand over one by one; several, which is rare, as copies with references of their own."""
        if length <= size:
            self._one_to_resolver(link, src, dst, ports, slot, off, length)
            return
        view = self.slots[slot]
        for begin, end in d.piece_bounds(off, length, stride, size):
            where = self.output.copy(view[begin:end])
            if where is not None:
                self._one_to_resolver(link, src, dst, ports, *where, end - begin)
        self.worker.free(slot)

    def _one_to_resolver(
        self, link: int, src: int, dst: int, ports: int, slot: int, off: int, length: int
    ) -> None:
        self.resolver_out.push(
            d.record(
                d.SERVICE_DATAGRAM,
                link=link,
                slot=slot,
                off=off,
                length=length,
                guest_addr=src,
                remote_addr=dst,
                ports=ports,
            )
        )

    # --- host -> guest ------------------------------------------------------------------

    def on_host_datagrams(
        self, shard: int, number: int, slot: int, off: int, length: int, stride: int, size: int,
        guest_addr: int, ports: int, now: float,
    ) -> None:  # fmt: skip
        """Datagrams that egress received for flow number; the first opens the flow of a forwarded port."""
        flow: UdpFlow | None
        if number & d.FLOW_FROM_EGRESS:
            flow = self.flows.on_dial(shard, number, guest_addr, ports >> 16, self.gateway, now)
        else:
            flow = self.flows.on_host_datagram(shard, number, now)
        if flow is None:
            self.counts[_NO_FLOW] += 1
            self.worker.free(slot)
            return
        out_ports = flow.remote_port << 16 | flow.guest_port
        waiting = Waiting(slot, off, length, flow.remote_addr, flow.guest_addr, out_ports, stride, size)
        if self.neighbors.get(flow.guest_addr) is None and self.waiting.take(shard, flow.guest_addr, slot):
            self.neighbors.resolve(flow.guest_addr, now, _Token(waiting, shard))
        elif (neighbor := self.neighbors.resolve(flow.guest_addr, now)) is not None:
            self._send(neighbor.link, neighbor.mac, waiting)
        else:
            self.counts[_TOO_MANY_WAIT] += waiting.number
            self.worker.free(slot)
        if flow.remote_port == nat.DNS_PORT and not number & d.FLOW_FROM_EGRESS:
            # A resolver asks once from a port: a thousand names would be a thousand sockets for 90 s.
            flow.unanswered -= waiting.number
            if flow.unanswered <= 0:
                self.flows.finish(flow)

    def on_resolver_burst(self, burst: memoryview, now: float) -> int:
        """Answers of DHCP and DNS, names for egress, leases of an earlier run."""
        count = 0
        for (
            kind, _flags, link, _stride, _gso, slot, off, length, _skip, _number,
            seq, ack, _wnd, _ts_val, _ts_ecr, guest_addr, remote_addr, ports, aux,
        ) in d.DESCRIPTOR.iter_unpack(burst):  # fmt: skip
            count += 1
            if kind == d.NAMED:
                named = d.record(kind, seq=seq, guest_addr=guest_addr, remote_addr=remote_addr, aux=aux)
                for ring in self.egress_out:
                    ring.push(named)
                continue
            if kind == d.LEASED:
                self.holders.on_restored(guest_addr, d.mac_of(seq, ack), now)
                continue
            out_ports = (ports & 0xFFFF) << 16 | ports >> 16
            if ports & 0xFFFF == nat.DHCP_PORT:
                self.holders.on_answer(link, slot, off, length, now)
            if guest_addr == ipv4.BROADCAST:
                self._answer(link, ethernet.BROADCAST, remote_addr, guest_addr, out_ports, slot, off, length)
                continue
            neighbor = self.neighbors.get(guest_addr)
            if neighbor is None:
                self.counts[_NO_NEIGHBOR] += 1
                self.worker.free(slot)
            else:
                self._answer(
                    neighbor.link, neighbor.mac, remote_addr, guest_addr, out_ports, slot, off, length
                )
        return count

    def _answer(
        self, link: int, mac: bytes, src: int, dst: int, ports: int, slot: int, off: int, length: int
    ) -> None:
        self.counts[_SENT] += 1
        self.output.datagram(link, mac, src, dst, ports, slot, off, length)

    def _send(self, link: int, mac: bytes, datagrams: Waiting) -> None:
        slot, off, length, src, dst, ports, stride, size = datagrams
        self.counts[_SENT] += datagrams.number
        self.output.datagrams(link, mac, src, dst, ports, slot, off, length, stride, size)

    def on_resolved(self, token: object) -> None:
        """The guest that a datagram waited for has answered."""
        assert isinstance(token, _Token)
        neighbor = self.neighbors.get(token.datagram.dst)
        if neighbor is None:
            self.on_lost(token)
        else:
            self._end_wait(token)
            self._send(neighbor.link, neighbor.mac, token.datagram)

    def on_lost(self, token: object) -> None:
        """Nobody has the address that a datagram waited for."""
        assert isinstance(token, _Token)
        self._end_wait(token)
        self.counts[_NO_NEIGHBOR] += 1
        self.worker.free(token.datagram.slot)

    def _end_wait(self, token: "_Token") -> None:
        self.waiting.give_back(token.shard, token.datagram.dst, token.datagram.slot)

    # --- ends -------------------------------------------------------------------------

    def on_host_close(self, shard: int, number: int) -> None:
        """Egress ended the flow."""
        flow = self.flows.close(shard, number)
        if flow is not None and flow.steered:
            self._tell_ingress(d.UNSTEER_UDP, flow)
        self.counts[_FLOWS] = len(self.flows)
        # Datagrams under way may have made egress open the flow anew: this comes behind all of them.
        self.egress_out[shard].push(d.record(d.UDP_CLOSE, flow=number))

    def forget_link(self, link: int) -> None:
        """The link is gone; its number will be another guest's."""
        self.new_flows.forget(link)

    def forget_guest(self, guest_addr: int) -> None:
        """The guest's link is gone."""
        self.flows.forget_guest(guest_addr)

    def expire(self, now: float) -> None:
        """Close what has been idle for too long."""
        if self.flows.deadline() <= now:
            self.flows.expire(now)
        self.tell_closed()

    def tell_closed(self) -> None:
        """Tell the owners of every flow that was closed here."""
        for flow in self.flows.take_closed():
            self.egress_out[flow.owner].push(d.record(d.UDP_CLOSE, flow=flow.number))
            if flow.steered:
                self._tell_ingress(d.UNSTEER_UDP, flow)
            self.counts[_FLOWS] = len(self.flows)
        self.counts[_EVICTED] = self.flows.evicted

    def deadline(self) -> float:
        """When the oldest flow becomes idle."""
        return self.flows.deadline()


class _Token:
    """Wraps a waiting datagram of an egress shard: tokens of TCP dials are plain tuples."""

    __slots__ = ("datagram", "shard")

    def __init__(self, datagram: Waiting, shard: int) -> None:
        self.datagram = datagram
        self.shard = shard
