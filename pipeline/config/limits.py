"""The limits that a user may set, with their bounds.

One row serves the configuration file (``limits: {max-tcp-flows: ...}``), the flag
``-limit max-tcp-flows=...``, the documentation and ``config.limits.max_tcp_flows``.
"""

from dataclasses import dataclass, field, fields
from typing import Final, NamedTuple

MIB: Final = 1 << 20


class Limit(NamedTuple):
    """One limit: its name, default and bounds. ``low`` and ``high`` are allowed.

    ``help`` says what it bounds. ``counter`` grows when the limit is met.
    """

    name: str
    default: int
    low: int
    high: int
    help: str
    counter: str

    @property
    def key(self) -> str:
        """The name with dashes, as users write it."""
        return self.name.replace("_", "-")


def limit(default: int, low: int, high: int, help: str, counter: str) -> int:
    """A field of Limits with its default and its row."""
    return field(default=default, metadata={"row": (default, low, high, help, counter)})


@dataclass(frozen=True, slots=True)
class Limits:
    """The limits as set. Each field has its row as metadata."""

    max_tcp_flows: int = limit(
        16384,
        1,
        1 << 20,
        "TCP connections that one TCP worker keeps at a time",
        "tcp_syn_dropped_too_many_flows",
    )
    max_tcp_flows_per_guest: int = limit(
        12288,
        1,
        1 << 20,
        "of them, those of one guest",
        "tcp_syn_dropped_too_many_flows_of_guest",
    )
    max_orphan_seconds: int = limit(
        120,
        1,
        1 << 20,
        "seconds that TCP connections of a guest whose link is gone wait for it to come back",
        "tcp_flow_ended_guest_gone",
    )
    max_half_open_per_guest: int = limit(
        1024,
        1,
        1 << 20,
        "TCP connections of one guest that are still being opened; the oldest makes room",
        "tcp_flow_evicted_half_open",
    )
    max_syns_per_second: int = limit(
        2000,
        1,
        1 << 20,
        "SYNs of one guest that open connections, a second",
        "tcp_syn_dropped_rate_limit",
    )
    max_receive_memory: int = limit(
        128 * MIB,
        MIB,
        1 << 40,
        "bytes of guests that one TCP worker accepts while no host takes them",
        "tcp_segment_dropped_no_memory",
    )
    max_receive_memory_per_guest: int = limit(
        64 * MIB,
        MIB,
        1 << 40,
        "of them, those of one guest",
        "tcp_segment_dropped_no_memory",
    )
    max_reassembly_bytes: int = limit(
        MIB,
        65536,
        1 << 30,
        "out-of-order bytes that one TCP connection may hold",
        "tcp_segment_dropped_reassembly_full",
    )
    max_reassembly_ranges: int = limit(
        128,
        1,
        65536,
        "out-of-order ranges that one TCP connection may hold",
        "tcp_segment_dropped_reassembly_full",
    )
    max_out_of_order_slots: int = limit(
        128,
        4,
        1 << 16,
        "slots that out-of-order data of one TCP worker may hold; never more than half of ingress's",
        "tcp_flow_lost_out_of_order",
    )
    max_slots_per_flow: int = limit(
        128,
        1,
        65536,
        "references to slots that one flow keeps for a host that does not read; beyond, bytes are copied out",
        "egress_bytes_spilled",
    )
    max_closing_bytes: int = limit(
        32 * MIB,
        0,
        1 << 40,
        "bytes that one egress worker keeps for hosts after the guest's connection is over; each such "
        "connection counts for 65536 more",
        "egress_connection_reset_closing_full",
    )
    max_udp_flows: int = limit(
        8192,
        1,
        1 << 20,
        "UDP flows; of the guest with most, the one idle for longest makes room",
        "udp_flow_evicted",
    )
    max_udp_flows_per_guest: int = limit(6144, 1, 1 << 20, "of them, those of one guest", "udp_flow_evicted")
    max_udp_flows_per_second: int = limit(
        1000,
        1,
        1 << 20,
        "UDP flows that one guest may open, a second",
        "udp_datagram_dropped_flow_rate",
    )
    max_udp_clients_per_forward: int = limit(
        1024,
        1,
        65536,
        "host clients of one forwarded UDP port",
        "egress_datagram_dropped_too_many_clients",
    )
    max_macs: int = limit(
        8192, 1, 1 << 20, "MAC addresses that the switch learns", "switch_mac_dropped_table_full"
    )
    max_macs_per_guest: int = limit(
        256,
        1,
        65536,
        "of them, those of one guest",
        "switch_mac_dropped_table_full",
    )
    max_neighbors: int = limit(
        8192,
        1,
        1 << 20,
        "guests' addresses that are known",
        "neighbor_claim_refused_table_full",
    )
    max_neighbors_per_guest: int = limit(
        1024,  # a station has four or more with IPv6: link-local, made by itself, temporary, from DHCPv6
        1,
        65536,
        "of them, those of one guest, of both families",
        "neighbor_claim_refused_table_full",
    )
    max_fragmented: int = limit(
        256,
        1,
        65536,
        "IP packets that wait for fragments",
        "ipv4_datagram_dropped_reassembly_full",
    )
    max_fragmented_per_guest: int = limit(
        64,
        1,
        65536,
        "of them, those of one guest",
        "ipv4_datagram_dropped_reassembly_full",
    )
    max_fragment_bytes: int = limit(
        8 * MIB,
        65536,
        1 << 30,
        "bytes of fragments that wait",
        "ipv4_datagram_dropped_reassembly_full",
    )
    max_fragment_bytes_per_guest: int = limit(
        MIB,
        65536,
        1 << 30,
        "of them, those of one guest",
        "ipv4_datagram_dropped_reassembly_full",
    )
    max_answers_per_second: int = limit(
        2000,
        1,
        1 << 20,
        "pings, ARP and ND requests of one guest answered or sent on, a second",
        "demux_message_dropped_rate_limit",
    )
    max_floods_per_second: int = limit(
        1000,
        1,
        1 << 20,
        "frames of one guest to groups and unknown stations, a second, in a network with other hosts",
        "vxlan_packet_dropped_flood_rate",
    )
    max_dns_queries_per_second: int = limit(
        2000,
        2,
        1 << 20,
        "DNS queries of one guest, a second, while other guests are active",
        "dns_query_dropped_rate_limit",
    )
    max_dns_questions_per_second: int = limit(
        500,
        2,
        1 << 20,
        "DNS questions of one guest asked upstream, a second, while other guests are active; more wait",
        "dns_query_queued",
    )
    max_dhcp_messages_per_second: int = limit(
        200,
        2,
        1 << 20,
        "DHCP and DHCPv6 messages of one guest, a second, while other guests are active",
        "dhcp_message_dropped_rate_limit",
    )
    max_icmp_errors_per_second: int = limit(
        100,
        1,
        1 << 20,
        "ICMP errors sent to guests, a second",
        "icmp_error_dropped_rate_limit",
    )
    max_forwards: int = limit(
        4096, 1, 65536, "forwarded ports that may be open", "listen_forward_refused_too_many"
    )
    max_forwards_of_guests: int = limit(
        1024,
        1,
        65536,
        "forwarded ports that guests have opened; never more than a quarter of the descriptors",
        "api_forward_refused_share",
    )
    max_forward_changes_per_second: int = limit(
        50,
        1,
        1 << 20,
        "forwards that one guest may open and close, a second",
        "api_forward_refused_rate",
    )
    max_bytes_from_guest_per_second: int = limit(
        0,
        0,
        1 << 40,
        "bytes of frames that one guest may send, a second; 0 for any number",
        "link_reads_paused_byte_rate",
    )
    max_bytes_to_guest_per_second: int = limit(
        0,
        0,
        1 << 40,
        "bytes that hosts may send to one guest, a second; 0 for any number",
        "egress_reads_paused_byte_rate",
    )
    max_dns_queries_alone_per_second: int = limit(
        0,
        0,
        1 << 20,
        "DNS queries of one guest, a second, also while it is alone; 0 for any number",
        "dns_query_dropped_rate_limit",
    )
    max_bad_frames_per_second: int = limit(
        10000,
        100,
        1 << 30,
        "frames of one guest dropped in a second, before it is read more slowly than others",
        "link_reads_paused_misbehaving",
    )


TABLE: Final = tuple(Limit(limit.name, *limit.metadata["row"]) for limit in fields(Limits))
"""The rows, in the order of Limits."""
BY_KEY: Final[dict[str, Limit]] = {limit.key: limit for limit in TABLE}


def table() -> str:
    """The rows as the table of docs/limits.md."""
    lines = [
        "| key | default | allowed | bounds | counter when it is met |",
        "| --- | ---: | --- | --- | --- |",
    ]
    lines += (
        f"| `{row.key}` | {row.default} | {row.low} to {row.high} | {row.help} | `{row.counter}` |"
        for row in TABLE
    )
    return "\n".join(lines) + "\n"
