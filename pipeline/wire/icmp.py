"""ICMP messages (RFC 792): echo, destination unreachable, time exceeded.

The meaning of the four bytes after the checksum, the *rest of the header*, depends on the type. ``rest`` is
these bytes as one integer. In an echo it is identifier << 16 | sequence number. In "fragmentation needed" the
low half is the next-hop MTU (RFC 1191).

::

    0     1     2         4     8
    type  code  checksum  rest  data
"""

from struct import Struct
from typing import Final, NamedTuple

from pipeline.wire import checksum as inet
from pipeline.wire import ip, ipv4
from pipeline.wire.errors import WireError

FIXED: Final = Struct("!BBHI")
HEADER_LEN: Final[int] = FIXED.size

ECHO_REPLY: Final = 0
UNREACHABLE: Final = 3
SOURCE_QUENCH: Final = 4
REDIRECT: Final = 5
ECHO_REQUEST: Final = 8
TIME_EXCEEDED: Final = 11
PARAMETER_PROBLEM: Final = 12

ERRORS: Final = frozenset((UNREACHABLE, SOURCE_QUENCH, REDIRECT, TIME_EXCEEDED, PARAMETER_PROBLEM))
"""Types that report an error. No error is sent about them (RFC 1122 section 3.2.2)."""

NET_UNREACHABLE: Final = 0
HOST_UNREACHABLE: Final = 1
PROTOCOL_UNREACHABLE: Final = 2
PORT_UNREACHABLE: Final = 3
FRAGMENTATION_NEEDED: Final = 4
SOURCE_ISOLATED: Final = 8
"""No router sends this in IPv4. ICMPv6 has a code for a source that is not valid beyond its link."""
NET_PROHIBITED: Final = 9
HOST_PROHIBITED: Final = 10
ADMINISTRATIVELY_PROHIBITED: Final = 13

TTL_EXCEEDED: Final = 0
REASSEMBLY_EXCEEDED: Final = 1


class Message(NamedTuple):
    """The 8-byte header. The data follows it, up to the end of the IP payload."""

    type: int
    code: int
    checksum: int
    rest: int


def parse(view: memoryview | bytes, off: int, end: int) -> Message:
    """Read the message view[off:end] and verify its checksum. Raises WireError."""
    if end - off < HEADER_LEN or end > len(view) or off < 0:
        raise WireError("icmp_message_dropped_truncated")
    message = Message(*FIXED.unpack_from(view, off))
    if not inet.verify(view[off:end]):
        raise WireError("icmp_message_dropped_bad_checksum")
    return message


class Says(NamedTuple):
    """What an error of either family says, before the packet that it quotes."""

    type: int
    code: int
    rest: int


class Quoted(NamedTuple):
    """The part of the offending packet that every error quotes: its IP headers and the 8 bytes after them.

    seq: TCP's sequence number. In a quoted UDP datagram these four bytes are length and checksum.
    """

    total_len: int
    proto: int
    src: int
    dst: int
    src_port: int
    dst_port: int
    seq: int


_L4: Final = Struct("!HHI")


def parse_quoted(view: memoryview | bytes, off: int, end: int) -> Quoted:
    """Read the packet that the error message view[off:end] quotes, as far as RFC 792 requires a quote.

    Checksums are not verified, because a router may have changed the header. Raises WireError when the
    packet is not IPv4, is too short, or is not the first fragment.
    """
    begin = off + HEADER_LEN
    if end - begin < ipv4.HEADER_LEN + _L4.size:
        raise WireError("icmp_error_dropped_bad_quote")
    first, _, total_len, _, frag, _, proto, _, src, dst = ipv4.FIXED.unpack_from(view, begin)
    ihl = (first & 15) * 4
    if first >> 4 != 4 or ihl < ipv4.HEADER_LEN or frag & 0x1FFF or end - begin < ihl + _L4.size:
        raise WireError("icmp_error_dropped_bad_quote")
    src_port, dst_port, seq = _L4.unpack_from(view, begin + ihl)
    return Quoted(total_len, proto, ip.from_ipv4(src), ip.from_ipv4(dst), src_port, dst_port, seq)


def build(kind: int, code: int, rest: int, data: bytes | memoryview = b"") -> bytes:
    """A whole message with its checksum."""
    total = (kind << 8 | code) + (rest >> 16) + (rest & 0xFFFF) + inet.word_sum(data)
    return FIXED.pack(kind, code, inet.finish(total), rest) + bytes(data)


def build_echo(kind: int, ident: int, seq: int, data: bytes | memoryview = b"") -> bytes:
    """An ECHO_REQUEST or ECHO_REPLY."""
    return build(kind, 0, ident << 16 | seq, data)


def build_error(says: Says, quoted: bytes | memoryview) -> bytes:
    """A whole error message. quoted: the header and the first 8 bytes of the offending packet."""
    return build(says.type, says.code, says.rest, quoted)
