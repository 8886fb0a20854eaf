"""This host as a station of the network: what guests of other hosts send to it (tunnel.py).

In a fleet each host has an address of the pool, and a MAC address that follows from its name. From this
address it connects to guests of other hosts, for forwarded ports. So it gets their answers, and nothing else:

==========  ==========================================================================================
frame       what becomes of it
==========  ==========================================================================================
ARP         teaches where its sender is. A question for the address of this host is answered
TCP         goes to the connection. A SYN is dropped: nobody connects to this station
UDP         goes to its flow. Without a flow it is dropped
all others  dropped
==========  ==========================================================================================

Guests of other hosts do not hear of the address unless this host connects to them. So one of them could have
it as well. The stations of the other hosts are told the address. Then demux there knows where it is, and asks
before it believes a guest.

Without a fleet the host has no such address. Then only answers by ARP come here, of stations that it has
asked.
"""

from collections.abc import Collection, Iterable
from typing import Final

from pipeline.engines.buckets import Buckets
from pipeline.links.vxlan_url import MAX_REMOTES
from pipeline.records.flows import Ends
from pipeline.records.frames import NO_LINK, Frame
from pipeline.records.tcp import TcpRange
from pipeline.records.udp import UdpRange
from pipeline.stages.demux.ip import IpInput
from pipeline.stages.demux.network import Network
from pipeline.wire import arp, ethernet, ipv4, tcp
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

    def __init__(self, network: Network, ip_input: IpInput) -> None:
        self.worker = network.worker
        self.slots = network.slots
        self.gateway_mac = network.config.network.gateway_mac
        self.tunnel = network.tunnel
        self.switch = network.switch
        self.neighbors = network.neighbors
        self.output = network.output
        self.tcp_out = network.tcp_out
        self.ip = ip_input
        self.udp = ip_input.udp
        self.network = network
        self.far: frozenset[bytes] = frozenset()
        """The MAC addresses of the other hosts' stations."""
        self._asking = _rates()
        """By the MAC address of a station of another host."""

    def set_addr(self, addr: int) -> None:
        """This host has this address from now on; 0 for none."""
        self.network.set_station(addr)
        self._tell(self.far)

    def set_far(self, macs: Collection[bytes]) -> None:
        """The other hosts' stations have these MAC addresses."""
        new = frozenset(macs) - self.far
        self.far = frozenset(macs)
        self.switch.set_far_stations(macs)
        self._tell(new)

    def _tell(self, macs: Iterable[bytes]) -> None:
        """Tell these stations the address of this host. More hosts than MAX_REMOTES exchange no frames."""
        tunnel = self.tunnel
        if not tunnel.addr or tunnel.link == NO_LINK:
            return
        for mac in sorted(macs)[:MAX_REMOTES]:
            header = ethernet.header(mac, tunnel.mac, ethernet.TYPE_ARP)
            self.output.frame(
                tunnel.link, header + arp.build(arp.REPLY, tunnel.mac, tunnel.addr, mac, tunnel.addr)
            )

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
        elif ethertype != ethernet.TYPE_IPV6 or frame.link != self.tunnel.link:
            # IPv6 from there may be an answer to Tunnel.question(). It says enough by its source.
            raise WireError(REFUSED)
        self.worker.free(frame.slot)

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
        """Whether this is the address of this host, if it has one. No packet for 0.0.0.0 is for it."""
        return addr == self.tunnel.addr != 0

    def _learn(self, mac: bytes, link: int, now: float) -> None:
        """The frame shows where its sender is, as one for the gateway does."""
        self.switch.on_frame(self.gateway_mac, mac, link, now)


def _rates() -> Buckets:
    return Buckets(ANSWERS_PER_STATION, ANSWERS_PER_STATION)
