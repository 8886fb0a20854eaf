"""Flows as workers report them to the supervisor: rows of plain values for a control message.

A row is a list on the wire. Names of fields in each of thousands of rows would make the messages three times
as long. Times are in seconds.
"""

from typing import Final, NamedTuple

OUT: Final = "out"
IN: Final = "in"

OPENED: Final = "flow-opened"
CLOSED: Final = "flow-closed"
FAILED: Final = "flow-failed"
REFUSED: Final = "flow-refused"
"""The kinds of reports, which are kinds of events (pipeline.events)."""

GUEST: Final = "guest"
HOST: Final = "host"
GATEWAY: Final = "gateway"


class FlowRow(NamedTuple):
    """One flow. Its worker and ``number`` name it."""

    number: int
    """0 of a flow that was refused."""
    protocol: str
    direction: str
    """OUT: the guest opened it. IN: a client of a forward did."""
    guest: int
    """The guest's number; 0 if this worker does not know it."""
    guest_address: str
    guest_port: int
    address: str
    """Of the other end, as the guest sees it. Of a flow IN that of the client; "" if it has none."""
    port: int
    state: str = ""
    age: float = 0.0
    idle: float = 0.0
    bytes_from_guest: int = 0
    bytes_to_guest: int = 0
    packets_from_guest: int = 0
    packets_to_guest: int = 0
    connect: float = -1.0
    """The time until the other end answered; negative if it is not known."""
    min_rtt: float = -1.0
    """Negative without a sample."""
    retransmissions: int = -1
    """-1 of a protocol that has none."""


class FlowReport(NamedTuple):
    """A flow opened, closed, failed or was refused. The row comes first in its list, too."""

    flow: FlowRow
    ended_by: str = ""
    """GUEST, HOST or GATEWAY."""
    reason: str = ""
    error: int = 0
    """An errno; 0 for none."""
    rule: str = ""
    """The rule that refused it, or the rule of the egress policy that allowed it."""
    limit: str = ""
    """The counter of the limit that refused or ended it."""
    stated_name: str = ""
    """The name that its first bytes stated, if it was held for that."""


def row_of(found: list[object]) -> FlowRow:
    """The row that a message holds as a list. Its sender is a worker, which is trusted."""
    return FlowRow(*found)  # type: ignore[arg-type]


def report_of(found: list[list[object]]) -> FlowReport:
    """The report that a message holds as a list."""
    flow, *rest = found
    return FlowReport(row_of(flow), *rest)  # type: ignore[arg-type]
