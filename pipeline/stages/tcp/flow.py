"""A connection of the tcp worker with the names that its neighbours use for it."""

from typing import Final

from pipeline.engines.flows import rss_hash
from pipeline.engines.tcp.connection import Connection
from pipeline.records.flows import FLOW_FROM_EGRESS, Ends, FlowKey
from pipeline.stages.tcp import limits

UNKNOWN_WINDOW: Final = 65536
"""What egress takes a guest's window for until it is told."""


class Flow:
    """A connection with the names that its neighbours use for it."""

    __slots__ = (
        "conn", "egress", "guest", "half_open", "held_ranges", "host_open", "id", "key", "number", "squeezed",
        "timer_at", "told_window",
    )  # fmt: skip

    def __init__(self, conn: Connection, key: FlowKey, number: int, egress: int, guest: limits.Guest) -> None:
        self.conn = conn
        self.guest = guest
        self.half_open = not conn.is_active
        self.squeezed = False
        self.told_window = UNKNOWN_WINDOW
        self.held_ranges = 0
        self.key = key
        self.number = number
        self.id = flow_id(egress, number)
        self.egress = egress
        self.host_open = True
        """Whether egress still knows the flow: false once one side told the other to forget it."""
        self.timer_at = float("inf")
        """When its timer is set for: at its deadline or before. Never armed again once it is negative."""


def flow_id(egress: int, number: int) -> int:
    """What tells a flow from all others of a tcp worker: egress shards number theirs independently."""
    return egress << 32 | number if number & FLOW_FROM_EGRESS else number


def egress_of(key: FlowKey, shards: int) -> int:
    """Which egress shard has the host socket of a guest's connection, the same for its whole life."""
    ends = Ends.of(key)
    mixed = rss_hash(ends.guest_addr, ends.guest_port, ends.remote_addr, ends.remote_port)
    # The low bits of the hash have chosen the tcp shard: with others, all shards meet.
    return (mixed >> 16) % shards
