"""UDP in the demux worker: guests' datagrams to flows, services and back.

The flow table (pipeline.engines.udp) lives here, host sockets live in egress. DNS and DHCP
of the gateway are datagrams for the resolver and no flows.
"""

import secrets
from typing import Final, NamedTuple

from pipeline.config import Config
from pipeline.counters import INDEX
from pipeline.engines import nat, neighbors
from pipeline.engines.buckets import Buckets
from pipeline.engines.flows import PortAllocator
from pipeline.engines.udp import UdpFlow, UdpFlows
from pipeline.shm import descriptor as d
from pipeline.stages.demux_output import Output
from pipeline.stages.worker import Worker
from pipeline.wire import ethernet, ipv4, udp
from pipeline.wire.errors import WireError

_RECEIVED: Final = INDEX["udp_datagrams_from_guest"]
_SENT: Final = INDEX["udp_datagrams_to_guest"]
_FLOWS: Final = INDEX["udp_flows"]
_NO_FLOW: Final = INDEX["udp_datagram_dropped_no_flow"]
_NO_NEIGHBOR: Final = INDEX["udp_datagram_dropped_no_neighbor"]
_EVICTED: Final = INDEX["udp_flow_evicted"]


class Waiting(NamedTuple):
    """A datagram from outside whose guest is being looked for."""

    slot: int
    off: int
    length: int
    src: int
    dst: int
    ports: int


class UdpDispatch:
    """Flows between guests and egress, datagrams between guests and the resolver."""

    def __init__(self, worker: Worker, config: Config, output: Output, known: neighbors.Neighbors) -> None:
        ports = worker.ports
        self.worker = worker
        self.counts = worker.counts
        self.slots = ports.arena.slots
        self.output = output
        self.neighbors = known
        self.gateway = config.gateway_ip
        self.targets = nat.Nat.from_config(config)
        self.flows = UdpFlows(
            PortAllocator(secrets.randbits(16)),
            config.egress_workers,
            max_per_guest=config.max_udp_flows_per_guest,
            max_flows=config.max_udp_flows,
        )
        self.new_flows = Buckets(config.max_udp_flows_per_second, config.max_udp_flows_per_second)
        self.egress_out = [ports.rings_out[f"egress{i}"] for i in range(config.egress_workers)]
        self.resolver_out = ports.rings_out["resolver"]

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
        self.counts[_RECEIVED] += 1
        off = begin + udp.HEADER_LEN
        length = header.length - udp.HEADER_LEN
        ports = header.src_port << 16 | header.dst_port
        flow = self.flows.find(ip.src, header.src_port, ip.dst, header.dst_port, now)
        if flow is None:
            broadcast = ip.dst in (ipv4.BROADCAST, self.targets.broadcast)
            if broadcast and header.dst_port == nat.DHCP_PORT:
                self._to_resolver(link, ip.src, ip.dst, ports, slot, off, length)
                return
            target = self.targets.udp_target(ip.dst, header.dst_port)
            if target.service:
                self._to_resolver(link, ip.src, ip.dst, ports, slot, off, length)
                return
            if target.refused:
                raise WireError(target.refused)
            if not ip.src:
                raise WireError("udp_datagram_dropped_no_source_address")
            if not self.new_flows.take(link, now):
                raise WireError("udp_datagram_dropped_flow_rate")
            flow = self.flows.on_guest_datagram(ip.src, header.src_port, ip.dst, header.dst_port, now)
            self.counts[_FLOWS] = len(self.flows)
        if header.dst_port == nat.DNS_PORT:
            flow.unanswered += 1
        record = d.DESCRIPTOR.pack(
            d.UDP_DATA, 0, link, 0, 0, slot, off, length, 0, flow.number,
            0, 0, 0, 0, 0, ip.src, ip.dst, ports, 0,
        )  # fmt: skip
        self.egress_out[flow.owner].push(record)

    def _to_resolver(
        self, link: int, src: int, dst: int, ports: int, slot: int, off: int, length: int
    ) -> None:
        self.resolver_out.push(
            d.record(
                d.UDP_DATA,
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

    def on_host_datagram(
        self,
        shard: int,
        number: int,
        slot: int,
        off: int,
        length: int,
        guest_addr: int,
        ports: int,
        now: float,
    ) -> None:
        """A datagram that egress received for flow number; it opens the flow of a forwarded port."""
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
        datagram = Waiting(slot, off, length, flow.remote_addr, flow.guest_addr, out_ports)
        neighbor = self.neighbors.resolve(flow.guest_addr, now, _Token(datagram))
        if neighbor is not None:
            self._send(neighbor.link, neighbor.mac, datagram)
        if flow.remote_port == nat.DNS_PORT and not number & d.FLOW_FROM_EGRESS:
            # A resolver asks once from a port: a thousand names would be a thousand sockets for 90 s.
            flow.unanswered -= 1
            if flow.unanswered <= 0:
                self.flows.finish(flow)

    def on_resolver_burst(self, burst: memoryview) -> int:
        """Answers of DHCP and DNS."""
        count = 0
        for (
            kind, _flags, link, _stride, _gso, slot, off, length, _skip, _number,
            seq, _ack, _wnd, _ts_val, _ts_ecr, guest_addr, remote_addr, ports, aux,
        ) in d.DESCRIPTOR.iter_unpack(burst):  # fmt: skip
            count += 1
            if kind == d.NAMED:
                named = d.record(kind, seq=seq, guest_addr=guest_addr, remote_addr=remote_addr, aux=aux)
                for ring in self.egress_out:
                    ring.push(named)
                continue
            out_ports = (ports & 0xFFFF) << 16 | ports >> 16
            datagram = Waiting(slot, off, length, remote_addr, guest_addr, out_ports)
            if guest_addr == ipv4.BROADCAST:
                self._send(link, ethernet.BROADCAST, datagram, False)
                continue
            neighbor = self.neighbors.get(guest_addr)
            if neighbor is None:
                self.counts[_NO_NEIGHBOR] += 1
                self.worker.free(slot)
            else:
                self._send(neighbor.link, neighbor.mac, datagram, False)
        return count

    def _send(self, link: int, mac: bytes, datagram: Waiting, to_socket: bool = True) -> None:
        slot, off, length, src, dst, ports = datagram
        self.counts[_SENT] += 1
        self.output.datagram(link, mac, src, dst, ports, slot, off, length, to_socket)

    def on_resolved(self, token: object) -> None:
        """The guest that a datagram waited for has answered."""
        assert isinstance(token, _Token)
        neighbor = self.neighbors.get(token.datagram.dst)
        if neighbor is None:
            self.on_lost(token)
        else:
            self._send(neighbor.link, neighbor.mac, token.datagram)

    def on_lost(self, token: object) -> None:
        """Nobody has the address that a datagram waited for."""
        assert isinstance(token, _Token)
        self.counts[_NO_NEIGHBOR] += 1
        self.worker.free(token.datagram.slot)

    # --- ends -------------------------------------------------------------------------

    def on_host_close(self, shard: int, number: int, error: int) -> None:
        """Egress ended the flow; error is the errno that its socket gave, 0 if none."""
        self.flows.close(shard, number)
        self.counts[_FLOWS] = len(self.flows)

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
            self.counts[_FLOWS] = len(self.flows)
        self.counts[_EVICTED] = self.flows.evicted

    def deadline(self) -> float:
        """When the oldest flow becomes idle."""
        return self.flows.deadline()


class _Token:
    """Wraps a waiting datagram: tokens of TCP dials are plain tuples."""

    __slots__ = ("datagram",)

    def __init__(self, datagram: Waiting) -> None:
        self.datagram = datagram
