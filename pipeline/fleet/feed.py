"""Events of this host for consumers at the NATS servers: leases, MAC addresses, ends of flows, and the fleet.

The subject of an event is ``gvtap.NETWORK.HOST.KIND``, and its content is the object that ``/events`` has
(docs/events.md). Nobody has to listen, and nothing is kept for those who come later. While no server is
reached, the last MAX_QUEUED events wait. Older ones are lost, and the next event says how many.
"""

import json
from collections import deque
from typing import Final

from pipeline.control.hub import Happened, Hub
from pipeline.events import fleet, flows, network

KINDS: Final = frozenset(
    kind.name for kind in (*network.DHCP, *network.MACS, *fleet.KINDS) if kind.published
) | frozenset(flows.EVERY_END)
MAX_QUEUED: Final = 1000
PREFIX: Final = "gvtap"


class EventFeed:
    """The events that wait for a server."""

    def __init__(self, hub: Hub, network_name: str, host: str) -> None:
        self._subject = f"{PREFIX}.{network_name}.{host}"
        self._queue: deque[Happened] = deque()
        self._lost = 0
        self._end = hub.subscribe(KINDS, self._put)

    def _put(self, happened: Happened) -> None:
        if len(self._queue) >= MAX_QUEUED:
            self._lost += 1 + self._queue.popleft().lost
        self._queue.append(happened)

    def take(self) -> list[tuple[str, bytes]]:
        """Subject and content of each event that waits."""
        found: list[tuple[str, bytes]] = []
        while self._queue:
            happened = self._queue.popleft()
            if self._lost:
                happened = happened._replace(lost=happened.lost + self._lost)
                self._lost = 0
            content = json.dumps(happened.as_object(), default=str).encode()
            found.append((f"{self._subject}.{happened.kind}", content))
        return found

    def stop(self) -> None:
        """Take no further events."""
        self._end()
