"""Port security: refuses frames that no guest may send to other guests.

A guest must not act as a part of the network's infrastructure. So these frames are refused:

=====================  ==================================================================================
DHCP server messages   UDP to port 68 (RFC 2131 section 4.1), UDP over IPv6 to port 546 (RFC 8415 section
                       7.2). Many clients look at the destination port alone, so this does too.
ICMP that sets routes  redirects (RFC 792) and router advertisements (RFC 1256); over IPv6 the same two
                       (RFC 4861 sections 4.2 and 4.5)
reserved groups        01:80:c2:00:00:00 to 0f: spanning tree, PAUSE, LLDP. No bridge forwards these
                       (IEEE 802.1Q section 8.6.3).
unreadable headers     headers that are truncated, or whose chain is so long that it may hide one of the
                       above (RFC 7113 section 3; RFC 7610 section 5)
=====================  ==================================================================================

Frames with VLAN ID 0 or 1 are read like untagged ones, since a guest may take them for untagged ones. ID 0
means "no VLAN", and ID 1 is the default of bridges for untagged frames (IEEE 802.1Q table 9-2). Another VLAN
is a network of its own. The gateway is not part of it, and its frames are not read.

Only first fragments are read. They have the ports and the type, and without them nothing is reassembled. The
caller checks source addresses, since it has the tables.
"""

from typing import Final

from pipeline.wire import dhcp, dhcpv6, ethernet, icmp, icmpv6, ip, ipv4, ipv6
from pipeline.wire.errors import WireError

_ROUTES: Final = frozenset((icmp.REDIRECT, 9))
"""ICMP types: redirect, router advertisement."""
_ROUTES_V6: Final = frozenset((icmpv6.ROUTER_ADVERTISEMENT, icmpv6.REDIRECT))
"""The same types in ICMPv6."""
_OFFSET_V4: Final = 0x1FFF
_RESERVED_GROUPS: Final = b"\x01\x80\xc2\x00\x00"
_TAGS: Final = frozenset((ethernet.TYPE_VLAN, ethernet.TYPE_SERVICE_VLAN))
_VLAN_ID: Final = 0x0FFF
_MAX_TAGS: Final = 4

_UNREADABLE: Final = "switch_frame_dropped_unreadable_headers"
_DHCP: Final = "switch_frame_dropped_dhcp_server"
_ROUTE: Final = "switch_frame_dropped_route_message"


def refuse_group(dst: bytes) -> None:
    """Raise WireError for a group address that no bridge forwards."""
    if dst[5] < 16 and dst[:5] == _RESERVED_GROUPS:
        raise WireError("switch_frame_dropped_reserved_group")


def network_of(view: memoryview, off: int, end: int, ethertype: int) -> tuple[int, int]:
    """(EtherType, offset after it) of the frame at off, after tags of VLAN 0 and 1.

    For a frame of another VLAN, the EtherType is that of its tag. Raises WireError for too many tags.
    """
    at = off + ethernet.HEADER_LEN
    for _ in range(_MAX_TAGS):
        if ethertype not in _TAGS:
            return ethertype, at
        if at + ethernet.TAG_LEN > end:
            raise WireError(_UNREADABLE)
        if (view[at] << 8 | view[at + 1]) & _VLAN_ID > 1:
            return ethertype, at
        ethertype = view[at + 2] << 8 | view[at + 3]
        at += ethernet.TAG_LEN
    raise WireError(_UNREADABLE)


def refuse_datagram(addr: int, port: int) -> None:
    """Raise WireError for a datagram to a DHCP client. addr, port: its destination, of either family."""
    if port == (dhcp.CLIENT_PORT if ip.is_ipv4(addr) else dhcpv6.CLIENT_PORT):
        raise WireError(_DHCP)


def refuse_ipv4(view: memoryview, at: int, end: int) -> int:
    """The source address of the IPv4 packet in view[at:end], which may end with padding.

    Raises WireError for one of the messages above.
    """
    if end - at < ipv4.HEADER_LEN or view[at] >> 4 != 4:
        raise WireError(_UNREADABLE)
    begin = at + (view[at] & 15) * 4
    src = ip.from_ipv4(int.from_bytes(view[at + 12 : at + 16], "big"))
    proto = view[at + 9]
    if (view[at + 6] << 8 | view[at + 7]) & _OFFSET_V4:
        return src
    if proto == ipv4.PROTO_UDP:
        _refuse_port(view, begin, end, dhcp.CLIENT_PORT)
    elif proto == ipv4.PROTO_ICMP:
        _refuse_type(view, begin, end, _ROUTES)
    return src


def refuse_ipv6(view: memoryview, at: int, end: int) -> ipv6.Upper:
    """What the IPv6 packet in view[at:end] carries. Raises WireError for one of the messages above."""
    if end - at < ipv6.HEADER_LEN:
        raise WireError(_UNREADABLE)
    try:
        upper = ipv6.walk(view, at + ipv6.HEADER_LEN, end, view[at + 6])
    except WireError:
        raise WireError(_UNREADABLE) from None
    if not upper.frag_off:
        if upper.proto == ipv4.PROTO_UDP:
            _refuse_port(view, upper.off, end, dhcpv6.CLIENT_PORT)
        elif upper.proto == ipv6.PROTO_ICMPV6:
            _refuse_type(view, upper.off, end, _ROUTES_V6)
    return upper


def _refuse_port(view: memoryview, at: int, end: int, port: int) -> None:
    """Raise WireError if the UDP header at ``at`` has this destination port, or is truncated."""
    if at + 4 > end:
        raise WireError(_UNREADABLE)
    if view[at + 2] << 8 | view[at + 3] == port:
        raise WireError(_DHCP)


def _refuse_type(view: memoryview, at: int, end: int, types: frozenset[int]) -> None:
    """Raise WireError if the ICMP message at ``at`` has one of these types, or is truncated."""
    if at >= end:
        raise WireError(_UNREADABLE)
    if view[at] in types:
        raise WireError(_ROUTE)
