"""The answer of /status: how the daemon is, in one object. It comes even if a worker does not answer.

Numbers come from the counters in shared memory. Only the number of guests comes from ingress.
"""

import asyncio
import os
from collections import Counter
from collections.abc import Mapping
from time import monotonic
from typing import Final, Protocol

from pipeline import counters
from pipeline.control.facts import Facts
from pipeline.control.http import models
from pipeline.control.metrics.build import Build
from pipeline.control.workers import Request, RequestError
from pipeline.ipc import messages
from pipeline.topology import INGRESS

TIMEOUT: Final = 2.0
"""Seconds that ingress has to name the guests."""
DROPS: Final = tuple(row.name for row in counters.TABLE if "_dropped_" in row.name or "_refused_" in row.name)
_ONE: Final = 1_000_000
"""The counter worker_busy_share has millionths."""


class Meter(Protocol):
    """What the program counts, and how it is."""

    build: Build
    facts: Facts

    def counters(self) -> Mapping[str, Mapping[str, int]]:
        """Each worker's counters by name: {worker: {counter: value}}."""

    async def silent_workers(self) -> list[str]:
        """The workers that do not answer."""


async def read(meter: Meter, request: Request, forwards: list[models.Forward]) -> models.Status:
    """The state now."""
    silent, guests = await asyncio.gather(meter.silent_workers(), _guests(request))
    by_worker = meter.counters()
    total: Counter[str] = Counter()
    for values in by_worker.values():
        total.update(values)
    facts = meter.facts
    return models.Status(
        **meter.build._asdict(),
        pid=os.getpid(),
        uptime_seconds=round(monotonic() - facts.started, 3),
        placement=facts.placement,
        network=models.NetworkAddresses(
            subnet=facts.subnet, mtu=facts.mtu, gateway=facts.gateway, guest=facts.guest, host=facts.host
        ),
        endpoints=[models.Endpoint(use=use, url=url) for use, url in facts.endpoints],
        workers=_workers(facts, by_worker, silent),
        guests=guests,
        links=total["link_guests"],
        leases=total["dhcp_leases"] + total["dhcpv6_leases"],
        flows=models.OpenFlows(tcp=total["tcp_flows"], udp=total["udp_flows"], icmp=total["icmp_echo_flows"]),
        bytes_from_guests=total["link_bytes_from_guest"],
        bytes_to_guests=total["link_bytes_to_guest"],
        forwards=forwards,
        drops={name: total[name] for name in DROPS if total[name]},
    )


def _workers(
    facts: Facts, by_worker: Mapping[str, Mapping[str, int]], silent: list[str]
) -> list[models.WorkerState]:
    return [
        models.WorkerState(
            worker=worker,
            process=process.name,
            pid=process.pid,
            answers=worker not in silent,
            busy=by_worker.get(worker, {}).get("worker_busy_share", 0) / _ONE,
        )
        for process in facts.processes
        for worker in process.workers
    ]


async def _guests(request: Request) -> int | None:
    """How many guests have a link, None if ingress does not answer."""
    try:
        async with asyncio.timeout(TIMEOUT):
            answer = messages.GuestsAnswer.decode(await request(INGRESS, messages.Guests()))
    except (RequestError, TimeoutError):
        return None
    return sum(1 for sums in answer.guests.values() if sums.get("links"))
