"""Reads what the workers count, and asks whether they answer: all that ``/metrics`` and ``/healthz`` show."""

import asyncio
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

import structlog

from pipeline import histograms, logs
from pipeline.control.facts import Facts
from pipeline.control.metrics.build import Build
from pipeline.control.metrics.families import SUPERVISOR, writers
from pipeline.control.metrics.guest_rows import name_guests
from pipeline.control.repeated import Repeated
from pipeline.control.workers import Request, RequestError
from pipeline.counter_block import GuestRow
from pipeline.ipc import messages
from pipeline.ipc.fabric import Fabric
from pipeline.topology import DEMUX, INGRESS, Edge

if TYPE_CHECKING:
    from pipeline.control.metrics.page import Snapshot

HEALTH_TIMEOUT: Final = 2.0
"""Seconds within which a worker that is well answers."""
NAMES_TIMEOUT: Final = 1.0
"""Seconds that a page waits for the names of guests."""


class Meter:
    """The counters of all workers and of the supervisor."""

    def __init__(
        self,
        fabric: Fabric,
        facts: Facts,
        version: str,
        log: structlog.typing.FilteringBoundLogger,
        host: str = "",
    ) -> None:
        """version: of the program. host: the name of this host in a fleet. connect() comes before page()."""
        self._host = host
        self.build = Build.of(version)
        self.facts = facts
        self._fabric = fabric
        self._blocks = {name: fabric.counters(name) for name in fabric.layout.names}
        self._roles = {node.name: node.role for node in fabric.layout.nodes} | {SUPERVISOR: SUPERVISOR}
        self._pids = {process.name: process.pid for process in facts.processes} | {SUPERVISOR: os.getpid()}
        self._files: dict[str, int] = {}
        """The folder /proc/PID/fd of each process that gave it, by the name of the process."""
        self._no_names = Repeated(log, "metrics without guests: demux does not answer")
        self._own: dict[str, int] = {}
        """The supervisor's own counters that are not 0."""
        self._included: dict[str, Callable[[], int]] = {}

    def restarted(self, name: str, pid: int) -> None:
        """The process with this name has died, and has a successor."""
        self.count("worker_restarts")
        self._pids[name] = pid
        self.facts = self.facts._replace(
            processes=tuple(
                process._replace(pid=pid) if process.name == name else process
                for process in self.facts.processes
            )
        )

    def connect(self, request: Request) -> None:
        """Requests go to the workers this way."""
        self._request = request

    def include(self, name: str, read: Callable[[], int]) -> None:
        """A counter of the supervisor that another object keeps. read: returns its value."""
        self._included[name] = read

    def watch_files(self, worker: str, folder: int) -> None:
        """Count the descriptors of a worker's process in this folder, which the meter owns from now on."""
        name = next(each.name for each in self.facts.processes if worker in each.workers)
        if before := self._files.pop(name, 0):
            os.close(before)
        self._files[name] = folder

    def close(self) -> None:
        """Close the folders."""
        for folder in self._files.values():
            os.close(folder)
        self._files.clear()

    def count(self, name: str) -> None:
        """Add 1 to a counter of the supervisor."""
        self._own[name] = self._own.get(name, 0) + 1

    def counters(self) -> "Snapshot":
        """Every counter of every worker."""
        own = dict(self._own)
        own.update((name, value) for name, read in self._included.items() if (value := read()))
        if lost := logs.lost():
            own["log_lines_dropped"] = lost
        return {name: block.snapshot() for name, block in self._blocks.items()} | {SUPERVISOR: own}

    async def page(self) -> bytes:
        """The page of ``/metrics``."""
        # prometheus_client is loaded when a monitor asks.
        from pipeline.control.metrics.page import Readings, page  # noqa: PLC0415

        return page(
            Readings(
                build=self.build,
                roles=self._roles,
                counters=self.counters(),
                histograms={
                    name: {
                        row.name: block.histogram(row)
                        for row in histograms.TABLE
                        if self._roles[name] in writers(row.name)
                    }
                    for name, block in self._blocks.items()
                },
                rings=self._fabric.ring_depths(),
                slots={home: span.slot_count for home, span in self._fabric.layout.pools.items()},
                guests=await self.guest_rows(),
                pids=self._pids,
                files=self._files,
                host=self._host,
            )
        )

    async def guest_rows(self) -> dict[str, GuestRow]:
        """What each guest sent and got, by the MAC address of its link."""
        rows = self._blocks[INGRESS].guests()
        return name_guests(rows, await self._cam()) if rows else {}

    def rings(self) -> dict[Edge, tuple[int, int]]:
        """For each ring: the records that it has carried since the start, and those in it now."""
        depths = self._fabric.ring_depths()
        return {edge: (count, depths[edge]) for edge, count in self._fabric.rings_passed().items()}

    async def silent_workers(self) -> list[str]:
        """The workers that do not answer in time. Each of the others has taken a breath."""
        names = list(self._blocks)
        well = await asyncio.gather(*(self._answers(name) for name in names))
        return [name for name, answered in zip(names, well, strict=True) if not answered]

    async def _answers(self, worker: str) -> bool:
        try:
            async with asyncio.timeout(HEALTH_TIMEOUT):
                await self._request(worker, messages.Ping())
        except (RequestError, TimeoutError):
            return False
        return True

    async def _cam(self) -> dict[str, int]:
        """The link of each MAC address; empty if demux does not answer: then the page has no guests."""
        try:
            async with asyncio.timeout(NAMES_TIMEOUT):
                return messages.CamAnswer.decode(await self._request(DEMUX, messages.Cam())).cam
        except (RequestError, TimeoutError) as error:
            self._no_names.warning(asyncio.get_running_loop().time(), error=repr(error))
            return {}
