"""Connections that are over for the guest, and whose host has not taken all bytes yet."""

from itertools import takewhile
from typing import Final, Generic, TypeVar

CLOSING_FLOW_BYTES: Final = 65536
"""What such a connection is charged beside its bytes: for its socket, and for what the system keeps in it."""
CLOSING_PATIENCE: Final = 180.0
"""Seconds that its host may take nothing. Linux waits about as long when a peer's window stays closed and no
process has the socket any more."""

F = TypeVar("F")


class ClosingFlows(Generic[F]):
    """Bounds these connections: their bytes, their sockets, and how long they wait.

    A host that never reads would keep them for ever, and no limit of a guest bounds them any more. As Linux
    does with sockets that have no process, egress resets some to make room, and each whose host took nothing
    for long. It begins with those whose hosts took nothing for longest.
    """

    def __init__(self, max_bytes: int, max_flows: int) -> None:
        self._max_bytes = max_bytes
        self._max_flows = max_flows
        self._bytes = 0
        self._flows: dict[F, tuple[int, float]] = {}
        """What each is charged, and since when its host takes nothing; the longest time first."""

    def __len__(self) -> int:
        return len(self._flows)

    @property
    def charged_bytes(self) -> int:
        """What all of them are charged."""
        return self._bytes

    def wait(self, flow: F, queued_bytes: int, sent: int, now: float) -> list[F]:
        """The host took ``sent`` bytes and left some. Returns the flows to reset; flow may be one of them."""
        if not sent and flow in self._flows:
            return []
        self.remove(flow)
        charged = CLOSING_FLOW_BYTES + queued_bytes
        self._flows[flow] = charged, now
        self._bytes += charged
        victims = []
        bytes_over = self._bytes - self._max_bytes
        flows_over = len(self._flows) - self._max_flows
        for other, (held, _) in self._flows.items():
            if bytes_over <= 0 and flows_over <= 0:
                break
            bytes_over -= held
            flows_over -= 1
            victims.append(other)
        return victims

    def due(self, now: float) -> list[F]:
        """Flows whose hosts took nothing for CLOSING_PATIENCE."""
        late = takewhile(lambda entry: entry[1][1] + CLOSING_PATIENCE <= now, self._flows.items())
        return [flow for flow, _ in late]

    def deadline(self) -> float:
        """When the next flow is due."""
        for _, since in self._flows.values():
            return since + CLOSING_PATIENCE
        return float("inf")

    def remove(self, flow: F) -> None:
        """The flow is over. One that does not wait is not an error."""
        charged, _ = self._flows.pop(flow, (0, 0.0))
        self._bytes -= charged
