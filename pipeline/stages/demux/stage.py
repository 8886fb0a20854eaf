"""The demux worker: what a frame is, and who gets it (L2 and L3).

Frames go through the switch first: to another guest, to everybody, or to the gateway. For
the gateway there are ARP, pings, IPv4 fragments, UDP flows (to an egress worker or to the
resolver) and TCP, which RSS spreads over the tcp workers. Runs that GRO made in ingress are
passed on as they are. UDP and ICMP beyond the gateway have files of their own: demux_udp and demux_icmp.
"""

import secrets
from contextlib import suppress
from typing import Final

from pipeline.config.model import Config
from pipeline.counters import INDEX
from pipeline.engines import icmp as icmp_engine
from pipeline.engines import nat, neighbors, switch
from pipeline.engines.arp import ArpResponder
from pipeline.engines.buckets import Buckets
from pipeline.engines.flows import PortAllocator, rss_hash
from pipeline.engines.offload import stripped
from pipeline.engines.reassembly import Reassembler
from pipeline.records import descriptor as d
from pipeline.stages.bad_frames import BadFrames
from pipeline.stages.demux.bindings import Bindings
from pipeline.stages.demux.events import Witness
from pipeline.stages.demux.icmp import IcmpDispatch
from pipeline.stages.demux.leases import LeaseHolders
from pipeline.stages.demux.output import Output
from pipeline.stages.demux.udp import UdpDispatch
from pipeline.stages.worker import Worker
from pipeline.wire import arp, ethernet, icmp, ipv4, offload, tcp, tcp_options, virtio_net
from pipeline.wire.errors import WireError

BURSTS_A_STEP: Final = 4
"""Bursts of guests' frames before the other workers get their turn."""

_ARP_IN: Final = INDEX["arp_messages_received"]
_ARP_OUT: Final = INDEX["arp_requests_sent"]
_PACKETS: Final = INDEX["ipv4_packets_received"]
_OTHER_TYPE: Final = INDEX["demux_frame_dropped_unknown_ethertype"]
_SWITCHED: Final = INDEX["switch_frames_forwarded"]
_NO_PORT: Final = INDEX["tcp_dial_failed_no_port"]
_EVICTED_FRAGMENTS: Final = INDEX["ipv4_datagram_dropped_reassembly_full"]
_FRAGMENTS_EXPIRED: Final = INDEX["ipv4_datagram_dropped_reassembly_timeout"]
_ERRORS_SUPPRESSED: Final = INDEX["icmp_error_dropped_rate_limit"]

Dial = tuple[int, int, int, int]
"""(egress shard, flow number, guest address, guest port) of a connection that waits for ARP."""


class DemuxStage:
    """The virtual network's switch and the gateway's IP layer."""

    def __init__(self, worker: Worker, config: Config) -> None:
        ports = worker.ports
        self.worker = worker
        self.counts = worker.counts
        self.slots = ports.arena.slots
        self.gateway = config.gateway_ip
        self.gateway_mac = config.gateway_mac
        own = (config.gateway_ip, *config.gateway_virtual_ips)
        self.own = frozenset(own)
        subnet = config.subnet
        network, prefix_len = int(subnet.network_address), subnet.prefixlen
        self.neighbors = neighbors.Neighbors(
            network=network,
            prefix_len=prefix_len,
            own=own,
            gateway_mac=config.gateway_mac,
            max_neighbors=config.max_neighbors,
            max_per_link=config.max_neighbors_per_guest,
            link_of=lambda mac: self.switch.link_of(mac),
        )
        self.switch = switch.Switch(
            config.gateway_mac, config.max_macs_per_guest, config.max_macs, self.neighbors.ask_station
        )
        self.witness = Witness(worker, self.switch)
        self.bindings = Bindings(worker, self.neighbors)
        self.arp = ArpResponder(config.gateway_mac, config.gateway_ip, own)
        errors_per_second = float(config.max_icmp_errors_per_second)
        self.errors = icmp_engine.IcmpErrors(
            config.gateway_ip, int(subnet.broadcast_address), errors_per_second, errors_per_second / 2
        )
        self.fragments = Reassembler(
            max_datagrams=config.max_fragmented,
            max_datagrams_per_source=config.max_fragmented_per_guest,
            max_bytes=config.max_fragment_bytes,
            max_bytes_per_source=config.max_fragment_bytes_per_guest,
        )
        self.ports = PortAllocator(secrets.randbits(16))
        self.output = Output(worker, config.gateway_mac, config.mtu)
        self.targets = nat.Nat.from_config(config)
        holders = LeaseHolders(worker, self.neighbors, self.switch)
        self.udp = UdpDispatch(worker, config, self.output, self.neighbors, holders)
        self.icmp = IcmpDispatch(worker, config, self.output, self.neighbors, self.errors, self._to_tcp)
        self.links: set[int] = set()
        self.answers = Buckets(config.max_answers_per_second, config.max_answers_per_second)
        self.ingress_in = ports.rings_in["ingress"]
        self.ingress_out = ports.rings_out["ingress"]
        self.bad_frames = BadFrames(self.ingress_out)
        self.tcp_out = [ports.rings_out[f"tcp{i}"] for i in range(config.tcp_workers)]
        self.egress_in = [ports.rings_in[f"egress{i}"] for i in range(config.egress_workers)]
        self.egress_out = [ports.rings_out[f"egress{i}"] for i in range(config.egress_workers)]
        self.resolver_in = ports.rings_in["resolver"]
        self.resolver_out = ports.rings_out["resolver"]
        self.now = 0.0
        self.due = 0.0

    # --- the step ---------------------------------------------------------------------

    def step(self, now: float) -> int:
        """Rings -> engines -> rings, then what time brings. Returns the number of records."""
        self.now = now
        work = 0
        # Bounded: a guest that never pauses must not keep what was pushed here from being published.
        for _ in range(BURSTS_A_STEP):
            if not (burst := self.ingress_in.peek()):
                break
            work += self._on_guest_burst(burst, now)
            if self.neighbors.has_actions:
                # What waited for a guest that has just answered goes before what has come for it since.
                self._carry_out()
            # Before the entries are released: ingress sends what follows straight to an egress worker then.
            self.worker.publish()
            self.ingress_in.release(len(burst) // d.DESCRIPTOR_BYTES)
        for shard, ring in enumerate(self.egress_in):
            while burst := ring.peek():
                work += self._on_egress_burst(shard, burst, now)
                ring.release(len(burst) // d.DESCRIPTOR_BYTES)
        while burst := self.resolver_in.peek():
            work += self.udp.on_resolver_burst(burst, now)
            self.resolver_in.release(len(burst) // d.DESCRIPTOR_BYTES)
        if now >= self.due:
            if self.neighbors.deadline() <= now:
                self.neighbors.on_timer(now)
            self.switch.on_timer(now)
            if self.fragments.deadline() <= now:
                self._expire_fragments(now)
            self.udp.expire(now)
            self._carry_out()
            self.due = self._next_timeout()
        elif work:
            self.udp.tell_closed()
            self._carry_out()
            self.due = self._next_timeout()
        else:
            self.output.filler.rest()
        return work

    def deadline(self) -> float:
        """The next time-out of an engine, as it was after the last work."""
        return 0.0 if self.ingress_in.pending() else self.due

    def _next_timeout(self) -> float:
        return min(
            self.neighbors.deadline(), self.fragments.deadline(), self.udp.deadline(),
            self.bindings.deadline(self.now), self.switch.deadline(),
        )  # fmt: skip

    # --- from ingress -------------------------------------------------------------------

    def _on_guest_burst(self, burst: memoryview, now: float) -> int:
        size = d.DESCRIPTOR_BYTES
        at = 0
        for (
            kind, flags, link, stride, _gso, slot, off, length, _skip, seg_count,
            _seq, _ack, _wnd, _ts_val, _ts_ecr, guest_addr, remote_addr, ports, aux,
        ) in d.DESCRIPTOR.iter_unpack(burst):  # fmt: skip
            try:
                if kind == d.TCP_RANGE:
                    frame = off - (aux & d.RUN_HEADER_MASK)
                    dst, src, _ = ethernet.HEADER.unpack_from(self.slots[slot], frame)
                    port = self.switch.on_frame(dst, src, link, now)
                    if port == switch.TO_GATEWAY:
                        self.counts[_PACKETS] += seg_count
                        self.neighbors.learn(guest_addr, src, link, now)
                        self._refuse_destination(remote_addr)
                        self._to_tcp(burst[at : at + size].tobytes(), guest_addr, remote_addr, ports)
                    elif port >= 0:
                        self.counts[_SWITCHED] += seg_count
                        self.output.pass_run(port, slot, frame, stride, length, aux, _gso)
                    else:
                        raise WireError("demux_frame_dropped_tcp_to_group")
                elif kind == d.UDP_RANGE:
                    flow = guest_addr, remote_addr, ports
                    self._on_datagrams(link, stride, _gso, slot, off, length, seg_count, flow, aux, now)
                elif kind == d.FRAME:
                    self._on_frame(link, slot, off, length, flags & d.FRAME_VNET, now)
                elif kind == d.HEARD:
                    self._on_heard(link, guest_addr, d.mac_of(_seq, _ack), now)
                elif kind == d.UDP_USED:
                    self.udp.on_used_by_guest(guest_addr, remote_addr, ports, now)
                elif kind == d.UDP_FRAGMENTED:
                    self.udp.on_unsteered(guest_addr, remote_addr, ports, now)
                elif kind == d.LINK_UP:
                    self.links.add(link)
                elif kind == d.LINK_DOWN:
                    self._on_link_down(link)
            except WireError as error:
                self.counts[INDEX[error.reason]] += seg_count or 1
                if slot != d.NO_SLOT:
                    self.worker.free(slot)
                self.bad_frames.note(link, seg_count or 1)
            at += size
        return at // size

    def _on_heard(self, link: int, addr: int, mac: bytes, now: float) -> None:
        """Packets of addr went past: what one of them would have taught, but nothing is dropped."""
        if link not in self.links:
            return
        with suppress(WireError):
            # Who claimed the MAC meanwhile must not keep what other guests send there.
            self.switch.on_frame(self.gateway_mac, mac, link, now)
            self.neighbors.learn(addr, mac, link, now)

    def _to_tcp(self, record: bytes, guest_addr: int, remote_addr: int, ports: int) -> None:
        shards = self.tcp_out
        if len(shards) == 1:
            shards[0].push(record)
        else:
            shards[rss_hash(guest_addr, ports >> 16, remote_addr, ports & 0xFFFF) % len(shards)].push(record)

    def _may_answer(self, link: int, now: float) -> None:
        """Pings and ARP requests of one guest are answered so often and no more. Raises WireError."""
        if not self.answers.take(link, now):
            raise WireError("demux_message_dropped_rate_limit")

    def _refuse_destination(self, addr: int) -> None:
        """Drop what must not even be answered with RST. Raises WireError."""
        if ipv4.is_multicast(addr) or addr in (ipv4.BROADCAST, self.targets.broadcast):
            raise WireError("ipv4_packet_dropped_group_destination")
        if ipv4.is_loopback(addr):
            raise WireError("ipv4_packet_dropped_loopback_destination")

    def _on_datagrams(
        self, link: int, stride: int, size: int, slot: int, off: int, length: int, count: int,
        flow: tuple[int, int, int], aux: int, now: float,
    ) -> None:  # fmt: skip
        """A run (UDP_RANGE) of (source, destination, ports). WireError: the reference is still here."""
        frame = off - (aux & d.RUN_HEADER_MASK)
        view = self.slots[slot]
        to_mac, mac, _ = ethernet.HEADER.unpack_from(view, frame)
        port = self.switch.on_frame(to_mac, mac, link, now)
        if port >= 0:
            self.counts[_SWITCHED] += count
            self.output.pass_run(port, slot, frame, stride, length, aux, size)
            return
        if port == switch.FLOOD:
            if len(self.links) > 1:
                self.counts[_SWITCHED] += count
                for begin, end in d.piece_bounds(off, length, stride, size):
                    self.output.frame(d.ALL_LINKS, view[begin - off + frame : end], but=link)
            if to_mac != ethernet.BROADCAST:
                self.worker.free(slot)
                return
        self.counts[_PACKETS] += count
        if flow[0]:
            self.neighbors.learn(flow[0], mac, link, now)
        self.udp.on_guest_datagrams(link, *flow, slot, off, length, stride, size, count, now)

    # --- single frames --------------------------------------------------------------------

    def _on_frame(self, link: int, slot: int, off: int, length: int, vnet: int, now: float) -> None:
        """Judge one frame. vnet: FRAME_VNET or 0. Raises WireError while the reference is still here."""
        view = self.slots[slot]
        dst, src, ethertype = ethernet.parse_header(view, off, off + length)
        port = self.switch.on_frame(dst, src, link, now)
        if not vnet and port != switch.TO_GATEWAY:
            stripped.complete(view, off, length)
        if port >= 0:
            self.counts[_SWITCHED] += 1
            self.output.pass_frame(port, slot, off, length, vnet)
            return
        if port == switch.FLOOD:
            if len(self.links) > 1:
                self.counts[_SWITCHED] += 1
                self.output.frame(d.ALL_LINKS, view[off : off + length], but=link)
            if dst != ethernet.BROADCAST:
                self.worker.free(slot)
                return
        begin = off + ethernet.HEADER_LEN
        end = off + length
        if ethertype == ethernet.TYPE_IPV4:
            partial = bool(vnet and view[off - offload.VNET_LEN] & virtio_net.NEEDS_CSUM)
            self._on_ipv4(link, src, slot, begin, end, partial, now)
        elif ethertype == ethernet.TYPE_ARP:
            message = arp.parse(view, begin, end)
            self.counts[_ARP_IN] += 1
            self.neighbors.on_arp(message, src, link, now)
            reply = self.arp.answer(message)
            if reply is not None:
                self._may_answer(link, now)
                self.output.frame(link, reply)
            self.worker.free(slot)
        else:
            self.counts[_OTHER_TYPE] += 1
            self.worker.free(slot)

    def _on_ipv4(
        self, link: int, mac: bytes, slot: int, off: int, end: int, partial: bool, now: float
    ) -> None:
        """One packet. partial: it is UDP whose checksum was left to the receiver, who needs none."""
        view = self.slots[slot]
        header = ipv4.parse(view, off, end)
        self.counts[_PACKETS] += 1
        if header.src:
            # Only a DHCP client that has no address yet may speak from 0.0.0.0.
            self.neighbors.learn(header.src, mac, link, now)
        if header.frag_off or header.flags & ipv4.FLAG_MF:
            packet = self.fragments.on_fragment(view, off, header, link, now)
            self.worker.free(slot)
            if packet is not None:
                self._on_reassembled(link, mac, packet, now)
            return
        self._on_packet(link, mac, header, slot, off, partial, now)

    def _on_reassembled(self, link: int, mac: bytes, packet: bytes, now: float) -> None:
        """Copy a datagram into a slot of ours and treat it as if it had come whole."""
        filler = self.output.filler
        try:
            if not filler.place(len(packet)):
                raise WireError("demux_frame_dropped_no_slot")
            slot, off = filler.slot, filler.off
            self.slots[slot][off : off + len(packet)] = packet
            filler.commit(len(packet))
            try:
                header = ipv4.parse(self.slots[slot], off, off + len(packet))
                self._on_packet(link, mac, header, slot, off, False, now)
            except WireError:
                self.worker.free(slot)
                raise
        except WireError as error:
            self.counts[INDEX[error.reason]] += 1

    def _on_packet(
        self, link: int, mac: bytes, header: ipv4.Header, slot: int, off: int, partial: bool, now: float
    ) -> None:
        """One whole packet for the gateway. Raises WireError while the reference is still here."""
        view = self.slots[slot]
        begin = off + header.ihl
        end = off + header.total_len
        if header.ttl <= 1 and header.proto != ipv4.PROTO_ICMP and self.icmp.is_beyond(header):
            if not partial:
                # The answer quotes the packet, as a wire would have it.
                stripped.complete_packet(view, off, end)
            self.icmp.check_ttl(header, slot, off, now)
        if header.proto == ipv4.PROTO_UDP:
            self.udp.on_guest_packet(link, header, slot, begin, end, partial, now)
        elif header.proto == ipv4.PROTO_TCP:
            self._on_tcp_packet(link, header, slot, begin, end)
        elif header.proto == ipv4.PROTO_ICMP:
            message = icmp.parse(view, begin, end)
            self._may_answer(link, now)
            if icmp_engine.is_answerable_echo(header, message, self.icmp.answered_here):
                self.icmp.answer(link, mac, header, slot, off)
            else:
                self.icmp.on_guest_message(link, header, message, slot, off, begin, end, now)
        else:
            self.icmp.refuse_protocol(view, off, header, now)

    def _on_tcp_packet(self, link: int, header: ipv4.Header, slot: int, begin: int, end: int) -> None:
        """A segment that GRO left alone: IP options, TTL below 2, or reassembled from fragments."""
        view = self.slots[slot]
        segment = tcp.parse(view, begin, end)
        tcp.verify(view, begin, end, header.src, header.dst)
        self._refuse_destination(header.dst)
        options = tcp_options.parse(view, begin + tcp.HEADER_LEN, begin + segment.header_len)
        length = end - begin - segment.header_len
        ports = segment.src_port << 16 | segment.dst_port
        # The header length counts from a would-be Ethernet header, as if there were no IP options.
        aux = ethernet.HEADER_LEN + ipv4.HEADER_LEN + segment.header_len
        if options.has_ts:
            aux |= d.RUN_HAS_TIMESTAMPS
        if segment.header_len > tcp.HEADER_LEN:
            aux |= d.RUN_OTHER_OPTIONS
        record = d.DESCRIPTOR.pack(
            d.TCP_RANGE, segment.flags & 0xFF, link, 0, length, slot, begin + segment.header_len,
            length, 0, 1,
            segment.seq, segment.ack, segment.wnd, options.ts_val, options.ts_ecr, header.src, header.dst,
            ports, aux,
        )  # fmt: skip
        self._to_tcp(record, header.src, header.dst, ports)

    # --- from egress --------------------------------------------------------------------

    def _on_egress_burst(self, shard: int, burst: memoryview, now: float) -> int:
        count = 0
        for (
            kind, _flags, _link, stride, size, slot, off, length, _skip, number,
            seq, mtu, _wnd, _ts_val, _ts_ecr, guest_addr, remote_addr, ports, aux,
        ) in d.DESCRIPTOR.iter_unpack(burst):  # fmt: skip
            count += 1
            if kind == d.UDP_DATA:
                self.udp.on_host_datagrams(
                    shard, number, slot, off, length, stride, size, guest_addr, ports, now
                )
            elif kind == d.UDP_CLOSE:
                self.udp.on_host_close(shard, number)
            elif kind == d.UDP_ANSWERED:
                self.udp.on_used_by_host(shard, number, now)
            elif kind == d.DIAL:
                self._dial((shard, number, guest_addr, ports >> 16), now)
            elif kind == d.ICMP_REPLY:
                self.icmp.on_reply(slot, off, length, guest_addr, remote_addr, ports)
            elif kind == d.ICMP_ERROR:
                self.icmp.on_error(guest_addr, remote_addr, ports, seq, mtu, aux, now)
            elif kind == d.UNREACHABLE:
                self.icmp.refuse_flow(guest_addr, remote_addr, ports, seq, aux, now)
        return count

    def _dial(self, dial: Dial, now: float) -> None:
        neighbor = self.neighbors.resolve(dial[2], now, dial)
        if neighbor is not None:
            self._dial_resolved(dial, neighbor.link)

    def _dial_resolved(self, dial: Dial, link: int) -> None:
        shard, number, guest_addr, guest_port = dial
        port = self.ports.allocate((guest_addr, guest_port))
        if port is None:
            self.counts[_NO_PORT] += 1
            self._dial_failed(dial)
            return
        # The engine keeps the pair busy long enough; the walk over the range comes back late.
        self.ports.release((guest_addr, guest_port), port)
        ports = guest_port << 16 | port
        record = d.record(
            d.DIAL_ROUTED, flow=number, link=link, guest_addr=guest_addr, remote_addr=self.gateway,
            ports=ports, aux=shard,
        )  # fmt: skip
        self._to_tcp(record, guest_addr, self.gateway, ports)

    def _dial_failed(self, dial: Dial) -> None:
        self.egress_out[dial[0]].push(d.record(d.DIAL_FAILED, flow=dial[1], aux=d.DIAL_FINAL))

    # --- what the engines ask for ------------------------------------------------------------

    def _carry_out(self) -> None:
        for action in self.neighbors.take_actions():
            if isinstance(action, neighbors.Request):
                self.counts[_ARP_OUT] += 1
                frame = self.arp.request(action.addr, action.mac)
                self.output.frame(d.ALL_LINKS if action.link < 0 else action.link, frame)
            elif isinstance(action, neighbors.Learned):
                self.bindings.learned(action.addr, action.mac, action.link)
                for token in action.waiting:
                    self._resume(token, action.link)
            elif isinstance(action, neighbors.Changed):
                self.bindings.changed(action.addr)
            elif isinstance(action, neighbors.Lost):
                self.bindings.lost(action.addr)
                for token in action.waiting:
                    self._give_up(token)
            else:
                self.witness.contested(action)
        self.bindings.tell()
        self.witness.look()
        self.counts[_EVICTED_FRAGMENTS] = self.fragments.evicted
        self.counts[_ERRORS_SUPPRESSED] = self.errors.suppressed

    def _resume(self, token: object, link: int) -> None:
        if isinstance(token, tuple):
            self._dial_resolved(token, link)
        else:
            self.udp.on_resolved(token)

    def _give_up(self, token: object) -> None:
        if isinstance(token, tuple):
            self._dial_failed(token)
        else:
            self.udp.on_lost(token)

    def _expire_fragments(self, now: float) -> None:
        for expired in self.fragments.expire(now):
            self.counts[_FRAGMENTS_EXPIRED] += 1
            if expired.packet:
                error = self.errors.time_exceeded(expired.packet, 0, now, icmp.REASSEMBLY_EXCEEDED)
                if error is not None:
                    self.icmp.send_error(error)

    def _on_link_down(self, link: int) -> None:
        self.links.discard(link)
        self.answers.forget(link)
        self.switch.forget_link(link)
        self.fragments.forget(link)
        for addr, (_, where) in self.neighbors.snapshot().items():
            if where == link:
                self.udp.forget_guest(addr)
        self.neighbors.forget_link(link)
        self.udp.forget_link(link)
        self.bad_frames.forget(link)
        for ring in (*self.tcp_out, self.resolver_out):
            ring.push(d.record(d.LINK_DOWN, link=link))

    def on_control(self, message: dict[str, object], fds: list[int]) -> dict[str, object]:
        """Requests ``cam`` (MAC to link) and ``neighbors`` (address to MAC)."""
        match message.get("op"):
            case "cam":
                return {"cam": {ethernet.mac_text(mac): link for mac, link in self.switch.cam().items()}}
            case "neighbors":
                found = self.neighbors.snapshot()
                return {"neighbors": {ipv4.addr_text(a): ethernet.mac_text(m) for a, (m, _) in found.items()}}
        return {"error": f"demux knows no request {message.get('op')!r}"}

    def close(self) -> None:
        """Give every reference back."""
        self.output.filler.retire()
