"""What demux itself sends to guests: ARP and ICMP answers, UDP datagrams, fragments.

Small frames are copied into slots of demux's own pool. A UDP payload that lies in another
worker's slot is not copied: its headers are written into the room before it and the reference
goes on to ingress. Only a datagram longer than the MTU is copied, cut into fragments (RFC 791).
"""

from typing import Final

from pipeline.counters import INDEX
from pipeline.host.filler import SlotFiller
from pipeline.shm import descriptor as d
from pipeline.shm.arena import SLOT_BYTES
from pipeline.stages.worker import Worker
from pipeline.wire import checksum, ethernet, ipv4, offload, udp, virtio_net

UDP_HEADERS_LEN: Final = ethernet.HEADER_LEN + ipv4.HEADER_LEN + udp.HEADER_LEN

_PARTIAL: Final = virtio_net.build(
    virtio_net.Header(
        flags=virtio_net.NEEDS_CSUM, csum_start=ethernet.HEADER_LEN + ipv4.HEADER_LEN, csum_offset=6
    ),
    offload.VNET_LEN,
)
"""The virtio-net header of a datagram whose checksum the guest finishes."""

_NO_SLOT: Final = INDEX["demux_frame_dropped_no_slot"]
_FRAGMENTS: Final = INDEX["ipv4_fragments_sent"]


class Output:
    """Frames from the gateway to guests."""

    def __init__(self, worker: Worker, gateway_mac: bytes, mtu: int) -> None:
        self.worker = worker
        self.counts = worker.counts
        self.slots = worker.ports.arena.slots
        self.ring = worker.ports.rings_out["ingress"]
        self.filler = SlotFiller(worker.pool, SLOT_BYTES, 0, 0)
        self.gateway_mac = gateway_mac
        self.mtu = mtu
        self.ident = 0
        self.offload_links: set[int] = set()
        """Links whose guests take partial checksums."""

    def frame(self, link: int, *parts: bytes | memoryview, but: int = 0) -> None:
        """Send one frame, given in parts, to a link (or with d.ALL_LINKS to all but one)."""
        length = sum(map(len, parts))
        filler = self.filler
        if not filler.place(length):
            self.counts[_NO_SLOT] += 1
            return
        slot, off = filler.slot, filler.off
        self.slots[slot][off : off + length] = b"".join(parts)
        filler.commit(length)
        self.ring.push(d.record(d.FRAME_OUT, link=link, slot=slot, off=off, length=length, aux=but))

    def packet(
        self, link: int, mac: bytes, proto: int, src: int, dst: int, payload: bytes | memoryview, tos: int = 0
    ) -> None:
        """Send an IPv4 packet to a guest, in fragments if it is longer than the MTU."""
        header = ethernet.header(mac, self.gateway_mac, ethernet.TYPE_IPV4)
        self.ident = (self.ident + 1) & 0xFFFF
        room = self.mtu - ipv4.HEADER_LEN
        if len(payload) <= room:
            ip = ipv4.build(
                ipv4.HEADER_LEN + len(payload), self.ident, ipv4.DEFAULT_TTL, proto, src, dst, tos=tos
            )
            self.frame(link, header, ip, payload)
            return
        room = room // 8 * 8
        for off in range(0, len(payload), room):
            part = payload[off : off + room]
            more = ipv4.FLAG_MF if off + room < len(payload) else 0
            ip = ipv4.build(
                ipv4.HEADER_LEN + len(part),
                self.ident,
                ipv4.DEFAULT_TTL,
                proto,
                src,
                dst,
                flags=more,
                frag_off=off,
                tos=tos,
            )
            self.frame(link, header, ip, part)
            self.counts[_FRAGMENTS] += 1

    def datagram(
        self,
        link: int,
        mac: bytes,
        src: int,
        dst: int,
        ports: int,
        slot: int,
        off: int,
        length: int,
        to_socket: bool,
    ) -> None:
        """Send a UDP payload that lies in a slot; the reference moves on, or is freed after a copy.

        ports = source port << 16 | destination port, src and dst as on the wire. to_socket: the guest's
        kernel takes it for a UDP socket, so that it may finish the checksum or do without; a DHCP
        client may read the packet from the interface.
        """
        view = self.slots[slot]
        payload = view[off : off + length]
        total = ipv4.HEADER_LEN + udp.HEADER_LEN + length
        partial = to_socket and link in self.offload_links and total <= self.mtu
        if partial:
            pseudo = checksum.pseudo_header(src, dst, ipv4.PROTO_UDP, udp.HEADER_LEN + length)
            header = udp.build(ports >> 16, ports & 0xFFFF, udp.HEADER_LEN + length, checksum.fold(pseudo))
        else:
            words = checksum.word_sum(payload)
            header = udp.build_checked(src, dst, ports >> 16, ports & 0xFFFF, length, words)
        if total > self.mtu:
            self.packet(link, mac, ipv4.PROTO_UDP, src, dst, b"".join((header, payload)))
            self.worker.free(slot)
            return
        self.ident = (self.ident + 1) & 0xFFFF
        begin = off - UDP_HEADERS_LEN
        view[begin - offload.VNET_LEN : off] = b"".join(
            (
                _PARTIAL,
                ethernet.header(mac, self.gateway_mac, ethernet.TYPE_IPV4),
                ipv4.build(total, self.ident, ipv4.DEFAULT_TTL, ipv4.PROTO_UDP, src, dst),
                header,
            )
        )
        self.ring.push(
            d.record(
                d.FRAME_OUT,
                flags=d.FRAME_VNET if partial else 0,
                link=link,
                slot=slot,
                off=begin,
                length=length + UDP_HEADERS_LEN,
            )
        )
