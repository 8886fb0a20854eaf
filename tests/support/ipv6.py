"""IPv6 frames of guests for tests: pings, datagrams, and messages of neighbour discovery."""

from pipeline.wire import ethernet, icmpv6, ipv6
from tests.support.frames import GATEWAY_MAC, udp_frame6

ALL_ROUTERS = 0xFF02 << 112 | 2
"""ff02::2"""


def icmp_frame(message: bytes, src: int, dst: int, mac: bytes, dst_mac: bytes = GATEWAY_MAC) -> bytes:
    """A frame with an ICMPv6 message, which has its checksum."""
    return icmpv6.frame(dst_mac, mac, src, dst, message)


def ping(
    src: int, dst: int, mac: bytes, dst_mac: bytes = GATEWAY_MAC, data: bytes = b"payload", seq: int = 1
) -> bytes:
    """An echo request."""
    message = icmpv6.build(icmpv6.ECHO_REQUEST, 0, 7 << 16 | seq, src, dst, data)
    return icmp_frame(message, src, dst, mac, dst_mac)


def solicitation(target: int, src: int, mac: bytes, named: bytes | None = None) -> bytes:
    """A neighbor solicitation to the target's group. src 0: the guest wants the address for itself."""
    group = ipv6.solicited_node(target)
    message = icmpv6.build(icmpv6.NEIGHBOR_SOLICITATION, 0, 0, 0, group, target.to_bytes(16, "big"))
    if src:
        message = icmpv6.build_solicitation(target, mac if named is None else named, src, group)
    return icmp_frame(message, src, group, mac, ipv6.group_mac(group))


def advertisement(
    target: int, src: int, mac: bytes, dst_mac: bytes, dst: int, named: bytes | None = None
) -> bytes:
    """A neighbor advertisement that target is at the MAC address ``named``, by default the sender's."""
    flags = icmpv6.FLAG_OVERRIDE
    message = icmpv6.build_advertisement(target, mac if named is None else named, flags, src, dst)
    return icmp_frame(message, src, dst, mac, dst_mac)


def router_solicitation(src: int, mac: bytes) -> bytes:
    """A router solicitation."""
    message = icmpv6.build(icmpv6.ROUTER_SOLICITATION, 0, 0, src, ALL_ROUTERS)
    return icmp_frame(message, src, ALL_ROUTERS, mac, ipv6.group_mac(ALL_ROUTERS))


def udp_frame(
    payload: bytes, src: int, dst: int, mac: bytes, *, dport: int = 53, summed: bool = True
) -> bytes:
    """A datagram for the gateway's MAC. summed False: without a checksum, which IPv6 does not allow."""
    header = ethernet.header(GATEWAY_MAC, mac, ethernet.TYPE_IPV6)
    return udp_frame6(payload, dport=dport, src=src, dst=dst, eth_header=header, summed=summed)
