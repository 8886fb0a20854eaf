"""The limits that a user may set, with their bounds.

One row serves the configuration file (``limits: {max-tcp-flows: ...}``), the flag
``-limit max-tcp-flows=...`` and the documentation. Config has a field of each row's name.
"""

from typing import Final, NamedTuple


class Limit(NamedTuple):
    """One row. ``key`` is the name in files and flags; ``low`` and ``high`` are allowed."""

    name: str
    default: int
    low: int
    high: int
    help: str

    @property
    def key(self) -> str:
        """The name with dashes, as users write it."""
        return self.name.replace("_", "-")


MIB: Final = 1 << 20

TABLE: Final[tuple[Limit, ...]] = (
    Limit("max_tcp_flows", 16384, 1, 1 << 20, "TCP connections that one TCP worker keeps at a time"),
    Limit("max_tcp_flows_per_guest", 12288, 1, 1 << 20, "of them, those of one guest"),
    Limit(
        "max_half_open_per_guest",
        1024,
        1,
        1 << 20,
        "TCP connections of one guest that are still being opened",
    ),
    Limit("max_syns_per_second", 2000, 1, 1 << 20, "SYNs of one guest that open connections, a second"),
    Limit(
        "max_receive_memory",
        128 * MIB,
        MIB,
        1 << 40,
        "bytes of guests that one TCP worker accepts while no host takes them",
    ),
    Limit("max_receive_memory_per_guest", 64 * MIB, MIB, 1 << 40, "of them, those of one guest"),
    Limit("max_reassembly_bytes", MIB, 65536, 1 << 30, "out-of-order bytes that one TCP connection may hold"),
    Limit("max_reassembly_ranges", 128, 1, 65536, "out-of-order ranges that one TCP connection may hold"),
    Limit(
        "max_out_of_order_slots",
        128,
        4,
        1 << 16,
        "slots that out-of-order data of one TCP worker may hold; never more than half of ingress's",
    ),
    Limit(
        "max_slots_per_flow",
        128,
        1,
        65536,
        "references to slots that one flow keeps for a host that does not read; beyond, bytes are copied out",
    ),
    Limit(
        "max_closing_bytes",
        32 * MIB,
        0,
        1 << 40,
        "bytes that one egress worker keeps for hosts after the guest's connection is over",
    ),
    Limit("max_udp_flows", 8192, 1, 1 << 20, "UDP flows; the one idle for longest makes room"),
    Limit("max_udp_flows_per_second", 1000, 1, 1 << 20, "UDP flows that one guest may open, a second"),
    Limit("max_udp_flows_per_guest", 2048, 1, 1 << 20, "of them, those of one guest address"),
    Limit("max_udp_clients_per_forward", 1024, 1, 65536, "host clients of one forwarded UDP port"),
    Limit("max_macs", 8192, 1, 1 << 20, "MAC addresses that the switch learns"),
    Limit("max_macs_per_guest", 256, 1, 65536, "of them, those behind one guest link"),
    Limit("max_neighbors", 8192, 1, 1 << 20, "guests' IPv4 addresses that are known"),
    Limit("max_neighbors_per_guest", 256, 1, 65536, "of them, those behind one guest link"),
    Limit("max_fragmented", 256, 1, 65536, "IPv4 datagrams that wait for fragments"),
    Limit("max_fragmented_per_guest", 64, 1, 65536, "of them, those of one guest"),
    Limit("max_fragment_bytes", 8 * MIB, 65536, 1 << 30, "bytes of fragments that wait"),
    Limit("max_fragment_bytes_per_guest", MIB, 65536, 1 << 30, "of them, those of one guest"),
    Limit(
        "max_answers_per_second", 2000, 1, 1 << 20, "pings and ARP requests of one guest answered, a second"
    ),
    Limit("max_icmp_errors_per_second", 100, 1, 1 << 20, "ICMP errors sent to guests, a second"),
    Limit("max_forwards", 4096, 1, 65536, "forwarded ports that may be open"),
    Limit(
        "max_bad_frames_per_second",
        10000,
        100,
        1 << 30,
        "frames of one guest dropped in a second, before it is read more slowly than others",
    ),
)

BY_KEY: Final[dict[str, Limit]] = {limit.key: limit for limit in TABLE}
