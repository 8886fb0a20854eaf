"""Which frames must not cross between hosts: what guests and their own host's gateway say to each other.

Each host is the gateway of its own guests, with the same MAC address and the same addresses everywhere. So a
question for the gateway must reach no other host, and no frame of another host may reach the gateway. The
same rule holds in both directions:

==================  =====================================================================================
frame               stays on its host if
==================  =====================================================================================
any                 it is from or for the gateway's MAC address
to a group, ARP     it is about an address of the gateway, as sender or target
to a group, IPv4    it is from the gateway, for a single address, or for a DHCP server or client
to a group, IPv6    the same; and router solicitations, router advertisements, redirects, and neighbour
                    discovery about an address of the gateway
to a group, either  its headers cannot be read
==================  =====================================================================================

No station sends a packet for a single address to a group (RFC 1122 section 3.3.6). If it did, a gateway that
reads the frame would route the packet. Frames of a VLAN other than 0 and 1 cross, since the gateway is not
part of it (pipeline.engines.guard).
"""

from collections.abc import Iterable
from typing import Final

from pipeline.engines import guard
from pipeline.wire import arp, dhcp, dhcpv6, ethernet, icmpv6, ip, ipv4, ipv6
from pipeline.wire.errors import WireError

_GROUP: Final = 1
_MACS_LEN: Final = 2 * ethernet.MAC_LEN
_DHCP: Final = frozenset((dhcp.CLIENT_PORT, dhcp.SERVER_PORT))
_DHCP6: Final = frozenset((dhcpv6.CLIENT_PORT, dhcpv6.SERVER_PORT))
_ROUTERS: Final = frozenset((icmpv6.ROUTER_SOLICITATION, icmpv6.ROUTER_ADVERTISEMENT, icmpv6.REDIRECT))
_DISCOVERY: Final = frozenset((icmpv6.NEIGHBOR_SOLICITATION, icmpv6.NEIGHBOR_ADVERTISEMENT))
_TARGET: Final = 8
"""Where the target's address is in a message of neighbour discovery."""
_ADDRESS_LEN: Final = 16


class Gateway:
    """The gateway of every host. own: its addresses, of both families. broadcast: that of the subnet."""

    def __init__(self, mac: bytes, own: Iterable[int], broadcast: int) -> None:
        self.mac = mac
        self._own = frozenset(own)
        self._broadcast = broadcast

    def keeps(self, view: memoryview | bytes, off: int, end: int) -> bool:
        """Whether the frame in view[off:end] stays on its host."""
        if end - off < ethernet.HEADER_LEN:
            return True
        macs = bytes(view[off : off + _MACS_LEN])
        if self.mac in (macs[: ethernet.MAC_LEN], macs[ethernet.MAC_LEN :]):
            return True
        if not macs[0] & _GROUP:
            return False
        try:
            return self._keeps_group(memoryview(view), off, end)
        except WireError:
            return True

    def _keeps_group(self, view: memoryview, off: int, end: int) -> bool:
        ethertype = view[off + _MACS_LEN] << 8 | view[off + _MACS_LEN + 1]
        kind, at = guard.network_of(view, off, end, ethertype)
        if kind == ethernet.TYPE_ARP:
            message = arp.parse(view, at, end)
            return message.spa in self._own or message.tpa in self._own
        if kind == ethernet.TYPE_IPV4:
            return self._keeps_ipv4(view, at, end)
        if kind == ethernet.TYPE_IPV6:
            return self._keeps_ipv6(view, at, end)
        return False

    def _keeps_ipv4(self, view: memoryview, at: int, end: int) -> bool:
        header = ipv4.parse(view, at, end)
        if header.src in self._own or self._is_single(header.dst):
            return True
        if header.proto != ipv4.PROTO_UDP or header.frag_off:
            return False
        return _has_port(view, at + header.ihl, end, _DHCP)

    def _keeps_ipv6(self, view: memoryview, at: int, end: int) -> bool:
        header = ipv6.parse(view, at, end)
        if header.src in self._own or self._is_single(header.dst):
            return True
        end = at + ipv6.HEADER_LEN + header.payload_len
        upper = ipv6.walk(view, at + ipv6.HEADER_LEN, end, header.next_header)
        if upper.frag_off:
            return False
        if upper.proto == ipv4.PROTO_UDP:
            return _has_port(view, upper.off, end, _DHCP6)
        if upper.proto != ipv6.PROTO_ICMPV6:
            return False
        if upper.off >= end or view[upper.off] in _ROUTERS:
            return True
        if view[upper.off] not in _DISCOVERY:
            return False
        target = upper.off + _TARGET
        if target + _ADDRESS_LEN > end:
            return True
        return int.from_bytes(view[target : target + _ADDRESS_LEN], "big") in self._own

    def _is_single(self, addr: int) -> bool:
        return not (ip.is_multicast(addr) or addr in (ip.BROADCAST, self._broadcast))


def _has_port(view: memoryview, at: int, end: int, ports: frozenset[int]) -> bool:
    """Whether the UDP header at ``at`` has one of the ports as its destination, or is not whole."""
    return at + 4 > end or view[at + 2] << 8 | view[at + 3] in ports
