"""Converts segments of the TCP engine to IPv4 packets and back, with the wire modules.

The pipeline itself uses GRO and GSO. This is for tests in which an engine exchanges bytes with something
else: a kernel, a link that flips bits, a fuzzer.
"""

from collections.abc import Callable
from typing import NamedTuple

from pipeline.engines.tcp.actions import Outgoing
from pipeline.engines.tcp.segment import Segment
from pipeline.wire import ipv4, tcp, tcp_options
from pipeline.wire.errors import WireError
from tests.support import tcp_segments

MASK = 0xFFFFFFFF


class Pair(NamedTuple):
    """A 4-tuple as the sender of a packet sees it."""

    src: int
    dst: int
    src_port: int
    dst_port: int

    def reversed(self) -> "Pair":
        """The same pair, as the other side sees it."""
        return Pair(self.dst, self.src, self.dst_port, self.src_port)


def packets_of(
    out: Outgoing, pair: Pair, payload: Callable[[object, int, int], bytes], ident: int = 0
) -> list[bytes]:
    """The packets of a range. payload(buf, off, length) returns its bytes.

    PSH and FIN are only in the last packet.
    """
    options = (
        tcp_options.build_syn(out.mss, out.syn_wscale, out.syn_sack, out.has_ts, out.ts_val, out.ts_ecr)
        if out.flags & tcp.SYN
        else tcp_options.build(out.has_ts, out.ts_val, out.ts_ecr, out.sack)
    )
    data = payload(out.buf, out.off, out.length) if out.length else b""
    packets = []
    step = out.mss if data else 1
    for begin in range(0, max(len(data), 1), step):
        part = data[begin : begin + step]
        flags = out.flags if begin + step >= len(data) else out.flags & ~(tcp.PSH | tcp.FIN)
        segment = tcp_segments.segment(
            *pair, (out.seq + begin) & MASK, out.ack, flags, out.wnd, options, part
        )  # fmt: skip
        total = ipv4.HEADER_LEN + len(segment)
        header = ipv4.build(
            total, ident, ipv4.DEFAULT_TTL, ipv4.PROTO_TCP, pair.src, pair.dst, flags=ipv4.FLAG_DF
        )
        packets.append(header + segment)
    return packets


def segment_of(
    packet: bytes | memoryview, handle: Callable[[bytes], object] = bytes
) -> tuple[Pair, Segment, bytes]:
    """The 4-tuple of a packet, its segment and its data. If there are data, handle(data) makes the buf.

    Raises WireError for packets that the pipeline drops before its engine.
    """
    header = ipv4.parse(packet, 0, len(packet))
    if header.proto != ipv4.PROTO_TCP:
        raise WireError("ipv4_packet_dropped_unknown_protocol")
    off, end = header.ihl, header.total_len
    fixed = tcp.parse(packet, off, end)
    tcp.verify(packet, off, end, header.src, header.dst)
    begin = off + fixed.header_len
    options = tcp_options.parse(packet, off + tcp.HEADER_LEN, begin)
    data = bytes(packet[begin:end])
    segment = Segment(
        fixed.seq,
        fixed.ack,
        fixed.flags,
        fixed.wnd,
        len(data),
        handle(data) if data else None,
        options.ts_val,
        options.ts_ecr,
        options.has_ts,
        options.sack,
        options.mss,
        options.wscale,
        options.sack_permitted,
    )
    return Pair(header.src, header.dst, fixed.src_port, fixed.dst_port), segment, data
