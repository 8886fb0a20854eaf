"""The gateway's messages of neighbour discovery (RFC 4861 section 7): answers, and questions about guests.

This is to IPv6 what the arp engine is to IPv4. It keeps no table: neighbors/ learns from the messages. It
makes whole Ethernet frames.
"""

from typing import Final

from pipeline.engines.neighbors.addresses import Ipv6Addresses
from pipeline.wire import ethernet, icmpv6, ipv6

_FROM_GATEWAY: Final = icmpv6.FLAG_ROUTER | icmpv6.FLAG_OVERRIDE


def claim(header: ipv6.Header, message: icmpv6.Discovery, src_mac: bytes) -> tuple[int, bytes]:
    """The address and the MAC address that a message says belong together; address 0 if it says nothing.

    src_mac: of its frame. An advertisement is about its target. A solicitation is about its source, which is
    ``::`` while a guest looks whether another one has the address that it wants (RFC 4862 section 5.4).
    """
    addr = message.target if message.kind == icmpv6.NEIGHBOR_ADVERTISEMENT else header.src
    return addr, message.mac or src_mac


def advertisement(
    addr: int, mac: bytes, flags: int, header: ipv6.Header, message: icmpv6.Discovery, src_mac: bytes
) -> bytes:
    """What the station with this address and MAC answers to a solicitation for it (section 7.2.4).

    flags: FLAG_ROUTER and FLAG_OVERRIDE. A sender without an address wants this one for itself. The answer
    goes to all nodes then.
    """
    if not header.src:
        return _to_all_nodes(mac, addr, mac, flags)
    made = icmpv6.build_advertisement(addr, mac, flags | icmpv6.FLAG_SOLICITED, addr, header.src)
    return icmpv6.frame(message.mac or src_mac, mac, addr, header.src, made)


def unsolicited(addr: int, mac: bytes, to: bytes) -> bytes:
    """Tells the station with the MAC address ``to`` that addr is at mac (section 7.2.6)."""
    made = icmpv6.build_advertisement(addr, mac, icmpv6.FLAG_OVERRIDE, addr, ipv6.ALL_NODES)
    return icmpv6.frame(to, mac, addr, ipv6.ALL_NODES, made)


def _to_all_nodes(src_mac: bytes, addr: int, mac: bytes, flags: int) -> bytes:
    message = icmpv6.build_advertisement(addr, mac, flags, addr, ipv6.ALL_NODES)
    return icmpv6.frame(ipv6.group_mac(ipv6.ALL_NODES), src_mac, addr, ipv6.ALL_NODES, message)


class DiscoveryMessages:
    """Answers for the gateway's addresses with its MAC address, and asks for guests."""

    def __init__(self, mac: bytes, addresses: Ipv6Addresses) -> None:
        self._mac = mac
        self._addresses = addresses

    def answer(self, header: ipv6.Header, message: icmpv6.Discovery, src_mac: bytes) -> bytes | None:
        """The advertisement for a solicitation of one of the gateway's addresses; None for everything else.

        A guest that wants this address for itself learns by the answer that it is taken.
        """
        if message.kind != icmpv6.NEIGHBOR_SOLICITATION or message.target not in self._addresses.own:
            return None
        flags = _FROM_GATEWAY
        if message.target == self._addresses.prefix:
            # An anycast address (section 7.2.7).
            flags = icmpv6.FLAG_ROUTER
        return advertisement(message.target, self._mac, flags, header, message, src_mac)

    def defence(self, addr: int, mac: bytes) -> bytes:
        """Says that the station with this MAC address has addr, for one guest that wants it too."""
        return _to_all_nodes(self._mac, addr, mac, icmpv6.FLAG_OVERRIDE)

    def request(self, target: int, mac: bytes = ethernet.BROADCAST) -> bytes:
        """A solicitation for target: to its group, or to the one station whose MAC is to be confirmed."""
        dst = target
        if mac == ethernet.BROADCAST:
            dst = ipv6.solicited_node(target)
            mac = ipv6.group_mac(dst)
        src = self._addresses.link_local
        return icmpv6.frame(mac, self._mac, src, dst, icmpv6.build_solicitation(target, self._mac, src, dst))

    def announcement(self, addr: int, mac: bytes) -> bytes:
        """An announcement of a station's address, sent on its behalf to all stations (section 7.2.6)."""
        return _to_all_nodes(mac, addr, mac, icmpv6.FLAG_OVERRIDE)
