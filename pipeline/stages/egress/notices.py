"""Egress's reports to demux about flows: which are over, and which could not be opened."""

from pipeline.engines import refusal
from pipeline.ipc.ring import Producer
from pipeline.records.flows import FlowKey, FlowNotice
from pipeline.records.icmp import Unreachable
from pipeline.records.kinds import UDP_ANSWERED, UDP_CLOSE
from pipeline.records.streams import Connect
from pipeline.wire import ipv4


class DemuxNotices:
    """Writes these reports to demux's ring."""

    def __init__(self, demux_out: Producer) -> None:
        self._demux_out = demux_out

    def notify_syn_failed(self, request: Connect, error: int) -> None:
        """Let demux tell the guest by ICMP why its SYN failed, if ICMP has a message for this errno."""
        code = refusal.answer_to_syn(error)
        if code >= 0:
            self._demux_out.push(Unreachable.pack(request.key, ipv4.PROTO_TCP, code, request.syn_seq))

    def notify_datagram_failed(self, key: FlowKey, error: int) -> None:
        """Let demux tell the guest by ICMP why its datagram failed, if ICMP has a message for this errno."""
        code = refusal.answer_to_datagram(error)
        if code >= 0:
            self._demux_out.push(Unreachable.pack(key, ipv4.PROTO_UDP, code))

    def notify_udp_closed(self, number: int) -> None:
        """A UDP flow is over."""
        self._demux_out.push(FlowNotice.pack(UDP_CLOSE, number))

    def notify_udp_answered(self, number: int) -> None:
        """Datagrams of a UDP flow went past demux to the guest."""
        self._demux_out.push(FlowNotice.pack(UDP_ANSWERED, number))
