"""Connections that the guest has closed, while their host has not taken all bytes yet."""

from itertools import takewhile
from typing import Final, Generic, TypeVar

CLOSING_FLOW_BYTES: Final = 65536
"""Bytes charged for such a connection on top of its queue, for the socket and the kernel's buffers."""
CLOSING_PATIENCE: Final = 180.0
"""Seconds for which its host may take nothing. Linux waits about as long for an orphaned socket whose peer
keeps its window closed."""
_NEVER: Final = float("inf")

F = TypeVar("F")


class ClosingFlows(Generic[F]):
    """Bounds these connections: their bytes, their sockets, and how long they wait.

    A host that never reads would keep them for ever, and the guest's own limits no longer count them. So
    egress resets each connection whose host took nothing for CLOSING_PATIENCE. If there are too many, it
    resets those whose hosts took nothing for longest. Linux does the same with orphaned sockets.
    """

    def __init__(self, max_bytes: int, max_flows: int) -> None:
        self._max_bytes = max_bytes
        self._max_flows = max_flows
        self._bytes = 0
        self._flows: dict[F, tuple[int, float]] = {}
        """The bytes charged for each, and since when its host takes nothing. The oldest comes first."""

    def __len__(self) -> int:
        return len(self._flows)

    def set_max_bytes(self, max_bytes: int) -> None:
        """Change the bound on bytes. It holds from the next wait() on."""
        self._max_bytes = max_bytes

    @property
    def charged_bytes(self) -> int:
        """The bytes charged for all of them."""
        return self._bytes

    def wait(self, flow: F, queued_bytes: int, sent: int, now: float) -> list[F]:
        """The host took ``sent`` bytes and left some. Returns flows to reset, perhaps this one among them."""
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
        if not self._flows:
            return _NEVER
        _, since = next(iter(self._flows.values()))
        return since + CLOSING_PATIENCE

    def remove(self, flow: F) -> None:
        """The flow is over. A flow that is not in the table is ignored."""
        charged, _ = self._flows.pop(flow, (0, 0.0))
        self._bytes -= charged
