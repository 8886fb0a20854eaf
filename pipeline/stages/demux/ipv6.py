"""The gateway's IPv6 input: packets of guests for the gateway, in single frames.

The gateway answers pings, neighbour discovery (discovery.py) and DNS. It routes nothing, so packets for other
hosts are dropped. So are fragments.
"""

from typing import Final

from pipeline.config.choices import DNS
from pipeline.counters import INDEX
from pipeline.engines import nat
from pipeline.engines.neighbors.addresses import Ipv6Addresses
from pipeline.records.flows import flow_key
from pipeline.records.frames import Frame
from pipeline.records.udp import UdpRange
from pipeline.stages.demux.discovery import Discovery
from pipeline.stages.demux.dropped import DroppedFrames, shape_of_frame
from pipeline.stages.demux.ip import IpInput
from pipeline.stages.demux.network import Network
from pipeline.wire import ethernet, icmpv6, ipv4, ipv6, offload, udp, virtio_net
from pipeline.wire.errors import WireError
from pipeline.wire.ip import is_multicast

_PACKETS: Final = INDEX["ipv6_packets_received"]
_NO_ROUTE: Final = INDEX["ipv6_packet_dropped_no_route"]
_FRAGMENT: Final = INDEX["ipv6_packet_dropped_fragment"]
_UNKNOWN: Final = INDEX["ipv6_packet_dropped_unknown_protocol"]
_ECHO: Final = INDEX["icmp_echo_answered"]
_NOT_FOR_US: Final = INDEX["icmp_message_dropped_not_for_us"]


class Ipv6Input:
    """Packets for the gateway. If a method raises WireError, the caller still owns the reference."""

    def __init__(
        self, network: Network, addresses: Ipv6Addresses, ip: IpInput, dropped: DroppedFrames
    ) -> None:
        self.worker = network.worker
        self.counts = network.counts
        self.slots = network.slots
        self.neighbors = network.neighbors
        self.output = network.output
        self.dropped = dropped
        self.ip = ip
        self.services = ip.udp.services
        self.discovery = Discovery(network, addresses, ip)
        self.gateway = addresses.gateway
        self.own = addresses.own
        self.has_dns = DNS not in network.config.access.disable

    def on_frame(self, frame: Frame, mac: bytes, now: float) -> None:
        """A frame for the gateway's MAC address or for a group."""
        view = self.slots[frame.slot]
        off = frame.off + ethernet.HEADER_LEN
        header = ipv6.parse(view, off, frame.off + frame.length)
        self.counts[_PACKETS] += 1
        begin = off + ipv6.HEADER_LEN
        end = begin + header.payload_len
        upper = ipv6.walk(view, begin, end, header.next_header)
        is_icmp = upper.proto == ipv6.PROTO_ICMPV6 and not (upper.frag_off or upper.more)
        if header.src and not is_icmp:
            self.neighbors.learn(header.src, mac, frame.link, now)
        is_group = is_multicast(header.dst)
        if upper.is_routed or not (is_group or header.dst in self.own):
            self._drop(_NO_ROUTE, frame)
        elif is_icmp:
            self._on_icmp(frame, header, upper, end, mac, now)
        elif upper.frag_off or upper.more:
            self._drop(_FRAGMENT, frame)
        elif is_group:
            # For groups of guests, such as mDNS.
            self.worker.free(frame.slot)
        elif upper.proto == ipv4.PROTO_UDP:
            self._on_datagram(frame, header, upper.off, end, now)
        else:
            self._drop(_UNKNOWN, frame)

    def _drop(self, reason: int, frame: Frame) -> None:
        """Drop what an ordinary guest may send. It does not count as a bad frame."""
        self.counts[reason] += 1
        self.dropped.take(reason, frame.link, frame.slot, shape_of_frame(frame))

    def _on_icmp(
        self, frame: Frame, header: ipv6.Header, upper: ipv6.Upper, end: int, mac: bytes, now: float
    ) -> None:
        view = self.slots[frame.slot]
        message = icmpv6.parse(view, upper.off, end, header.src, header.dst)
        is_discovery = message.type in icmpv6.FROM_HOSTS
        if header.src and not is_discovery:
            self.neighbors.learn(header.src, mac, frame.link, now)
        if is_discovery:
            if upper.has_fragment:
                # RFC 6980 section 5: it could hide from a guard.
                raise WireError("nd_message_dropped_malformed")
            found = icmpv6.parse_discovery(view, upper.off, end, header)
            self.discovery.learn(header, found, mac, frame.link, now)
            self.discovery.answer(header, found, mac, frame.link, now)
        elif message.type == icmpv6.ECHO_REQUEST and header.dst in self.own and header.src:
            self.ip.limit_answers(frame.link, now)
            self.counts[_ECHO] += 1
            data = view[upper.off + icmpv6.HEADER_LEN : end]
            src, dst = header.dst, header.src
            reply = icmpv6.build(icmpv6.ECHO_REPLY, 0, message.rest, src, dst, data)
            self.output.frame(frame.link, icmpv6.frame(mac, self.output.gateway_mac, src, dst, reply))
        elif not is_multicast(header.dst):
            self.counts[_NOT_FOR_US] += 1
        self.worker.free(frame.slot)

    def _on_datagram(self, frame: Frame, header: ipv6.Header, off: int, end: int, now: float) -> None:
        """A datagram for the gateway: for its name server, or for nobody."""
        view = self.slots[frame.slot]
        datagram = udp.parse(view, off, end)
        if not datagram.checksum:
            # RFC 8200 section 8.1
            raise WireError("udp_datagram_dropped_no_checksum")
        partial = frame.vnet and view[frame.off - offload.VNET_LEN] & virtio_net.NEEDS_CSUM != 0
        if not partial:
            udp.verify(view, off, datagram, header.src, header.dst)
        if not header.src:
            raise WireError("udp_datagram_dropped_no_source_address")
        if header.dst != self.gateway or datagram.dst_port != nat.DNS_PORT:
            raise WireError("nat_flow_refused_gateway_port")
        if not self.has_dns:
            raise WireError(nat.DNS_OFF)
        length = datagram.length - udp.HEADER_LEN
        question = UdpRange(
            slot=frame.slot,
            off=off + udp.HEADER_LEN,
            length=length,
            stride=0,
            piece_size=length,
            link=frame.link,
            key=flow_key(header.src, datagram.src_port, header.dst, datagram.dst_port),
            vnet=False,
        )
        self.services.to_resolver(question, nat.DNS_PORT, now)
