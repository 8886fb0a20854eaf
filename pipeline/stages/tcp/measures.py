"""The histograms of TCP connections: each connection that was established is counted once, when it ends.

The sequence numbers say how many bytes went through, so nothing is counted while the connection lives.
"""

from typing import Final

from pipeline.histograms import BY_NAME
from pipeline.stages.tcp.flow import Flow

_DURATION: Final = BY_NAME["tcp_flow_duration"]
_RTT: Final = BY_NAME["tcp_rtt"]
_FROM_GUEST: Final = BY_NAME["tcp_flow_from_guest"]
_TO_GUEST: Final = BY_NAME["tcp_flow_to_guest"]


def measure_end(flow: Flow, counts: memoryview, now: float) -> None:
    """The connection, which was established once, has ended. TIME-WAIT counts for its life."""
    conn = flow.conn
    _DURATION.observe_seconds(counts, now - flow.began_at)
    if conn.min_rtt > 0.0:
        _RTT.observe_seconds(counts, conn.min_rtt)
    _FROM_GUEST.observe(counts, conn.bytes_from_guest)
    _TO_GUEST.observe(counts, conn.bytes_to_guest)
