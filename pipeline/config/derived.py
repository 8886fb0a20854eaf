"""Defaults of limits that follow the memory of the system. A limit that the user sets wins."""

from collections.abc import Collection
from typing import Final

from pipeline.config.limits import BY_KEY, MIB

RECEIVE_PART: Final = 16
"""Bytes that no host takes may use one part in this many of the memory."""
CLOSING_PART: Final = 64
FLOW_BYTES: Final = 32768
"""Memory for which there may be one TCP connection."""


def limits(given: Collection[str], memory: int) -> dict[str, int]:
    """The limits, by the names of their fields, that are lower than their defaults. given: those that the
    user has set. memory: bytes."""
    receive = max(4 * MIB, memory // RECEIVE_PART)
    flows = max(256, memory // FLOW_BYTES)
    wanted = {
        "max_receive_memory": receive,
        "max_receive_memory_per_guest": receive // 2,
        "max_closing_bytes": max(MIB, memory // CLOSING_PART),
        "max_tcp_flows": flows,
        "max_tcp_flows_per_guest": flows * 3 // 4,
    }
    return {
        name: value
        for name, value in wanted.items()
        if name not in given and value < BY_KEY[name.replace("_", "-")].default
    }
