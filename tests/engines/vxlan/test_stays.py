"""What guests and their own gateway say to each other stays on their host, whatever the bytes are."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.engines.vxlan.stays import Gateway
from pipeline.wire import arp, dhcpv6, ethernet, icmpv6, ip, ipv4, ipv6, udp
from tests.support.attempts import tag
from tests.support.frames import udp_frame6
from tests.support.ipv6 import advertisement, icmp_frame, router_solicitation, solicitation

MAC = ethernet.mac_parse("5a:94:ef:e4:0c:dd")
ONE, OTHER = (ethernet.mac_parse(f"5a:94:ef:e4:0d:0{number}") for number in (1, 2))
GATEWAY, HOST, GUEST, PEER = (ip.parse_ipv4(f"192.168.127.{last}") for last in (1, 254, 5, 9))
BROADCAST = ip.parse_ipv4("192.168.127.255")
GATEWAY6 = ipv6.link_local(MAC)
GUEST6, PEER6 = ipv6.link_local(ONE), ipv6.link_local(OTHER)
ALL_NODES_MAC = ipv6.group_mac(ipv6.ALL_NODES)

gateway = Gateway(MAC, (GATEWAY, HOST, GATEWAY6), BROADCAST)


def keeps(frame: bytes) -> bool:
    return gateway.keeps(b"\0" * 3 + frame, 3, 3 + len(frame))


def arp_frame(spa: int, tpa: int, dst: bytes = ethernet.BROADCAST) -> bytes:
    body = arp.build(arp.REQUEST, ONE, spa, ethernet.ZERO, tpa)
    return ethernet.header(dst, ONE, ethernet.TYPE_ARP) + body


def datagram(src: int, dst: int, dport: int, mac: bytes = ethernet.BROADCAST) -> bytes:
    packet = udp.build_checked(src, dst, 4000, dport, 4, 0) + b"data"
    header = ipv4.build(ipv4.HEADER_LEN + len(packet), 1, 64, ipv4.PROTO_UDP, src, dst)
    return ethernet.header(mac, ONE, ethernet.TYPE_IPV4) + header + packet


def datagram6(dst: int, dport: int) -> bytes:
    header = ethernet.header(ipv6.group_mac(dst), ONE, ethernet.TYPE_IPV6)
    return udp_frame6(b"data", src=GUEST6, dst=dst, dport=dport, eth_header=header)


def advertised(target: int) -> bytes:
    return advertisement(target, target, ONE, ALL_NODES_MAC, ipv6.ALL_NODES)


STAYS = {
    "unicast to the gateway": ethernet.header(MAC, ONE, 0x1234) + bytes(50),
    "unicast from the gateway": ethernet.header(ONE, MAC, 0x1234) + bytes(50),
    "broadcast of the gateway": ethernet.header(ethernet.BROADCAST, MAC, 0x1234) + bytes(50),
    "who has the gateway's address": arp_frame(GUEST, GATEWAY),
    "a probe for the host's address": arp_frame(ip.from_ipv4(0), HOST),
    "I am the gateway": arp_frame(GATEWAY, GATEWAY),
    "an ARP message that is cut off": arp_frame(GUEST, PEER)[:30],
    "a DHCP client": datagram(ip.from_ipv4(0), ip.BROADCAST, 67),
    "a DHCP server": datagram(GUEST, ip.BROADCAST, 68),
    "a DHCP client, tagged": tag(datagram(ip.from_ipv4(0), ip.BROADCAST, 67), (0x8100, 0)),
    "a datagram of the gateway": datagram(GATEWAY, ip.BROADCAST, 4000),
    "a datagram for the gateway, to all": datagram(GUEST, GATEWAY, 53),
    "a datagram for the outside, to all": datagram(GUEST, ip.parse_ipv4("8.8.8.8"), 53),
    "a router solicitation": router_solicitation(GUEST6, ONE),
    "a router advertisement": icmp_frame(
        icmpv6.build(icmpv6.ROUTER_ADVERTISEMENT, 0, 0, GUEST6, ipv6.ALL_NODES, bytes(8)),
        GUEST6,
        ipv6.ALL_NODES,
        ONE,
        ALL_NODES_MAC,
    ),
    "a solicitation of the gateway": solicitation(GATEWAY6, GUEST6, ONE),
    "the gateway's address is wanted": solicitation(GATEWAY6, 0, ONE),
    "I have the gateway's address": advertised(GATEWAY6),
    "a DHCPv6 client": datagram6(dhcpv6.ALL_SERVERS, 547),
    "a runt": b"\xff" * 13,
}
CROSSES = {
    "unicast between guests": ethernet.header(OTHER, ONE, 0x1234) + bytes(50),
    "who has a guest's address": arp_frame(GUEST, PEER),
    "a probe for a guest's address": arp_frame(ip.from_ipv4(0), GUEST),
    "mDNS": datagram(GUEST, ip.parse_ipv4("224.0.0.251"), 5353, bytes.fromhex("01005e0000fb")),
    "a datagram to the subnet": datagram(GUEST, BROADCAST, 4000),
    "a datagram to all": datagram(GUEST, ip.BROADCAST, 4000),
    "a solicitation of a guest": solicitation(PEER6, GUEST6, ONE),
    "a guest's address is wanted": solicitation(GUEST6, 0, ONE),
    "I have a guest's address": advertised(GUEST6),
    "mDNS over IPv6": datagram6(0xFF02 << 112 | 0xFB, 5353),
    "RARP after a migration": ethernet.header(ethernet.BROADCAST, ONE, 0x8035) + bytes(46),
    "another VLAN": tag(datagram(ip.from_ipv4(0), ip.BROADCAST, 67), (0x8100, 9)),
}


@pytest.mark.parametrize("name", STAYS)
def test_it_stays(name: str) -> None:
    assert keeps(STAYS[name])


@pytest.mark.parametrize("name", CROSSES)
def test_it_crosses(name: str) -> None:
    assert not keeps(CROSSES[name])


@given(st.sampled_from([*STAYS.values(), *CROSSES.values()]), st.data())
def test_any_bytes_give_an_answer(frame: bytes, data: st.DataObject) -> None:
    changed = bytearray(frame[: data.draw(st.integers(0, len(frame)))])
    for _ in range(data.draw(st.integers(0, 3)) if changed else 0):
        changed[data.draw(st.integers(0, len(changed) - 1))] = data.draw(st.integers(0, 255))
    found = keeps(bytes(changed))
    if len(changed) >= 12 and MAC in (changed[:6], changed[6:12]):
        assert found
