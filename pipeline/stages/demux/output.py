"""What demux itself sends to guests: ARP and ICMP answers, UDP datagrams, fragments.

Small frames are copied into slots of demux's own pool. UDP payloads that lie in another
worker's slot are not copied: the reference goes on to ingress, which makes their headers (those of a
service's answer are written into the room before it). Only an answer or a ping longer than the MTU is
copied, cut into fragments.
"""

from typing import Final

from pipeline.counters import INDEX
from pipeline.engines import fragmentation
from pipeline.host.filler import SlotFiller
from pipeline.ipc.arena import SLOT_BYTES
from pipeline.records import descriptor as d
from pipeline.stages.worker import Worker
from pipeline.wire import checksum, ethernet, ipv4, udp

UDP_HEADERS_LEN: Final = ethernet.HEADER_LEN + ipv4.HEADER_LEN + udp.HEADER_LEN

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
        cut = [*fragmentation.packets(proto, src, dst, payload, self.ident, self.mtu, tos)]
        for ip, part in cut:
            self.frame(link, header, ip, part)
        if len(cut) > 1:
            self.counts[_FRAGMENTS] += len(cut)

    def datagrams(
        self, link: int, mac: bytes, src: int, dst: int, ports: int, slot: int, off: int, length: int,
        stride: int, size: int,
    ) -> None:  # fmt: skip
        """Send datagrams for a UDP socket of the guest, which lie in a slot as UDP_OUT says.

        The reference moves on to ingress, which makes the headers. Other arguments as of datagram().
        """
        count = d.piece_count(length, size)
        address = int.from_bytes(mac, "big")
        self.ring.push(
            d.DESCRIPTOR.pack(
                d.UDP_OUT, 0, link, stride, size, slot, off, length, 0, count,
                address >> 16, address & 0xFFFF, 0, 0, 0, dst, src, (ports & 0xFFFF) << 16 | ports >> 16, 0,
            )
        )  # fmt: skip

    def datagram(
        self, link: int, mac: bytes, src: int, dst: int, ports: int, slot: int, off: int, length: int
    ) -> None:
        """Send a service's datagram that lies in a slot; the reference moves on, or is freed after a copy.

        ports = source port << 16 | destination port, src and dst as on the wire. Its checksum is whole for
        any guest: a DHCP client may read the packet from the interface, where no kernel finishes it.
        """
        view = self.slots[slot]
        payload = view[off : off + length]
        total = ipv4.HEADER_LEN + udp.HEADER_LEN + length
        header = udp.build_checked(src, dst, ports >> 16, ports & 0xFFFF, length, checksum.word_sum(payload))
        if total > self.mtu:
            self.packet(link, mac, ipv4.PROTO_UDP, src, dst, b"".join((header, payload)))
            self.worker.free(slot)
            return
        self.ident = (self.ident + 1) & 0xFFFF
        begin = off - UDP_HEADERS_LEN
        view[begin:off] = b"".join(
            (
                ethernet.header(mac, self.gateway_mac, ethernet.TYPE_IPV4),
                ipv4.build(total, self.ident, ipv4.DEFAULT_TTL, ipv4.PROTO_UDP, src, dst),
                header,
            )
        )
        self.ring.push(
            d.record(d.FRAME_OUT, link=link, slot=slot, off=begin, length=length + UDP_HEADERS_LEN)
        )

    def pass_frame(self, link: int, slot: int, off: int, length: int, vnet: int) -> None:
        """A frame of one guest for another one, from where it lies; its reference goes with it.

        vnet: FRAME_VNET or 0.
        """
        self.ring.push(d.record(d.FRAME_OUT, flags=vnet, link=link, slot=slot, off=off, length=length))

    def pass_run(
        self, link: int, slot: int, frame: int, stride: int, length: int, aux: int, size: int
    ) -> None:
        """A run for another guest: its frames one by one; the reference goes with the last.

        frame: where the first begins; the other arguments are fields of TCP_RANGE or UDP_RANGE.
        """
        header = aux & d.RUN_HEADER_MASK
        vnet = d.FRAME_VNET if aux & d.RUN_VNET else 0
        # With size = stride it is one frame, a super-segment of datagrams.
        bounds = d.piece_bounds(frame + header, length, stride, length if size == stride else size)
        for begin, end in bounds[:-1]:
            self.ring.push(
                d.record(
                    d.FRAME_OUT,
                    flags=d.FRAME_BORROWED | vnet,
                    link=link,
                    slot=slot,
                    off=begin - header,
                    length=header + end - begin,
                )
            )
        begin, end = bounds[-1]
        self.pass_frame(link, slot, begin - header, header + end - begin, vnet)

    def copy(self, payload: memoryview) -> tuple[int, int] | None:
        """Copy bytes into a slot with a reference of its own: (slot, off), or None without a free slot."""
        filler = self.filler
        length = len(payload)
        if not filler.place(length):
            self.counts[_NO_SLOT] += 1
            return None
        slot, off = filler.slot, filler.off
        self.slots[slot][off : off + length] = payload
        filler.commit(length)
        return slot, off
