"""The fixed TCP header (RFC 9293 section 3.1). Options are in tcp_options.py.

parse() returns one tuple for a header. GRO and GSO (engines/offload) are faster: they unpack a whole frame's
headers into local variables. A test asserts that both agree.

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
"""The checksum field's offset from the start of the header."""


class Header(NamedTuple):
    """The fixed header. ``header_len``: bytes, options included. ``wnd``: as in the header, not scaled."""

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

    The options are in view[off + HEADER_LEN : off + header_len]. parse() does not verify the checksum;
    verify() does. Raises WireError.
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
