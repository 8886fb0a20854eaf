"""Datagrams to guests in the ingress worker: headers for all, fragments for those longer than the MTU."""

from typing import Final

from pipeline.counters import INDEX
from pipeline.engines import fragmentation
from pipeline.engines.offload.gso import Buffer
from pipeline.engines.offload.gso_udp import UdpSegmenter
from pipeline.records import descriptor as d
from pipeline.stages.worker import Worker
from pipeline.wire import checksum, ipv4, udp

_FRAGMENTS: Final = INDEX["ipv4_fragments_sent"]


class Datagrams:
    """What UDP_OUT and UDP_TO_GUEST become."""

    def __init__(self, worker: Worker, mtu: int) -> None:
        self.slots = worker.ports.arena.slots
        self.counts = worker.counts
        self.mtu = mtu
        self.longest = mtu - ipv4.HEADER_LEN - udp.HEADER_LEN
        """Payload of a datagram that needs no fragments."""
        self.ident = 0

    def buffers(
        self, segmenter: UdpSegmenter, header: bytes, src: int, dst: int, ports: int, slot: int, off: int,
        stride: int, size: int, length: int, count: int,
    ) -> list[Buffer]:  # fmt: skip
        """Frames for count datagrams, laid out as UDP_RANGE says. ValueError if the framing is too short.

        header: of Ethernet; ports = guest's port << 16 | remote port.
        """
        ident = self.ident
        self.ident = ident + count & 0xFFFF
        sport, dport = ports & 0xFFFF, ports >> 16
        view = self.slots[slot]
        if min(size, length) <= self.longest:
            return segmenter.datagrams(
                header, src, dst, sport, dport, view, off, stride, size, length, ident
            )  # fmt: skip
        made: list[Buffer] = []
        for begin, end in d.piece_bounds(off, length, stride, size):
            payload = view[begin:end]
            head = udp.build_checked(src, dst, sport, dport, end - begin, checksum.word_sum(payload))
            whole = b"".join((head, payload))
            cut = [*fragmentation.packets(ipv4.PROTO_UDP, src, dst, whole, ident, self.mtu)]
            for packet in cut:
                made += segmenter.frame(b"".join((header, *packet)))
            if len(cut) > 1:
                self.counts[_FRAGMENTS] += len(cut)
            ident = ident + 1 & 0xFFFF
        return made
