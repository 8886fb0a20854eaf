"""The UDP header (RFC 768).

::

    0         2         4       6         8
    src_port  dst_port  length  checksum  payload
"""

from struct import Struct
from typing import Final, NamedTuple

from pipeline.wire import checksum as inet
from pipeline.wire import ip
from pipeline.wire.errors import WireError
from pipeline.wire.ipv4 import PROTO_UDP

FIXED: Final = Struct("!HHHH")
HEADER_LEN: Final[int] = FIXED.size


class Header(NamedTuple):
    """``length``: bytes of header and payload. ``checksum``: 0 if the sender did not compute one."""

    src_port: int
    dst_port: int
    length: int
    checksum: int


def parse(view: memoryview | bytes, off: int, end: int) -> Header:
    """Read the header at view[off:end]. end: the end of the IP payload.

    The payload is view[off + 8 : off + length]. Bytes after it are ignored. parse() does not verify the
    checksum; verify() does. Raises WireError.
    """
    if end - off < HEADER_LEN or end > len(view) or off < 0:
        raise WireError("udp_datagram_dropped_truncated")
    src_port, dst_port, length, check = FIXED.unpack_from(view, off)
    if not HEADER_LEN <= length <= end - off:
        raise WireError("udp_datagram_dropped_bad_length")
    return Header(src_port, dst_port, length, check)


def verify(view: memoryview | bytes, off: int, header: Header, src: int, dst: int) -> None:
    """Check the checksum, if there is one, of the datagram at off. Raises WireError.

    A checksum that the sender left to its network card is valid (checksum.is_partial). Over IPv6 there must
    be one (RFC 8200 section 8.1).
    """
    if not header.checksum:
        if not ip.is_ipv4(dst):
            raise WireError("udp_datagram_dropped_no_checksum")
        return
    pseudo = inet.pseudo_header(src, dst, PROTO_UDP, header.length)
    if not inet.verify(view[off : off + header.length], pseudo) and not inet.is_partial(
        header.checksum, pseudo
    ):
        raise WireError("udp_datagram_dropped_bad_checksum")


def build(src_port: int, dst_port: int, length: int, checksum: int = 0) -> bytes:
    """The 8 bytes of a header. length: header and payload."""
    return FIXED.pack(src_port, dst_port, length, checksum)


def build_checked(
    src: int, dst: int, src_port: int, dst_port: int, payload_len: int, payload_sum: int
) -> bytes:
    """The header with its checksum.

    payload_sum: the sum of the payload's words, from checksum.word_sum or, for large payloads, from
    engines/offload/checksum.py. A checksum of zero is sent as 0xffff (RFC 768).
    """
    length = HEADER_LEN + payload_len
    total = inet.pseudo_header(src, dst, PROTO_UDP, length) + src_port + dst_port + length + payload_sum
    return FIXED.pack(src_port, dst_port, length, inet.finish(total) or 0xFFFF)
