"""Makes the frames of datagrams to guests, in fragments if a datagram is longer than the MTU."""

from typing import Final

from pipeline.counters import INDEX
from pipeline.engines import fragmentation
from pipeline.engines.offload import gso_udp, stripped
from pipeline.engines.offload.gso import Buffer
from pipeline.engines.offload.gso_udp import UdpSegmenter
from pipeline.engines.offload.headers import UDP_HEADERS_LEN6
from pipeline.records.flows import Ends
from pipeline.records.run import Run
from pipeline.stages.worker import Worker
from pipeline.wire import checksum, ethernet, ip, ipv4, udp

_FRAGMENTS: Final = INDEX["ipv4_fragments_sent"]
_FRAGMENTS6: Final = INDEX["ipv6_fragments_sent"]


class Datagrams:
    """Makes the frames of UDP_OUT and UDP_TO_GUEST."""

    def __init__(self, worker: Worker, mtu: int) -> None:
        self._slots = worker.ports.arena.slots
        self._counts = worker.counts
        self._mtu = mtu
        self._longest = mtu - ipv4.HEADER_LEN - udp.HEADER_LEN
        self._longest6 = mtu + ethernet.HEADER_LEN - UDP_HEADERS_LEN6
        """Payload bytes of the longest datagram that needs no fragments, in each family."""
        self._ident = 0
        self._ident6 = 0
        """The last identification of IPv6 fragments, which has 32 bits."""

    def buffers(self, segmenter: UdpSegmenter, eth_header: bytes, ends: Ends, run: Run) -> list[Buffer]:
        """The frames of a run of datagrams to a guest. ValueError if the framing cannot carry one."""
        ident = self._ident
        self._ident = ident + run.piece_count() & 0xFFFF
        view = self._slots[run.slot]
        is_ipv4 = ip.is_ipv4(ends.guest_addr)
        if min(run.piece_size, run.length) <= (self._longest if is_ipv4 else self._longest6):
            return segmenter.datagrams(eth_header, ends, view, run, ident)
        if not is_ipv4:
            return self._ipv6_fragments(segmenter, eth_header, ends, run)
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

    def _ipv6_fragments(
        self, segmenter: UdpSegmenter, eth_header: bytes, ends: Ends, run: Run
    ) -> list[Buffer]:
        """The same for a run of IPv6 datagrams that are longer than the MTU (RFC 8200 section 4.5)."""
        made: list[Buffer] = []
        for payload in run.views(self._slots[run.slot]):
            whole = gso_udp.frame6(eth_header, ends, payload)
            self._ident6 = self._ident6 + 1 & 0xFFFFFFFF
            parts = stripped.cut(memoryview(whole), self._mtu, self._ident6)
            for part in parts:
                made += segmenter.frame(part)
            if len(parts) > 1:
                self._counts[_FRAGMENTS6] += len(parts)
        return made
