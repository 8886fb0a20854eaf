"""Fragments of both families as a guest sends them, and how they reach the reassembler."""

from pipeline.engines.reassembly import Reassembler
from pipeline.wire import checksum, fragment, ip, ipv4, ipv6
from pipeline.wire.errors import WireError

V4, V6 = 4, 6
FAMILIES = (V4, V6)
UDP = ipv4.PROTO_UDP
ENDS = {
    V4: (ip.from_ipv4(0xC0A87F02), ip.from_ipv4(0x08080808)),
    V6: (0xFD00 << 112 | 2, 0x2001_0DB8 << 96 | 8),
}
LINK = 0
OFF = 5
"""Where put() places the packet in its buffer."""


def fragment_of(
    family: int, payload: bytes, frag_off: int, more: bool, ident: int = 7, head: bytes = b""
) -> bytes:
    """A fragment of a UDP datagram.

    head: IPv4 options, or IPv6 destination options before the Fragment header, without the first byte.
    """
    src, dst = ENDS[family]
    if family == V6:
        return ipv6_fragment(payload, frag_off, more, ident, bytes((ipv6.PROTO_FRAGMENT,)) + head)
    flags = ipv4.FLAG_MF if more else 0
    total = 20 + len(head) + len(payload)
    header = bytearray(ipv4.build(total, ident, 64, UDP, src, dst, flags=flags, frag_off=frag_off))
    if head:
        header[0] = 0x45 + len(head) // 4
        header[10:12] = b"\0\0"
        header += head
        header[10:12] = checksum.checksum(header).to_bytes(2, "big")
    return bytes(header) + payload


def ipv6_fragment(
    payload: bytes, frag_off: int, more: bool, ident: int = 7, chain: bytes = b"\x2c", proto: int = UDP
) -> bytes:
    """An IPv6 fragment. chain: destination options headers before the Fragment header, or only its type."""
    src, dst = ENDS[V6]
    before = chain if len(chain) > 1 else b""
    first = 60 if before else ipv6.PROTO_FRAGMENT
    header = ipv6.build(len(before) + 8 + len(payload), first, 64, src, dst)
    return header + before + ipv6.build_fragment(proto, frag_off, more, ident) + payload


def cut(family: int, payload: bytes, sizes: list[int], ident: int = 7) -> list[bytes]:
    """All fragments of a packet. sizes: those of the first ones, in units of 8 bytes."""
    pieces = []
    off = 0
    for size in sizes:
        if off + size * 8 >= len(payload):
            break
        pieces.append(fragment_of(family, payload[off : off + size * 8], off, True, ident))
        off += size * 8
    return [*pieces, fragment_of(family, payload[off:], off, False, ident)]


def piece_of(view: memoryview | bytes, off: int, end: int) -> fragment.Piece:
    """The fragment in view[off:end], of either family. Raises WireError."""
    if view[off] >> 4 == V4:
        return fragment.from_ipv4(off, ipv4.parse(view, off, end))
    header = ipv6.parse(view, off, end)
    begin = off + ipv6.HEADER_LEN
    upper = ipv6.walk(view, begin, begin + header.payload_len, header.next_header)
    if not upper.has_fragment:
        raise WireError("ipv6_packet_dropped_unknown_protocol")
    return fragment.from_ipv6(off, header, upper)


def put(target: Reassembler, data: bytes, now: float = 0.0, source: int = LINK) -> bytes | None:
    """Give the reassembler a packet that lies in a larger buffer."""
    view = memoryview(b"frame" + data)
    return target.on_fragment(view, OFF, piece_of(view, OFF, len(view)), source, now)


def payload_of(packet: bytes) -> bytes:
    """The payload of a whole packet with one header, whose lengths are verified."""
    if packet[0] >> 4 == V4:
        header = ipv4.parse(packet, 0, len(packet))
        assert (header.total_len, header.flags, header.frag_off) == (len(packet), 0, 0)
        return packet[header.ihl :]
    found = ipv6.parse(packet, 0, len(packet))
    assert found.payload_len == len(packet) - 40
    upper = ipv6.walk(packet, 40, len(packet), found.next_header)
    assert not upper.has_fragment
    return packet[upper.off :]


def ends_of(packet: bytes) -> tuple[int, int, int]:
    """Source, destination and protocol of a whole packet."""
    if packet[0] >> 4 == V4:
        header = ipv4.parse(packet, 0, len(packet))
        return header.src, header.dst, header.proto
    found = ipv6.parse(packet, 0, len(packet))
    return found.src, found.dst, found.next_header
