"""The counters of the egress policy about flows, which are a part of the table (pipeline.counters)."""

from typing import Final

from pipeline.counter_tables.row import Counter

POLICY: Final[tuple[Counter, ...]] = (
    Counter("egress_flow_refused_policy", "flows", "flows that the egress policy forbids"),
    Counter(
        "egress_flow_refused_stated_name",
        "flows",
        "flows that the egress policy forbids for the name that they state, or for stating none",
    ),
    Counter(
        "egress_datagram_dropped_held",
        "datagrams",
        "datagrams of a flow that states no name in its first ones, while it is held for that",
    ),
    Counter(
        "egress_flow_refused_proxy_tcp_only",
        "flows",
        "datagrams and pings that the egress policy refuses because a proxy carries TCP alone",
    ),
    Counter("egress_proxy_tunnels_opened", "flows", "connections that a proxy has led to their destination"),
    Counter("egress_proxy_tunnels_failed", "flows", "connections that a proxy has not led to a destination"),
    Counter("egress_flow_refused_too_many_asks", "flows", "flows refused: too many wait for an approval"),
    Counter(
        "egress_flow_refused_quota",
        "flows",
        "flows that a quota of the egress policy refuses, of those in egress_flow_refused_policy",
    ),
    Counter("egress_flow_closed_quota", "flows", "open flows that ended when a quota of bytes was used up"),
    Counter("dns_query_refused_quota", "queries", "questions that a quota of the egress policy refuses"),
    Counter("egress_flow_closed_policy", "flows", "open flows that a new egress policy forbids"),
)
