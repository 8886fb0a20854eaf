"""This host as a station of the network: what guests of other hosts send to it (tunnel.py).

In a fleet each host has an IPv4 address of the pool, a MAC address that follows from its name, and the IPv6
address that this MAC address makes. From these addresses it connects to guests of other hosts, for forwarded
ports. So it gets their answers, and nothing else:

==========  ==========================================================================================
frame       what becomes of it
==========  ==========================================================================================
ARP         teaches where its sender is. A question for the address of this host is answered
discovery   the same (neighbour discovery, RFC 4861)
TCP         goes to the connection. A SYN is dropped: nobody connects to this station
UDP         goes to its flow. Without a flow it is dropped
all others  dropped
==========  ==========================================================================================

Guests of other hosts do not hear of the addresses unless this host connects to them. So one of them could
have one as well. The stations of the other hosts are told the addresses. Then demux there knows where they
are, and asks before it believes a guest.

Without a fleet the host has no such address. Then only answers by ARP come here, of stations that it has
asked.
"""

from collections.abc import Collection, Iterable
from typing import Final

from pipeline.engines import neighbor_discovery
from pipeline.engines.buckets import Buckets
from pipeline.links.vxlan_url import MAX_REMOTES
from pipeline.records.flows import Ends
from pipeline.records.frames import NO_LINK, Frame
from pipeline.records.tcp import TcpRange
from pipeline.records.udp import UdpRange
from pipeline.stages.demux.ip import IpInput
from pipeline.stages.demux.ipv6 import Ipv6Input
from pipeline.stages.demux.network import Network
from pipeline.wire import arp, ethernet, icmpv6, ipv4, ipv6, tcp
from pipeline.wire.errors import WireError

ANSWERS_PER_STATION: Final = 5
"""ARP answers that one station of another host gets in a second. It should ask once (RFC 1122 2.3.2.1)."""
MAX_ASKING: Final = 4096
"""Stations of other hosts whose answers are counted at a time. With more, the count begins again."""

REFUSED: Final = "vxlan_packet_dropped_not_for_host"


class OwnStation:
    """Handles frames for the MAC address of this host.

    If a method raises WireError, the caller still owns the reference.
    """

    def __init__(self, network: Network, ip_input: IpInput, ipv6_input: Ipv6Input | None) -> None:
        """ipv6_input: None while IPv6 is off."""
        self.worker = network.worker
        self.slots = network.slots
        self.gateway_mac = network.config.network.gateway_mac
        self.tunnel = network.tunnel
        self.switch = network.switch
        self.neighbors = network.neighbors
        self.output = network.output
        self.tcp_out = network.tcp_out
        self.ip = ip_input
        self.ipv6 = ipv6_input
        self.udp = ip_input.udp
        self.network = network
        addr6 = network.tunnel.addr6
        self.group_mac = ipv6.group_mac(ipv6.solicited_node(addr6)) if addr6 else b""
        """The group in which questions for the IPv6 address of this host come; empty if it has none."""
        self.far: frozenset[bytes] = frozenset()
        """The MAC addresses of the other hosts' stations."""
        self._asking = _rates()
        """By the MAC address of a station of another host."""

    def set_addr(self, addr: int) -> None:
        """This host has this IPv4 address from now on; 0 for none."""
        self.network.set_station(addr)
        self._tell(self.far)

    def set_far(self, macs: Collection[bytes]) -> None:
        """The other hosts' stations have these MAC addresses."""
        new = frozenset(macs) - self.far
        self.far = frozenset(macs)
        self.network.set_far_stations(macs)
        self._tell(new)

    def _tell(self, macs: Iterable[bytes]) -> None:
        """Tell these stations the addresses of this host. More hosts than MAX_REMOTES exchange no frames."""
        tunnel = self.tunnel
        if tunnel.link == NO_LINK:
            return
        for mac in sorted(macs)[:MAX_REMOTES]:
            if tunnel.addr:
                header = ethernet.header(mac, tunnel.mac, ethernet.TYPE_ARP)
                reply = arp.build(arp.REPLY, tunnel.mac, tunnel.addr, mac, tunnel.addr)
                self.output.frame(tunnel.link, header + reply)
            if tunnel.addr6:
                told = neighbor_discovery.unsolicited(tunnel.addr6, tunnel.mac, mac)
                self.output.frame(tunnel.link, told)

    def on_tcp_range(self, run: TcpRange, record: bytes, mac: bytes, now: float) -> None:
        """TCP segments of one flow, in frames from mac. record: the packed run, to be passed on."""
        self._learn(mac, run.link, now)
        ends = Ends.of(run.key)
        if not self._is_own(ends.remote_addr) or run.flags & (tcp.SYN | tcp.ACK) == tcp.SYN:
            raise WireError(REFUSED)
        self.neighbors.learn(ends.guest_addr, mac, run.link, now)
        self.tcp_out.push(record, ends)

    def on_udp_range(self, run: UdpRange, mac: bytes, now: float) -> None:
        """Datagrams of one flow, in frames from mac."""
        self._learn(mac, run.link, now)
        ends = Ends.of(run.key)
        if not self._is_own(ends.remote_addr) or self.udp.flows.find(run.key, now) is None:
            raise WireError(REFUSED)
        self.neighbors.learn(ends.guest_addr, mac, run.link, now)
        self.udp.on_guest_datagrams(run, mac, now)

    def on_frame(self, frame: Frame, mac: bytes, ethertype: int, now: float) -> None:
        """A single frame from mac."""
        self._learn(mac, frame.link, now)
        begin, end = frame.off + ethernet.HEADER_LEN, frame.off + frame.length
        if ethertype == ethernet.TYPE_ARP:
            # Perhaps the answer to Tunnel.question(): the station is alive, and so is its address.
            message = arp.parse(self.slots[frame.slot], begin, end)
            self.neighbors.on_arp(message, mac, frame.link, now)
            self.answer_arp(frame, now)
        elif ethertype == ethernet.TYPE_IPV4:
            header = ipv4.parse(self.slots[frame.slot], begin, end)
            if not self._is_own(header.dst) or header.proto != ipv4.PROTO_UDP:
                raise WireError(REFUSED)
            # A fragment, most often. A whole datagram without a flow is refused like one for any station.
            self.ip.on_frame(frame, mac, now)
            return
        elif ethertype == ethernet.TYPE_IPV6 and self.tunnel.addr6:
            self._on_ipv6(frame, mac, now)
            return
        elif ethertype != ethernet.TYPE_IPV6 or frame.link != self.tunnel.link:
            # IPv6 from there may be an answer to Tunnel.question(). It says enough by its source.
            raise WireError(REFUSED)
        self.worker.free(frame.slot)

    def _on_ipv6(self, frame: Frame, mac: bytes, now: float) -> None:
        assert self.ipv6 is not None
        header, upper, end = self._parse_ipv6(frame)
        if _is_discovery(self.slots[frame.slot], upper, end):
            message = self._parse_discovery(frame, header, upper, end)
            # Perhaps the answer to Tunnel.question().
            self.ipv6.discovery.learn(header, message, mac, frame.link, now)
            self._answer_solicitation(frame, header, message, mac, now)
            self.worker.free(frame.slot)
            return
        if header.dst != self.tunnel.addr6 or upper.proto != ipv4.PROTO_UDP:
            raise WireError(REFUSED)
        # As with IPv4.
        self.ipv6.on_frame(frame, mac, now)

    def answer_solicitation(self, frame: Frame, mac: bytes, now: float) -> None:
        """Answer a question for the IPv6 address of this host, in a frame from mac to group_mac."""
        header, upper, end = self._parse_ipv6(frame)
        if _is_discovery(self.slots[frame.slot], upper, end):
            self._answer_solicitation(
                frame, header, self._parse_discovery(frame, header, upper, end), mac, now
            )

    def _parse_ipv6(self, frame: Frame) -> tuple[ipv6.Header, ipv6.Upper, int]:
        """The headers of a packet, and where it ends. Raises WireError."""
        view = self.slots[frame.slot]
        begin = frame.off + ethernet.HEADER_LEN
        header = ipv6.parse(view, begin, frame.off + frame.length)
        begin += ipv6.HEADER_LEN
        end = begin + header.payload_len
        return header, ipv6.walk(view, begin, end, header.next_header), end

    def _parse_discovery(
        self, frame: Frame, header: ipv6.Header, upper: ipv6.Upper, end: int
    ) -> icmpv6.Discovery:
        if upper.has_fragment:
            # RFC 6980 section 5.
            raise WireError("nd_message_dropped_malformed")
        view = self.slots[frame.slot]
        icmpv6.parse(view, upper.off, end, header.src, header.dst)
        return icmpv6.parse_discovery(view, upper.off, end, header)

    def _answer_solicitation(
        self, frame: Frame, header: ipv6.Header, message: icmpv6.Discovery, mac: bytes, now: float
    ) -> None:
        if message.kind != icmpv6.NEIGHBOR_SOLICITATION or message.target != self.tunnel.addr6:
            return
        asker = message.mac or mac
        if asker in (self.tunnel.mac, self.gateway_mac) or ethernet.is_group(asker):
            return
        if frame.link != self.tunnel.link:
            self.ip.limit_answers(frame.link, now)
        else:
            self._limit(asker, now)
        addr, flags = self.tunnel.addr6, icmpv6.FLAG_OVERRIDE
        made = neighbor_discovery.advertisement(addr, self.tunnel.mac, flags, header, message, mac)
        self.output.frame(frame.link, made)

    def answer_arp(self, frame: Frame, now: float) -> None:
        """Answer a question for the address of this host."""
        if not self.tunnel.addr:
            return
        begin = frame.off + ethernet.HEADER_LEN
        message = arp.parse(self.slots[frame.slot], begin, frame.off + frame.length)
        if message.op != arp.REQUEST or message.tpa != self.tunnel.addr or ethernet.is_group(message.sha):
            return
        if message.sha in (self.tunnel.mac, self.gateway_mac, ethernet.ZERO):
            return
        if frame.link != self.tunnel.link:
            self.ip.limit_answers(frame.link, now)
        else:
            self._limit(message.sha, now)
        reply = arp.build(arp.REPLY, self.tunnel.mac, self.tunnel.addr, message.sha, message.spa)
        self.output.frame(
            frame.link, ethernet.header(message.sha, self.tunnel.mac, ethernet.TYPE_ARP) + reply
        )

    def _limit(self, mac: bytes, now: float) -> None:
        """Bound the answers to one station of another host, so that it leaves some to the others.

        All stations together have the rate of one guest. Raises WireError.
        """
        if self._asking.level(mac, now) < 1.0:
            raise WireError("demux_message_dropped_rate_limit")
        self.ip.limit_answers(self.tunnel.link, now)
        self._asking.take(mac, now)
        if len(self._asking) >= MAX_ASKING:
            self._asking.forget_full(now)
            if len(self._asking) >= MAX_ASKING:
                self._asking = _rates()

    def _is_own(self, addr: int) -> bool:
        """Whether this is an address of this host. No packet for 0.0.0.0 is for it."""
        return addr in (self.tunnel.addr, self.tunnel.addr6) and addr != 0

    def _learn(self, mac: bytes, link: int, now: float) -> None:
        """The frame shows where its sender is, as one for the gateway does."""
        self.switch.on_frame(self.gateway_mac, mac, link, now)


def _is_discovery(view: memoryview, upper: ipv6.Upper, end: int) -> bool:
    """Whether the upper layer of a packet is a message of neighbour discovery that hosts send."""
    if upper.proto != ipv6.PROTO_ICMPV6 or upper.frag_off or upper.off >= end:
        return False
    return view[upper.off] in icmpv6.FROM_HOSTS


def _rates() -> Buckets:
    return Buckets(ANSWERS_PER_STATION, ANSWERS_PER_STATION)
