"""Reports limits that were reached: at most once a minute for each, with its key and a count.

Each limit has a counter, which a worker or the supervisor adds to when the limit is met. This module reads
the counters every few seconds. So a limit costs its worker nothing more than the counter.
"""

import asyncio
from collections.abc import Callable, Mapping
from typing import Final

from pipeline.config import limits
from pipeline.control.hub import Hub

CHECK: Final = 5.0
"""Seconds between two looks at the counters."""
PERIOD: Final = 60.0
"""Seconds between two events about one limit."""
WITHOUT_KEY: Final = (
    "ipv6_datagram_dropped_reassembly_full",
    "link_refused_too_many",
    "link_refused_too_often",
    "egress_flow_refused_too_many_sockets",
    "dns_query_refused_busy",
    "dns_query_refused_waited_too_long",
    "dns_connection_refused_too_many",
    "api_connection_refused_too_many",
)
"""Counters of limits that follow from the system or from another limit (docs/limits.md)."""
USUAL: Final = frozenset(
    {
        *("egress_bytes_spilled", "dns_query_queued", "tcp_flow_ended_guest_gone"),
        *("link_reads_paused_byte_rate", "egress_reads_paused_byte_rate"),
    }
)
"""Counters of limits that are met in normal operation, and cost nobody anything that is still of use."""

Counters = Callable[[], Mapping[str, Mapping[str, int]]]


def _keys() -> dict[str, str]:
    keys: dict[str, list[str]] = {counter: [] for counter in WITHOUT_KEY}
    for row in limits.TABLE:
        keys.setdefault(row.counter, []).append(row.key)
    return {counter: ", ".join(found) for counter, found in keys.items()}


KEYS: Final = _keys()
"""The keys of the limits by their counter."""


class LimitReports:
    """Looks at the counters of all limits."""

    def __init__(self, counters: Counters, hub: Hub) -> None:
        """counters: {worker: {counter: value}} now."""
        self._counters = counters
        self._hub = hub
        self._reported: dict[str, int] = {}
        self._due: dict[str, float] = {}
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Look again and again, until stop(). Needs a running event loop."""
        loop = asyncio.get_running_loop()
        self.check(loop.time())
        self._timer = loop.call_later(CHECK, self.start)

    def stop(self) -> None:
        """Look no more."""
        if self._timer is not None:
            self._timer.cancel()

    def check(self, now: float) -> None:
        """Report what has grown. now: seconds, monotonic."""
        workers = self._counters().values()
        for counter, keys in KEYS.items():
            total = sum(counts.get(counter, 0) for counts in workers)
            count = total - self._reported.get(counter, 0)
            if count and now >= self._due.get(counter, 0.0):
                kind = "limit-met" if counter in USUAL else "limit-reached"
                self._hub.report(kind, key=keys, counter=counter, count=count)
                self._reported[counter] = total
                self._due[counter] = now + PERIOD
