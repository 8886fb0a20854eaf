"""Frames of a kernel that leaves segmentation and checksums to its card, with their virtio-net headers."""

from pipeline.wire import checksum, ethernet, ip, ipv4, tcp, udp
from pipeline.wire.virtio_net import (
    GSO_NONE,
    GSO_TCPV4,
    GSO_TCPV6,
    GSO_UDP_L4,
    LONG_LEN,
    NEEDS_CSUM,
    Header,
    build,
)
from tests.support import tcp_segments
from tests.support.frames import FROM_GUEST, GUEST, REMOTE

TCP_START = ethernet.HEADER_LEN + ipv4.HEADER_LEN
SLOT_BYTES = 73728


def partial(src: int, dst: int, proto: int, length: int) -> bytes:
    """The content of the checksum field for the card: the sum of the pseudo-header, not inverted."""
    pseudo = ip.ipv4_bytes(src) + ip.ipv4_bytes(dst) + bytes((0, proto)) + length.to_bytes(2, "big")
    return folded(pseudo).to_bytes(2, "big")


def folded(data: bytes) -> int:
    """The ones' complement sum of the 16-bit words of data."""
    total = sum(int.from_bytes(data[i : i + 2], "big") for i in range(0, len(data), 2))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total


def super_segment(
    seq: int,
    payload: bytes,
    gso_size: int,
    *,
    flags: int = tcp.ACK,
    ack: int = 1,
    wnd: int = 500,
    options: bytes = b"",
    ip_options: bytes = b"",
    src: int = GUEST,
    dst: int = REMOTE,
    ident: int = 0,
    ttl: int = ipv4.DEFAULT_TTL,
    eth_header: bytes = FROM_GUEST,
) -> tuple[Header, bytes]:
    """A TCP/IPv4 frame with a partial checksum, and its header. Longer than gso_size: a super-segment."""
    length = tcp.HEADER_LEN + len(options) + len(payload)
    segment = bytearray(tcp_segments.segment(src, dst, 40000, 80, seq, ack, flags, wnd, options, payload))
    segment[16:18] = partial(src, dst, ipv4.PROTO_TCP, length)
    ip = ipv4_header(length, ident, ipv4.PROTO_TCP, src, dst, ip_options, ttl)
    start = ethernet.HEADER_LEN + len(ip)
    gso = len(payload) > gso_size
    header = Header(
        NEEDS_CSUM,
        GSO_TCPV4 if gso else GSO_NONE,
        start + tcp.HEADER_LEN + len(options) if gso else 0,
        gso_size if gso else 0,
        start,
        16,
        0,
    )
    return header, eth_header + ip + bytes(segment)


def ipv4_header(
    length: int,
    ident: int,
    proto: int,
    src: int,
    dst: int,
    options: bytes = b"",
    ttl: int = ipv4.DEFAULT_TTL,
) -> bytes:
    """An IPv4 header, with DF, for length bytes of payload."""
    total = ipv4.HEADER_LEN + len(options) + length
    plain = ipv4.build(total, ident, ttl, proto, src, dst, flags=ipv4.FLAG_DF)
    if not options:
        return plain
    raw = bytearray(plain + options)
    raw[0] = 0x40 | len(raw) // 4
    raw[10:12] = bytes(2)
    raw[10:12] = checksum.checksum(bytes(raw)).to_bytes(2, "big")
    return bytes(raw)


def super_segment_v6(seq: int, payload: bytes, gso_size: int, extension: bytes = b"") -> tuple[Header, bytes]:
    """The same over IPv6, optionally after an extension header (whose first byte names TCP)."""
    addresses = bytes.fromhex("fd00" + "00" * 13 + "02" + "fd00" + "00" * 13 + "03")
    segment = bytearray(tcp_segments.segment(0, 0, 40000, 80, seq, 1, tcp.ACK, 500, b"", payload))
    pseudo = addresses + len(segment).to_bytes(4, "big") + bytes((0, 0, 0, ipv4.PROTO_TCP))
    segment[16:18] = folded(pseudo).to_bytes(2, "big")
    payload_bytes = extension + bytes(segment)
    ip = (
        bytes((0x60, 0, 0, 0))
        + len(payload_bytes).to_bytes(2, "big")
        + bytes((60 if extension else 6, 64))
        + addresses
    )
    start = ethernet.HEADER_LEN + 40 + len(extension)
    header = Header(NEEDS_CSUM, GSO_TCPV6, start + tcp.HEADER_LEN, gso_size, start, 16, 0)
    return header, FROM_GUEST[:12] + bytes.fromhex("86dd") + ip + payload_bytes


def super_datagram(
    payload: bytes, gso_size: int, *, eth_header: bytes = FROM_GUEST, dst: int = REMOTE
) -> tuple[Header, bytes]:
    """UDP datagrams in one frame, to be cut at gso_size. gso_size 0: one datagram with a partial checksum."""
    length = udp.HEADER_LEN + len(payload)
    head = bytearray(udp.build_checked(GUEST, dst, 40000, 53, len(payload), 0))
    head[6:8] = partial(GUEST, dst, ipv4.PROTO_UDP, length)
    gso_type = GSO_UDP_L4 if gso_size else GSO_NONE
    header = Header(NEEDS_CSUM, gso_type, 42 if gso_size else 0, gso_size, TCP_START, 6, 0)
    ip = ipv4_header(length, 0, ipv4.PROTO_UDP, GUEST, dst)
    return header, eth_header + ip + bytes(head) + payload


def slot_with_headers(
    frames: list[tuple[Header, bytes]], begin: int = 256
) -> tuple[memoryview, list[tuple[int, int]]]:
    """A slot with each frame after its header, and where the frames lie."""
    view = memoryview(bytearray(SLOT_BYTES))
    places = []
    for header, frame in frames:
        begin += 4
        data = build(header, LONG_LEN) + frame
        view[begin : begin + len(data)] = data
        places.append((begin + LONG_LEN, len(frame)))
        begin += len(data)
    return view, places


def left_out(frame: bytes) -> bytes:
    """The TCP or UDP frame (IPv4 or IPv6), with the checksum field that a kernel leaves for its card."""
    made = bytearray(frame)
    start = 14 + (frame[14] & 15) * 4 if frame[14] >> 4 == 4 else 54
    if frame[14] >> 4 == 4:
        proto, addresses = frame[23], frame[26:34]
        end = 14 + int.from_bytes(frame[16:18], "big")
    else:
        proto, addresses = frame[20], frame[22:54]
        end = 54 + int.from_bytes(frame[18:20], "big")
    pseudo = folded(addresses + (end - start).to_bytes(4, "big") + bytes((0, proto)))
    at = start + (16 if proto == ipv4.PROTO_TCP else 6)
    made[at : at + 2] = pseudo.to_bytes(2, "big")
    return bytes(made)
