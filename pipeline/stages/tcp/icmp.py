"""Guests' ICMP errors in the tcp worker (GUEST_ERROR): to the connection they are about, or counted."""

from collections.abc import Mapping
from typing import Final

from pipeline.counters import INDEX
from pipeline.engines import refusal
from pipeline.stages.tcp.flow import Flow, Key
from pipeline.wire import icmp

_LOWERED: Final = INDEX["tcp_path_mtu_lowered"]
_NO_FLOW: Final = INDEX["tcp_error_dropped_no_flow"]
_REFUSED: Final = INDEX["tcp_dial_failed_unreachable"]


def on_error(
    flows: Mapping[Key, Flow], counts: memoryview, key: Key, seq: int, mtu: int, aux: int, now: float
) -> Flow | None:
    """An error about the segment seq of flow key; mtu and aux as in GUEST_ERROR.

    Returns the flow if its connection has something to do now.
    """
    flow = flows.get(key)
    if flow is None:
        counts[_NO_FLOW] += 1
        return None
    kind, code = aux >> 8, aux & 0xFF
    if kind == icmp.UNREACHABLE and code == icmp.FRAGMENTATION_NEEDED:
        reason = flow.conn.on_fragmentation_needed(seq, mtu, now)
        done = _LOWERED
    else:
        hard = kind == icmp.UNREACHABLE and refusal.is_hard_error(code)
        reason = flow.conn.on_unreachable(seq, hard, now)
        done = _REFUSED
    counts[done if reason is None else INDEX[reason]] += 1
    return flow if reason is None else None
