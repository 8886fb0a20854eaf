"""TCP headers and whole segments, written one at a time.

The pipeline makes segments with GSO. Tests and measurements compare it with this, or send what a guest would.
"""

from pipeline.wire import checksum, ipv4, tcp


def header(
    src_port: int,
    dst_port: int,
    seq: int,
    ack: int,
    flags: int,
    wnd: int,
    options: bytes = b"",
    check: int = 0,
    urgent: int = 0,
) -> bytes:
    """Header and options. Options must have a multiple of 4 bytes, as those of tcp_options have."""
    offset = tcp.HEADER_LEN + len(options) << 2
    return tcp.FIXED.pack(src_port, dst_port, seq, ack, offset, flags, wnd, check, urgent) + options


def segment(
    src: int,
    dst: int,
    src_port: int,
    dst_port: int,
    seq: int,
    ack: int,
    flags: int,
    wnd: int,
    options: bytes = b"",
    payload: bytes = b"",
) -> bytes:
    """A whole segment between two IPv4 addresses, with its checksum."""
    made = bytearray(header(src_port, dst_port, seq, ack, flags, wnd, options) + payload)
    check = checksum.checksum(made, checksum.pseudo_header(src, dst, ipv4.PROTO_TCP, len(made)))
    made[tcp.CHECKSUM_OFFSET : tcp.CHECKSUM_OFFSET + 2] = check.to_bytes(2, "big")
    return bytes(made)
