"""ICMP in demux: pings of the gateway, guests' pings of other hosts, and errors about guests' packets.

Demux answers pings of the gateway. A guest's ping of another host goes to an egress worker. A hash of the
guest's address, the identifier and the host's address chooses the worker. If the packet's TTL or hop limit
runs out, demux answers with "time exceeded", as any router does. Errors about TCP segments go to tcp
(errors.py). Demux counts and drops other messages.
"""

from contextlib import suppress
from typing import Final, NoReturn

from pipeline.config.limits import Limits
from pipeline.counters import INDEX
from pipeline.engines import icmp as icmp_engine
from pipeline.engines import nat, refusal
from pipeline.engines.flows import rss_hash
from pipeline.records.flows import Ends
from pipeline.records.icmp import EchoError, EchoReply, EchoRequest, Unreachable
from pipeline.stages.demux.errors import GuestErrors
from pipeline.stages.demux.network import Network
from pipeline.stages.demux.packet import Packet
from pipeline.stages.flow_reports import FlowReports
from pipeline.wire import icmp, icmp_messages, ip
from pipeline.wire.errors import HeaderError, WireError
from pipeline.wire.ip_header import IpHeader

_ECHO: Final = INDEX["icmp_echo_answered"]
_NOT_FOR_US: Final = INDEX["icmp_message_dropped_not_for_us"]
_NO_NEIGHBOR: Final = INDEX["icmp_reply_dropped_no_neighbor"]
_SUPPRESSED: Final = INDEX["icmp_error_dropped_rate_limit"]


class IcmpDispatch:
    """Messages of guests, messages from egress, and errors that the gateway sends."""

    def __init__(self, network: Network) -> None:
        config = network.config.network
        self.worker = network.worker
        self.counts = network.counts
        self.slots = network.slots
        self.output = network.output
        self.neighbors = network.neighbors
        self.targets = network.targets
        self.links = network.links
        self.egress_out = network.egress_out
        self.reports = FlowReports(network.worker.events)
        self.guest_errors = GuestErrors(network)
        self.errors = icmp_engine.IcmpErrors(
            config.gateway_ip,
            network.targets.broadcast,
            *_rate(network.config.limits),
            ipv6_gateway=config.ipv6_gateway,
        )
        table = network.targets.table
        self.answered_here = frozenset(
            addr
            for addr in network.targets.own
            if addr not in table
            or addr in network.targets.gateways
            or (
                ip.is_loopback(table[addr])
                and network.targets.icmp_target(addr).refused != nat.HOST_LOOPBACK_OFF
            )
        )
        """Addresses whose pings the gateway answers: its own, except those that stand for another host."""

    def set_limits(self, limits: Limits) -> None:
        """Change the rate of errors."""
        self.errors.set_rate(*_rate(limits))

    def update_counters(self) -> None:
        """Write the errors that were not sent because of the rate limit."""
        self.counts[_SUPPRESSED] = self.errors.suppressed

    # --- guest -> host ------------------------------------------------------------------

    def on_guest_message(self, packet: Packet, message: icmp.Message, now: float) -> None:
        """Answer a guest's message, or pass it on. Raises WireError while the caller owns the reference."""
        header = packet.header
        if icmp_engine.is_answerable_echo(message, header.src, header.dst, self.answered_here):
            self._answer(packet, message)
        elif message.type == icmp.ECHO_REQUEST and not message.code:
            self._pass_ping_on(packet, message, now)
        else:
            if not self.guest_errors.pass_on(packet, message):
                self.counts[_NOT_FOR_US] += 1
            self.worker.free(packet.slot)

    def _answer(self, packet: Packet, message: icmp.Message) -> None:
        """Answer a ping of the gateway: same identifier, sequence number, data and TOS or traffic class.

        See RFC 1122 section 3.2.2.6 and RFC 4443 section 4.2.
        """
        header = packet.header
        self.counts[_ECHO] += 1
        src, dst = header.dst, header.src
        data = self.slots[packet.slot][packet.begin + icmp.HEADER_LEN : packet.end]
        proto, reply = icmp_messages.build_echo(icmp.ECHO_REPLY, message.rest, src, dst, data)
        self.output.packet(packet.link, packet.mac, proto, src, dst, reply, tos=header.traffic_class)
        self.worker.free(packet.slot)

    def _pass_ping_on(self, packet: Packet, message: icmp.Message, now: float) -> None:
        header = packet.header
        target = self.targets.icmp_target(header.dst)
        if target.refused:
            guest = self.links.get(packet.link, packet.link)
            ends = Ends(header.src, message.rest >> 16, header.dst, 0)
            self.reports.refused("icmp", guest, ends, rule=target.refused, error=target.errno)
            if target.refused in nat.SWITCHED_OFF:
                view = self.slots[packet.slot]
                code = refusal.answer_to_datagram(target.errno)
                self._send(self.errors.unreachable(view, packet.off, now, code))
            raise WireError(target.refused)
        if not header.src:
            raise WireError("icmp_message_dropped_not_for_us")
        self.check_hops_left(packet, now)
        request = EchoRequest(
            link=packet.link,
            slot=packet.slot,
            off=packet.begin,
            length=packet.end - packet.begin,
            guest_addr=header.src,
            remote_addr=header.dst,
            identifier=message.rest >> 16,
            sequence=message.rest & 0xFFFF,
            hops_left=header.hops_left - 1,
            dont_fragment=header.dont_fragment,
        )
        spread = rss_hash(header.src, request.identifier, header.dst, 0)
        self.egress_out[spread % len(self.egress_out)].push(request.pack())

    def is_beyond(self, header: IpHeader) -> bool:
        """Whether the gateway routes the packet: it is not for the gateway or a group, and has a sender."""
        dst = header.dst
        return bool(header.src) and not (
            dst in self.targets.own or dst in (ip.BROADCAST, self.targets.broadcast) or ip.is_multicast(dst)
        )

    def check_hops_left(self, packet: Packet, now: float) -> None:
        """If the TTL or hop limit of a routed packet runs out, answer it and raise WireError."""
        if packet.header.hops_left > 1:
            return
        self._send(self.errors.time_exceeded(self.slots[packet.slot], packet.off, now, icmp.TTL_EXCEEDED))
        is_ipv4 = ip.is_ipv4(packet.header.dst)
        raise WireError(
            "ipv4_packet_dropped_ttl_exceeded" if is_ipv4 else "ipv6_packet_dropped_hop_limit_exceeded"
        )

    def refuse_protocol(self, packet: Packet, now: float) -> NoReturn:
        """Tell the sender of a packet that the gateway does not speak its protocol. Raises WireError."""
        view = self.slots[packet.slot]
        src = packet.header.dst
        self._send(self.errors.unreachable(view, packet.off, now, icmp.PROTOCOL_UNREACHABLE, src=src))
        is_ipv4 = ip.is_ipv4(src)
        raise WireError(
            "ipv4_packet_dropped_unknown_protocol" if is_ipv4 else "ipv6_packet_dropped_unknown_protocol"
        )

    def refuse_scope(self, view: memoryview, off: int, src: int, now: float) -> None:
        """Tell the sender of the IPv6 packet at view[off:] that its source counts on the link alone.

        src: the gateway's address on the link. So the guest's connect() fails at once, for example while it
        waits for an address.
        """
        self._send(self.errors.unreachable(view, off, now, icmp.SOURCE_ISOLATED, src=src))

    def refuse_headers(self, view: memoryview, off: int, error: HeaderError, now: float) -> None:
        """Tell the sender of the IPv6 packet at view[off:] what is wrong with its headers."""
        self._send(self.errors.parameter_problem(view, off, now, error))

    def report_too_big(self, view: memoryview, off: int, mtu: int, now: float) -> None:
        """Tell the sender of the packet at view[off:] that the way to another host has this MTU."""
        with suppress(WireError):
            self._send(self.errors.unreachable(view, off, now, icmp.FRAGMENTATION_NEEDED, mtu))

    def reassembly_exceeded(self, first: bytes, now: float) -> None:
        """Tell the sender of a fragmented datagram that it was given up. first: its first fragment."""
        self._send(self.errors.time_exceeded(first, 0, now, icmp.REASSEMBLY_EXCEEDED))

    # --- host -> guest ------------------------------------------------------------------

    def on_reply(self, reply: EchoReply) -> None:
        """Send a guest the reply to its ping."""
        neighbor = self.neighbors.get(reply.guest_addr)
        if neighbor is None:
            self.counts[_NO_NEIGHBOR] += 1
        else:
            begin = reply.off + icmp.HEADER_LEN
            end = reply.off + reply.length
            payload = self.slots[reply.slot][begin:end]
            src, dst = reply.remote_addr, reply.guest_addr
            rest = reply.identifier << 16 | reply.sequence
            proto, message = icmp_messages.build_echo(icmp.ECHO_REPLY, rest, src, dst, payload)
            self.output.packet(neighbor.link, neighbor.mac, proto, src, dst, message)
        self.worker.free(reply.slot)

    def on_error(self, error: EchoError, now: float) -> None:
        """Send a guest the error that came back for its ping."""
        quoted = icmp_engine.quote_ping(
            error.guest_addr, error.remote_addr, error.identifier << 16 | error.sequence
        )
        src = error.offender or None
        if error.type == icmp.TIME_EXCEEDED:
            self._send(self.errors.time_exceeded(quoted, 0, now, error.code, src=src))
        else:
            self._send(self.errors.unreachable(quoted, 0, now, error.code, error.mtu, src=src))

    def refuse_flow(self, refused: Unreachable, now: float) -> None:
        """Tell a guest by ICMP that its flow cannot be opened."""
        ends = Ends.of(refused.key)
        quoted = icmp_engine.quote_flow(
            ends.guest_addr,
            ends.remote_addr,
            refused.protocol,
            ends.guest_port,
            ends.remote_port,
            refused.syn_seq,
        )
        # Only the host itself says that a port is closed. So traceroute names it as the last hop.
        src = ends.remote_addr if refused.code == icmp.PORT_UNREACHABLE else None
        self._send(self.errors.unreachable(quoted, 0, now, refused.code, src=src))

    def _send(self, error: icmp_engine.Error | None) -> None:
        """Send an ICMP error, if the engine made one and the MAC of its receiver is known."""
        if error is None:
            return
        src, dst, proto, message = error
        neighbor = self.neighbors.get(dst)
        if neighbor is not None:
            self.output.packet(neighbor.link, neighbor.mac, proto, src, dst, message)


def _rate(limits: Limits) -> tuple[float, float]:
    """Errors a second, and at once."""
    per_second = float(limits.max_icmp_errors_per_second)
    return per_second, per_second / 2
