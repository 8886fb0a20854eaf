"""ICMP errors of guests about TCP segments: demux checks them and passes them to the flow's tcp worker.

ICMPv6 errors have the types and codes of ICMP here (pipeline.wire.icmp_messages).

A forged error must not reach another guest's connection (RFC 5927 section 4). So demux reads the packet that
the error quotes. Its destination must be an address of the guest that reports the error. Its source must be
the address that the error is sent to. The tcp worker checks the rest: whether there is such a connection, and
what it has in flight.
"""

from typing import Final

from pipeline.counters import INDEX
from pipeline.engines import icmp as icmp_engine
from pipeline.records.flows import Ends
from pipeline.records.icmp import GuestError
from pipeline.stages.demux.network import Network
from pipeline.stages.demux.packet import Packet
from pipeline.wire import icmp, icmp_messages, ipv4
from pipeline.wire.errors import WireError

_RECEIVED: Final = INDEX["icmp_error_received"]
_ABOUT_SEGMENTS: Final = frozenset((icmp.UNREACHABLE, icmp.TIME_EXCEEDED, icmp.PARAMETER_PROBLEM))


class GuestErrors:
    """Makes GUEST_ERROR records of ICMP messages."""

    def __init__(self, network: Network) -> None:
        self.counts = network.counts
        self.slots = network.slots
        self.neighbors = network.neighbors
        self.tcp_out = network.tcp_out

    def pass_on(self, packet: Packet, message: icmp.Message) -> bool:
        """Pass on the message if it is an error about TCP; False for any other message.

        Raises WireError for an error that the guest may not send, or that makes no sense.
        """
        if message.type not in _ABOUT_SEGMENTS:
            return False
        quoted = icmp_messages.parse_quoted(self.slots[packet.slot], packet.header)
        if quoted.proto != ipv4.PROTO_TCP:
            return False
        neighbor = self.neighbors.get(quoted.dst)
        header = packet.header
        if neighbor is None or neighbor.link != packet.link or quoted.src != header.dst or not header.src:
            raise WireError("icmp_error_dropped_foreign_flow")
        mtu = 0
        if message.type == icmp.UNREACHABLE and message.code == icmp.FRAGMENTATION_NEEDED:
            mtu = icmp_engine.next_hop_mtu(message.rest & 0xFFFF, quoted)
        self.counts[_RECEIVED] += 1
        ends = Ends(quoted.dst, quoted.dst_port, quoted.src, quoted.src_port)
        record = GuestError.pack(
            link=packet.link, key=ends.key(), seq=quoted.seq, type=message.type, code=message.code, mtu=mtu
        )
        self.tcp_out.push(record, ends)
        return True
