"""The table of all counters, with their units and meanings.

The code, ``/stats``, the Prometheus page and the documentation take a counter from its row here. Parts of the
table have files of their own (counter_tables/). The row's position is the counter's index in each worker's
block of shared memory (counter_block.py). Only the worker writes its block; every process may read it. A name
is ``<layer>_<object>_<event>``. The name of a drop ends with its cause. histograms.py is the table of
histograms.
"""

from typing import Final

from pipeline.counter_tables.dhcp import DHCP
from pipeline.counter_tables.ipv6 import IPV6
from pipeline.counter_tables.policy import POLICY
from pipeline.counter_tables.row import Counter
from pipeline.counter_tables.vhost_user import VHOST_USER
from pipeline.counter_tables.vxlan import VXLAN

TABLE: Final[tuple[Counter, ...]] = (
    # --- every worker -----------------------------------------------------------------
    Counter("worker_breaths", "breaths", "turns of the worker's loop"),
    Counter("worker_sleeps", "sleeps", "times the worker waited for input"),
    Counter(
        "worker_busy", "microseconds", "time in which the worker's process neither slept nor looked for work"
    ),
    Counter("worker_busy_share", "millionths", "share of the last second in which it was busy", "gauge"),
    Counter("worker_slots_free", "slots", "free slots of the worker's own pool", "gauge"),
    Counter("worker_slot_refs_out", "references", "references to slots of the pool that are in use", "gauge"),
    Counter("worker_messages_lost", "messages", "control messages lost at the limit of open descriptors"),
    Counter(
        "log_lines_dropped", "lines", "log lines lost because the log took no more, or could not be written"
    ),
    Counter("flow_log_lines_dropped", "lines", "lines of the flow log lost, as those of the log"),
    # --- links and ingress --------------------------------------------------------
    Counter(
        "capture_frames_dropped",
        "frames",
        "frames missing in the capture, because its file or its reader is too slow",
    ),
    Counter("link_accept_failed", "events", "listening sockets for guests that failed for good"),
    Counter("link_guests", "links", "guest links attached now", "gauge"),
    Counter(
        "link_bytes_from_guest", "bytes", "bytes of frames received from guests, Ethernet header included"
    ),
    Counter("link_bytes_to_guest", "bytes", "bytes of frames sent to guests, Ethernet header included"),
    Counter("link_frames_from_guest", "frames", "frames received from guests"),
    Counter("link_frames_to_guest", "frames", "frames sent to guests"),
    Counter("link_runs_steered", "runs", "runs of segments or datagrams that went past demux"),
    Counter("link_guest_connected", "links", "guest links attached"),
    Counter("link_guest_offload", "links", "guest links that agreed to offload"),
    Counter("link_guest_disconnected", "links", "guest links ended"),
    Counter(
        "link_frame_dropped_backlog_full", "frames", "frames to a guest that does not read, while others do"
    ),
    Counter("link_frame_dropped_bad_vnet_header", "frames", "frames with an impossible virtio-net header"),
    Counter(
        "link_addresses_inner", "addresses", "addresses and MACs of guests that have an inner one", "gauge"
    ),
    Counter("link_frame_dropped_inner_source", "frames", "frames whose source looks like an inner address"),
    Counter(
        "link_frame_dropped_too_many_inner", "frames", "frames from an address when no inner one was left"
    ),
    Counter("link_frame_dropped_no_neighbor", "frames", "frames to an address that no guest has"),
    Counter("link_frame_dropped_no_slot", "frames", "frames cut from a super-segment while no slot was free"),
    Counter(
        "link_frame_dropped_oversized",
        "frames",
        "frames longer than a slot, or than the framing allows: then the link is closed",
    ),
    Counter("link_frame_dropped_refused", "frames", "frames that a tap did not take: it is down"),
    Counter("link_frame_dropped_runt", "frames", "frames shorter than an Ethernet header"),
    Counter("link_data_dropped_no_slot", "segments", "TCP segments whose payload was dropped: slots ran out"),
    Counter(
        "link_reads_paused_misbehaving",
        "events",
        "times a link was not read because too many of its frames had been dropped",
    ),
    Counter(
        "link_reads_paused_small_work",
        "events",
        "times a guest was not read because its small frames cost more than its part of the time",
    ),
    Counter("link_reads_paused_byte_rate", "events", "times a guest waited for its rate of bytes sent"),
    Counter("link_handshake_failed", "links", "links refused for what they sent before the first frame"),
    Counter("link_refused_too_many", "links", "links refused because too many were open"),
    Counter("link_refused_too_often", "links", "links refused because their guest opens one after the other"),
    Counter("link_reads_paused_no_slot", "events", "times a link was not read because no slot was free"),
    *VHOST_USER,
    *VXLAN,
    # --- demux: Ethernet, ARP, IPv4, ICMP, UDP -------------------------------------
    Counter("arp_messages_received", "messages", "well-formed ARP messages from guests"),
    Counter("arp_requests_sent", "messages", "ARP requests for a guest's address"),
    Counter(
        "demux_frame_dropped_no_slot", "frames", "frames of the gateway not sent because no slot was free"
    ),
    Counter(
        "demux_message_dropped_rate_limit",
        "messages",
        "pings, ARP and ND requests over max-answers-per-second",
    ),
    Counter(
        "dhcp_message_dropped_rate_limit",
        "messages",
        "DHCP and DHCPv6 messages over max-dhcp-messages-per-second",
    ),
    Counter("dns_query_dropped_rate_limit", "messages", "DNS queries over max-dns-queries-per-second"),
    Counter("demux_frame_dropped_tcp_to_group", "frames", "TCP segments in frames to a group address"),
    Counter("demux_frame_dropped_unknown_ethertype", "frames", "frames that are neither IPv4 nor ARP"),
    Counter("icmp_echo_answered", "messages", "pings of the gateway's addresses answered"),
    Counter("icmp_error_received", "messages", "ICMP errors of guests about segments sent to them"),
    Counter("icmp_error_dropped_bad_quote", "messages", "ICMP errors that do not quote the packet properly"),
    Counter(
        "icmp_error_dropped_foreign_flow", "messages", "ICMP errors about segments not sent to their guest"
    ),
    Counter("icmp_error_dropped_bad_mtu", "messages", "ICMP errors that name an impossible MTU"),
    Counter("icmp_message_dropped_not_for_us", "messages", "ICMP messages of a type that is not handled"),
    Counter("ipv4_fragments_sent", "packets", "fragments sent to guests"),
    Counter("ipv4_packet_dropped_group_destination", "packets", "TCP to a broadcast or multicast address"),
    Counter("ipv4_packet_dropped_loopback_destination", "packets", "packets to 127.0.0.0/8"),
    Counter(
        "ipv4_packet_dropped_unknown_protocol",
        "packets",
        "packets of a protocol that is not ICMP, TCP or UDP",
    ),
    Counter("ipv4_packets_received", "packets", "IPv4 packets from guests for the gateway or beyond"),
    Counter(
        "neighbor_claims_contested", "events", "claims of an address whose owner is alive, or is the gateway"
    ),
    Counter(
        "neighbor_mac_changed", "events", "times an address got another MAC without having to be contested"
    ),
    Counter("switch_frames_forwarded", "frames", "frames from one guest to others"),
    Counter("switch_mac_moved", "events", "times a MAC address turned up on another link"),
    Counter("switch_macs", "addresses", "MAC addresses in the switch's table", "gauge"),
    Counter(
        "udp_datagram_dropped_flow_rate", "datagrams", "datagrams to new places over max-udp-flows-per-second"
    ),
    Counter("udp_datagram_dropped_no_flow", "datagrams", "answers for a UDP flow that is over"),
    Counter("udp_datagram_dropped_no_neighbor", "datagrams", "datagrams for an address that no guest has"),
    Counter(
        "udp_datagram_dropped_too_many_waiting",
        "datagrams",
        "datagrams for a guest whose MAC is being asked for, over the limit of slots for waiting datagrams",
    ),
    Counter(
        "udp_datagram_dropped_no_source_address", "datagrams", "datagrams from 0.0.0.0 that are not DHCP"
    ),
    Counter("udp_datagrams_from_guest", "datagrams", "well-formed UDP datagrams from guests"),
    Counter("udp_datagrams_to_guest", "datagrams", "UDP datagrams sent to guests"),
    Counter("udp_flows", "flows", "UDP flows open now", "gauge"),
    Counter("arp_message_dropped_foreign_sender", "messages", "ARP messages whose sender is not the frame's"),
    Counter("arp_message_dropped_truncated", "messages", "ARP messages shorter than 28 bytes"),
    Counter("arp_message_dropped_unsupported", "messages", "ARP messages not about IPv4 on Ethernet"),
    Counter("icmp_reply_dropped_no_neighbor", "messages", "echo replies for an address that no guest has"),
    Counter("ipv4_packet_dropped_ttl_exceeded", "packets", "packets without a hop left, answered by ICMP"),
    Counter("icmp_error_dropped_rate_limit", "messages", "ICMP errors not sent because of their rate limit"),
    Counter("icmp_message_dropped_bad_checksum", "messages", "ICMP messages with a wrong checksum"),
    Counter("icmp_message_dropped_truncated", "messages", "ICMP messages shorter than 8 bytes"),
    Counter(
        "ipv4_datagram_dropped_reassembly_full", "datagrams", "partial datagrams that made room for others"
    ),
    Counter("ipv4_datagram_dropped_reassembly_timeout", "datagrams", "datagrams not whole in time"),
    Counter(
        "ipv4_fragment_dropped_bad_length", "fragments", "fragments that are empty or not a multiple of 8"
    ),
    Counter("ipv4_fragment_dropped_duplicate", "fragments", "exact repetitions of a fragment"),
    Counter(
        "ipv4_fragment_dropped_overlap", "fragments", "fragments that contradict others of their datagram"
    ),
    Counter("ipv4_fragment_dropped_too_long", "fragments", "fragments that end after the longest packet"),
    Counter("ipv4_fragment_dropped_too_many", "fragments", "fragments of datagrams cut in too many pieces"),
    Counter("ipv4_packet_dropped_bad_checksum", "packets", "IPv4 headers with a wrong checksum"),
    Counter("ipv4_packet_dropped_bad_length", "packets", "IPv4 headers whose lengths contradict each other"),
    Counter("ipv4_packet_dropped_bad_version", "packets", "packets of EtherType IPv4 of another version"),
    Counter("ipv4_packet_dropped_truncated", "packets", "IPv4 packets shorter than their total length"),
    Counter(
        "neighbor_claim_refused_address_taken",
        "packets",
        "packets from the address of another guest, which is alive or may come back",
    ),
    Counter("neighbor_claim_refused_bad_mac", "packets", "packets from the gateway's or a group MAC address"),
    Counter("neighbor_claim_refused_gateway_address", "packets", "packets from an address of the gateway"),
    Counter("neighbor_claim_refused_outside_subnet", "packets", "packets from an address outside the subnet"),
    Counter(
        "neighbor_claim_refused_table_full", "packets", "packets from one address more than a link may have"
    ),
    Counter("switch_frame_dropped_bad_source", "frames", "frames from a group or zero MAC address"),
    Counter(
        "switch_frame_dropped_gateway_source",
        "frames",
        "frames that claim the MAC address of the gateway or of a fleet's host",
    ),
    Counter(
        "switch_frame_dropped_moving_source",
        "frames",
        "frames from a MAC address of another link, which has just moved or is being asked for",
    ),
    Counter(
        "switch_frame_dropped_dhcp_server",
        "frames",
        "DHCP or DHCPv6 messages of a guest to the clients of others",
    ),
    Counter("switch_frame_dropped_isolated", "frames", "frames between guests with guests: isolated"),
    Counter(
        "switch_frame_dropped_outside_source",
        "frames",
        "frames to other guests from an IPv4 address outside the subnet",
    ),
    Counter(
        "switch_frame_dropped_reserved_group",
        "frames",
        "frames to other guests that no bridge forwards: spanning tree, PAUSE, LLDP",
    ),
    Counter(
        "switch_frame_dropped_route_message",
        "frames",
        "ICMP and ICMPv6 redirects and router advertisements to other guests",
    ),
    Counter(
        "switch_frame_dropped_unreadable_headers",
        "frames",
        "frames to other guests whose headers are truncated or too many to be judged",
    ),
    Counter(
        "switch_frame_dropped_same_link", "frames", "frames for a MAC address on the link they came from"
    ),
    Counter("switch_frame_dropped_unknown_destination", "frames", "frames for a MAC address nobody has"),
    Counter("switch_mac_dropped_table_full", "frames", "frames whose MAC address was one more than allowed"),
    Counter("udp_datagram_dropped_bad_checksum", "datagrams", "UDP datagrams with a wrong checksum"),
    Counter("udp_datagram_dropped_bad_length", "datagrams", "UDP datagrams whose length is impossible"),
    Counter("udp_datagram_dropped_truncated", "datagrams", "UDP datagrams shorter than a UDP header"),
    Counter("udp_flow_evicted", "flows", "idle UDP flows that made room for others"),
    *IPV6,
    # --- tcp ------------------------------------------------------------------------
    Counter(
        "tcp_dial_failed_no_port",
        "flows",
        "forwarded connections refused: the gateway has no port left for that guest port",
    ),
    Counter(
        "tcp_dial_failed_too_many_flows",
        "flows",
        "forwarded connections refused: over max-tcp-flows or max-tcp-flows-per-guest",
    ),
    Counter(
        "tcp_dial_failed_unreachable",
        "flows",
        "forwarded connections that the guest refused by ICMP (port unreachable, prohibited)",
    ),
    Counter("tcp_error_dropped_bad_sequence", "messages", "ICMP errors about segments not in flight"),
    Counter("tcp_error_dropped_no_flow", "messages", "ICMP errors about segments of no connection"),
    Counter("tcp_error_ignored", "messages", "ICMP errors that may be temporary, so they end no connection"),
    Counter(
        "tcp_path_mtu_ignored", "messages", "ICMP errors that name no smaller MTU, or too many in one window"
    ),
    Counter("tcp_path_mtu_lowered", "events", "times a connection's segments became smaller for its path"),
    Counter("tcp_flow_opened", "flows", "TCP connections begun"),
    Counter("tcp_flows", "flows", "TCP connections in memory now, those in TIME-WAIT included", "gauge"),
    Counter("tcp_reset_sent_no_flow", "segments", "resets for segments without a connection"),
    Counter("tcp_segments_received", "segments", "TCP segments from guests, as they were on the wire"),
    Counter("tcp_segments_sent", "ranges", "TCP ranges sent to guests, each up to 64 KiB"),
    Counter("tcp_syn_dropped_too_many_flows", "segments", "SYNs over the limit max-tcp-flows"),
    Counter(
        "tcp_syn_dropped_too_many_flows_of_guest", "segments", "SYNs over the limit max-tcp-flows-per-guest"
    ),
    Counter("tcp_syn_dropped_no_memory", "segments", "SYNs for whose connections the process gets no memory"),
    Counter("tcp_syn_dropped_rate_limit", "segments", "SYNs over the limit max-syns-per-second"),
    Counter("tcp_flow_ended_guest_gone", "flows", "connections ended because their guest was gone"),
    Counter(
        "tcp_flow_evicted_half_open",
        "flows",
        "connections without a complete handshake that made room in a limit, or for a socket",
    ),
    Counter("tcp_flow_evicted_over_share", "flows", "silent connections reset for guests below their share"),
    Counter("tcp_flow_evicted_time_wait", "flows", "connections in TIME-WAIT that made room for new ones"),
    Counter(
        "tcp_flow_lost_out_of_order",
        "events",
        "times a connection dropped its out-of-order data: max-out-of-order-slots, or no memory for the gap",
    ),
    Counter("tcp_segment_dropped_no_memory", "segments", "segments whose data were over max-receive-memory"),
    Counter("tcp_segment_dropped_after_fin", "segments", "segments with data after the guest's own FIN"),
    Counter(
        "tcp_segment_dropped_bad_ack",
        "segments",
        "segments that acknowledge what was never sent, or is long acknowledged",
    ),
    Counter(
        "tcp_segment_dropped_bad_reset", "segments", "resets without the exact sequence number (RFC 5961)"
    ),
    Counter(
        "tcp_segment_dropped_challenge_limit",
        "segments",
        "doubtful segments over the limit of challenge ACKs",
    ),
    Counter("tcp_segment_dropped_closed", "segments", "segments for a connection that has just ended"),
    Counter("tcp_segment_dropped_duplicate", "segments", "segments without new bytes"),
    Counter(
        "tcp_segment_dropped_host_closed", "segments", "segments with data that no host socket will read"
    ),
    Counter("tcp_segment_dropped_no_ack", "segments", "segments without ACK where it must be set"),
    Counter("tcp_segment_dropped_out_of_window", "segments", "segments beyond the receive window"),
    Counter("tcp_segment_dropped_paws", "segments", "segments with an old timestamp (RFC 7323)"),
    Counter("tcp_segment_dropped_reassembly_full", "segments", "out-of-order segments over the limits"),
    Counter("tcp_segment_dropped_syn_in_window", "segments", "SYNs on an open connection (RFC 5961)"),
    Counter("tcp_segment_dropped_bad_checksum", "segments", "TCP segments with a wrong checksum"),
    Counter("tcp_segment_dropped_bad_offset", "segments", "TCP segments whose data offset is impossible"),
    Counter(
        "tcp_segment_dropped_bad_options", "segments", "TCP segments with an option of impossible length"
    ),
    Counter("tcp_segment_dropped_truncated", "segments", "TCP segments shorter than a TCP header"),
    # --- egress: host sockets ---------------------------------------------------------
    Counter("egress_bytes_from_host", "bytes", "TCP payload read from host sockets"),
    Counter("egress_bytes_to_host", "bytes", "TCP payload written to host sockets"),
    Counter("egress_bytes_spilled", "bytes", "bytes copied out of slots because their host did not read"),
    Counter("egress_connection_accepted", "flows", "connections taken over from port forwards"),
    Counter(
        "egress_connection_reset_closing_full",
        "flows",
        "closing host connections reset because they, or their bytes (max-closing-bytes), were too many",
    ),
    Counter(
        "egress_connection_reset_closing_stuck",
        "flows",
        "closing host connections reset because their host read nothing for a long time",
    ),
    Counter(
        "egress_connection_reset_no_memory", "connections", "connections reset because no memory was left"
    ),
    Counter("egress_connection_failed", "flows", "host connections that could not be opened"),
    Counter("egress_connection_opened", "flows", "host connections opened"),
    Counter("egress_connection_reset_by_host", "flows", "host connections that broke"),
    Counter(
        "egress_datagram_dropped_foreign_source",
        "datagrams",
        "datagrams for a guest from an address that it could not reach (full-cone)",
    ),
    Counter(
        "egress_datagram_dropped_policy",
        "datagrams",
        "datagrams for a guest from an address to which the egress policy does not let it send (full-cone)",
    ),
    Counter("egress_datagram_dropped_no_slot", "datagrams", "long datagrams of hosts while no slot was free"),
    Counter("egress_datagram_dropped_no_socket", "datagrams", "datagrams whose flow has no host socket"),
    Counter("egress_datagram_dropped_send_failed", "datagrams", "datagrams that the host refused to send"),
    Counter(
        "egress_datagram_dropped_socket_full",
        "datagrams",
        "datagrams that did not fit the host socket's buffer",
    ),
    Counter(
        "egress_datagram_dropped_too_many_clients",
        "datagrams",
        "datagrams of new clients of a forwarded port over the limit",
    ),
    Counter("egress_datagrams_from_host", "datagrams", "datagrams received from host sockets"),
    Counter("egress_datagrams_to_host", "datagrams", "datagrams sent by host sockets"),
    Counter("egress_flows", "flows", "TCP flows with a host socket now", "gauge"),
    Counter(
        "egress_reads_paused_no_slot", "events", "times a host socket was not read because no slot was free"
    ),
    Counter("egress_reads_paused_byte_rate", "events", "times hosts waited for a guest's rate of bytes"),
    Counter(
        "egress_flow_evicted_too_many_sockets",
        "flows",
        "idle UDP flows, pings and unanswered connections whose sockets were closed for other flows",
    ),
    Counter("egress_flow_evicted_guest_gone", "flows", "connections of gone guests reset for other flows"),
    Counter("egress_flow_evicted_over_share", "flows", "silent connections reset for guests below a share"),
    Counter(
        "egress_flow_refused_too_many_sockets",
        "flows",
        "flows refused at the limit of open descriptors, because no other flow could be closed",
    ),
    Counter("egress_flow_refused_no_memory", "flows", "flows refused: the process gets no more memory"),
    *POLICY,
    Counter("icmp_echo_dropped_not_permitted", "messages", "pings while the host allows no ICMP sockets"),
    Counter("icmp_echo_dropped_send_failed", "messages", "pings that the host could not send"),
    Counter("icmp_echo_flow_evicted", "flows", "idle ping sockets closed for others"),
    Counter("icmp_echo_flows", "flows", "ping sockets open now", "gauge"),
    Counter("icmp_echo_forwarded", "messages", "pings of guests sent by the host"),
    Counter("icmp_echo_replied", "messages", "answers to guests' pings received by the host"),
    Counter("icmp_error_forwarded", "messages", "ICMP errors about pings passed on to guests"),
    Counter("icmp_reply_dropped_no_room", "messages", "answers to pings while no slot was free"),
    Counter("nat_flow_refused_broadcast", "flows", "flows to a broadcast address"),
    Counter("nat_flow_refused_dns_off", "flows", "flows to port 53 of the gateway while disable has dns"),
    Counter("nat_flow_refused_gateway_port", "flows", "flows to a port of the gateway without a service"),
    Counter(
        "nat_flow_refused_host_loopback_off",
        "flows",
        "flows and pings to the host's loopback while disable has host-loopback",
    ),
    Counter("nat_flow_refused_icmp_off", "flows", "pings of other hosts while disable has icmp"),
    Counter("nat_flow_refused_link_local", "flows", "flows to 169.254.0.0/16 while that is not allowed"),
    Counter("nat_flow_refused_loopback", "flows", "flows to 127.0.0.0/8"),
    Counter("nat_flow_refused_multicast", "flows", "flows to a multicast address"),
    Counter("nat_flow_refused_own_port", "flows", "flows to a port of loopback on which the daemon listens"),
    Counter("nat_flow_refused_reserved", "flows", "flows to 0.0.0.0/8 or 240.0.0.0/4"),
    Counter("nat_flow_refused_unowned", "flows", "flows to an address of the subnet that no guest has"),
    Counter("nat_flow_refused_udp_off", "flows", "flows of datagrams to hosts while disable has udp"),
    # --- supervisor: its workers ------------------------------------------------------
    Counter("worker_restarts", "processes", "worker processes that died and were replaced"),
    # --- supervisor: HTTP API ---------------------------------------------------------
    Counter("api_connection_evicted", "connections", "connections of the API closed for those of others"),
    Counter("api_connection_refused_too_many", "connections", "connections refused: all are in use"),
    Counter("api_forward_refused_share", "requests", "forwards of guests beyond their share"),
    Counter("api_forward_refused_rate", "requests", "forwards that guests open and close too often"),
    Counter("api_forward_closed", "forwards", "forwards of guests closed for others"),
    Counter("api_request_refused_guest", "requests", "requests of guests that the setting guest-api forbids"),
    Counter(
        "api_request_refused_web_page", "requests", "requests that a web page in a browser may have sent"
    ),
    Counter("api_request_refused_token", "requests", "requests without the token of -api-token-file"),
    Counter(
        "notifications_dropped",
        "events",
        "notifications that no listener received: there was none, or it was too slow",
    ),
    # --- listen: port forwards --------------------------------------------------------
    Counter("listen_accept_failed", "events", "accept calls of forwarded ports that failed"),
    Counter("listen_accept_paused", "events", "pauses of accepting: egress was busy, or accept failed"),
    Counter(
        "listen_connection_lost", "connections", "accepted connections that could not be handed to egress"
    ),
    Counter("listen_connection_accepted", "connections", "connections accepted on forwarded ports"),
    Counter("listen_forward_refused_too_many", "forwards", "forwards over the limit max-forwards"),
    Counter("listen_forwards", "forwards", "forwards open now", "gauge"),
    # --- resolver: DHCP, DNS ----------------------------------------------------------
    *DHCP,
    Counter("dns_answers_synthesized", "answers", "answers made of those about an IPv4 address (DNS64)"),
    Counter("dns_cache_entries", "answers", "answers of upstream servers in the cache now", "gauge"),
    Counter(
        "dns_connection_closed_not_reading", "connections", "DNS connections whose guest reads no answers"
    ),
    Counter("dns_connection_evicted", "connections", "DNS connections closed for a new one, idle ones first"),
    Counter("dns_connection_opened", "connections", "DNS connections of guests"),
    Counter(
        "dns_connection_refused_too_many",
        "connections",
        "DNS connections refused while all others, or all of their guest, wait for answers",
    ),
    Counter("dns_connections", "connections", "DNS connections open now", "gauge"),
    Counter("dns_pending", "questions", "questions sent upstream that have no answer yet", "gauge"),
    Counter("dns_query_answered_from_cache", "messages", "DNS queries answered from the cache"),
    Counter(
        "dns_query_answered_local", "messages", "DNS queries for names of local zones and the hosts file"
    ),
    Counter("dns_query_forwarded", "messages", "DNS queries asked upstream"),
    Counter("dns_query_ignored_repeated", "messages", "DNS queries repeated before their answer came"),
    Counter("dns_query_ignored_response", "messages", "DNS responses sent to the gateway"),
    Counter("dns_query_ignored_truncated", "messages", "DNS messages shorter than a header"),
    Counter("dns_query_joined", "messages", "DNS queries that wait for the answer to the same question"),
    Counter(
        "dns_query_queued", "messages", "DNS queries whose question waits for its turn to be asked upstream"
    ),
    Counter("dns_query_refused_busy", "messages", "DNS queries refused because too many wait; SERVFAIL"),
    Counter("dns_query_refused_edns_version", "messages", "DNS queries of an unknown EDNS version; BADVERS"),
    Counter("dns_query_refused_malformed", "messages", "malformed DNS queries; FORMERR"),
    Counter("dns_query_refused_opcode", "messages", "DNS requests other than queries; NOTIMP"),
    Counter(
        "dns_query_refused_policy",
        "messages",
        "DNS queries for names that the egress policy does not allow",
    ),
    Counter(
        "dns_query_refused_rebinding",
        "messages",
        "DNS queries for outside names that lead to addresses inside; REFUSED",
    ),
    Counter("dns_query_refused_type", "messages", "DNS queries of a type that is not forwarded; REFUSED"),
    Counter("dns_query_refused_waited_too_long", "messages", "DNS queries whose turn did not come; SERVFAIL"),
    Counter(
        "dns_queued", "questions", "questions that wait for their turn to be asked upstream now", "gauge"
    ),
    Counter("dns_upstream_answered", "messages", "questions that an upstream server answered"),
    Counter(
        "dns_upstream_asked_over_tcp", "messages", "questions asked again because an answer was truncated"
    ),
    Counter("dns_upstream_failed", "messages", "questions that no upstream server answered; SERVFAIL"),
    Counter(
        "dns_upstream_response_ignored", "messages", "responses that do not fit the question: late or forged"
    ),
    Counter("dns_upstream_response_malformed", "messages", "malformed upstream responses; SERVFAIL"),
    Counter("dns_upstream_response_unasked", "messages", "upstream responses to a question not asked"),
    Counter(
        "resolver_datagram_dropped_unknown_port",
        "datagrams",
        "datagrams for the gateway that no service takes",
    ),
    Counter("resolver_reply_dropped_no_slot", "datagrams", "DHCP and DNS replies while no slot was free"),
    Counter(
        "resolver_reply_dropped_ring_full", "datagrams", "DHCP and DNS replies while demux does not keep up"
    ),
)

INDEX: Final[dict[str, int]] = {row.name: index for index, row in enumerate(TABLE)}
