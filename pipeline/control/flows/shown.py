"""A flow as the HTTP API, events and the flow log show it."""

from pipeline.control.flows.known import Known
from pipeline.ipc.flow_rows import FlowRow

Shown = dict[str, object]
_DIGITS = 6
"""Decimals of seconds."""


def shown(worker: str, row: FlowRow, known: Known) -> Shown:
    """One flow. docs/flows.md describes the fields."""
    mac, number = known.guests.get(row.guest_address, (None, 0))
    return {
        "id": f"{worker}-{row.number}" if row.number else None,
        "protocol": row.protocol,
        "direction": row.direction,
        "guest": row.guest or number,
        "guest_mac": mac,
        "guest_address": row.guest_address,
        "guest_port": row.guest_port,
        "address": row.address,
        "port": row.port,
        "name": known.names.get((row.guest_address, row.address)),
        "state": row.state,
        "age_seconds": round(row.age, _DIGITS),
        "idle_seconds": round(row.idle, _DIGITS),
        "bytes_from_guest": row.bytes_from_guest,
        "bytes_to_guest": row.bytes_to_guest,
        "packets_from_guest": row.packets_from_guest,
        "packets_to_guest": row.packets_to_guest,
        "connect_seconds": _seconds(row.connect),
        "min_rtt_seconds": _seconds(row.min_rtt),
        "retransmissions": row.retransmissions if row.retransmissions >= 0 else None,
    }


def _seconds(value: float) -> float | None:
    return round(value, _DIGITS) if value >= 0.0 else None
