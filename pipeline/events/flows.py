"""The events about flows. Workers report them, and the supervisor completes them and writes their lines.

All have the fields of a flow as GET /flows shows it (docs/flows.md).
"""

from typing import Final

from pipeline.events.kind import DEBUG, Kind, published

_FLOW: Final = {
    "id": "worker and number of the flow, as in /flows; null of a flow that was refused",
    "protocol": "tcp, udp or icmp",
    "direction": "out: the guest opened it; in: a client of a forward or tunnel",
    "guest": "number of the guest, as in /guests",
    "guest_mac": "MAC address of the guest, null if it is not known",
    "guest_address": "address of the guest",
    "guest_port": "port of the guest; icmp: the identifier",
    "address": "the other end as the guest sees it; in: the client",
    "port": "port of the other end",
    "name": "DNS name for which the guest got the address from the gateway, or null",
    "state": "tcp: of RFC 9293, in lower case; else open or closed",
    "age_seconds": "time since the first packet",
    "idle_seconds": "time since the last packet",
    "bytes_from_guest": "bytes of payload",
    "bytes_to_guest": "bytes of payload; tcp: acknowledged by the guest",
    "packets_from_guest": "segments, datagrams or pings",
    "packets_to_guest": "the same, to the guest",
    "connect_seconds": "tcp: time until the other end answered, or null",
    "min_rtt_seconds": "tcp: smallest round-trip time to the guest, or null",
    "retransmissions": "tcp: segments sent to the guest again; else null",
}
_END: Final = {
    "ended_by": "guest, host or gateway",
    "reason": "fin, reset, timeout, idle, orphan, limit, policy, proxy, error or deleted",
    "errno": "name of the error, such as ECONNREFUSED, or null",
    "duration_seconds": "from the first packet to the end",
    "rule": "what has decided: egress-policy.rules[N], .default, .preset, .quic or .ech; else the counter of "
    "a built-in rule; or null",
    "stated_name": "name that the flow stated (SNI, Host), if the egress policy asked for it; or null",
}
_REFUSAL: Final = {
    "limit": "configuration key of the limit, else its counter; or null",
}

KINDS: Final[tuple[Kind, ...]] = (
    published(
        *("flow-opened", DEBUG, "flow opened"),
        "Both ends of a TCP connection have answered, or a guest has sent the first datagram or ping.",
        **_FLOW,
    ),
    published(*("flow-closed", DEBUG, "flow closed"), "An open flow has ended.", **_FLOW, **_END),
    published(
        *("flow-failed", DEBUG, "flow failed"),
        "A flow ended before it was open.",
        **_FLOW,
        **_END,
    ),
    published(
        *("flow-refused", DEBUG, "flow refused"),
        "A rule or a limit does not allow a flow.",
        **_FLOW,
        **_END,
        **_REFUSAL,
    ),
)
COMPLETED: Final = frozenset(kind.name for kind in KINDS)
"""Kinds that the supervisor completes. A worker does not log them."""
EVERY_END: Final = COMPLETED - {"flow-opened"}
"""What the flow log has."""
