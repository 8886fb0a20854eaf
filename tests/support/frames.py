"""Whole Ethernet frames for tests, made by the plain wire modules one at a time, and slots full of them."""

from pipeline.wire import checksum, ethernet, ip, ipv4, tcp, tcp_options, udp
from tests.support import tcp_segments

GATEWAY_MAC = bytes.fromhex("5a94efe40cdd")
GUEST_MAC = bytes.fromhex("5a94efe40cee")
GUEST = ip.parse_ipv4("192.168.127.2")
REMOTE = ip.parse_ipv4("93.184.216.34")
FROM_GUEST = ethernet.header(GATEWAY_MAC, GUEST_MAC, ethernet.TYPE_IPV4)
TO_GUEST = ethernet.header(GUEST_MAC, GATEWAY_MAC, ethernet.TYPE_IPV4)
SLOT_BYTES = 73728


def timestamps(ts_val: int = 1, ts_ecr: int = 2) -> bytes:
    """The timestamps option in its usual form."""
    return tcp_options.build(True, ts_val, ts_ecr)


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
