"""ICMPv6: echo and errors (RFC 4443), neighbour discovery, router advertisements (RFC 4861, 8106, 8781).

The first eight bytes are as in ICMP, and ``rest`` is again the *rest of the header* as one integer. In an
echo it is identifier << 16 | sequence number. The checksum covers a pseudo-header with the addresses.

::

    type  message                 rest                          after it
    1     unreachable             0                             the offending packet
    2     packet too big          MTU of the next hop           the same
    3     time exceeded           0                             the same
    4     parameter problem       offset of the wrong field     the same
    128   echo request            identifier, sequence          data
    129   echo reply              the same                      the same
    133   router solicitation     0                             options
    134   router advertisement    hop limit, flags, lifetime    two timers of 4 bytes, options
    135   neighbor solicitation   0                             target (16 bytes), options
    136   neighbor advertisement  flags                         target (16 bytes), options

An option begins with its type and its length in units of 8 bytes.
"""

from struct import Struct
from typing import Final, NamedTuple

from pipeline.wire import checksum as inet
from pipeline.wire import ethernet, icmp, ip, ipv6
from pipeline.wire.errors import WireError
from pipeline.wire.ipv6 import PROTO_ICMPV6

FIXED: Final = Struct("!BBHI")
HEADER_LEN: Final[int] = FIXED.size

UNREACHABLE: Final = 1
PACKET_TOO_BIG: Final = 2
TIME_EXCEEDED: Final = 3
PARAMETER_PROBLEM: Final = 4
ECHO_REQUEST: Final = 128
ECHO_REPLY: Final = 129
ROUTER_SOLICITATION: Final = 133
ROUTER_ADVERTISEMENT: Final = 134
NEIGHBOR_SOLICITATION: Final = 135
NEIGHBOR_ADVERTISEMENT: Final = 136
REDIRECT: Final = 137

NO_ROUTE: Final = 0
PROHIBITED: Final = 1
BEYOND_SCOPE: Final = 2
ADDRESS_UNREACHABLE: Final = 3
PORT_UNREACHABLE: Final = 4
SOURCE_POLICY_FAILED: Final = 5
REJECT_ROUTE: Final = 6

HOPS_EXCEEDED: Final = 0
REASSEMBLY_EXCEEDED: Final = 1

MAX_QUOTED: Final = ipv6.MIN_MTU - ipv6.HEADER_LEN - HEADER_LEN
"""The most bytes of the offending packet that an error quotes (RFC 4443 section 2.4 c)."""

CODES: Final = {
    icmp.NET_UNREACHABLE: NO_ROUTE,
    icmp.HOST_UNREACHABLE: ADDRESS_UNREACHABLE,
    icmp.PORT_UNREACHABLE: PORT_UNREACHABLE,
    icmp.SOURCE_ISOLATED: BEYOND_SCOPE,
    icmp.NET_PROHIBITED: PROHIBITED,
    icmp.HOST_PROHIBITED: PROHIBITED,
    icmp.ADMINISTRATIVELY_PROHIBITED: PROHIBITED,
}
"""The code of an unreachable message for that of ICMP. It is NO_ROUTE for others (RFC 7915 section 4.2).

SOURCE_ISOLATED is this program's own word for BEYOND_SCOPE."""

FROM_HOSTS: Final = frozenset((ROUTER_SOLICITATION, NEIGHBOR_SOLICITATION, NEIGHBOR_ADVERTISEMENT))
"""Messages of neighbour discovery that hosts send, and that parse_discovery() reads."""

DISCOVERY_HOP_LIMIT: Final = 255
"""Of every message of neighbour discovery. A router would have decremented it (RFC 4861 section 3.1)."""

FLAG_ROUTER: Final = 1 << 31
FLAG_SOLICITED: Final = 1 << 30
FLAG_OVERRIDE: Final = 1 << 29

MAX_OPTIONS: Final = 32
"""The most options of one message that are read."""

_SOURCE_ADDRESS: Final = 1
_TARGET_ADDRESS: Final = 2
_PREFIX: Final = 3
_MTU: Final = 5
_SERVERS: Final = 25
_SEARCH_LIST: Final = 31
_PREF64: Final = 38
_UNIT: Final = 8
_TARGET_LEN: Final = 16
_ON_LINK_AUTONOMOUS: Final = 0xC0
_PREFIX_LEN: Final = 64
_MANAGED_OTHER: Final = 0xC0
"""Flags M and O of a router: addresses and other parameters are available by DHCPv6."""

_ADDRESS_OPTION: Final = Struct("!BB6s")
_ADVERTISEMENT: Final = Struct("!II")  # reachable time, retransmission timer
_PREFIX_OPTION: Final = Struct("!BBBBII4x16s")  # type, length, prefix length, flags, valid, preferred, prefix
_MTU_OPTION: Final = Struct("!BBxxI")
_LIST_OPTION: Final = Struct("!BBxxI")  # type, length, lifetime
_ROUTE_OPTION: Final = Struct("!BBBBI16s")  # type, length, prefix length, preference, lifetime, prefix
_ROUTE: Final = 24
_NAT64_LEN: Final = 96
_PREF64_OPTION: Final = Struct("!BBH12s")  # type, length, scaled lifetime and prefix length code, prefix
_PREF64_UNIT_S: Final = 8
_PREF64_MAX: Final = 0x1FFF
"""The scaled lifetime of PREF64 has 13 bits. The prefix length code in the other 3 is 0, for a /96."""

_L4: Final = Struct("!HHI")

_MALFORMED: Final = "nd_message_dropped_malformed"
_BAD_QUOTE: Final = "icmp_error_dropped_bad_quote"


class Message(NamedTuple):
    """The 8-byte header. The data follows it, up to the end of the packet."""

    type: int
    code: int
    checksum: int
    rest: int


def parse(view: memoryview | bytes, off: int, end: int, src: int, dst: int) -> Message:
    """Read the message view[off:end] and verify its checksum. Raises WireError."""
    if end - off < HEADER_LEN or end > len(view) or off < 0:
        raise WireError("icmpv6_message_dropped_truncated")
    message = Message(*FIXED.unpack_from(view, off))
    if not inet.verify(view[off:end], inet.pseudo_header(src, dst, PROTO_ICMPV6, end - off)):
        raise WireError("icmpv6_message_dropped_bad_checksum")
    return message


def build(kind: int, code: int, rest: int, src: int, dst: int, data: bytes | memoryview = b"") -> bytes:
    """A whole message with its checksum."""
    total = inet.pseudo_header(src, dst, PROTO_ICMPV6, HEADER_LEN + len(data))
    total += (kind << 8 | code) + (rest >> 16) + (rest & 0xFFFF) + inet.word_sum(data)
    return FIXED.pack(kind, code, inet.finish(total), rest) + bytes(data)


# --- errors ---------------------------------------------------------------------------------


def unreachable(code: int, mtu: int, named_at: int) -> icmp.Says:
    """What ICMPv6 says instead of "destination unreachable" with this code of ICMP.

    mtu: for "fragmentation needed". named_at: offset of the Next Header field in the offending packet that
    names its protocol; for "protocol unreachable".
    """
    if code == icmp.FRAGMENTATION_NEEDED:
        return icmp.Says(PACKET_TOO_BIG, 0, max(mtu, ipv6.MIN_MTU))
    if code == icmp.PROTOCOL_UNREACHABLE:
        return icmp.Says(PARAMETER_PROBLEM, ipv6.UNKNOWN_NEXT_HEADER, named_at)
    return icmp.Says(UNREACHABLE, CODES.get(code, NO_ROUTE), 0)


def is_error(kind: int) -> bool:
    """Whether a message of this type reports an error, or is a redirect: no error is sent about it."""
    return kind < ECHO_REQUEST or kind == REDIRECT


def build_error(says: icmp.Says, quoted: bytes | memoryview, src: int, dst: int) -> bytes:
    """A whole error message. quoted: the offending packet, of which MAX_QUOTED bytes fit."""
    return build(says.type, says.code, says.rest, src, dst, quoted[:MAX_QUOTED])


def parse_quoted(view: memoryview | bytes, off: int, end: int) -> icmp.Quoted:
    """Read the packet that the error message view[off:end] quotes, up to 8 bytes after its headers.

    Raises WireError when the packet is not IPv6, is too short, is not the first fragment, has addresses of
    IPv4, or is on its way through a Routing header.
    """
    begin = off + HEADER_LEN
    if end - begin < ipv6.HEADER_LEN or end > len(view) or view[begin] >> 4 != 6:
        raise WireError(_BAD_QUOTE)
    _, payload_len, proto, _, src_bytes, dst_bytes = ipv6.FIXED.unpack_from(view, begin)
    src = int.from_bytes(src_bytes, "big")
    dst = int.from_bytes(dst_bytes, "big")
    try:
        upper = ipv6.walk(view, begin + ipv6.HEADER_LEN, end, proto)
    except WireError:
        raise WireError(_BAD_QUOTE) from None
    if upper.frag_off or upper.is_routed or end - upper.off < _L4.size or ip.is_ipv4(src) or ip.is_ipv4(dst):
        raise WireError(_BAD_QUOTE)
    src_port, dst_port, seq = _L4.unpack_from(view, upper.off)
    return icmp.Quoted(ipv6.HEADER_LEN + payload_len, upper.proto, src, dst, src_port, dst_port, seq)


# --- neighbour discovery --------------------------------------------------------------------


class Discovery(NamedTuple):
    """A message of FROM_HOSTS.

    target: the address that it is about; 0 in a router solicitation. mac: the MAC address that it names, or
    empty. It is the sender's in a solicitation, and the target's in an advertisement. flags: of an
    advertisement.
    """

    kind: int
    target: int
    mac: bytes
    flags: int


def parse_discovery(view: memoryview | bytes, off: int, end: int, header: ipv6.Header) -> Discovery:
    """Read the message view[off:end], whose checksum parse() has verified. header: of its packet.

    Raises WireError for a message that a node must ignore (RFC 4861 sections 6.1.1, 7.1.1 and 7.1.2).
    """
    kind, code, _, rest = FIXED.unpack_from(view, off)
    if header.hop_limit != DISCOVERY_HOP_LIMIT:
        raise WireError("nd_message_dropped_bad_hop_limit")
    target = 0
    options = off + HEADER_LEN
    if kind != ROUTER_SOLICITATION:
        target = int.from_bytes(view[options : options + _TARGET_LEN], "big")
        options += _TARGET_LEN
        if options > end or ip.is_multicast(target):
            raise WireError(_MALFORMED)
    is_advertisement = kind == NEIGHBOR_ADVERTISEMENT
    mac = _link_address(view, options, end, _TARGET_ADDRESS if is_advertisement else _SOURCE_ADDRESS)
    if code:
        raise WireError(_MALFORMED)
    if is_advertisement:
        if rest & FLAG_SOLICITED and ip.is_multicast(header.dst):
            raise WireError(_MALFORMED)
        return Discovery(kind, target, mac, rest & (FLAG_ROUTER | FLAG_SOLICITED | FLAG_OVERRIDE))
    if not header.src:
        # The sender has no address yet, so it cannot say who has it.
        foreign_group = kind == NEIGHBOR_SOLICITATION and header.dst != ipv6.solicited_node(target)
        if mac or foreign_group:
            raise WireError(_MALFORMED)
    return Discovery(kind, target, mac, 0)


def _link_address(view: memoryview | bytes, at: int, end: int, wanted: int) -> bytes:
    """The MAC address in the first option of this type, or empty. Raises WireError for a wrong length."""
    found = b""
    options = 0
    while at < end:
        length = view[at + 1] * _UNIT if at + 1 < end else 0
        if not length or at + length > end or options == MAX_OPTIONS:
            raise WireError(_MALFORMED)
        if view[at] == wanted and not found:
            if length != _UNIT:
                raise WireError(_MALFORMED)
            found = bytes(view[at + 2 : at + _UNIT])
        options += 1
        at += length
    return found


def build_solicitation(target: int, mac: bytes, src: int, dst: int) -> bytes:
    """A neighbor solicitation for target, from the station with this MAC address."""
    return build(NEIGHBOR_SOLICITATION, 0, 0, src, dst, _about(target, _SOURCE_ADDRESS, mac))


def build_advertisement(target: int, mac: bytes, flags: int, src: int, dst: int) -> bytes:
    """A neighbor advertisement: target is at this MAC address."""
    return build(NEIGHBOR_ADVERTISEMENT, 0, flags, src, dst, _about(target, _TARGET_ADDRESS, mac))


def _about(target: int, kind: int, mac: bytes) -> bytes:
    return target.to_bytes(_TARGET_LEN, "big") + _ADDRESS_OPTION.pack(kind, 1, mac)


# --- routers ----------------------------------------------------------------------------------


class RouterAdvertisement(NamedTuple):
    """What a router says. Lifetimes are in seconds.

    lifetime: of the router as default router; 0: it is none. prefix: the first address of a /64 of which
    hosts make their addresses. name_server: 0 for none. search_list: names in wire form, without compression,
    or empty. nat64: the first address of the /96 that embeds IPv4 addresses; 0 for none.
    """

    mac: bytes
    lifetime: int
    mtu: int
    prefix: int
    valid: int
    preferred: int
    name_server: int
    search_list: bytes
    names_lifetime: int
    nat64: int = 0
    nat64_lifetime: int = 0


def build_router_advertisement(says: RouterAdvertisement, src: int, dst: int) -> bytes:
    """A whole message (RFC 4861 section 4.2), with flags M and O. Its timers are 0, so hosts keep theirs."""
    prefix = says.prefix.to_bytes(16, "big")
    parts = [
        _ADVERTISEMENT.pack(0, 0),
        _ADDRESS_OPTION.pack(_SOURCE_ADDRESS, 1, says.mac),
        _MTU_OPTION.pack(_MTU, 1, says.mtu),
        _PREFIX_OPTION.pack(_PREFIX, 4, _PREFIX_LEN, _ON_LINK_AUTONOMOUS, says.valid, says.preferred, prefix),
    ]
    if says.name_server:
        parts += [_LIST_OPTION.pack(_SERVERS, 3, says.names_lifetime), says.name_server.to_bytes(16, "big")]
    if says.search_list:
        units = 1 + -(-len(says.search_list) // _UNIT)
        parts += [
            _LIST_OPTION.pack(_SEARCH_LIST, units, says.names_lifetime),
            says.search_list.ljust((units - 1) * _UNIT, b"\0"),
        ]
    if says.nat64:
        parts += [_pref64(says.nat64, says.nat64_lifetime), _route(says.nat64, says.nat64_lifetime)]
    rest = ipv6.DEFAULT_HOP_LIMIT << 24 | _MANAGED_OTHER << 16 | says.lifetime
    return build(ROUTER_ADVERTISEMENT, 0, rest, src, dst, b"".join(parts))


def _pref64(prefix: int, lifetime: int) -> bytes:
    """The PREF64 option (RFC 8781 section 4). lifetime: seconds, rounded up to a multiple of 8.

    A lifetime that the option cannot express becomes its longest one, 65528 seconds.
    """
    scaled = min(-(-lifetime // _PREF64_UNIT_S), _PREF64_MAX)
    return _PREF64_OPTION.pack(_PREF64, 2, scaled << 3, (prefix >> 32).to_bytes(12, "big"))


def _route(prefix: int, lifetime: int) -> bytes:
    """The route information option (RFC 4191 section 2.3) for a /96, of medium preference.

    So addresses of NAT64 are reached also while the router is no default router.
    """
    return _ROUTE_OPTION.pack(_ROUTE, 3, _NAT64_LEN, 0, lifetime, prefix.to_bytes(16, "big"))


def frame(mac: bytes, src_mac: bytes, src: int, dst: int, message: bytes) -> bytes:
    """An Ethernet frame with a message. Neighbour discovery has its own hop limit."""
    is_discovery = ROUTER_SOLICITATION <= message[0] <= REDIRECT
    hop_limit = DISCOVERY_HOP_LIMIT if is_discovery else ipv6.DEFAULT_HOP_LIMIT
    header = ipv6.build(len(message), PROTO_ICMPV6, hop_limit, src, dst)
    return ethernet.header(mac, src_mac, ethernet.TYPE_IPV6) + header + message
