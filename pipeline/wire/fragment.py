"""Fragments of both families, in the one form that the reassembler reads (RFC 791, RFC 8200 section 4.5).

What differs by family is here: the checks of a single fragment, what names its packet, how long it may wait,
and the header of the whole packet. The head of a fragment is all that lies before its payload::

    IPv4   header, options
    IPv6   header, extension headers, Fragment header

Of the first fragment's head, the whole packet keeps all but the Fragment header or the fragment fields.
"""

from typing import Final, NamedTuple

from pipeline.wire import icmpv6, ipv4, ipv6, tcp, udp
from pipeline.wire.errors import HeaderError, WireError

_UPPER_LEN: Final = {
    ipv4.PROTO_TCP: tcp.HEADER_LEN,
    ipv4.PROTO_UDP: udp.HEADER_LEN,
    ipv6.PROTO_ICMPV6: icmpv6.HEADER_LEN,
}
"""Bytes of the upper-layer headers that a first fragment must have (RFC 7112 section 5)."""
_OFFSET_AT: Final = 2
"""Offset of the Fragment Offset field in a Fragment header."""


class Family(NamedTuple):
    """What the reassembler needs to know of a family.

    lifetime: seconds from the first fragment until a packet is given up. The rest are names of counters.
    """

    lifetime: float
    duplicate: str
    overlap: str
    too_many: str
    full: str
    timeout: str


IPV4: Final = Family(
    30.0,
    "ipv4_fragment_dropped_duplicate",
    "ipv4_fragment_dropped_overlap",
    "ipv4_fragment_dropped_too_many",
    "ipv4_datagram_dropped_reassembly_full",
    "ipv4_datagram_dropped_reassembly_timeout",
)
IPV6: Final = Family(
    60.0,
    "ipv6_fragment_dropped_duplicate",
    "ipv6_fragment_dropped_overlap",
    "ipv6_fragment_dropped_too_many",
    "ipv6_datagram_dropped_reassembly_full",
    "ipv6_datagram_dropped_reassembly_timeout",
)
FAMILIES: Final = (IPV4, IPV6)


class Piece(NamedTuple):
    """One fragment. Its lengths are in order.

    proto: of IPv4. It is 0 in IPv6, where fragments of one packet may have different ones. frag_off: bytes.
    more: further fragments follow. begin, end: where its payload is. next_header_at: in IPv6, the offset in
    the head of the Next Header field before the Fragment header; 0 in IPv4.
    """

    family: Family
    src: int
    dst: int
    proto: int
    ident: int
    frag_off: int
    more: bool
    begin: int
    end: int
    next_header_at: int


def from_ipv4(off: int, header: ipv4.Header) -> Piece:
    """The fragment whose header, at off, is this. Raises WireError for a wrong length."""
    more = header.flags & ipv4.FLAG_MF != 0
    length = header.total_len - header.ihl
    if _has_bad_length(length, header.frag_off, more):
        raise WireError("ipv4_fragment_dropped_bad_length")
    if header.frag_off + header.total_len > ipv4.MAX_TOTAL_LEN:
        raise WireError("ipv4_fragment_dropped_too_long")
    begin = off + header.ihl
    return Piece(
        IPV4,
        header.src,
        header.dst,
        header.proto,
        header.ident,
        header.frag_off,
        more,
        begin,
        begin + length,
        0,
    )


def from_ipv6(off: int, header: ipv6.Header, upper: ipv6.Upper) -> Piece:
    """The fragment whose header, at off, is this. upper: what walk() found; it has a Fragment header.

    Raises WireError for an empty fragment. Raises HeaderError for a length that is no multiple of 8, for
    a packet that would be too long, and for a first fragment without the whole upper-layer header.
    """
    begin = upper.fragment_at + ipv6.FRAGMENT_HEADER_LEN
    end = off + ipv6.HEADER_LEN + header.payload_len
    length = end - begin
    if _has_bad_length(length, upper.frag_off, upper.more):
        reason = "ipv6_fragment_dropped_bad_length"
        raise HeaderError(reason, ipv6.WRONG_FIELD, ipv6.PAYLOAD_LEN_AT) if length else WireError(reason)
    kept = upper.fragment_at - off - ipv6.HEADER_LEN
    if kept + upper.frag_off + length > ipv6.MAX_PAYLOAD_LEN:
        pointer = upper.fragment_at - off + _OFFSET_AT
        raise HeaderError("ipv6_fragment_dropped_too_long", ipv6.WRONG_FIELD, pointer)
    if upper.more and not upper.frag_off and end - upper.off < _UPPER_LEN.get(upper.proto, 0):
        raise HeaderError("ipv6_fragment_dropped_incomplete_headers", ipv6.INCOMPLETE_CHAIN, 0)
    return Piece(
        IPV6,
        header.src,
        header.dst,
        0,
        upper.ident,
        upper.frag_off,
        upper.more,
        begin,
        end,
        upper.fragment_named_at - off,
    )


def _has_bad_length(length: int, frag_off: int, more: bool) -> bool:
    """Whether a fragment is empty, or ends between units of 8 bytes although others follow it."""
    return (more and length % 8 != 0) or (length == 0 and (more or frag_off != 0))


def join(head: bytes, next_header_at: int, payload: bytes) -> bytes:
    """The whole packet. head, next_header_at: of the first fragment. Raises WireError if it is too long.

    It is too long only if the first fragment has a longer head than the last.
    """
    if head[0] >> 4 == 4:
        return _join_ipv4(head, payload)
    kept = bytearray(head[: -ipv6.FRAGMENT_HEADER_LEN])
    payload_len = len(kept) - ipv6.HEADER_LEN + len(payload)
    if payload_len > ipv6.MAX_PAYLOAD_LEN:
        raise WireError("ipv6_fragment_dropped_too_long")
    kept[next_header_at] = head[-ipv6.FRAGMENT_HEADER_LEN]
    kept[ipv6.PAYLOAD_LEN_AT : ipv6.NEXT_HEADER_AT] = payload_len.to_bytes(2, "big")
    return bytes(kept) + payload


def _join_ipv4(head: bytes, payload: bytes) -> bytes:
    total_len = len(head) + len(payload)
    if total_len > ipv4.MAX_TOTAL_LEN:
        raise WireError("ipv4_fragment_dropped_too_long")
    kept = bytearray(head)
    kept[2:4] = total_len.to_bytes(2, "big")
    kept[6:8] = b"\0\0"
    kept[10:12] = b"\0\0"
    kept[10:12] = (0xFFFF - int.from_bytes(kept, "big") % 0xFFFF).to_bytes(2, "big")
    return bytes(kept) + payload
