"""What a hostile guest sends to another one, and the counter of the rule that each attempt meets.

The same attempts are made at demux alone (tests/stages/demux/test_guard.py) and between kernel guests
(tests/e2e/test_port_security.py).
"""

from struct import pack
from typing import Final, NamedTuple

from pipeline.wire import arp, checksum, dhcp, ethernet, icmp, ip, ipv4, udp
from tests.support.dhcp_clients import message
from tests.support.frames import GATEWAY_MAC, tcp_frame, udp_frame

GATEWAY: Final = ip.parse_ipv4("192.168.127.1")
HOST: Final = ip.parse_ipv4("192.168.127.254")
OUTSIDE: Final = ip.parse_ipv4("198.18.0.2")
MARK: Final = b"gvp-attempt"
"""In every attempt that carries data: how a receiver knows it."""

_LINK_LOCAL: Final = bytes.fromhex("fe80") + bytes(8) + bytes.fromhex("beef00000001")
ALL_NODES: Final = bytes.fromhex("ff02") + bytes(13) + b"\x01"
ALL_NODES_MAC: Final = bytes.fromhex("333300000001")
SPANNING_TREE: Final = bytes.fromhex("0180c2000000")

TAKEN: Final = "neighbor_claim_refused_address_taken"
OWN: Final = "neighbor_claim_refused_gateway_address"
OUTSIDE_SOURCE: Final = "switch_frame_dropped_outside_source"
DHCP: Final = "switch_frame_dropped_dhcp_server"
ROUTES: Final = "switch_frame_dropped_route_message"


class Station(NamedTuple):
    """A guest: its MAC and address."""

    mac: bytes
    addr: int


class Attempt(NamedTuple):
    """A frame, and the counter that says why no other guest gets it."""

    name: str
    frame: bytes
    cause: str


def ping(src: int, dst: int, mac: bytes, dst_mac: bytes) -> bytes:
    """A ping with our mark."""
    return icmp_frame(icmp.build(icmp.ECHO_REQUEST, 0, 7 << 16 | 1, MARK), src, dst, mac, dst_mac)


def icmp_frame(body: bytes, src: int, dst: int, mac: bytes, dst_mac: bytes) -> bytes:
    """An ICMP message from src to dst."""
    header = ipv4.build(ipv4.HEADER_LEN + len(body), 1, 64, ipv4.PROTO_ICMP, src, dst)
    return ethernet.header(dst_mac, mac, ethernet.TYPE_IPV4) + header + body


def arp_frame(op: int, sender: tuple[bytes, int], src: bytes, dst: bytes, target: int) -> bytes:
    """An ARP message that says sender about the MAC and address, in a frame from src to dst."""
    mac, addr = sender
    return ethernet.header(dst, src, ethernet.TYPE_ARP) + arp.build(op, mac, addr, dst, target)


def redirect(src: int, victim: Station, mac: bytes, via: int) -> bytes:
    """An ICMP redirect: OUTSIDE is reached through ``via``."""
    quoted = ipv4.build(36, 1, 64, ipv4.PROTO_UDP, victim.addr, OUTSIDE) + udp.build(5000, 7000, 16)
    body = icmp.build(icmp.REDIRECT, 1, ip.to_ipv4(via), quoted)
    return icmp_frame(body, src, victim.addr, mac, victim.mac)


def dhcp_offer(victim: Station, thief: Station, dst_mac: bytes, dst: int, sport: int = 67) -> bytes:
    """A BOOTP reply that offers an address and names the thief as router."""
    body = bytearray(message(dhcp.OFFER, victim.mac))
    body[0] = 2
    header = ethernet.header(dst_mac, thief.mac, ethernet.TYPE_IPV4)
    return udp_frame(bytes(body), sport=sport, dport=68, src=thief.addr, dst=dst, eth_header=header)


def ipv6_frame(proto: int, body: bytes, mac: bytes, dst_mac: bytes, before: bytes = b"") -> bytes:
    """An IPv6 packet to all nodes. before: extension headers; proto is the first header's type."""
    payload = before + body
    header = pack("!IHBB", 6 << 28, len(payload), proto, 255) + _LINK_LOCAL + ALL_NODES
    return ethernet.header(dst_mac, mac, ethernet.TYPE_IPV6) + header + payload


def icmpv6(kind: int, body: bytes) -> bytes:
    """An ICMPv6 message from the link-local address to all nodes, with its checksum."""
    made = bytearray(pack("!BBH", kind, 0, 0) + body)
    pseudo = _LINK_LOCAL + ALL_NODES + pack("!II", len(made), 58)
    made[2:4] = (0xFFFF - checksum.word_sum(pseudo + bytes(made)) % 0xFFFF).to_bytes(2, "big")
    return bytes(made)


def router_advertisement() -> bytes:
    """The ICMPv6 message: a default router, and a prefix to make addresses of."""
    prefix = pack("!BBBBIII", 3, 4, 64, 0xC0, 3600, 3600, 0) + bytes.fromhex("20010db8") + bytes(12)
    return icmpv6(134, pack("!BBHII", 64, 0, 1800, 0, 0) + prefix)


def dhcpv6(sport: int = 547) -> bytes:
    """A UDP datagram with a DHCPv6 ADVERTISE."""
    body = b"\x02" + MARK
    made = bytearray(pack("!HHHH", sport, 546, 8 + len(body), 0) + body)
    pseudo = _LINK_LOCAL + ALL_NODES + pack("!II", len(made), 17)
    made[6:8] = (0xFFFF - checksum.word_sum(pseudo + bytes(made)) % 0xFFFF).to_bytes(2, "big")
    return bytes(made)


def attempts(thief: Station, victim: Station, third: Station) -> list[Attempt]:
    """All attempts of the thief against the victim that take another's place."""
    request, reply = arp.REQUEST, arp.REPLY
    mac, dst, everybody = thief.mac, victim.mac, ethernet.BROADCAST
    stream = {"dst": victim.addr, "eth_header": ethernet.header(dst, mac, ethernet.TYPE_IPV4)}
    return [
        Attempt(
            "mac-of-the-gateway",
            ping(thief.addr, victim.addr, GATEWAY_MAC, dst),
            "switch_frame_dropped_gateway_source",
        ),
        Attempt(
            "mac-of-a-third-guest",
            ping(thief.addr, victim.addr, third.mac, dst),
            "switch_frame_dropped_moving_source",
        ),
        Attempt("arp-reply-for-the-gateway", arp_frame(reply, (mac, GATEWAY), mac, dst, victim.addr), OWN),
        Attempt(
            "gratuitous-arp-for-the-gateway", arp_frame(reply, (mac, GATEWAY), mac, everybody, GATEWAY), OWN
        ),
        Attempt(
            "arp-request-from-the-host", arp_frame(request, (mac, HOST), mac, everybody, victim.addr), OWN
        ),
        Attempt(
            "arp-reply-for-a-third-guest", arp_frame(reply, (mac, third.addr), mac, dst, victim.addr), TAKEN
        ),
        Attempt(
            "arp-that-moves-the-gateways-mac",
            arp_frame(reply, (GATEWAY_MAC, thief.addr), mac, dst, victim.addr),
            "arp_message_dropped_foreign_sender",
        ),
        Attempt("ping-from-the-gateway", ping(GATEWAY, victim.addr, mac, dst), OWN),
        Attempt("datagram-from-the-host", udp_frame(MARK, src=HOST, **stream), OWN),
        Attempt("segment-from-a-third-guest", tcp_frame(1, MARK, src=third.addr, **stream), TAKEN),
        Attempt("ping-from-outside", ping(OUTSIDE, victim.addr, mac, dst), OUTSIDE_SOURCE),
        Attempt("segment-from-outside", tcp_frame(1, MARK, src=OUTSIDE, **stream), OUTSIDE_SOURCE),
        Attempt("datagram-from-outside", udp_frame(MARK, src=OUTSIDE, **stream), OUTSIDE_SOURCE),
        Attempt("dhcp-offer", dhcp_offer(victim, thief, everybody, ip.BROADCAST), DHCP),
        Attempt("icmp-redirect", redirect(thief.addr, victim, mac, thief.addr), ROUTES),
        Attempt("router-advertisement", ipv6_frame(58, router_advertisement(), mac, ALL_NODES_MAC), ROUTES),
        Attempt("dhcpv6-advertise", ipv6_frame(17, dhcpv6(), mac, ALL_NODES_MAC), DHCP),
    ]


def tag(frame: bytes, *tags: tuple[int, int]) -> bytes:
    """The frame with tags, outermost first: (EtherType, VLAN ID) each."""
    return frame[:12] + b"".join(pack("!HH", kind, vlan) for kind, vlan in tags) + frame[12:]


def evasions(thief: Station, victim: Station) -> list[Attempt]:
    """Attempts that hide what they are, in forms that some kernel takes."""
    mac, dst = thief.mac, victim.mac
    claim = arp_frame(arp.REPLY, (mac, GATEWAY), mac, dst, victim.addr)
    offer = dhcp_offer(victim, thief, dst, victim.addr)
    advert = router_advertisement()
    fragment = pack("!BBHI", 58, 0, 0, 7)
    options = b"\x01" * 4
    whole = redirect(thief.addr, victim, mac, thief.addr)
    long_header = bytes((0x46,)) + whole[15:34] + options + whole[34:]
    first = ipv4.build(
        ipv4.HEADER_LEN + 16, 9, 64, ipv4.PROTO_UDP, thief.addr, victim.addr, flags=ipv4.FLAG_MF
    )
    unreadable = "switch_frame_dropped_unreadable_headers"
    other_type = bytearray(claim)
    other_type[15] = 6

    def v6(first_type: int, before: bytes, body: bytes = advert) -> bytes:
        return ipv6_frame(first_type, body, mac, ALL_NODES_MAC, before)

    short = b"\x3c\x00" + bytes(6)
    outside = ping(OUTSIDE, victim.addr, mac, dst)
    irdp = icmp.build(9, 0, 0x01020708, bytes(8))
    bpdu = ethernet.header(SPANNING_TREE, mac, 0x26) + b"\x42\x42\x03" + bytes(35)
    cut = ethernet.header(dst, mac, ethernet.TYPE_IPV4) + b"\x45" + bytes(18)
    return [
        Attempt("arp-of-ieee-802", bytes(other_type), "arp_message_dropped_unsupported"),
        Attempt("arp-in-a-priority-tag", tag(claim, (0x8100, 0)), OWN),
        Attempt("arp-in-three-priority-tags", tag(claim, *[(0x8100, 0)] * 3), OWN),
        Attempt("arp-in-vlan-1", tag(claim, (0x8100, 1)), OWN),
        Attempt("arp-in-too-many-tags", tag(claim, *[(0x88A8, 0)] * 7), unreadable),
        Attempt("dhcp-offer-from-another-port", dhcp_offer(victim, thief, dst, victim.addr, 1067), DHCP),
        Attempt("dhcp-offer-to-one-guest", offer, DHCP),
        Attempt("dhcp-offer-in-fragments", offer[:14] + first + offer[34:50], DHCP),
        Attempt("ping-from-outside-in-a-tag", tag(outside, (0x8100, 0)), OUTSIDE_SOURCE),
        Attempt("redirect-after-ip-options", whole[:14] + long_header, ROUTES),
        Attempt("irdp", icmp_frame(irdp, thief.addr, victim.addr, mac, dst), ROUTES),
        Attempt("advertisement-after-options", v6(60, b"\x3a\x00" + bytes(6)), ROUTES),
        Attempt("advertisement-after-two-headers", v6(0, short + b"\x3a\x01" + bytes(14)), ROUTES),
        Attempt("advertisement-in-a-fragment", v6(44, fragment), ROUTES),
        Attempt("advertisement-after-authentication", v6(51, b"\x3a\x01" + bytes(10)), ROUTES),
        Attempt("advertisement-after-nine-headers", v6(60, short * 8 + b"\x3a\x00" + bytes(6)), unreadable),
        Attempt("first-fragment-of-a-chain", v6(44, pack("!BBHI", 60, 0, 1, 7), b"\x3a"), unreadable),
        Attempt("redirect-over-ipv6", v6(58, b"", icmpv6(137, bytes(36))), ROUTES),
        Attempt("dhcpv6-from-another-port", v6(17, b"", dhcpv6(1547)), DHCP),
        Attempt("truncated-ipv4", cut, unreadable),
        Attempt("spanning-tree", bpdu, "switch_frame_dropped_reserved_group"),
    ]


def honest(sender: Station, receiver: Station) -> dict[str, bytes]:
    """Frames of the same kinds that a guest may send, by name."""
    mac, dst, everybody = sender.mac, receiver.mac, ethernet.BROADCAST
    stream = {
        "src": sender.addr,
        "dst": receiver.addr,
        "eth_header": ethernet.header(dst, mac, ethernet.TYPE_IPV4),
    }
    sent = {
        "src": 0,
        "dst": ip.BROADCAST,
        "eth_header": ethernet.header(everybody, mac, ethernet.TYPE_IPV4),
    }
    return {
        "ping": ping(sender.addr, receiver.addr, mac, dst),
        "datagram": udp_frame(MARK, **stream),
        "segment": tcp_frame(1, MARK, **stream),
        "arp-request": arp_frame(arp.REQUEST, (mac, sender.addr), mac, everybody, receiver.addr),
        "arp-reply": arp_frame(arp.REPLY, (mac, sender.addr), mac, dst, receiver.addr),
        "arp-probe": arp_frame(arp.REQUEST, (mac, 0), mac, everybody, sender.addr + 50),
        "dhcp-discover": udp_frame(message(dhcp.DISCOVER, mac), sport=68, dport=67, **sent),
        "neighbour-solicitation": ipv6_frame(58, icmpv6(135, bytes(20)), mac, ALL_NODES_MAC),
        "datagram-over-ipv6": ipv6_frame(17, pack("!HHHH", 5353, 5353, 8, 0), mac, ALL_NODES_MAC),
        "later-fragment-over-ipv6": ipv6_frame(44, pack("!BBHI", 58, 0, 64, 7) + b"\x86", mac, ALL_NODES_MAC),
        "vlan-5": tag(arp_frame(arp.REPLY, (mac, GATEWAY), mac, dst, 0), (0x8100, 5)),
        "unknown-ethertype": ethernet.header(dst, mac, 0x88B5) + MARK,
    }
