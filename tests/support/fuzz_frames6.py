"""Valid IPv6 frames of every kind, for a guest that damages them (fuzz_guest.py), and their checksums."""

from pipeline.config import merge, options
from pipeline.go import flags
from pipeline.wire import checksum, dhcpv6, ethernet, icmp, icmpv6, ip, ipv4, ipv6, tcp, tcp_options
from tests.support import dhcp6_clients
from tests.support.frames import tcp_frame6, udp_frame6
from tests.support.ipv6 import advertisement, icmp_frame, ping, router_solicitation, solicitation
from tests.support.netns import INTERNET_ADDR, INTERNET_ADDR6
from tests.support.servers import ECHO, UDP_ECHO

_L4_SUM_AT = {ipv4.PROTO_TCP: 16, ipv4.PROTO_UDP: 6, ipv6.PROTO_ICMPV6: 2}
_L4_AT = ethernet.HEADER_LEN + ipv6.HEADER_LEN


def bases(mac: bytes) -> list[bytes]:
    """Frames of a guest with this MAC address, to the gateway of a daemon with the default prefix."""
    network = merge.build(flags.parse(options.START, ["-ipv6", "on"]))[0].network
    gateway, router = network.ipv6_gateway, network.gateway_mac
    local = ipv6.link_local(mac)
    own = network.ipv6_first | local & (1 << 64) - 1
    internet, mixed = ip.parse(INTERNET_ADDR6), ip.NAT64 | ip.to_ipv4(ip.parse(INTERNET_ADDR))
    to_gateway = ethernet.header(router, mac, ethernet.TYPE_IPV6)
    quoted = ipv6.build(28, ipv4.PROTO_TCP, 64, internet, own) + bytes(28)

    def packet(proto: int, payload: bytes, dst: int = internet) -> bytes:
        return to_gateway + ipv6.build(len(payload), proto, 64, own, dst) + payload

    def error(kind: int, code: int, rest: int) -> bytes:
        return icmp_frame(icmpv6.build(kind, code, rest, own, internet, quoted), own, internet, mac, router)

    question = b"\x12\x34\x01\0\0\1\0\0\0\0\0\0\3www\7example\4test\0\0\x1c\0\1"
    servers = ethernet.header(ipv6.group_mac(dhcpv6.ALL_SERVERS), mac, ethernet.TYPE_IPV6)
    solicit = dhcp6_clients.message(dhcpv6.SOLICIT, 1, dhcp6_clients.na())
    extensions = bytes((60, 0, 1, 4, 0, 0, 0, 0)) + bytes((43, 0, 1, 4, 0, 0, 0, 0))
    made = [
        router_solicitation(local, mac),
        solicitation(gateway, local, mac),
        solicitation(own, 0, mac),
        advertisement(own, own, mac, router, gateway),
        ping(own, gateway, mac, router),
        ping(own, internet, mac, router),
        ping(own, mixed, mac, router),
        udp_frame6(question, src=own, dst=gateway, dport=53, eth_header=to_gateway),
        udp_frame6(b"echo" * 20, src=own, dst=internet, dport=UDP_ECHO, eth_header=to_gateway),
        udp_frame6(solicit, src=local, dst=dhcpv6.ALL_SERVERS, sport=546, dport=547, eth_header=servers),
        packet(44, ipv6.build_fragment(ipv4.PROTO_UDP, 0, True, 9) + b"f" * 64),
        packet(44, ipv6.build_fragment(ipv4.PROTO_UDP, 64, False, 9) + b"f" * 64),
        packet(44, ipv6.build_fragment(ipv6.PROTO_ICMPV6, 0, False, 9) + b"f" * 64),
        packet(0, extensions + bytes((ipv4.PROTO_UDP, 0, 0, 1)) + bytes(4) + bytes(16)),
        packet(47, b"tunnel" * 5),
        error(icmpv6.UNREACHABLE, 4, 0),
        error(icmpv6.PACKET_TOO_BIG, 0, 1280),
        error(icmpv6.PARAMETER_PROBLEM, 1, 6),
    ]
    syn = tcp_options.build_syn(1440, 7, True, True, 1, 0)
    for kind, payload, more in (
        (tcp.SYN, b"", syn),
        (tcp.ACK, b"", b""),
        (tcp.ACK | tcp.PSH, b"data" * 50, b""),
        (tcp.FIN | tcp.ACK, b"", b""),
        (tcp.RST, b"", b""),
    ):
        made += [
            tcp_frame6(
                1000, payload, flags=kind, options=more, src=own, dst=dst, dport=ECHO,
                eth_header=to_gateway, ack=2000,
            )
            for dst in (internet, mixed)
        ]  # fmt: skip
    return made


def repair(frame: bytearray) -> None:
    """Correct the checksum of the upper layer, if its header comes right after the IPv6 header."""
    proto = frame[20] if len(frame) > _L4_AT else 0
    end = min(_L4_AT + int.from_bytes(frame[18:20], "big"), len(frame))
    at = _L4_AT + _L4_SUM_AT.get(proto, 0)
    if proto not in _L4_SUM_AT or at + 2 > end or end - _L4_AT < icmp.HEADER_LEN:
        return
    frame[at : at + 2] = b"\0\0"
    ends = (int.from_bytes(frame[begin : begin + 16], "big") for begin in (22, 38))
    pseudo = checksum.pseudo_header(*ends, proto, end - _L4_AT)
    frame[at : at + 2] = checksum.finish(pseudo + checksum.word_sum(bytes(frame[_L4_AT:end]))).to_bytes(
        2, "big"
    )
