"""ICMP in the demux worker: pings of the gateway, guests' echo requests to egress and their answers, errors.

A request that has no hop left is answered with "time exceeded", as by any router; others
go to the egress worker that the hash of guest, identifier and address names. Errors about segments
are demux_errors' business. Other types are counted and dropped.
"""

from typing import Final, NoReturn

from pipeline.config.model import Config
from pipeline.counters import INDEX
from pipeline.engines import icmp as icmp_engine
from pipeline.engines import nat, neighbors
from pipeline.engines.flows import rss_hash
from pipeline.records import descriptor as d
from pipeline.stages.demux.errors import GuestErrors, ToTcp
from pipeline.stages.demux.output import Output
from pipeline.stages.worker import Worker
from pipeline.wire import icmp, ipv4
from pipeline.wire.errors import WireError

_ECHO: Final = INDEX["icmp_echo_answered"]
_NOT_FOR_US: Final = INDEX["icmp_message_dropped_not_for_us"]
_NO_NEIGHBOR: Final = INDEX["icmp_reply_dropped_no_neighbor"]


class IcmpDispatch:
    """Echo requests and their answers, between guests and egress."""

    def __init__(
        self,
        worker: Worker,
        config: Config,
        output: Output,
        known: neighbors.Neighbors,
        errors: icmp_engine.IcmpErrors,
        to_tcp: ToTcp,
    ) -> None:
        ports = worker.ports
        self.worker = worker
        self.counts = worker.counts
        self.slots = ports.arena.slots
        self.output = output
        self.neighbors = known
        self.errors = errors
        self.guest_errors = GuestErrors(worker, known, to_tcp)
        self.targets = nat.Nat.from_config(config)
        self.egress_out = [ports.rings_out[f"egress{i}"] for i in range(config.egress_workers)]
        own = {config.gateway_ip, *config.gateway_virtual_ips}
        self.answered_here = frozenset(
            addr for addr in own if addr not in config.nat or ipv4.is_loopback(config.nat[addr])
        )
        """Addresses whose pings the gateway answers: its own, but for those that stand for another host."""

    # --- what the gateway says itself -----------------------------------------------------

    def answer(self, link: int, mac: bytes, header: ipv4.Header, slot: int, off: int) -> None:
        """Answer an echo request to the gateway, whose packet begins at off; gives the reference back."""
        self.counts[_ECHO] += 1
        reply = icmp_engine.echo_reply(self.slots[slot], off, header)
        payload = memoryview(reply)[ipv4.HEADER_LEN :]
        self.output.packet(link, mac, ipv4.PROTO_ICMP, header.dst, header.src, payload, tos=header.tos)
        self.worker.free(slot)

    def refuse_protocol(self, view: memoryview, off: int, header: ipv4.Header, now: float) -> NoReturn:
        """Tell the sender of a packet that nobody here speaks its protocol. Raises WireError."""
        error = self.errors.unreachable(view, off, now, icmp.PROTOCOL_UNREACHABLE, src=header.dst)
        if error is not None:
            self.send_error(error)
        raise WireError("ipv4_packet_dropped_unknown_protocol")

    def refuse_flow(
        self, guest_addr: int, remote_addr: int, ports: int, seq: int, aux: int, now: float
    ) -> None:
        """Tell a guest that its flow cannot be (record UNREACHABLE)."""
        quoted = icmp_engine.quote_flow(guest_addr, remote_addr, aux >> 8, ports >> 16, ports & 0xFFFF, seq)
        error = self.errors.unreachable(quoted, 0, now, aux & 0xFF)
        if error is not None:
            self.send_error(error)

    # --- guest -> host ------------------------------------------------------------------

    def on_guest_message(
        self,
        link: int,
        header: ipv4.Header,
        message: icmp.Message,
        slot: int,
        off: int,
        begin: int,
        end: int,
        now: float,
    ) -> None:
        """A whole message that the gateway does not answer; the packet begins at off, the message at begin.

        Raises WireError while the reference is still here.
        """
        if message.type != icmp.ECHO_REQUEST or message.code:
            if not self.guest_errors.take(link, header, message, self.slots[slot], begin, end):
                self.counts[_NOT_FOR_US] += 1
            self.worker.free(slot)
            return
        refused = self.targets.icmp_target(header.dst).refused
        if refused:
            raise WireError(refused)
        if not header.src:
            raise WireError("icmp_message_dropped_not_for_us")
        self.check_ttl(header, slot, off, now)
        ident, seq = message.rest >> 16, message.rest & 0xFFFF
        aux = header.ttl - 1
        if header.flags & ipv4.FLAG_DF:
            aux |= d.ECHO_DONT_FRAGMENT
        owner = rss_hash(header.src, ident, header.dst, 0) % len(self.egress_out)
        self.egress_out[owner].push(
            d.record(
                d.ICMP_ECHO,
                link=link,
                slot=slot,
                off=begin,
                length=end - begin,
                guest_addr=header.src,
                remote_addr=header.dst,
                ports=ident << 16 | seq,
                aux=aux,
            )
        )

    def is_beyond(self, header: ipv4.Header) -> bool:
        """Whether a packet is to be routed: not for the gateway or a group, nor from a booting client."""
        dst = header.dst
        return bool(header.src) and not (
            dst in self.targets.own
            or dst in (ipv4.BROADCAST, self.targets.broadcast)
            or ipv4.is_multicast(dst)
        )

    def check_ttl(self, header: ipv4.Header, slot: int, off: int, now: float) -> None:
        """Answer a packet for beyond the gateway that may make no further hop; raises WireError then."""
        if header.ttl > 1:
            return
        error = self.errors.time_exceeded(self.slots[slot], off, now, icmp.TTL_EXCEEDED)
        if error is not None:
            self.send_error(error)
        raise WireError("ipv4_packet_dropped_ttl_exceeded")

    # --- host -> guest ------------------------------------------------------------------

    def on_reply(
        self, slot: int, off: int, length: int, guest_addr: int, remote_addr: int, ports: int
    ) -> None:
        """An echo reply that egress received (record ICMP_REPLY)."""
        neighbor = self.neighbors.get(guest_addr)
        if neighbor is None:
            self.counts[_NO_NEIGHBOR] += 1
        else:
            payload = self.slots[slot][off + icmp.HEADER_LEN : off + length]
            message = icmp.build(icmp.ECHO_REPLY, 0, ports, payload)
            self.output.packet(neighbor.link, neighbor.mac, ipv4.PROTO_ICMP, remote_addr, guest_addr, message)
        self.worker.free(slot)

    def on_error(
        self,
        guest_addr: int,
        remote_addr: int,
        ports: int,
        offender: int,
        mtu: int,
        aux: int,
        now: float,
    ) -> None:
        """An error about a request (record ICMP_ERROR)."""
        request = icmp.build(icmp.ECHO_REQUEST, 0, ports)
        total = ipv4.HEADER_LEN + len(request)
        quoted = ipv4.build(total, 0, 1, ipv4.PROTO_ICMP, guest_addr, remote_addr) + request
        kind, code = aux >> 8, aux & 0xFF
        src = offender or None
        if kind == icmp.TIME_EXCEEDED:
            error = self.errors.time_exceeded(quoted, 0, now, code, src=src)
        else:
            error = self.errors.unreachable(quoted, 0, now, code, mtu, src=src)
        if error is not None:
            self.send_error(error)

    def send_error(self, packet: bytes) -> None:
        """An ICMP error made by the engine, if its receiver is known (it has just sent something)."""
        header = ipv4.parse(packet, 0, len(packet))
        neighbor = self.neighbors.get(header.dst)
        if neighbor is not None:
            payload = memoryview(packet)[header.ihl :]
            self.output.packet(neighbor.link, neighbor.mac, ipv4.PROTO_ICMP, header.src, header.dst, payload)
