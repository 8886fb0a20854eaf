"""The gateway's IP input: single packets of guests, which GRO did not merge into runs.

Fragments are reassembled first. Then UDP goes to its flow or to the resolver, TCP to the shard of its flow,
and ICMP is answered or passed on. A routed packet whose TTL or hop limit runs out is answered with "time
exceeded". IPv6 packets come from ipv6.py, which reads what only IPv6 has.
"""

from typing import Final

from pipeline.config.limits import Limits
from pipeline.counters import INDEX
from pipeline.engines.buckets import Buckets
from pipeline.engines.offload import stripped
from pipeline.engines.reassembly import Reassembler
from pipeline.records.flows import Ends
from pipeline.records.frames import Frame
from pipeline.records.tcp import TcpRange
from pipeline.stages.demux.icmp import IcmpDispatch
from pipeline.stages.demux.network import Network
from pipeline.stages.demux.packet import Packet
from pipeline.stages.demux.udp import UdpDispatch
from pipeline.wire import (
    ethernet,
    fragment,
    icmp_messages,
    ip,
    ip_header,
    ipv4,
    offload,
    tcp,
    tcp_options,
    virtio_net,
)
from pipeline.wire.errors import WireError
from pipeline.wire.ip_header import IpHeader

_PACKETS: Final = INDEX["ipv4_packets_received"]


class IpInput:
    """Packets for the gateway, and packets that it routes."""

    def __init__(self, network: Network, udp: UdpDispatch, icmp: IcmpDispatch) -> None:
        config = network.config
        self.worker = network.worker
        self.counts = network.counts
        self.slots = network.slots
        self.neighbors = network.neighbors
        self.output = network.output
        self.targets = network.targets
        self.tcp_out = network.tcp_out
        self.udp = udp
        self.icmp = icmp
        self.guest_of = network.guest_of
        self.fragments = Reassembler()
        self.answers = Buckets(0.0, 0.0)
        self.set_limits(config.limits)

    def set_limits(self, limits: Limits) -> None:
        """Set the limits on fragments and on answers."""
        self.fragments.set_bounds(
            max_datagrams=limits.max_fragmented,
            max_datagrams_per_source=limits.max_fragmented_per_guest,
            max_bytes=limits.max_fragment_bytes,
            max_bytes_per_source=limits.max_fragment_bytes_per_guest,
        )
        self.answers.set_rate(limits.max_answers_per_second, limits.max_answers_per_second)

    def on_frame(self, frame: Frame, mac: bytes, now: float) -> None:
        """A frame with an IPv4 packet. Raises WireError while the caller owns the reference."""
        view = self.slots[frame.slot]
        off = frame.off + ethernet.HEADER_LEN
        header = ipv4.parse(view, off, frame.off + frame.length)
        self.counts[_PACKETS] += 1
        if header.src:
            # 0.0.0.0 is the source of a DHCP client without an address. It is not learned.
            self.neighbors.learn(header.src, mac, frame.link, now)
        if header.frag_off or header.flags & ipv4.FLAG_MF:
            self.on_fragment(frame, off, fragment.from_ipv4(off, header), mac, now)
        else:
            self.on_whole(frame, off, ip_header.of_ipv4(header, off), mac, now)

    def on_whole(self, frame: Frame, off: int, header: IpHeader, mac: bytes, now: float) -> None:
        """A frame whose packet, at off, is not a fragment. Raises WireError as on_frame() does."""
        view = self.slots[frame.slot]
        partial = frame.vnet and view[frame.off - offload.VNET_LEN] & virtio_net.NEEDS_CSUM != 0
        self.on_packet(Packet(header, frame.link, mac, frame.slot, off, partial), now)

    def on_fragment(self, frame: Frame, off: int, piece: fragment.Piece, mac: bytes, now: float) -> None:
        """A fragment, whose packet begins at off. Raises WireError while the caller owns the reference."""
        view, guest = self.slots[frame.slot], self.guest_of(frame.link)
        whole = self.fragments.on_fragment(view, off, piece, guest, now)
        self.worker.free(frame.slot)
        if whole is not None:
            self._on_reassembled(whole, frame.link, mac, now)

    def _on_reassembled(self, whole: bytes, link: int, mac: bytes, now: float) -> None:
        """Copy a reassembled packet into a slot of demux's own, and handle it like any other packet."""
        where = self.output.copy(whole)
        if where is None:
            return
        slot, off = where
        try:
            header = ip_header.parse(self.slots[slot], off, off + len(whole))
            # The guest lets the packet be cut, as it has cut it itself.
            header = header._replace(dont_fragment=False)
            self.on_packet(Packet(header, link, mac, slot, off, partial=False), now)
        except WireError as error:
            self.worker.free(slot)
            self.counts[INDEX[error.reason]] += 1

    def on_packet(self, packet: Packet, now: float) -> None:
        """One whole packet. Raises WireError while the caller owns the reference."""
        header = packet.header
        if header.hops_left <= 1 and not header.is_icmp and self.icmp.is_beyond(header):
            if not packet.partial:
                # The answer quotes the packet as it would be on a wire.
                stripped.complete_packet(self.slots[packet.slot], packet.off, packet.end)
            self.icmp.check_hops_left(packet, now)
        if header.proto == ipv4.PROTO_UDP:
            self.udp.on_guest_packet(packet, now)
        elif header.proto == ipv4.PROTO_TCP:
            self._on_segment(packet)
        elif header.is_icmp:
            message = icmp_messages.parse(self.slots[packet.slot], header)
            self.limit_answers(packet.link, now)
            self.icmp.on_guest_message(packet, message, now)
        else:
            self.icmp.refuse_protocol(packet, now)

    def _on_segment(self, packet: Packet) -> None:
        """A single TCP segment, such as one with IP options or extension headers, or from fragments."""
        view = self.slots[packet.slot]
        header = packet.header
        segment = tcp.parse(view, packet.begin, packet.end)
        tcp.verify(view, packet.begin, packet.end, header.src, header.dst)
        self.refuse_destination(header.dst)
        off = packet.begin + segment.header_len
        options = tcp_options.parse(view, packet.begin + tcp.HEADER_LEN, off)
        length = packet.end - off
        ends = Ends(header.src, segment.src_port, header.dst, segment.dst_port)
        run = TcpRange(
            slot=packet.slot,
            off=off,
            length=length,
            stride=0,
            piece_size=length,
            link=packet.link,
            key=ends.key(),
            flags=segment.flags & 0xFF,
            segments=1,
            seq=segment.seq,
            ack=segment.ack,
            window=segment.wnd,
            ts_val=options.ts_val,
            ts_ecr=options.ts_ecr,
            # Counted from where an Ethernet header would be, as if there were no options or extensions.
            header_len=ethernet.HEADER_LEN + ip_header.shortest(header.dst) + segment.header_len,
            has_timestamps=options.has_ts,
            has_other_options=segment.header_len > tcp.HEADER_LEN,
            vnet=False,
        )
        self.tcp_out.push(run.pack(), ends)

    # --- what the gateway refuses -----------------------------------------------------------

    def refuse_destination(self, addr: int) -> None:
        """Raises WireError for the destination of a segment that must be dropped without an RST."""
        if ip.is_multicast(addr) or addr in (ip.BROADCAST, self.targets.broadcast):
            raise WireError("ipv4_packet_dropped_group_destination")
        if ip.is_loopback(addr):
            is_ipv4 = ip.is_ipv4(addr)
            raise WireError(
                "ipv4_packet_dropped_loopback_destination" if is_ipv4 else "ipv6_packet_dropped_bad_address"
            )

    def limit_answers(self, link: int, now: float) -> None:
        """Bound the pings, ARP requests and solicitations of a guest that are answered in a second.

        Raises WireError.
        """
        if not self.answers.take(self.guest_of(link), now):
            raise WireError("demux_message_dropped_rate_limit")

    # --- time and ends ----------------------------------------------------------------------

    def deadline(self) -> float:
        """When the oldest incomplete datagram is given up."""
        return self.fragments.deadline()

    def expire(self, now: float) -> None:
        """Give up datagrams whose fragments did not all come in time."""
        if self.fragments.deadline() > now:
            return
        for expired in self.fragments.expire(now):
            self.counts[INDEX[expired.reason]] += 1
            if expired.packet:
                self.icmp.reassembly_exceeded(expired.packet, now)

    def update_counters(self) -> None:
        """Write what the engines count."""
        for counter, evicted in self.fragments.evicted.items():
            self.counts[INDEX[counter]] = evicted
        self.icmp.update_counters()

    def forget_guest(self, guest: int, now: float) -> None:
        """A guest has no link any more. If it comes back at once, it has no fresh rate of answers."""
        self.answers.forget_full(now)
        self.fragments.forget(guest)
