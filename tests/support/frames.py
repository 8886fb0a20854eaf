"""Whole Ethernet frames for tests, made by the plain wire modules one at a time, and slots full of them."""

from collections.abc import Callable
from typing import NamedTuple

from pipeline.wire import checksum, ethernet, ip, ipv4, ipv6, tcp, tcp_options, udp
from tests.support import tcp_segments

GATEWAY_MAC = bytes.fromhex("5a94efe40cdd")
GUEST_MAC = bytes.fromhex("5a94efe40cee")
GUEST = ip.parse_ipv4("192.168.127.2")
REMOTE = ip.parse_ipv4("93.184.216.34")
GUEST6 = ip.parse("fd12:3456:789a::2")
REMOTE6 = ip.parse("2606:2800:220:1:248:1893:25c8:1946")
FROM_GUEST6 = ethernet.header(GATEWAY_MAC, GUEST_MAC, ethernet.TYPE_IPV6)
TO_GUEST6 = ethernet.header(GUEST_MAC, GATEWAY_MAC, ethernet.TYPE_IPV6)
FROM_GUEST = ethernet.header(GATEWAY_MAC, GUEST_MAC, ethernet.TYPE_IPV4)
TO_GUEST = ethernet.header(GUEST_MAC, GATEWAY_MAC, ethernet.TYPE_IPV4)
SLOT_BYTES = 73728


def timestamps(ts_val: int = 1, ts_ecr: int = 2) -> bytes:
    """The timestamps option in its usual form."""
    return tcp_options.build(True, ts_val, ts_ecr)


def ipv6_header(
    payload_len: int,
    next_header: int,
    src: int,
    dst: int,
    *,
    hops: int = 64,
    traffic_class: int = 0,
    label: int = 0,
) -> bytes:
    """An IPv6 header without extension headers (RFC 8200 section 3)."""
    first = 6 << 28 | traffic_class << 20 | label
    return first.to_bytes(4, "big") + ipv6.build(payload_len, next_header, hops, src, dst)[4:]


def tcp_frame6(
    seq: int,
    payload: bytes = b"",
    *,
    flags: int = tcp.ACK,
    ack: int = 1,
    wnd: int = 500,
    options: bytes = b"",
    sport: int = 40000,
    dport: int = 80,
    src: int = GUEST6,
    dst: int = REMOTE6,
    hops: int = 64,
    traffic_class: int = 0,
    label: int = 0,
    eth_header: bytes = FROM_GUEST6,
    pad_to: int = 0,
) -> bytes:
    """A TCP/IPv6 frame with a right checksum. pad_to: length after Ethernet padding."""
    segment = tcp_segments.segment(src, dst, sport, dport, seq, ack, flags, wnd, options, payload)
    header = ipv6_header(
        len(segment), ipv4.PROTO_TCP, src, dst, hops=hops, traffic_class=traffic_class, label=label
    )
    return (eth_header + header + segment).ljust(pad_to, b"\0")


def udp_frame6(
    payload: bytes = b"",
    *,
    sport: int = 40000,
    dport: int = 7000,
    src: int = GUEST6,
    dst: int = REMOTE6,
    hops: int = 64,
    traffic_class: int = 0,
    label: int = 0,
    eth_header: bytes = FROM_GUEST6,
    pad_to: int = 0,
    summed: bool = True,
) -> bytes:
    """A UDP/IPv6 frame. summed False: without a checksum, which RFC 8200 section 8.1 forbids."""
    length = udp.HEADER_LEN + len(payload)
    head = udp.build(sport, dport, length)
    if summed:
        head = udp.build_checked(src, dst, sport, dport, len(payload), checksum.word_sum(payload))
    header = ipv6_header(
        length, ipv4.PROTO_UDP, src, dst, hops=hops, traffic_class=traffic_class, label=label
    )
    return (eth_header + header + head + payload).ljust(pad_to, b"\0")


def tcp_frame(
    seq: int,
    payload: bytes = b"",
    *,
    flags: int = tcp.ACK,
    ack: int = 1,
    wnd: int = 500,
    options: bytes = b"",
    sport: int = 40000,
    dport: int = 80,
    src: int = GUEST,
    dst: int = REMOTE,
    ident: int = 0,
    ttl: int = 64,
    tos: int = 0,
    ip_flags: int = ipv4.FLAG_DF,
    eth_header: bytes = FROM_GUEST,
    pad_to: int = 0,
) -> bytes:
    """A TCP/IPv4 frame with right checksums. pad_to: length after Ethernet padding."""
    segment = tcp_segments.segment(src, dst, sport, dport, seq, ack, flags, wnd, options, payload)
    total = ipv4.HEADER_LEN + len(segment)
    header = ipv4.build(total, ident, ttl, ipv4.PROTO_TCP, src, dst, flags=ip_flags, tos=tos)
    return (eth_header + header + segment).ljust(pad_to, b"\0")


def udp_frame(
    payload: bytes = b"",
    *,
    sport: int = 40000,
    dport: int = 7000,
    src: int = GUEST,
    dst: int = REMOTE,
    ident: int = 0,
    ttl: int = 64,
    tos: int = 0,
    ip_flags: int = ipv4.FLAG_DF,
    eth_header: bytes = FROM_GUEST,
    pad_to: int = 0,
    summed: bool = True,
) -> bytes:
    """One UDP/IPv4 frame; summed False: without a checksum, as RFC 768 allows."""
    total = ipv4.HEADER_LEN + udp.HEADER_LEN + len(payload)
    if summed:
        words = checksum.word_sum(payload)
        head = udp.build_checked(src, dst, sport, dport, len(payload), words)
    else:
        head = udp.build(sport, dport, udp.HEADER_LEN + len(payload))
    header = ipv4.build(total, ident, ttl, ipv4.PROTO_UDP, src, dst, flags=ip_flags, tos=tos)
    return (eth_header + header + head + payload).ljust(pad_to, b"\0")


class Family(NamedTuple):
    """What differs between frames of the two families."""

    guest: int
    remote: int
    from_guest: bytes
    to_guest: bytes
    tcp_frame: Callable[..., bytes]
    udp_frame: Callable[..., bytes]
    l4_off: int
    """Where the TCP or UDP header begins."""
    total_off: int
    """The last two bytes of this field count what follows the IP header, or the whole packet."""
    addresses_off: int

    @property
    def tcp_len(self) -> int:
        """Bytes of all headers without TCP options."""
        return self.l4_off + tcp.HEADER_LEN

    @property
    def udp_len(self) -> int:
        """The same with UDP."""
        return self.l4_off + udp.HEADER_LEN


FAMILIES = {
    "IPv4": Family(GUEST, REMOTE, FROM_GUEST, TO_GUEST, tcp_frame, udp_frame, 34, 16, 26),
    "IPv6": Family(GUEST6, REMOTE6, FROM_GUEST6, TO_GUEST6, tcp_frame6, udp_frame6, 54, 18, 22),
}


def slot_of(
    frames: list[bytes], begin: int = 256, gaps: list[int] | int = 4, size: int = SLOT_BYTES
) -> tuple[memoryview, list[tuple[int, int]]]:
    """A slot with the frames in it, gaps bytes of 0xff (a prefix) before each, and where they lie."""
    view = memoryview(bytearray(b"\xff" * size))
    places = []
    for number, frame in enumerate(frames):
        begin += gaps if isinstance(gaps, int) else gaps[number % len(gaps)]
        view[begin : begin + len(frame)] = frame
        places.append((begin, len(frame)))
        begin += len(frame)
    return view, places
