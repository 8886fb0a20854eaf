"""Frames of guests: the switch decides whether another guest, all guests or the gateway get a frame.

The guard decides which frames other guests may get (guard.py). GRO made runs of most frames. Runs for the
gateway go on as they are: TCP to the shard of its flow, datagrams to udp.py. Single frames for the gateway
are ARP, which is answered here, IPv4 (ip.py) and IPv6 (ipv6.py).
"""

from contextlib import suppress
from typing import Final

from pipeline.counters import INDEX
from pipeline.engines import switch
from pipeline.engines.arp import ArpResponder
from pipeline.engines.offload import stripped
from pipeline.records.flows import Ends
from pipeline.records.frames import ALL_LINKS, Frame
from pipeline.records.guests import Neighbor
from pipeline.records.tcp import TcpRange
from pipeline.records.udp import UdpRange
from pipeline.stages.demux.dropped import (
    DroppedFrames,
    shape_of_datagrams,
    shape_of_frame,
    shape_of_segments,
)
from pipeline.stages.demux.guard import Guard
from pipeline.stages.demux.ip import IpInput
from pipeline.stages.demux.ipv6 import Ipv6Input
from pipeline.stages.demux.network import Network
from pipeline.stages.demux.own_station import OwnStation
from pipeline.stages.demux.tunnel_gate import TunnelGate
from pipeline.wire import arp, ethernet, ip, ipv6
from pipeline.wire.errors import WireError

_ARP_IN: Final = INDEX["arp_messages_received"]
_PACKETS: Final = INDEX["ipv4_packets_received"]
_PACKETS6: Final = INDEX["ipv6_packets_received"]
_OTHER_TYPE: Final = INDEX["demux_frame_dropped_unknown_ethertype"]
_SWITCHED: Final = INDEX["switch_frames_forwarded"]


class FrameInput:
    """Handles frames of guests. If a method raises WireError, the caller still owns the reference."""

    def __init__(
        self,
        network: Network,
        arp_responder: ArpResponder,
        ip: IpInput,
        ipv6_input: Ipv6Input | None,
        dropped: DroppedFrames,
    ) -> None:
        """ipv6_input: None while IPv6 is off."""
        self.worker = network.worker
        self.counts = network.counts
        self.slots = network.slots
        self.gateway_mac = network.config.network.gateway_mac
        self.switch = network.switch
        self.neighbors = network.neighbors
        self.links = network.links
        self.guard = Guard(network)
        self.tunnel = network.tunnel
        self.gate = TunnelGate(network, ip.icmp, dropped)
        self.output = network.output
        self.tcp_out = network.tcp_out
        self.arp = arp_responder
        self.ip = ip
        self.ipv6 = ipv6_input
        self.dropped = dropped
        self.station = OwnStation(network, ip, ipv6_input)
        self.udp = ip.udp
        self.rates = ip.udp.services.rates

    def on_tcp_range(self, run: TcpRange, record: bytes, now: float) -> None:
        """TCP segments of one flow. record: the packed run, to be passed on."""
        begin = run.off - run.header_len
        dst, src, _ = ethernet.HEADER.unpack_from(self.slots[run.slot], begin)
        if dst == self.tunnel.mac:
            self.station.on_tcp_range(run, record, src, now)
            return
        port = self.switch.on_frame(dst, src, run.link, now)
        if port == switch.TO_GATEWAY:
            ends = Ends.of(run.key)
            self.counts[_PACKETS if ip.is_ipv4(ends.remote_addr) else _PACKETS6] += run.segments
            self.neighbors.learn(ends.guest_addr, src, run.link, now)
            self.ip.refuse_destination(ends.remote_addr)
            self.tcp_out.push(record, ends)
        elif port >= 0:
            self.guard.admit_segments(run.key, src, run.link, now)
            if port == self.tunnel.link and self.gate.refuses(
                run.link, run.slot, shape_of_segments(run), now
            ):
                return
            self.counts[_SWITCHED] += run.segments
            self.output.pass_run(port, run)
        else:
            raise WireError("demux_frame_dropped_tcp_to_group")

    def on_udp_range(self, run: UdpRange, now: float) -> None:
        """Datagrams of one flow."""
        ends = Ends.of(run.key)
        self.rates.check(ends, run.link, now)
        begin = run.off - run.header_len
        view = self.slots[run.slot]
        dst, src, _ = ethernet.HEADER.unpack_from(view, begin)
        if dst == self.tunnel.mac:
            self.station.on_udp_range(run, src, now)
            return
        port = self.switch.on_frame(dst, src, run.link, now)
        count = run.piece_count()
        if port >= 0:
            self.guard.admit_datagrams(run.key, src, run.link, now)
            if port == self.tunnel.link and self.gate.refuses(
                run.link, run.slot, shape_of_datagrams(run), now
            ):
                return
            self.counts[_SWITCHED] += count
            self.output.pass_run(port, run)
            return
        if port == switch.FLOOD:
            if self.guard.may_flood(count) and self.gate.may_flood(run.link, count, now):
                self.guard.admit_datagrams(run.key, src, run.link, now)
                self.counts[_SWITCHED] += count
                for start, end in run.piece_bounds():
                    self.output.frame(ALL_LINKS, view[start - run.header_len : end], except_link=run.link)
            if dst != ethernet.BROADCAST or run.link == self.tunnel.link:
                self.worker.free(run.slot)
                return
        self.counts[_PACKETS if ip.is_ipv4(ends.remote_addr) else _PACKETS6] += count
        if ends.guest_addr:
            self.neighbors.learn(ends.guest_addr, src, run.link, now)
        self.udp.on_guest_datagrams(run, src, now)

    def on_frame(self, frame: Frame, now: float) -> None:
        """A single frame."""
        view = self.slots[frame.slot]
        end = frame.off + frame.length
        dst, src, ethertype = ethernet.parse_header(view, frame.off, end)
        if self.ipv6 is not None:
            self.rates.check_group(dst, frame.link, now)
        if dst == self.tunnel.mac:
            self.station.on_frame(frame, src, ethertype, now)
            return
        port = self.switch.on_frame(dst, src, frame.link, now)
        if not frame.vnet and port != switch.TO_GATEWAY:
            stripped.complete(view, frame.off, frame.length)
        if port >= 0:
            self.guard.admit_frame(frame, dst, src, ethertype, now)
            if port == self.tunnel.link and self.gate.refuses(
                frame.link, frame.slot, shape_of_frame(frame), now
            ):
                return
            self.counts[_SWITCHED] += 1
            self.output.pass_frame(port, frame)
            return
        if port == switch.FLOOD:
            if self.guard.may_flood(1) and self.gate.may_flood(frame.link, 1, now):
                self.guard.admit_frame(frame, dst, src, ethertype, now)
                self.counts[_SWITCHED] += 1
                self.output.frame(ALL_LINKS, view[frame.off : end], except_link=frame.link)
            if ethertype == ethernet.TYPE_ARP:
                self.station.answer_arp(frame, now)
            elif ethertype == ethernet.TYPE_IPV6 and dst == self.station.group_mac:
                self.station.answer_solicitation(frame, src, now)
            to_gateway = dst == ethernet.BROADCAST or (self.ipv6 is not None and ipv6.is_group_mac(dst))
            if not to_gateway or frame.link == self.tunnel.link:
                self.worker.free(frame.slot)
                return
        if ethertype == ethernet.TYPE_IPV4:
            self.ip.on_frame(frame, src, now)
        elif ethertype == ethernet.TYPE_ARP:
            self._on_arp(frame, src, now)
        elif ethertype == ethernet.TYPE_IPV6 and self.ipv6 is not None:
            self.ipv6.on_frame(frame, src, now)
        else:
            self.counts[_OTHER_TYPE] += 1
            self.dropped.take(_OTHER_TYPE, frame.link, frame.slot, shape_of_frame(frame))

    def _on_arp(self, frame: Frame, src: bytes, now: float) -> None:
        begin = frame.off + ethernet.HEADER_LEN
        message = arp.parse(self.slots[frame.slot], begin, frame.off + frame.length)
        self.counts[_ARP_IN] += 1
        self.neighbors.on_arp(message, src, frame.link, now)
        reply = self.arp.answer(message)
        if reply is not None:
            self.ip.limit_answers(frame.link, now)
            self.output.frame(frame.link, reply)
        self.worker.free(frame.slot)

    def on_heard(self, heard: Neighbor, now: float) -> None:
        """Ingress steered packets past demux: learn from the report as from the packets themselves."""
        if heard.link not in self.links:
            return
        with suppress(WireError):
            # The frame ends a contest about the MAC. Else a claimant could take it from an active guest.
            self.switch.on_frame(self.gateway_mac, heard.mac, heard.link, now)
            self.neighbors.learn(heard.guest_addr, heard.mac, heard.link, now)
