"""The IPv6 header (RFC 8200), the extension headers after it, and addresses that have a meaning (RFC 4291).

Addresses are numbers as in pipeline.wire.ip. An IPv4-mapped address in an IPv6 header would be the number of
an IPv4 address, so parse() refuses it: such packets must not appear on a link (RFC 4942 section 2.2).

::

    0                          4            6            7          8    24   40
    ver|traffic class|flow     payload_len  next_header  hop_limit  src  dst  extension headers

All extension headers but Fragment and Authentication begin with the type of the next header and their length
in units of 8 bytes, the first unit not counted (RFC 6564 section 4). walk() finds what comes after them.
check_extensions() then refuses headers and options that a node must not skip.
"""

from struct import Struct
from typing import Final, NamedTuple

from pipeline.wire import ip
from pipeline.wire.errors import HeaderError, WireError

FIXED: Final = Struct("!IHBB16s16s")
HEADER_LEN: Final[int] = FIXED.size
FRAGMENT_HEADER: Final = Struct("!BxHI")
FRAGMENT_HEADER_LEN: Final = FRAGMENT_HEADER.size
MIN_MTU: Final = 1280
"""Every link must carry packets of this many bytes (RFC 8200 section 5)."""
MAX_EXTENSIONS: Final = 8
"""The most extension headers that are read. No ordinary packet has more than four."""
DEFAULT_HOP_LIMIT: Final = 64
MAX_PAYLOAD_LEN: Final = 0xFFFF

PAYLOAD_LEN_AT: Final = 4
NEXT_HEADER_AT: Final = 6
"""Offsets of these fields in the fixed header."""

MAX_OPTIONS: Final = 32
"""The most options of one packet that are read, with those that only pad (RFC 8504 section 5.3)."""

WRONG_FIELD: Final = 0
UNKNOWN_NEXT_HEADER: Final = 1
UNKNOWN_OPTION: Final = 2
INCOMPLETE_CHAIN: Final = 3
"""Codes of a parameter problem (RFC 4443 section 3.4). The last one: a first fragment has not all headers
(RFC 7112 section 5)."""

PROTO_FRAGMENT: Final = 44
PROTO_ICMPV6: Final = 58

ALL_NODES: Final = 0xFF02 << 112 | 1
"""ff02::1"""

_HOP_BY_HOP: Final = 0
_ROUTING: Final = 43
_AUTHENTICATION: Final = 51
_DESTINATION: Final = 60
_EXTENSIONS: Final = frozenset(
    (_HOP_BY_HOP, _ROUTING, PROTO_FRAGMENT, _AUTHENTICATION, _DESTINATION, 135, 139, 140)
)
"""The last three: mobility (RFC 6275), HIP, Shim6."""
_PAD1: Final = 0
_SKIP: Final = 0
_DISCARD: Final = 1
_REPORT_UNLESS_GROUP: Final = 3
"""What the highest two bits of an option's type say if it is unknown. 2 is to discard and report it."""
_LINK_LOCAL: Final = 0xFE80 << 112
_SOLICITED_NODE: Final = 0xFF02 << 112 | 0x1_FF00_0000
_GROUP_MAC: Final = b"\x33\x33"
_MORE: Final = 1
_OFFSET: Final = 0xFFF8


class Header(NamedTuple):
    """The fixed header. ``payload_len``: bytes after it, extension headers included."""

    traffic_class: int
    flow_label: int
    payload_len: int
    next_header: int
    hop_limit: int
    src: int
    dst: int


class Upper(NamedTuple):
    """What comes after the extension headers: a header of protocol ``proto`` at offset ``off``.

    Only the first fragment of a packet has that header at ``off``.
    has_fragment: there is a Fragment header. The five fields named next are 0 or False without it.
    frag_off: the Fragment Offset in bytes. more: the M flag, further fragments follow. ident: the
    Identification. fragment_at: where the header begins. fragment_named_at: where the Next Header field is
    that has its type.
    named_at: where the Next Header field is that has ``proto``.
    is_routed: a Routing header has segments left, so ``dst`` is not the packet's last destination.
    """

    proto: int
    off: int
    has_fragment: bool
    frag_off: int
    more: bool
    is_routed: bool
    named_at: int
    ident: int
    fragment_at: int
    fragment_named_at: int


def parse(view: memoryview | bytes, off: int, end: int) -> Header:
    """Read the header at view[off:end]. The packet ends at ``off + HEADER_LEN + payload_len``.

    The bytes after that are Ethernet padding. Raises WireError, also for addresses that no packet on a link
    may have: a group as its source, an IPv4-mapped one, or ::1 (RFC 4291 section 2.5.3).
    """
    if end - off < HEADER_LEN or end > len(view) or off < 0:
        raise WireError("ipv6_packet_dropped_truncated")
    first, payload_len, next_header, hop_limit, src_bytes, dst_bytes = FIXED.unpack_from(view, off)
    if first >> 28 != 6:
        raise WireError("ipv6_packet_dropped_bad_version")
    if payload_len > end - off - HEADER_LEN:
        raise WireError("ipv6_packet_dropped_truncated")
    src = int.from_bytes(src_bytes, "big")
    dst = int.from_bytes(dst_bytes, "big")
    if ip.is_multicast(src) or ip.is_ipv4(src) or ip.is_ipv4(dst) or ip.LOOPBACK6 in (src, dst):
        raise WireError("ipv6_packet_dropped_bad_address")
    return Header(first >> 20 & 0xFF, first & 0xFFFFF, payload_len, next_header, hop_limit, src, dst)


def walk(view: memoryview | bytes, at: int, end: int, proto: int) -> Upper:
    """Skip the extension headers in view[at:end], after a fixed header. proto: the type of the first one.

    After a Fragment header with an offset there is payload, which is not read. An atomic fragment may have
    a second Fragment header, which then counts (RFC 6946 section 4). Raises WireError for a header that does
    not end in the packet, and for more than MAX_EXTENSIONS of them. In a first fragment this is a
    HeaderError (RFC 7112 section 5), and so is a fragment in it.
    """
    has_fragment, more, is_routed = False, False, False
    frag_off, ident, fragment_at, fragment_named_at = 0, 0, 0, 0
    named_at = at - HEADER_LEN + NEXT_HEADER_AT
    extensions = 0
    while proto in _EXTENSIONS and not frag_off:
        if extensions == MAX_EXTENSIONS:
            raise WireError("ipv6_packet_dropped_too_many_headers")
        if at + 8 > end or (more and proto == PROTO_FRAGMENT):
            raise _incomplete(more)
        extensions += 1
        if proto == PROTO_FRAGMENT:
            _, field, ident = FRAGMENT_HEADER.unpack_from(view, at)
            has_fragment, more, frag_off = True, field & _MORE != 0, field & _OFFSET
            fragment_at, fragment_named_at = at, named_at
        is_routed = is_routed or (proto == _ROUTING and view[at + 3] != 0)
        proto, named_at, at = view[at], at, at + _extension_len(view, at, proto)
    if at > end:
        raise _incomplete(more)
    return Upper(
        proto, at, has_fragment, frag_off, more, is_routed, named_at, ident, fragment_at, fragment_named_at
    )


def _extension_len(view: memoryview | bytes, at: int, proto: int) -> int:
    """Bytes of the extension header at ``at``, whose type is ``proto``."""
    if proto == PROTO_FRAGMENT:
        return FRAGMENT_HEADER_LEN
    if proto == _AUTHENTICATION:
        return (view[at + 1] + 2) * 4
    return (view[at + 1] + 1) * 8


def check_extensions(
    view: memoryview | bytes, at: int, upper_off: int, proto: int, *, to_group: bool
) -> None:
    """Refuse what must not be skipped in view[at:upper_off], which walk() has skipped (RFC 8200 section 4).

    at, proto: as for walk(). to_group: the packet is for a group. Raises HeaderError for an unknown option
    that asks for an answer, a Routing header with segments left, and a Hop-by-Hop header after another one.
    Raises WireError for an unknown option that asks for silence, and for malformed or too many options.
    """
    packet = at - HEADER_LEN
    named_at = packet + NEXT_HEADER_AT
    left = MAX_OPTIONS
    is_first = True
    while at < upper_off:
        length = _extension_len(view, at, proto)
        if proto == _HOP_BY_HOP and not is_first:
            raise HeaderError("ipv6_packet_dropped_misplaced_header", UNKNOWN_NEXT_HEADER, named_at - packet)
        if proto == _ROUTING and view[at + 3]:
            raise HeaderError("ipv6_packet_dropped_source_route", WRONG_FIELD, at + 2 - packet)
        if proto in (_HOP_BY_HOP, _DESTINATION):
            left = _check_options(view, packet, at + 2, at + length, left, to_group)
        proto, named_at, at = view[at], at, at + length
        is_first = False


def _check_options(
    view: memoryview | bytes, packet: int, at: int, end: int, left: int, to_group: bool
) -> int:
    """Refuse what must not be skipped among the options view[at:end] (RFC 8200 section 4.2).

    No option is known: those that ordinary hosts send, such as Router Alert, may be skipped. packet: where
    the packet begins. left: how many options may be read. Returns how many may be read after that.
    """
    while at < end:
        if not left:
            raise WireError("ipv6_packet_dropped_too_many_options")
        left -= 1
        kind = view[at]
        if kind == _PAD1:
            at += 1
            continue
        if at + 2 > end or at + 2 + view[at + 1] > end:
            raise WireError("ipv6_packet_dropped_bad_option")
        action = kind >> 6
        if action == _DISCARD or (action == _REPORT_UNLESS_GROUP and to_group):
            raise WireError("ipv6_packet_dropped_unknown_option")
        if action != _SKIP:
            raise HeaderError("ipv6_packet_dropped_unknown_option", UNKNOWN_OPTION, at - packet)
        at += 2 + view[at + 1]
    return left


def _incomplete(first_fragment: bool) -> WireError:
    """The error for headers that do not all lie in the packet."""
    if first_fragment:
        return HeaderError("ipv6_fragment_dropped_incomplete_headers", INCOMPLETE_CHAIN, 0)
    return WireError("ipv6_packet_dropped_truncated")


def build(
    payload_len: int, next_header: int, hop_limit: int, src: int, dst: int, traffic_class: int = 0
) -> bytes:
    """The 40 bytes of a header with flow label 0. payload_len: with extension headers."""
    return FIXED.pack(
        6 << 28 | traffic_class << 20,
        payload_len,
        next_header,
        hop_limit,
        src.to_bytes(16, "big"),
        dst.to_bytes(16, "big"),
    )


def build_fragment(next_header: int, frag_off: int, more: bool, ident: int) -> bytes:
    """The 8 bytes of a Fragment header. frag_off: bytes, a multiple of 8. ident: 32 bits."""
    return FRAGMENT_HEADER.pack(next_header, frag_off | more, ident)


# --- addresses ----------------------------------------------------------------------------


def link_local(mac: bytes) -> int:
    """The link-local address that a MAC address makes."""
    return of_mac(_LINK_LOCAL, mac)


def of_mac(prefix: int, mac: bytes) -> int:
    """The address that a MAC address makes in a /64 (RFC 4291 appendix A). prefix: its first address."""
    eui = bytes((mac[0] ^ 2,)) + mac[1:3] + b"\xff\xfe" + mac[3:]
    return prefix | int.from_bytes(eui, "big")


def solicited_node(addr: int) -> int:
    """The group in which the owner of an address hears questions about it (RFC 4291 section 2.7.1)."""
    return _SOLICITED_NODE | addr & 0xFFFFFF


def group_mac(addr: int) -> bytes:
    """The MAC address of a group (RFC 2464 section 7)."""
    return _GROUP_MAC + (addr & 0xFFFFFFFF).to_bytes(4, "big")


def is_group_mac(mac: bytes) -> bool:
    """Whether frames to this MAC address are for a group of IPv6."""
    return mac[:2] == _GROUP_MAC
