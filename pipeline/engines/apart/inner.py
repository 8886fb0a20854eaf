"""Inner addresses: what the daemon calls an address or a MAC that another guest has already.

A guest whose address is taken keeps it. Ingress gives it an inner address in all records, and puts its own
one back into each frame to it. So an inner address is unique in the daemon, and appears nowhere on a wire.

An inner address follows from the number of its link and from the place of the own name in the list of the
link, from 1 on::

    an IPv4 address        240.LINK.LINK.PLACE               in a network that no host may have
    an IPv6 address        PREFIX::f261:7000:LINK:PLACE      in the guests' /64
    a link-local address   fe80::f261:7000:LINK:PLACE
    a MAC address          f2:61:70:LINK:LINK:PLACE          locally administered

The list of a link gives all its inner addresses. So a successor of ingress needs this list alone.
"""

from typing import Final

from pipeline.wire import ethernet, ip

MAX_PLACES: Final = 64
"""The most own names of one link that have an inner address."""
FIRST_IPV4: Final = ip.MAPPED | 240 << 24
LAST_IPV4: Final = FIRST_IPV4 | 0xFFFFFF
"""The ends of the network of inner IPv4 addresses."""

_LINK_MASK: Final = 0xFFFF
_PLACE_BITS: Final = 8
_PLACE_BITS6: Final = 16
_HOST6: Final = 0xF2617000_00000000
"""The last 64 bits of an inner IPv6 address, without link and place."""
_HOST6_FIXED: Final = 0xFFFFFFFF_00000000
_HOST6_MASK: Final = 0xFFFFFFFF_FFFFFFFF
_LINK_LOCAL: Final = 0xFE80 << 112
_MAC: Final = b"\xf2\x61\x70"


class InnerAddresses:
    """The inner addresses of one network."""

    def __init__(self, prefix: int) -> None:
        """prefix: the first address of the guests' /64; 0 while IPv6 is off."""
        self._prefix = prefix

    def of_addr(self, own: int, link: int, place: int) -> int:
        """The inner address for the own address at a place of a link's list."""
        if ip.is_ipv4(own):
            return FIRST_IPV4 | link << _PLACE_BITS | place
        network = _LINK_LOCAL if ip.is_link_local(own) else self._prefix
        return network | _HOST6 | link << _PLACE_BITS6 | place

    def of_mac(self, link: int, place: int) -> bytes:
        """The inner MAC address for the own one at a place of a link's list."""
        return _MAC + (link << _PLACE_BITS | place).to_bytes(3, "big")

    def link_of(self, addr: int) -> int:
        """The link of an inner address; 0 if this is not one."""
        if FIRST_IPV4 <= addr <= LAST_IPV4:
            return addr >> _PLACE_BITS & _LINK_MASK
        if addr & _HOST6_FIXED != _HOST6 or addr & _HOST6_MASK == addr:
            return 0
        network = addr & ~_HOST6_MASK
        if network not in (_LINK_LOCAL, self._prefix):
            return 0
        return addr >> _PLACE_BITS6 & _LINK_MASK


def is_inner_mac(mac: bytes) -> bool:
    """Whether this is an inner MAC address."""
    return mac[:3] == _MAC and len(mac) == ethernet.MAC_LEN


def is_inner_ipv4(addr: int) -> bool:
    """Whether an IPv4 address is an inner one. No link has the number 0."""
    return FIRST_IPV4 | 1 << _PLACE_BITS <= addr <= LAST_IPV4
