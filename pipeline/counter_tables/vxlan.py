"""The counters of the link to other hosts and of a fleet: a part of the table (pipeline.counters)."""

from typing import Final

from pipeline.counter_tables.row import Counter

VXLAN: Final[tuple[Counter, ...]] = (
    Counter(
        "vxlan_datagram_dropped_unknown_source", "datagrams", "datagrams of hosts that remote does not name"
    ),
    Counter(
        "vxlan_datagram_dropped_truncated", "datagrams", "datagrams too short for the headers of a frame"
    ),
    Counter("vxlan_datagram_dropped_no_vni", "datagrams", "datagrams whose header has no valid number"),
    Counter("vxlan_datagram_dropped_wrong_vni", "datagrams", "datagrams of another network"),
    Counter(
        "vxlan_frame_dropped_gateway",
        "frames",
        "frames of other hosts that are from or for a gateway, or ask for one",
    ),
    Counter(
        "vxlan_frame_dropped_stays_here",
        "frames",
        "frames not sent to other hosts: they concern this host's gateway",
    ),
    Counter("vxlan_frame_dropped_no_room", "frames", "frames of a train of impossibly many"),
    Counter(
        "vxlan_frame_dropped_too_long", "frames", "frames too long for the path to a host, and not reported"
    ),
    Counter("vxlan_frame_dropped_unreachable", "frames", "frames that this host could not send"),
    Counter(
        "vxlan_frame_dropped_backlog_full", "frames", "frames to other hosts while the socket took no more"
    ),
    Counter("vxlan_trains_sent", "packets", "packets that went to another host in one piece, as chunks"),
    Counter("vxlan_trains_received", "packets", "packets that came from another host in one piece"),
    Counter(
        "vxlan_frame_dropped_incomplete", "frames", "frames of other hosts of which a chunk did not come"
    ),
    Counter(
        "vxlan_datagram_dropped_malformed",
        "datagrams",
        "datagrams about trains that contradict themselves or earlier ones, or came twice",
    ),
    Counter(
        "vxlan_packet_dropped_too_big",
        "packets",
        "packets too long for the path to other hosts, reported by ICMP",
    ),
    Counter(
        "vxlan_packet_dropped_flood_rate",
        "packets",
        "frames of guests to groups over max-floods-per-second, in a network with other hosts",
    ),
    Counter(
        "vxlan_packet_dropped_not_for_host",
        "packets",
        "packets for the station that a host of a fleet is, of no connection of a forwarded port",
    ),
    Counter(
        "tcp_flow_reset_guest_moved",
        "flows",
        "connections of guests that have moved to another host of the fleet",
    ),
    Counter(
        "fleet_values_dropped_unreadable",
        "values",
        "keys and values of the fleet's store that were not read: wrong, too long, or too many",
    ),
    Counter(
        "fleet_forwards_waiting",
        "forwards",
        "forwards of the fleet that cannot be open on this host now",
        "gauge",
    ),
    Counter("vxlan_mac_evicted", "addresses", "MAC addresses of a host that made room for others of it"),
)
