"""Makes the frames of datagrams to guests, in fragments if a datagram is longer than the MTU."""

from typing import Final

from pipeline.counters import INDEX
from pipeline.engines import fragmentation
from pipeline.engines.offload.gso import Buffer
from pipeline.engines.offload.gso_udp import UdpSegmenter
from pipeline.records.flows import Ends
from pipeline.records.run import Run
from pipeline.stages.worker import Worker
from pipeline.wire import checksum, ipv4, udp

_FRAGMENTS: Final = INDEX["ipv4_fragments_sent"]


class Datagrams:
    """Makes the frames of UDP_OUT and UDP_TO_GUEST."""

    def __init__(self, worker: Worker, mtu: int) -> None:
        self._slots = worker.ports.arena.slots
        self._counts = worker.counts
        self._mtu = mtu
        self._longest = mtu - ipv4.HEADER_LEN - udp.HEADER_LEN
        """Payload bytes of the longest datagram that needs no fragments."""
        self._ident = 0

    def buffers(self, segmenter: UdpSegmenter, eth_header: bytes, ends: Ends, run: Run) -> list[Buffer]:
        """The frames of a run of datagrams to a guest. ValueError if the framing cannot carry one."""
        ident = self._ident
        self._ident = ident + run.piece_count() & 0xFFFF
        view = self._slots[run.slot]
        if min(run.piece_size, run.length) <= self._longest:
            return segmenter.datagrams(eth_header, ends, view, run, ident)
        src, dst = ends.remote_addr, ends.guest_addr
        made: list[Buffer] = []
        for payload in run.views(view):
            words = checksum.word_sum(payload)
            head = udp.build_checked(src, dst, ends.remote_port, ends.guest_port, len(payload), words)
            whole = b"".join((head, payload))
            packets = [*fragmentation.packets(ipv4.PROTO_UDP, src, dst, whole, ident, self._mtu)]
            for packet in packets:
                made += segmenter.frame(b"".join((eth_header, *packet)))
            if len(packets) > 1:
                self._counts[_FRAGMENTS] += len(packets)
            ident = ident + 1 & 0xFFFF
        return made
