"""The fixed TCP header (RFC 9293 section 3.1). Options are in tcp_options.py.

This is the readable way: one tuple for a header. GRO and GSO unpack ``FIXED`` into local variables. A test
asserts that both ways agree.

::

    0         2         4    8    12         13     14   16        18      20
    src_port  dst_port  seq  ack  offset|0   flags  wnd  checksum  urgent  options
"""

from struct import Struct
from typing import Final, NamedTuple

from pipeline.wire import checksum as inet
from pipeline.wire.errors import WireError
from pipeline.wire.ipv4 import PROTO_TCP

FIXED: Final = Struct("!HHIIBBHHH")
HEADER_LEN: Final[int] = FIXED.size
MAX_OPTIONS_LEN: Final = 40

FIN: Final = 0x01
SYN: Final = 0x02
RST: Final = 0x04
PSH: Final = 0x08
ACK: Final = 0x10
URG: Final = 0x20
ECE: Final = 0x40
CWR: Final = 0x80

CHECKSUM_OFFSET: Final = 16
"""The checksum field's offset from the begin of the header."""

_CHECKSUM: Final = Struct("!H")


class Header(NamedTuple):
    """The fixed header. ``header_len``: bytes, with options. ``wnd``: as in the header, without scale."""

    src_port: int
    dst_port: int
    seq: int
    ack: int
    header_len: int
    flags: int
    wnd: int
    checksum: int
    urgent: int


def parse(view: memoryview | bytes, off: int, end: int) -> Header:
    """Read the header at view[off:end]. end: the end of the IP payload.

    parse() does not verify the checksum; verify() does. Options are in ``off + HEADER_LEN .. off +
    header_len``. Raises WireError.
    """
    if end - off < HEADER_LEN or end > len(view) or off < 0:
        raise WireError("tcp_segment_dropped_truncated")
    src_port, dst_port, seq, ack, offset, flags, wnd, check, urgent = FIXED.unpack_from(view, off)
    header_len = (offset >> 4) * 4
    if not HEADER_LEN <= header_len <= end - off:
        raise WireError("tcp_segment_dropped_bad_offset")
    return Header(src_port, dst_port, seq, ack, header_len, flags, wnd, check, urgent)


def verify(view: memoryview | bytes, off: int, end: int, src: int, dst: int) -> None:
    """Check the checksum of the segment view[off:end] between two IPv4 addresses. Raises WireError.

    A checksum that the sender left to its network card is valid (checksum.is_partial).
    """
    pseudo = inet.pseudo_header(src, dst, PROTO_TCP, end - off)
    if inet.verify(view[off:end], pseudo):
        return
    at = off + CHECKSUM_OFFSET
    if not inet.is_partial(view[at] << 8 | view[at + 1], pseudo):
        raise WireError("tcp_segment_dropped_bad_checksum")


def build(
    src_port: int,
    dst_port: int,
    seq: int,
    ack: int,
    flags: int,
    wnd: int,
    options: bytes = b"",
    checksum: int = 0,
    urgent: int = 0,
) -> bytes:
    """Header and options. Options must have a multiple of 4 bytes, as those of tcp_options have."""
    header_len = HEADER_LEN + len(options)
    return FIXED.pack(src_port, dst_port, seq, ack, header_len << 2, flags, wnd, checksum, urgent) + options


def build_segment(
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
    segment = build(src_port, dst_port, seq, ack, flags, wnd, options) + payload
    check = inet.checksum(segment, inet.pseudo_header(src, dst, PROTO_TCP, len(segment)))
    return segment[:CHECKSUM_OFFSET] + _CHECKSUM.pack(check) + segment[CHECKSUM_OFFSET + 2 :]
