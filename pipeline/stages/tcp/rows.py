"""Reports connections to the supervisor (pipeline.ipc.flow_rows)."""

from collections.abc import Mapping, Sequence
from time import monotonic
from typing import Final

from pipeline.engines.tcp.state import STATE_NAMES
from pipeline.host.tcp import client_text
from pipeline.ipc.flow_rows import IN, OUT, FlowRow
from pipeline.records.flows import Ends
from pipeline.stages.tcp.flow import NOT_YET, Flow
from pipeline.wire import ip

_STATES: Final = tuple(name.lower() for name in STATE_NAMES)


def of_flow(flow: Flow, now: float) -> FlowRow:
    """The present state of a connection."""
    conn = flow.conn
    ends = Ends.of(flow.key)
    if conn.is_active:
        address, port = client_text(flow.client)
    else:
        address, port = ip.text(ends.remote_addr), ends.remote_port
    return FlowRow(
        number=flow.host.id,
        protocol="tcp",
        direction=IN if conn.is_active else OUT,
        guest=flow.guest.number,
        guest_address=ip.text(ends.guest_addr),
        guest_port=ends.guest_port,
        address=address,
        port=port,
        state=_STATES[conn.state],
        age=now - flow.began_at,
        idle=max(now - conn.last_active_at, 0.0),
        bytes_from_guest=conn.bytes_from_guest,
        bytes_to_guest=conn.bytes_to_guest,
        packets_from_guest=flow.packets_from_guest,
        packets_to_guest=flow.packets_to_guest,
        connect=flow.connected_at - flow.began_at if flow.connected_at != NOT_YET else -1.0,
        min_rtt=conn.min_rtt or -1.0,
        retransmissions=conn.retransmissions,
    )


def of_numbers(flows: Mapping[int, Flow], numbers: Sequence[int]) -> list[list[object]]:
    """The rows of those flows that are still there."""
    now = monotonic()
    found = [flows.get(number) for number in numbers]
    return [list(of_flow(flow, now)) for flow in found if flow is not None]
