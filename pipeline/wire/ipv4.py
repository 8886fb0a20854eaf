"""The IPv4 header (RFC 791).

Addresses are numbers as in pipeline.wire.ip. parse() skips options. build() makes headers without options.

::

    0        1    2          4      6               8    9      10        12   16   20
    ver|ihl  tos  total_len  ident  flags|frag_off  ttl  proto  checksum  src  dst  options
"""

from struct import Struct
from typing import Final, NamedTuple

from pipeline.wire import ip
from pipeline.wire.errors import WireError

FIXED: Final = Struct("!BBHHHBBHII")
HEADER_LEN: Final[int] = FIXED.size
MAX_TOTAL_LEN: Final = 0xFFFF

PROTO_ICMP: Final = 1
PROTO_TCP: Final = 6
PROTO_UDP: Final = 17

FLAG_MF: Final = 1
FLAG_DF: Final = 2

DEFAULT_TTL: Final = 64


class Header(NamedTuple):
    """One IPv4 header. ``ihl`` and ``frag_off`` in bytes, ``flags`` = FLAG_DF | FLAG_MF."""

    ihl: int
    tos: int
    total_len: int
    ident: int
    flags: int
    frag_off: int
    ttl: int
    proto: int
    src: int
    dst: int


def parse(view: memoryview | bytes, off: int, end: int) -> Header:
    """Read and verify the header at view[off:end]: version, lengths, checksum.

    The packet ends at ``off + total_len``. The bytes after that are Ethernet padding. Raises WireError.
    """
    if end - off < HEADER_LEN or end > len(view) or off < 0:
        raise WireError("ipv4_packet_dropped_truncated")
    first, tos, total_len, ident, frag, ttl, proto, _, src, dst = FIXED.unpack_from(view, off)
    if first >> 4 != 4:
        raise WireError("ipv4_packet_dropped_bad_version")
    ihl = (first & 15) * 4
    if ihl < HEADER_LEN or ihl > total_len:
        raise WireError("ipv4_packet_dropped_bad_length")
    if total_len > end - off:
        raise WireError("ipv4_packet_dropped_truncated")
    if int.from_bytes(view[off : off + ihl], "big") % 0xFFFF:
        raise WireError("ipv4_packet_dropped_bad_checksum")
    flags, frag_off = frag >> 13 & 3, (frag & 0x1FFF) << 3
    ends = ip.from_ipv4(src), ip.from_ipv4(dst)
    return Header(ihl, tos, total_len, ident, flags, frag_off, ttl, proto, *ends)


def build(
    total_len: int,
    ident: int,
    ttl: int,
    proto: int,
    src: int,
    dst: int,
    *,
    flags: int = 0,
    frag_off: int = 0,
    tos: int = 0,
) -> bytes:
    """The 20 bytes of a header without options, with its checksum.

    total_len: header and payload. flags: FLAG_DF | FLAG_MF. frag_off: bytes, a multiple of 8. Raises
    struct.error when a field does not fit, which is a bug of the caller.
    """
    src, dst = ip.to_ipv4(src), ip.to_ipv4(dst)
    frag = flags << 13 | frag_off >> 3
    total = (
        0x4500
        + tos
        + total_len
        + ident
        + frag
        + (ttl << 8)
        + proto
        + (src >> 16)
        + (src & 0xFFFF)
        + (dst >> 16)
        + (dst & 0xFFFF)
    )
    # The sum contains 0x4500, so it is never the zero of an empty buffer.
    field = 0xFFFF - (total % 0xFFFF or 0xFFFF)
    return FIXED.pack(0x45, tos, total_len, ident, frag, ttl, proto, field, src, dst)
