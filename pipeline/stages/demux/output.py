"""Sends demux's frames to guests, by way of ingress: ARP, ICMP, datagrams, and frames of other guests.

Demux copies small frames into slots of its own pool. It does not copy datagrams in another worker's slot: the
reference moves on to ingress, which makes their headers. For an answer of DHCP or DNS, demux writes the
headers into the room before it. Only an answer or a ping that is longer than the MTU is copied, and cut into
fragments.
"""

from typing import Final

from pipeline.counters import INDEX
from pipeline.engines import fragmentation
from pipeline.host.filler import SlotFiller
from pipeline.ipc.arena import SLOT_BYTES
from pipeline.records.flows import Ends, FlowKey
from pipeline.records.frames import NO_LINK, Frame, FrameOut
from pipeline.records.run import Run
from pipeline.records.services import ServiceDatagram
from pipeline.records.tcp import TcpRange
from pipeline.records.udp import UdpOut, UdpRange
from pipeline.stages.worker import Worker
from pipeline.wire import checksum, ethernet, ip, ip_header, ipv4, udp

_NO_SLOT: Final = INDEX["demux_frame_dropped_no_slot"]
_FRAGMENTS: Final = INDEX["ipv4_fragments_sent"]
_FRAGMENTS_V6: Final = INDEX["ipv6_fragments_sent"]


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

    # --- frames that demux makes ----------------------------------------------------------

    def copy(self, payload: bytes | memoryview) -> tuple[int, int] | None:
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

    def frame(self, link: int, frame: bytes | memoryview, except_link: int = NO_LINK) -> None:
        """Send one frame to a link, or with ALL_LINKS to all but one."""
        where = self.copy(frame)
        if where is not None:
            slot, off = where
            self.ring.push(FrameOut.pack(link, slot, off, len(frame), except_link=except_link))

    def packet(
        self, link: int, mac: bytes, proto: int, src: int, dst: int, payload: bytes | memoryview, tos: int = 0
    ) -> None:
        """Send an IP packet to a guest, in fragments if it is longer than the MTU."""
        header = ethernet.header(mac, self.gateway_mac, ethernet.type_of(dst))
        self.ident = (self.ident + 1) & 0xFFFF
        cut = [*fragmentation.packets(proto, src, dst, payload, self.ident, self.mtu, tos)]
        for headers, part in cut:
            self.frame(link, b"".join((header, headers, part)))
        if len(cut) > 1:
            self.counts[_FRAGMENTS if ip.is_ipv4(dst) else _FRAGMENTS_V6] += len(cut)

    # --- datagrams of other workers -------------------------------------------------------

    def datagrams(self, link: int, mac: bytes, key: FlowKey, run: Run) -> None:
        """Send datagrams from the flow's remote end to the guest. The reference moves on to ingress."""
        self.ring.push(UdpOut.pack(key, run, link, mac))

    def service_datagram(self, link: int, mac: bytes, answer: ServiceDatagram) -> None:
        """Send an answer of DHCP or DNS. The reference moves on, or is freed after a copy.

        The UDP checksum is complete for any guest: a DHCP client may read the packet from its interface,
        where no kernel completes it.
        """
        slot, off, length = answer.slot, answer.off, answer.length
        ends = Ends.of(answer.key)
        src, dst = ends.remote_addr, ends.guest_addr
        view = self.slots[slot]
        payload = view[off : off + length]
        header = udp.build_checked(
            src, dst, ends.remote_port, ends.guest_port, length, checksum.word_sum(payload)
        )
        headers_len = ethernet.HEADER_LEN + ip_header.shortest(src) + udp.HEADER_LEN
        if headers_len + length > ethernet.HEADER_LEN + self.mtu:
            self.packet(link, mac, ipv4.PROTO_UDP, src, dst, b"".join((header, payload)))
            self.worker.free(slot)
            return
        self.ident = (self.ident + 1) & 0xFFFF
        begin = off - headers_len
        view[begin:off] = b"".join(
            (
                ethernet.header(mac, self.gateway_mac, ethernet.type_of(src)),
                ip_header.build(udp.HEADER_LEN + length, self.ident, ipv4.PROTO_UDP, src, dst),
                header,
            )
        )
        self.ring.push(FrameOut.pack(link, slot, begin, headers_len + length))

    # --- frames of one guest for another --------------------------------------------------

    def pass_frame(self, link: int, frame: Frame) -> None:
        """Send a guest's frame to another guest, from where it lies. The reference moves on."""
        self.ring.push(FrameOut.pack(link, frame.slot, frame.off, frame.length, vnet=frame.vnet))

    def pass_run(self, link: int, run: TcpRange | UdpRange) -> None:
        """Send a guest's frames to another guest, one by one. The reference moves on with the last."""
        header_len = run.header_len
        if run.stride == run.piece_size:
            # One frame, a super-segment of datagrams.
            bounds = [(run.off, run.off + run.length)]
        else:
            bounds = run.piece_bounds()
        last = len(bounds) - 1
        for index, (begin, end) in enumerate(bounds):
            self.ring.push(
                FrameOut.pack(
                    link,
                    run.slot,
                    begin - header_len,
                    header_len + end - begin,
                    vnet=run.vnet,
                    borrowed=index < last,
                )
            )
