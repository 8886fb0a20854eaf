"""Handles ICMP errors that guests send about TCP segments (GUEST_ERROR), such as fragmentation needed."""

from typing import Final

from pipeline.counters import INDEX
from pipeline.engines import refusal
from pipeline.engines.tcp.icmp_errors import FOREIGN
from pipeline.engines.tcp.time_wait import TimeWait
from pipeline.records.icmp import GuestError
from pipeline.stages.tcp.flow import Flow
from pipeline.wire import icmp

_LOWERED: Final = INDEX["tcp_path_mtu_lowered"]
_NO_FLOW: Final = INDEX["tcp_error_dropped_no_flow"]
_REFUSED: Final = INDEX["tcp_dial_failed_unreachable"]


def on_error(flow: Flow | None, counts: memoryview, error: GuestError, now: float) -> bool:
    """A guest reports an error about a segment of ``flow``. Returns whether the flow needs a flush."""
    if flow is None:
        counts[_NO_FLOW] += 1
        return False
    conn = flow.conn
    if isinstance(conn, TimeWait):
        # Nothing is in flight.
        counts[INDEX[FOREIGN]] += 1
        return False
    if error.type == icmp.UNREACHABLE and error.code == icmp.FRAGMENTATION_NEEDED:
        reason = conn.on_fragmentation_needed(error.seq, error.mtu, now)
        done = _LOWERED
    else:
        hard = error.type == icmp.UNREACHABLE and refusal.is_hard_error(error.code)
        reason = conn.on_unreachable(error.seq, hard, now)
        done = _REFUSED
    counts[done if reason is None else INDEX[reason]] += 1
    return reason is None
