"""What guests of this host may send through the tunnel to other hosts.

It refuses packets that are too long, and tells their senders.

The gateway reports such a packet to its sender, as a router would (RFC 1191, RFC 8201). It does so even if
the packet could be cut into fragments: then the sender cuts it, and no host has to. Packets to groups are not
reported. The link drops those.

A frame to a group costs a datagram for each other host. So each guest has a rate of such frames while there
is a tunnel. What exceeds it reaches neither other hosts nor other guests of this one.
"""

from typing import Final

from pipeline.config.limits import Limits
from pipeline.counters import INDEX
from pipeline.engines.buckets import Buckets
from pipeline.engines.offload import stripped
from pipeline.records.frames import NO_LINK
from pipeline.stages.demux.dropped import DroppedFrames, Shape
from pipeline.stages.demux.icmp import IcmpDispatch
from pipeline.stages.demux.network import Network
from pipeline.wire import ethernet, offload, udp, virtio_net

_TOO_BIG: Final = INDEX["vxlan_packet_dropped_too_big"]
_FLOOD_RATE: Final = INDEX["vxlan_packet_dropped_flood_rate"]
_HEADER: Final = virtio_net.LONG
_TCP_OFFSET: Final = 12
_NETWORKS: Final = frozenset((ethernet.TYPE_IPV4, ethernet.TYPE_IPV6))


class TunnelGate:
    """Judges frames of guests that go into the tunnel."""

    def __init__(self, network: Network, icmp: IcmpDispatch, dropped: DroppedFrames) -> None:
        self.counts = network.counts
        self.slots = network.slots
        self.tunnel = network.tunnel
        self.mtu = network.config.network.mtu
        self.icmp = icmp
        self.dropped = dropped
        self.links = network.links
        self.floods = Buckets(0.0, 0.0)
        self.set_limits(network.config.limits)

    def set_limits(self, limits: Limits) -> None:
        """Set the rate of frames to groups."""
        self.floods.set_rate(limits.max_floods_per_second, limits.max_floods_per_second)

    def may_flood(self, link: int, frames: int, now: float) -> bool:
        """Whether frames from this link may go to all others. They are counted if they may not."""
        tunnel = self.tunnel.link
        if tunnel in (NO_LINK, link):
            return True
        guest = self.links.get(link, 0)
        if self.floods.level(guest, now) < 1.0:
            self.counts[_FLOOD_RATE] += frames
            return False
        self.floods.charge(guest, frames, now)
        return True

    def on_guest_gone(self, now: float) -> None:
        """A guest has no link any more. If it comes back at once, it has no fresh rate."""
        self.floods.forget_full(now)

    def refuses(self, link: int, slot: int, shape: Shape, now: float) -> bool:
        """Whether frames of the guest on link are too long. Then their sender was told, and they are dropped.

        shape: where the frames are in the slot. The reference goes with them if they are dropped.
        """
        off, end = shape.off, shape.off + shape.length
        if shape.length - ethernet.HEADER_LEN <= self.tunnel.mtu:
            return False
        view = self.slots[slot]
        kind, begin = ethernet.network_header(view, off, end)
        if self._packet_len(view, off, begin, end, shape.vnet) <= self.tunnel.mtu:
            return False
        self.counts[_TOO_BIG] += shape.frames
        if kind in _NETWORKS:
            self.icmp.report_too_big(view, begin, self.tunnel.mtu, now)
        self.dropped.take(_TOO_BIG, link, slot, shape)
        return True

    def _packet_len(self, view: memoryview, off: int, begin: int, end: int, vnet: bool) -> int:
        """The length of the longest packet that goes into the tunnel. begin: where the IP header is."""
        packet = end - begin
        if vnet:
            _, gso_type, _, gso_size, start, _, _ = _HEADER.unpack_from(view, off - offload.VNET_LEN)
            if not gso_type:
                return packet
            upper_len = udp.HEADER_LEN
            if gso_type != virtio_net.GSO_UDP_L4:
                upper_len = (view[off + start + _TCP_OFFSET] >> 4) * 4
            return int(off + start + upper_len + gso_size - begin)
        if packet > self.mtu and stripped.can_cut(view, begin, end):
            # Ingress cuts it (pipeline.engines.offload.stripped).
            return self.mtu
        return packet
