"""What only IPv6 has: neighbour discovery, groups, extension headers and addresses of the link.

Everything else is the same for both families, so other packets go on to ip.py.
"""

from typing import Final

from pipeline.counters import INDEX
from pipeline.engines.neighbors.addresses import Ipv6Addresses
from pipeline.records.frames import Frame
from pipeline.stages.demux.discovery import Discovery
from pipeline.stages.demux.dropped import DroppedFrames, shape_of_frame
from pipeline.stages.demux.ip import IpInput
from pipeline.stages.demux.network import Network
from pipeline.wire import dhcpv6, ethernet, fragment, icmpv6, ip_header, ipv4, ipv6
from pipeline.wire.errors import HeaderError, WireError
from pipeline.wire.ip import is_link_local, is_multicast

_PACKETS: Final = INDEX["ipv6_packets_received"]
_NO_ROUTE: Final = INDEX["ipv6_packet_dropped_no_route"]


class Ipv6Input:
    """Frames with IPv6 packets. If a method raises WireError, the caller still owns the reference."""

    def __init__(
        self, network: Network, addresses: Ipv6Addresses, ip: IpInput, dropped: DroppedFrames
    ) -> None:
        self.worker = network.worker
        self.counts = network.counts
        self.slots = network.slots
        self.neighbors = network.neighbors
        self.dropped = dropped
        self.ip = ip
        self.discovery = Discovery(network, addresses, ip)
        self.link_local = addresses.link_local
        self.to_gateway = frozenset((*addresses.own, dhcpv6.ALL_SERVERS))

    def on_frame(self, frame: Frame, mac: bytes, now: float) -> None:
        """A frame for the gateway's MAC address or for a group."""
        view = self.slots[frame.slot]
        off = frame.off + ethernet.HEADER_LEN
        header = ipv6.parse(view, off, frame.off + frame.length)
        self.counts[_PACKETS] += 1
        try:
            self._on_packet(frame, off, header, mac, now)
        except HeaderError as error:
            # It was perhaps too early to learn the source. Nobody else than its owner may cause an answer.
            owner = self.neighbors.get(header.src)
            if owner is not None and (owner.mac, owner.link) == (mac, frame.link):
                self.ip.icmp.refuse_headers(view, off, error, now)
            raise

    def _on_packet(self, frame: Frame, off: int, header: ipv6.Header, mac: bytes, now: float) -> None:
        view = self.slots[frame.slot]
        begin = off + ipv6.HEADER_LEN
        end = begin + header.payload_len
        upper = ipv6.walk(view, begin, end, header.next_header)
        to_group = is_multicast(header.dst)
        is_discovery = (
            upper.proto == ipv6.PROTO_ICMPV6
            and not upper.frag_off
            and upper.off < end
            and view[upper.off] in icmpv6.FROM_HOSTS
        )
        is_for_others = to_group and not (is_discovery or _is_for_dhcp(header, upper))
        if upper.off != begin and not is_for_others:
            ipv6.check_extensions(view, begin, upper.off, header.next_header, to_group=to_group)
        if is_discovery:
            self._on_discovery(frame, header, upper, end, mac, now)
            return
        if header.src:
            self.neighbors.learn(header.src, mac, frame.link, now)
        if is_for_others:
            # For groups of guests, such as mDNS. They have got the frame from the switch.
            self.worker.free(frame.slot)
        elif not header.src or (header.dst not in self.to_gateway and _stays_on_link(header)):
            if is_link_local(header.src) and not upper.frag_off:
                self.ip.icmp.refuse_scope(view, off, self.link_local, now)
            self._drop(_NO_ROUTE, frame)
        elif upper.has_fragment and (upper.frag_off or upper.more):
            self.ip.on_fragment(frame, off, fragment.from_ipv6(off, header, upper), mac, now)
        else:
            self.ip.on_whole(frame, off, ip_header.of_ipv6(header, upper, off), mac, now)

    def _drop(self, reason: int, frame: Frame) -> None:
        """Drop what an ordinary guest may send. It does not count as a bad frame."""
        self.counts[reason] += 1
        self.dropped.take(reason, frame.link, frame.slot, shape_of_frame(frame))

    def _on_discovery(
        self, frame: Frame, header: ipv6.Header, upper: ipv6.Upper, end: int, mac: bytes, now: float
    ) -> None:
        """A message of neighbour discovery, to the gateway or to a group."""
        view = self.slots[frame.slot]
        if upper.has_fragment:
            # RFC 6980 section 5: it could hide from a guard.
            raise WireError("nd_message_dropped_malformed")
        icmpv6.parse(view, upper.off, end, header.src, header.dst)
        found = icmpv6.parse_discovery(view, upper.off, end, header)
        self.discovery.learn(header, found, mac, frame.link, now)
        self.discovery.answer(header, found, mac, frame.link, now)
        self.worker.free(frame.slot)


def _is_for_dhcp(header: ipv6.Header, upper: ipv6.Upper) -> bool:
    """Whether a whole datagram is for all DHCPv6 servers (RFC 8415 section 7.1)."""
    is_whole = not (upper.frag_off or upper.more)
    return header.dst == dhcpv6.ALL_SERVERS and upper.proto == ipv4.PROTO_UDP and is_whole


def _stays_on_link(header: ipv6.Header) -> bool:
    """Whether no router forwards packets of these addresses (RFC 4291 section 2.5.6)."""
    return is_link_local(header.src) or is_link_local(header.dst)
