"""The frames of each attack of perf.neighbours: lists of whole Ethernet frames, without any I/O.

An attacker is the guest with MAC and ADDR, who sends to the gateway, to the host's loopback or to an address
that never answers. Datagrams with changing contents have no UDP checksum (RFC 768): the sender then changes
them in place and sums nothing.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from struct import Struct
from typing import NamedTuple

from perf.peers import GUEST_MAC
from pipeline.wire import arp, dhcp, ethernet, ip, ipv4, tcp, tcp_options, udp, virtio_net
from tests.support import tcp_segments

MAC = bytes.fromhex("5a94ef0000c8")
ADDR = ip.parse_ipv4("192.168.127.200")
NEIGHBOUR_MAC = ethernet.mac_parse(GUEST_MAC)
NEIGHBOUR = ip.parse_ipv4("192.168.127.2")
GATEWAY_MAC = ethernet.mac_parse("5a:94:ef:e4:0c:dd")
GATEWAY = ip.parse_ipv4("192.168.127.1")
HOST = ip.parse_ipv4("192.168.127.254")
SILENT = ip.parse_ipv4("198.51.100.99")
"""Behind the host's default route, where nobody answers ARP."""

SMALL = bytes(18)
"""The payload of a frame of 60 bytes."""
VARIANTS = 1024
"""Different frames of an attack whose frames differ."""
RENEWED = 4
"""Bytes of a frame that the sender changes each time: letters, so that they may stand in a name."""
OWN_NAMES = ("gateway.containers.internal", "host.containers.internal", "host.docker.internal")
CACHED_NAME = "cached.example.test"
RANDOM_SUFFIX = "random.test"

_DNS = Struct("!HHHHHH")
_QUESTION_END = b"\0\1\0\1"
_DNS_AT = ethernet.HEADER_LEN + ipv4.HEADER_LEN + udp.HEADER_LEN
RENEWED_NAME_AT = _DNS_AT + _DNS.size + 1
"""Where the letters of a random name's first label begin, after the byte with its length."""
RENEWED_CLIENT_AT = _DNS_AT + 28 + 1
"""Where in a DHCP frame the bytes of chaddr begin that are renewed, after the first."""


class Ports(NamedTuple):
    """Servers on the host's loopback: `sink` takes datagrams and never reads, `stream` sends for ever."""

    sink: int
    stream: int


def ethernet_header(source: bytes = MAC, destination: bytes = GATEWAY_MAC) -> bytes:
    return ethernet.header(destination, source, ethernet.TYPE_IPV4)


def packet(
    proto: int, dst: int, payload: bytes, *, src: int = ADDR, ident: int = 1, more: bool = False
) -> bytes:
    """An IPv4 frame to the gateway. more: it is the first fragment of several."""
    total = ipv4.HEADER_LEN + len(payload)
    header = ipv4.build(total, ident, 64, proto, src, dst, flags=ipv4.FLAG_MF if more else 0)
    return ethernet_header() + header + payload


def datagram(dst: int, src_port: int, dst_port: int, payload: bytes) -> bytes:
    """A UDP frame with its checksum."""
    words = int.from_bytes(payload + bytes(len(payload) % 2), "big") % 0xFFFF
    header = udp.build_checked(ADDR, dst, src_port, dst_port, len(payload), words)
    return packet(ipv4.PROTO_UDP, dst, header + payload)


def segment(
    dst: int,
    ports: tuple[int, int],
    seq: int,
    ack: int,
    flags: int,
    *,
    options: bytes = b"",
    payload: bytes = b"",
) -> bytes:
    """A TCP frame."""
    made = tcp_segments.segment(ADDR, dst, *ports, seq, ack, flags, 65535, options, payload)
    return packet(ipv4.PROTO_TCP, dst, made)


def syn(dst: int, ports: tuple[int, int], seq: int) -> bytes:
    """A SYN as a kernel sends it."""
    return segment(dst, ports, seq, 0, tcp.SYN, options=tcp_options.build_syn(1460, 7, True, True, 1, 0))


def from_link(frame: bytes, number: int) -> bytes:
    """The same frame with the source MAC of the attacker's link of that number, from 0 on."""
    return frame[:6] + MAC[:4] + bytes((number, MAC[5])) + frame[12:] if number else frame


def announcement() -> bytes:
    """An ARP request of the attacker, from which the daemon learns who it is (RFC 826)."""
    head = ethernet.header(ethernet.BROADCAST, MAC, ethernet.TYPE_ARP)
    return head + arp.build(arp.REQUEST, MAC, ADDR, bytes(6), GATEWAY)


# --- floods -------------------------------------------------------------------------------


def udp_flows(count: int) -> Callable[[Ports], list[bytes]]:
    """A maker of frames of 60 bytes, one for each of `count` flows."""
    return lambda ports: [datagram(HOST, 40000 + n, ports.sink, SMALL) for n in range(count)]


def large_and_small(ports: Ports) -> list[bytes]:
    """Datagrams of 1472 bytes that nobody asked for, and as many small ones."""
    sizes = (bytes(1472), SMALL)
    return [datagram(HOST, 40000, ports.sink, size) for size in sizes]


def duplicate_acks(
    _: Ports, seq: int = 1001, ack: int = 1, ports: tuple[int, int] = (4000, 9)
) -> list[bytes]:
    """One ACK that acknowledges nothing new, again and again (RFC 5681 section 2)."""
    return [segment(HOST, ports, seq, ack, tcp.ACK)]


def syn_flood(_: Ports) -> list[bytes]:
    """SYNs of different connections to somebody who never answers."""
    return [syn(SILENT, (10000 + n, 80 + n % 7), n) for n in range(8 * VARIANTS)]


def large_then_syns(_: Ports) -> list[bytes]:
    """Ten slots full of large datagrams, which are cheap for their bytes, then one full of SYNs.

    So the frames that come do not cost what those before them did.
    """
    large = [datagram(HOST, 40000, 9, bytes(1472))] * 440
    made: list[bytes] = []
    for turn in range(8):
        made += large
        made += [syn(SILENT, (10000 + turn * VARIANTS + n, 80), n) for n in range(800)]
    return made


def fragments(_: Ports) -> list[bytes]:
    """First fragments of datagrams whose rest never comes."""
    body = udp.build(40000, 9, 1400) + bytes(64)
    return [packet(ipv4.PROTO_UDP, HOST, body, ident=n, more=True) for n in range(8 * VARIANTS)]


def bad_frames(_: Ports) -> list[bytes]:
    """Frames that are dropped after they were looked at: wrong sums, unknown types, runts."""
    good = datagram(HOST, 40000, 9, SMALL)
    acks = segment(HOST, (4000, 80), 1, 1, tcp.ACK)
    bad_header = good[:24] + bytes((good[24] ^ 0xFF,)) + good[25:]
    bad_udp = good[:40] + bytes((good[40] ^ 0xFF,)) + good[41:]
    bad_tcp = acks[:50] + bytes((acks[50] ^ 0xFF,)) + acks[51:]
    unknown = good[:12] + b"\x88\xb5" + good[14:]
    return [bad_header, bad_udp, bad_tcp, unknown, good[:13]]


# --- services -----------------------------------------------------------------------------


def question(name: str, ident: int) -> bytes:
    """A DNS query for the address of a name (RFC 1035 section 4)."""
    labels = b"".join(bytes((len(label),)) + label.encode() for label in name.split("."))
    return _DNS.pack(ident, 0x0100, 1, 0, 0, 0) + labels + b"\0" + _QUESTION_END


def _ask(payload: bytes) -> bytes:
    header = udp.build(20000, 53, udp.HEADER_LEN + len(payload))
    return packet(ipv4.PROTO_UDP, GATEWAY, header + payload)


def malformed_dns(_: Ports) -> list[bytes]:
    """Queries whose question does not end, or whose bytes are noise."""
    chance = random.Random(1)
    cut = [_ask(question("www.example.test", n)[: 12 + n % 18]) for n in range(VARIANTS // 2)]
    noise = [_ask(_DNS.pack(n, 0x0100, 1, 0, 0, 3) + chance.randbytes(30)) for n in range(VARIANTS // 2)]
    return cut + noise


def own_names(_: Ports) -> list[bytes]:
    """Queries for names that the daemon knows by itself."""
    return [_ask(question(OWN_NAMES[n % len(OWN_NAMES)], n)) for n in range(VARIANTS)]


def cached_names(_: Ports) -> list[bytes]:
    """Queries for one name that an upstream server has answered before."""
    return [_ask(question(CACHED_NAME, n)) for n in range(VARIANTS)]


def random_names(_: Ports) -> list[bytes]:
    """Queries for names that nobody has asked for; the sender renews the first letters."""
    return [_ask(question(f"{'a' * RENEWED}{n:04d}.{RANDOM_SUFFIX}", n)) for n in range(VARIANTS)]


def discovers(_: Ports) -> list[bytes]:
    """DHCP DISCOVERs; the sender renews the client's hardware address (RFC 2131 section 4.4.1)."""
    made = []
    head = ethernet.header(ethernet.BROADCAST, MAC, ethernet.TYPE_IPV4)
    for n in range(VARIANTS):
        # The first byte, that of a unicast address, is not renewed. The last one differs within a burst.
        client = b"\x02" + b"a" * RENEWED + bytes((n & 0xFF,))
        options = {dhcp.MESSAGE_TYPE: bytes((dhcp.DISCOVER,)), dhcp.PARAMETER_LIST: bytes((1, 3, 6, 15))}
        body = dhcp.build(dhcp.Message(dhcp.BOOT_REQUEST, n, client, options))
        header = udp.build(68, 67, udp.HEADER_LEN + len(body))
        total = ipv4.HEADER_LEN + len(header) + len(body)
        made.append(head + ipv4.build(total, n, 64, ipv4.PROTO_UDP, 0, ip.BROADCAST) + header + body)
    return made


# --- lies ---------------------------------------------------------------------------------


def lying_headers(_: Ports) -> list[bytes]:
    """Frames whose virtio-net header is not true of them (docs/offload.md)."""
    small = datagram(HOST, 40000, 9, SMALL)
    large = packet(ipv4.PROTO_TCP, HOST, tcp_segments.header(4000, 80, 1, 1, tcp.ACK, 65535) + bytes(1400))
    needs, tcp4, udp4 = virtio_net.NEEDS_CSUM, virtio_net.GSO_TCPV4, virtio_net.GSO_UDP_L4
    lies = (
        (small, virtio_net.Header(needs, tcp4, 54, 1448, 34, 16)),  # not TCP
        (small, virtio_net.Header(needs, udp4, 42, 0, 34, 6)),  # segments of no bytes
        (small, virtio_net.Header(needs, 0, 0, 0, 58, 16)),  # a checksum after the end
        (small, virtio_net.Header(virtio_net.DATA_VALID, 0, 5000, 0, 0, 0)),  # headers after the end
        (large, virtio_net.Header(needs, tcp4, 54, 1, 34, 16)),  # segments of one byte
        (large, virtio_net.Header(needs, udp4, 42, 1, 34, 6)),  # not UDP
        (large, virtio_net.Header(0, tcp4, 54, 1448, 0, 0)),  # a super-segment without NEEDS_CSUM
        (large, virtio_net.Header(needs, 0, 0, 0, 20, 10)),  # a checksum in the IP header
        (large, virtio_net.Header(needs, virtio_net.GSO_TCPV6, 74, 1428, 54, 16)),  # not IPv6
        (large, virtio_net.Header(0x80, 0x77, 54, 1448, 34, 16)),  # bits that nobody knows
    )
    return [virtio_net.build(header, virtio_net.LONG_LEN) + frame for frame, header in lies]


def stolen_mac(ports: Ports) -> list[bytes]:
    """A datagram that pretends to come from the neighbour."""
    body = udp.build(40000, ports.sink, udp.HEADER_LEN + len(SMALL)) + SMALL
    made = packet(ipv4.PROTO_UDP, HOST, body, src=NEIGHBOUR)
    return [ethernet_header(NEIGHBOUR_MAC) + made[ethernet.HEADER_LEN :]]


def gateway_arp(_: Ports) -> list[bytes]:
    """ARP replies to everybody: the addresses of the gateway and of the host are the attacker's."""
    head = ethernet.header(ethernet.BROADCAST, MAC, ethernet.TYPE_ARP)
    return [head + arp.build(arp.REPLY, MAC, each, NEIGHBOUR_MAC, NEIGHBOUR) for each in (GATEWAY, HOST)]
