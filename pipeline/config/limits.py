"""The limits that a user may set, with their bounds.

One row serves the configuration file (``limits: {max-tcp-flows: ...}``), the flag
``-limit max-tcp-flows=...`` and the documentation. Config has a field of each row's name.
"""

from typing import Final, NamedTuple


class Limit(NamedTuple):
    """One row. ``key`` is the name in files and flags; ``low`` and ``high`` are allowed.

    ``counter`` grows when the limit is met.
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


MIB: Final = 1 << 20

TABLE: Final[tuple[Limit, ...]] = (
    Limit(
        "max_tcp_flows",
        16384,
        1,
        1 << 20,
        "TCP connections that one TCP worker keeps at a time",
        "tcp_syn_dropped_too_many_flows",
    ),
    Limit(
        "max_tcp_flows_per_guest",
        12288,
        1,
        1 << 20,
        "of them, those of one guest",
        "tcp_syn_dropped_too_many_flows_of_guest",
    ),
    Limit(
        "max_half_open_per_guest",
        1024,
        1,
        1 << 20,
        "TCP connections of one guest that are still being opened; the oldest makes room",
        "tcp_flow_evicted_half_open",
    ),
    Limit(
        "max_syns_per_second",
        2000,
        1,
        1 << 20,
        "SYNs of one guest that open connections, a second",
        "tcp_syn_dropped_rate_limit",
    ),
    Limit(
        "max_receive_memory",
        128 * MIB,
        MIB,
        1 << 40,
        "bytes of guests that one TCP worker accepts while no host takes them",
        "tcp_segment_dropped_no_memory",
    ),
    Limit(
        "max_receive_memory_per_guest",
        64 * MIB,
        MIB,
        1 << 40,
        "of them, those of one guest",
        "tcp_segment_dropped_no_memory",
    ),
    Limit(
        "max_reassembly_bytes",
        MIB,
        65536,
        1 << 30,
        "out-of-order bytes that one TCP connection may hold",
        "tcp_segment_dropped_reassembly_full",
    ),
    Limit(
        "max_reassembly_ranges",
        128,
        1,
        65536,
        "out-of-order ranges that one TCP connection may hold",
        "tcp_segment_dropped_reassembly_full",
    ),
    Limit(
        "max_out_of_order_slots",
        128,
        4,
        1 << 16,
        "slots that out-of-order data of one TCP worker may hold; never more than half of ingress's",
        "tcp_flow_lost_out_of_order",
    ),
    Limit(
        "max_slots_per_flow",
        128,
        1,
        65536,
        "references to slots that one flow keeps for a host that does not read; beyond, bytes are copied out",
        "egress_bytes_spilled",
    ),
    Limit(
        "max_closing_bytes",
        32 * MIB,
        0,
        1 << 40,
        "bytes that one egress worker keeps for hosts after the guest's connection is over; each such "
        "connection counts for 65536 more",
        "egress_connection_reset_closing_full",
    ),
    Limit(
        "max_udp_flows",
        8192,
        1,
        1 << 20,
        "UDP flows; the one idle for longest makes room",
        "udp_flow_evicted",
    ),
    Limit(
        "max_udp_flows_per_guest", 2048, 1, 1 << 20, "of them, those of one guest address", "udp_flow_evicted"
    ),
    Limit(
        "max_udp_flows_per_second",
        1000,
        1,
        1 << 20,
        "UDP flows that one guest may open, a second",
        "udp_datagram_dropped_flow_rate",
    ),
    Limit(
        "max_udp_clients_per_forward",
        1024,
        1,
        65536,
        "host clients of one forwarded UDP port",
        "egress_datagram_dropped_too_many_clients",
    ),
    Limit(
        "max_macs", 8192, 1, 1 << 20, "MAC addresses that the switch learns", "switch_mac_dropped_table_full"
    ),
    Limit(
        "max_macs_per_guest",
        256,
        1,
        65536,
        "of them, those behind one guest link",
        "switch_mac_dropped_table_full",
    ),
    Limit(
        "max_neighbors",
        8192,
        1,
        1 << 20,
        "guests' IPv4 addresses that are known",
        "neighbor_claim_refused_table_full",
    ),
    Limit(
        "max_neighbors_per_guest",
        256,
        1,
        65536,
        "of them, those behind one guest link",
        "neighbor_claim_refused_table_full",
    ),
    Limit(
        "max_fragmented",
        256,
        1,
        65536,
        "IPv4 datagrams that wait for fragments",
        "ipv4_datagram_dropped_reassembly_full",
    ),
    Limit(
        "max_fragmented_per_guest",
        64,
        1,
        65536,
        "of them, those of one guest",
        "ipv4_datagram_dropped_reassembly_full",
    ),
    Limit(
        "max_fragment_bytes",
        8 * MIB,
        65536,
        1 << 30,
        "bytes of fragments that wait",
        "ipv4_datagram_dropped_reassembly_full",
    ),
    Limit(
        "max_fragment_bytes_per_guest",
        MIB,
        65536,
        1 << 30,
        "of them, those of one guest",
        "ipv4_datagram_dropped_reassembly_full",
    ),
    Limit(
        "max_answers_per_second",
        2000,
        1,
        1 << 20,
        "pings and ARP requests of one guest answered or sent on, a second",
        "demux_message_dropped_rate_limit",
    ),
    Limit(
        "max_icmp_errors_per_second",
        100,
        1,
        1 << 20,
        "ICMP errors sent to guests, a second",
        "icmp_error_dropped_rate_limit",
    ),
    Limit(
        "max_forwards", 4096, 1, 65536, "forwarded ports that may be open", "listen_forward_refused_too_many"
    ),
    Limit(
        "max_bad_frames_per_second",
        10000,
        100,
        1 << 30,
        "frames of one guest dropped in a second, before it is read more slowly than others",
        "link_reads_paused_misbehaving",
    ),
)

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
