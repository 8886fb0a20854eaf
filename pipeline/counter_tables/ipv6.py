"""The counters of demux about IPv6 on the link, which are a part of the table (pipeline.counters)."""

from typing import Final

from pipeline.counter_tables.row import Counter

IPV6: Final[tuple[Counter, ...]] = (
    Counter("ipv6_fragments_sent", "packets", "fragments of IPv6 packets sent to guests"),
    Counter("ipv6_packet_dropped_hop_limit_exceeded", "packets", "IPv6 packets that had no hop left"),
    Counter("ipv6_packet_dropped_no_route", "packets", "IPv6 packets of addresses that stay on the link"),
    Counter(
        "ipv6_packet_dropped_unknown_protocol",
        "packets",
        "IPv6 packets that are neither TCP, UDP nor ICMPv6",
    ),
    Counter("ipv6_packets_received", "packets", "IPv6 packets from guests, except those to other guests"),
    Counter("nd_duplicates_reported", "messages", "guests told that a live guest has the address they want"),
    Counter("nd_messages_received", "messages", "well-formed messages of neighbor discovery from guests"),
    Counter("nd_solicitations_sent", "messages", "neighbor solicitations for a guest's address"),
    Counter("router_advertisements_sent", "messages", "router advertisements sent to one guest or to all"),
    Counter(
        "ipv6_datagram_dropped_reassembly_full", "packets", "partial IPv6 packets that made room for others"
    ),
    Counter("ipv6_datagram_dropped_reassembly_timeout", "packets", "IPv6 packets not whole in time"),
    Counter(
        "ipv6_fragment_dropped_bad_length",
        "fragments",
        "IPv6 fragments that are empty or not a multiple of 8",
    ),
    Counter("ipv6_fragment_dropped_duplicate", "fragments", "exact repetitions of an IPv6 fragment"),
    Counter(
        "ipv6_fragment_dropped_incomplete_headers",
        "fragments",
        "first fragments of IPv6 packets without all headers up to the upper layer",
    ),
    Counter(
        "ipv6_fragment_dropped_overlap", "fragments", "IPv6 fragments that contradict others of their packet"
    ),
    Counter(
        "ipv6_fragment_dropped_too_long", "fragments", "IPv6 fragments that end after the longest packet"
    ),
    Counter(
        "ipv6_fragment_dropped_too_many", "fragments", "fragments of IPv6 packets cut in too many pieces"
    ),
    Counter("icmpv6_message_dropped_bad_checksum", "messages", "ICMPv6 messages with a wrong checksum"),
    Counter("icmpv6_message_dropped_truncated", "messages", "ICMPv6 messages shorter than 8 bytes"),
    Counter(
        "ipv6_packet_dropped_bad_address", "packets", "IPv6 packets from a group or with a mapped address"
    ),
    Counter("ipv6_packet_dropped_bad_option", "packets", "IPv6 packets with an option that does not end"),
    Counter("ipv6_packet_dropped_bad_version", "packets", "packets of EtherType IPv6 of another version"),
    Counter(
        "ipv6_packet_dropped_misplaced_header",
        "packets",
        "IPv6 packets whose Hop-by-Hop header is not the first",
    ),
    Counter("ipv6_packet_dropped_source_route", "packets", "IPv6 packets that name further hops to pass"),
    Counter("ipv6_packet_dropped_too_many_headers", "packets", "IPv6 packets with over 8 extension headers"),
    Counter("ipv6_packet_dropped_too_many_options", "packets", "IPv6 packets with over 32 options"),
    Counter("ipv6_packet_dropped_truncated", "packets", "IPv6 packets shorter than their headers say"),
    Counter("ipv6_packet_dropped_unknown_option", "packets", "IPv6 packets with an option not to skip"),
    Counter("nd_message_dropped_bad_hop_limit", "messages", "neighbor discovery from beyond the link"),
    Counter("nd_message_dropped_foreign_sender", "messages", "neighbor discovery for another station's MAC"),
    Counter("nd_message_dropped_malformed", "messages", "neighbor discovery that RFC 4861 says to ignore"),
    Counter("udp_datagram_dropped_no_checksum", "datagrams", "UDP datagrams over IPv6 without a checksum"),
)
