"""ICMP errors of guests about segments sent to them, checked as far as demux can, to the flow's tcp worker.

Whoever forges one must not reach another's connection (RFC 5927 section 4): the quoted packet must
have gone to an address of the guest that complains, from the address that the message is for.
The tcp worker knows the rest: whether there is such a connection, and what it has in flight.
"""

from collections.abc import Callable
from typing import Final

from pipeline.counters import INDEX
from pipeline.engines import icmp as icmp_engine
from pipeline.engines import neighbors
from pipeline.records import descriptor as d
from pipeline.stages.worker import Worker
from pipeline.wire import icmp, ipv4
from pipeline.wire.errors import WireError

_RECEIVED: Final = INDEX["icmp_error_received"]
ToTcp = Callable[[bytes, int, int, int], None]
"""Pushes a record to the tcp worker of a flow: (record, guest_addr, remote_addr, ports)."""

_ABOUT_SEGMENTS: Final = frozenset((icmp.UNREACHABLE, icmp.TIME_EXCEEDED, icmp.PARAMETER_PROBLEM))


class GuestErrors:
    """From messages to records GUEST_ERROR."""

    def __init__(self, worker: Worker, known: neighbors.Neighbors, to_tcp: ToTcp) -> None:
        self.counts = worker.counts
        self.neighbors = known
        self.to_tcp = to_tcp

    def take(
        self, link: int, header: ipv4.Header, message: icmp.Message, view: memoryview, begin: int, end: int
    ) -> bool:
        """Pass on what view[begin:end] says, if it is an error about TCP; False for any other message.

        Raises WireError for an error that nobody may send, or that makes no sense.
        """
        if message.type not in _ABOUT_SEGMENTS:
            return False
        quoted = icmp.parse_quoted(view, begin, end)
        if quoted.proto != ipv4.PROTO_TCP:
            return False
        neighbor = self.neighbors.get(quoted.dst)
        if neighbor is None or neighbor.link != link or quoted.src != header.dst or not header.src:
            raise WireError("icmp_error_dropped_foreign_flow")
        mtu = 0
        if message.type == icmp.UNREACHABLE and message.code == icmp.FRAGMENTATION_NEEDED:
            mtu = icmp_engine.next_hop_mtu(message.rest & 0xFFFF, quoted.total_len)
        self.counts[_RECEIVED] += 1
        ports = quoted.dst_port << 16 | quoted.src_port
        record = d.record(
            d.GUEST_ERROR,
            link=link,
            seq=quoted.seq,
            ack=mtu,
            guest_addr=quoted.dst,
            remote_addr=quoted.src,
            ports=ports,
            aux=message.type << 8 | message.code,
        )
        self.to_tcp(record, quoted.dst, quoted.src, ports)
        return True
