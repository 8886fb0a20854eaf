"""Port security between guests: decides whether another guest may get a frame, by the setting ``guests``.

guarded
    The sender's address, in IPv4 and in ARP, must be of the subnet and belong to the link. The neighbour
    table decides that, as for packets to the gateway. So a live guest's address is contested, and no guest
    can have one of the gateway's. While IPv6 is on, the same holds for its packets and for neighbour
    discovery. pipeline.engines.guard refuses frames that no guest may send to guests.
isolated, apart
    No frame passes.
open
    Every frame passes.

All frames of a run have equal headers, so demux judges its first frame. Packets that ingress steers past
demux never go to a guest.
"""

from typing import Final

from pipeline.config.choices import GUARDED, HIDDEN
from pipeline.counters import INDEX
from pipeline.engines import guard, neighbor_discovery
from pipeline.records.flows import Ends, FlowKey
from pipeline.records.frames import Frame
from pipeline.stages.demux.network import Network
from pipeline.wire import arp, ethernet, icmpv6, ipv6
from pipeline.wire.errors import WireError

REPORTED: Final = frozenset(
    (
        "arp_message_dropped_foreign_sender",
        "nd_message_dropped_foreign_sender",
        "switch_frame_dropped_dhcp_server",
        "switch_frame_dropped_outside_source",
        "switch_frame_dropped_route_message",
        "switch_frame_dropped_unreadable_headers",
    )
)
"""Counters of frames that no ordinary guest sends. The log reports them. Contests, and claims of the
gateway's addresses, have reports of their own (pipeline.stages.demux.events)."""

_ISOLATED: Final = INDEX["switch_frame_dropped_isolated"]


class Guard:
    """Judges frames between guests. Methods raise WireError for a frame that no other guest may get."""

    def __init__(self, network: Network) -> None:
        self.counts = network.counts
        self.slots = network.slots
        self.links = network.links
        self.neighbors = network.neighbors
        self.switch = network.switch
        self.isolated = network.config.access.guests in HIDDEN
        self.guarded = network.config.access.guests == GUARDED
        self.has_ipv6 = network.ipv6 is not None

    def may_flood(self, frames: int) -> bool:
        """Whether frames to a group go to other guests. They are counted if the setting forbids it."""
        if len(self.links) < 2:
            return False
        if self.isolated:
            self.counts[_ISOLATED] += frames
            return False
        return True

    def admit_segments(self, key: FlowKey, mac: bytes, link: int, now: float) -> None:
        """TCP segments of one flow."""
        if self.guarded:
            self._admit_source(Ends.of(key).guest_addr, mac, link, now)
        elif self.isolated:
            raise WireError("switch_frame_dropped_isolated")

    def admit_datagrams(self, key: FlowKey, mac: bytes, link: int, now: float) -> None:
        """UDP datagrams of one flow."""
        if self.guarded:
            ends = Ends.of(key)
            guard.refuse_datagram(ends.remote_addr, ends.remote_port)
            self._admit_source(ends.guest_addr, mac, link, now)
        elif self.isolated:
            raise WireError("switch_frame_dropped_isolated")

    def admit_frame(self, frame: Frame, dst: bytes, mac: bytes, ethertype: int, now: float) -> None:
        """A single frame."""
        if self.isolated:
            raise WireError("switch_frame_dropped_isolated")
        if not self.guarded:
            return
        guard.refuse_group(dst)
        view = self.slots[frame.slot]
        end = frame.off + frame.length
        kind, at = guard.network_of(view, frame.off, end, ethertype)
        if kind == ethernet.TYPE_IPV4:
            self._admit_source(guard.refuse_ipv4(view, at, end), mac, frame.link, now)
        elif kind == ethernet.TYPE_ARP:
            message = arp.parse(view, at, end)
            if message.sha != mac and self.switch.link_of(message.sha) != frame.link:
                raise WireError("arp_message_dropped_foreign_sender")
            self._admit_source(message.spa, message.sha, frame.link, now, by_arp=True)
        elif kind == ethernet.TYPE_IPV6:
            upper = guard.refuse_ipv6(view, at, end)
            if self.has_ipv6:
                self._admit_ipv6(view, (at, end), upper, mac, frame.link, now)

    def _admit_ipv6(
        self,
        view: memoryview,
        bounds: tuple[int, int],
        upper: ipv6.Upper,
        mac: bytes,
        link: int,
        now: float,
    ) -> None:
        """An IPv6 packet in view[bounds]. It claims its source, and what its neighbour discovery says."""
        at, end = bounds
        header = ipv6.parse(view, at, end)
        is_icmp = upper.proto == ipv6.PROTO_ICMPV6 and not upper.frag_off
        if is_icmp and view[upper.off] in icmpv6.FROM_HOSTS:
            if upper.has_fragment:
                # The rest of the message may claim anything (RFC 6980).
                raise WireError("nd_message_dropped_malformed")
            end = at + ipv6.HEADER_LEN + header.payload_len
            icmpv6.parse(view, upper.off, end, header.src, header.dst)
            message = icmpv6.parse_discovery(view, upper.off, end, header)
            if message.mac and message.mac != mac and self.switch.link_of(message.mac) != link:
                raise WireError("nd_message_dropped_foreign_sender")
            addr, claimant = neighbor_discovery.claim(header, message, mac)
            self._admit_source(addr, claimant, link, now, by_arp=True)
            if addr == header.src:
                # Judged. A station on a bridge may name another MAC of its link than that of the frame.
                return
        self._admit_source(header.src, mac, link, now)

    def _admit_source(self, addr: int, mac: bytes, link: int, now: float, by_arp: bool = False) -> None:
        """Check the sender's address. It counts as a claim like any other. A sender without one passes."""
        if not addr:
            return
        try:
            self.neighbors.learn(addr, mac, link, now, by_arp=by_arp)
        except WireError as error:
            if error.reason == "neighbor_claim_refused_outside_subnet":
                raise WireError("switch_frame_dropped_outside_source") from None
            # The link has as many addresses as it may have. No other guest has this one, so the frame passes.
            if error.reason != "neighbor_claim_refused_table_full":
                raise
