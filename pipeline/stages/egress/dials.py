"""Host clients whose guest has not answered: how long they wait.

gvproxy's ten seconds, for a forwarded port and for /tunnel. The guest's TCP alone would try for two minutes;
a guest that nobody answers for (ARP), or that refuses, ends the wait before.
"""

from itertools import takewhile
from typing import Final

from pipeline.ipc.ring import Producer
from pipeline.records import descriptor as d
from pipeline.stages.egress.flow import Flow

PATIENCE_S: Final = 10.0
MAX_DIALS: Final = 65
"""Ports of the gateway that are tried for one connection to a guest."""


class Dials:
    """Flows in the state DIALLING, the oldest first: all wait equally long."""

    def __init__(self, demux: Producer) -> None:
        self._demux = demux
        self._new: list[Flow] = []
        self._until: dict[Flow, float] = {}

    def dial(self, flow: Flow) -> bool:
        """Ask demux for a connection, from the next port of the gateway; False if enough were tried.

        Dialling once more does not prolong the wait.
        """
        flow.dials += 1
        if flow.dials > MAX_DIALS:
            return False
        self._new.append(flow)
        addr, port = flow.guest
        self._demux.push(d.record(d.DIAL, flow=flow.number, guest_addr=addr, ports=port << 16))
        return True

    def remove(self, flow: Flow) -> None:
        """The guest has answered, or the flow is over."""
        self._until.pop(flow, None)

    def overdue(self, now: float) -> list[Flow]:
        """Those that have waited long enough. The wait of new ones begins."""
        for flow in self._new:
            if flow.state == "DIALLING":
                self._until.setdefault(flow, now + PATIENCE_S)
        self._new.clear()
        return [flow for flow, _ in takewhile(lambda entry: entry[1] <= now, self._until.items())]

    def deadline(self) -> float:
        """When to ask overdue()."""
        if self._new:
            return 0.0
        return next(iter(self._until.values()), float("inf"))
