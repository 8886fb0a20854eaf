"""The counters for clients of gvproxy: the object of ``/stats``.

It has exactly the shape of gVisor's statistics, so that any reader finds its fields. _SOURCES says which of
our counters fill them; all others are 0. Nothing is counted here. pipeline.control.metrics makes the page for
Prometheus.
"""

from collections.abc import Mapping
from typing import Any, Final

from pipeline import counters

Snapshot = Mapping[str, Mapping[str, int]]
"""{worker: {counter: value}}"""

_ICMP4: Final = (
    "DstUnreachable EchoReply EchoRequest InfoReply InfoRequest ParamProblem Redirect SrcQuench TimeExceeded "
    "Timestamp TimestampReply"
)
_ICMP6: Final = (
    "DstUnreachable EchoReply EchoRequest MulticastListenerDone MulticastListenerQuery "
    "MulticastListenerReport MulticastListenerReportV2 NeighborAdvert NeighborSolicit PacketTooBig "
    "ParamProblem RedirectMsg RouterAdvert RouterSolicit TimeExceeded"
)
_IGMP: Final = "LeaveGroup MembershipQuery V1MembershipReport V2MembershipReport V3MembershipReport"

_SHAPE: Final[Mapping[str, str]] = {
    "": "BytesReceived BytesSent DroppedPackets",
    "ARP": "DisabledPacketsReceived MalformedPacketsReceived OutgoingRepliesDropped OutgoingRepliesSent "
    "OutgoingRequestBadLocalAddressErrors OutgoingRequestInterfaceHasNoLocalAddressErrors "
    "OutgoingRequestsDropped OutgoingRequestsSent PacketsReceived RepliesReceived RequestsReceived "
    "RequestsReceivedUnknownTargetAddress",
    "ICMP.V4.PacketsReceived": "Invalid",
    "ICMP.V4.PacketsReceived.ICMPv4PacketStats": _ICMP4,
    "ICMP.V4.PacketsSent": "Dropped RateLimited",
    "ICMP.V4.PacketsSent.ICMPv4PacketStats": _ICMP4,
    "ICMP.V6.PacketsReceived": "Invalid RouterOnlyPacketsDroppedByHost Unrecognized",
    "ICMP.V6.PacketsReceived.ICMPv6PacketStats": _ICMP6,
    "ICMP.V6.PacketsSent": "Dropped RateLimited",
    "ICMP.V6.PacketsSent.ICMPv6PacketStats": _ICMP6,
    "IGMP.PacketsReceived": "ChecksumErrors Invalid Unrecognized",
    "IGMP.PacketsReceived.IGMPPacketStats": _IGMP,
    "IGMP.PacketsSent": "Dropped",
    "IGMP.PacketsSent.IGMPPacketStats": _IGMP,
    "IP": "DisabledPacketsReceived IPTablesForwardDropped IPTablesInputDropped IPTablesOutputDropped "
    "IPTablesPostroutingDropped IPTablesPreroutingDropped InvalidDestinationAddressesReceived "
    "InvalidSourceAddressesReceived MalformedFragmentsReceived MalformedPacketsReceived "
    "OptionRecordRouteReceived OptionRouterAlertReceived OptionTimestampReceived OptionUnknownReceived "
    "OutgoingPacketErrors PacketsDelivered PacketsReceived PacketsSent ValidPacketsReceived",
    "IP.Forwarding": "Errors ExhaustedTTL ExtensionHeaderProblem HostUnreachable InitializingSource "
    "LinkLocalDestination LinkLocalSource NoMulticastPendingQueueBufferSpace OutgoingDeviceClosedForSend "
    "OutgoingDeviceNoBufferSpace PacketTooBig UnexpectedMulticastInputInterface UnknownOutputEndpoint "
    "Unrouteable",
    "NICs": "MalformedL4RcvdPackets TxPacketsDroppedNoBufferSpace",
    "NICs.DisabledRx": "Bytes Packets",
    "NICs.Neighbor": "DroppedConfirmationForNoninitiatedNeighbor DroppedInvalidLinkAddressConfirmations "
    "UnreachableEntryLookups",
    "NICs.Rx": "Bytes Packets",
    "NICs.Tx": "Bytes Packets",
    "TCP": "ActiveConnectionOpenings ChecksumErrors CurrentConnected CurrentEstablished EstablishedClosed "
    "EstablishedResets EstablishedTimedout FailedConnectionAttempts FailedPortReservations FastRecovery "
    "FastRetransmit ForwardMaxInFlightDrop InvalidSegmentsReceived ListenOverflowAckDrop "
    "ListenOverflowInvalidSynCookieRcvd ListenOverflowSynCookieRcvd ListenOverflowSynCookieSent "
    "ListenOverflowSynDrop PassiveConnectionOpenings ResetsReceived ResetsSent Retransmits SACKRecovery "
    "SegmentSendErrors SegmentsAckedWithDSACK SegmentsSent SlowStartRetransmits SpuriousRTORecovery "
    "SpuriousRecovery TLPRecovery Timeouts ValidSegmentsReceived",
    "UDP": "ChecksumErrors MalformedPacketsReceived PacketSendErrors PacketsReceived PacketsSent "
    "ReceiveBufferErrors UnknownPortErrors",
}
"""Object in the answer -> the names of its integers."""

_MALFORMED_IP: Final = (
    "ipv4_packet_dropped_bad_checksum ipv4_packet_dropped_bad_length ipv4_packet_dropped_bad_version "
    "ipv4_packet_dropped_truncated"
)
_MALFORMED_ARP: Final = "arp_message_dropped_truncated arp_message_dropped_unsupported"

_SOURCES: Final[Mapping[str, str]] = {
    "BytesReceived": "link_bytes_from_guest",
    "BytesSent": "link_bytes_to_guest",
    "ARP.MalformedPacketsReceived": _MALFORMED_ARP,
    "ARP.OutgoingRequestsSent": "arp_requests_sent",
    "ARP.PacketsReceived": f"arp_messages_received {_MALFORMED_ARP}",
    "ICMP.V4.PacketsReceived.Invalid": "icmp_message_dropped_bad_checksum icmp_message_dropped_truncated",
    "ICMP.V4.PacketsReceived.ICMPv4PacketStats.EchoRequest": "icmp_echo_answered icmp_echo_forwarded "
    "icmp_echo_dropped_not_permitted icmp_echo_dropped_send_failed",
    "ICMP.V4.PacketsSent.RateLimited": "icmp_error_dropped_rate_limit",
    "ICMP.V4.PacketsSent.ICMPv4PacketStats.EchoReply": "icmp_echo_answered icmp_echo_replied",
    "IP.InvalidDestinationAddressesReceived": "ipv4_packet_dropped_group_destination "
    "ipv4_packet_dropped_loopback_destination",
    "IP.InvalidSourceAddressesReceived": "neighbor_claim_refused_gateway_address "
    "neighbor_claim_refused_outside_subnet neighbor_claim_refused_address_taken",
    "IP.MalformedFragmentsReceived": "ipv4_fragment_dropped_bad_length ipv4_fragment_dropped_overlap "
    "ipv4_fragment_dropped_too_long ipv4_fragment_dropped_too_many",
    "IP.MalformedPacketsReceived": _MALFORMED_IP,
    "IP.PacketsReceived": f"ipv4_packets_received {_MALFORMED_IP}",
    "IP.ValidPacketsReceived": "ipv4_packets_received",
    "NICs.Rx.Bytes": "link_bytes_from_guest",
    "NICs.Rx.Packets": "link_frames_from_guest",
    "NICs.Tx.Bytes": "link_bytes_to_guest",
    "NICs.Tx.Packets": "link_frames_to_guest",
    "NICs.TxPacketsDroppedNoBufferSpace": "link_frame_dropped_backlog_full demux_frame_dropped_no_slot",
    "TCP.ActiveConnectionOpenings": "egress_connection_accepted",
    "TCP.ChecksumErrors": "tcp_segment_dropped_bad_checksum",
    "TCP.CurrentConnected": "tcp_flows",
    "TCP.CurrentEstablished": "egress_flows",
    "TCP.FailedConnectionAttempts": "egress_connection_failed",
    "TCP.FailedPortReservations": "tcp_dial_failed_no_port",
    "TCP.ForwardMaxInFlightDrop": "tcp_syn_dropped_too_many_flows",
    "TCP.InvalidSegmentsReceived": "tcp_segment_dropped_bad_offset tcp_segment_dropped_bad_options "
    "tcp_segment_dropped_truncated",
    "TCP.PassiveConnectionOpenings": "egress_connection_opened",
    "TCP.ResetsSent": "tcp_reset_sent_no_flow",
    "TCP.SegmentsSent": "tcp_segments_sent",
    "TCP.ValidSegmentsReceived": "tcp_segments_received",
    "UDP.ChecksumErrors": "udp_datagram_dropped_bad_checksum",
    "UDP.MalformedPacketsReceived": "udp_datagram_dropped_bad_length udp_datagram_dropped_truncated",
    "UDP.PacketSendErrors": "udp_datagram_dropped_no_neighbor",
    "UDP.PacketsReceived": "udp_datagrams_from_guest",
    "UDP.PacketsSent": "udp_datagrams_to_guest",
    "UDP.ReceiveBufferErrors": "egress_datagram_dropped_socket_full",
}
"""Integer in the answer -> the counters whose sum it is."""

_DROPS: Final = tuple(row.name for row in counters.TABLE if "_dropped_" in row.name)


def gvisor(snapshot: Snapshot) -> dict[str, Any]:
    """The object of ``/stats``, keys sorted at every level."""
    total = dict.fromkeys(counters.INDEX, 0)
    for values in snapshot.values():
        for name, value in values.items():
            total[name] += value
    answer: dict[str, Any] = {}
    for place, names in _SHAPE.items():
        inner = answer
        for step in place.split(".") if place else ():
            inner = inner.setdefault(step, {})
        inner.update(dict.fromkeys(names.split(), 0))
    for path, sources in _SOURCES.items():
        *place_steps, leaf = path.split(".")
        inner = answer
        for step in place_steps:
            inner = inner[step]
        inner[leaf] = sum(total[name] for name in sources.split())
    answer["DroppedPackets"] = sum(total[name] for name in _DROPS)
    return _sorted(answer)


def _sorted(tree: dict[str, Any]) -> dict[str, Any]:
    return {key: _sorted(tree[key]) if isinstance(tree[key], dict) else tree[key] for key in sorted(tree)}
