"""Completes the reports of workers about flows, and publishes them as events.

A worker knows neither the MAC address of the guest nor the name of the host, so demux and the resolver are
asked, once for all reports that have come meanwhile. What was found when a flow opened is kept until it ends:
by then the guest may be gone.
"""

import asyncio
import errno
from collections import OrderedDict, deque
from collections.abc import Callable, Mapping
from typing import Final, NamedTuple

import structlog

from pipeline.control.flows import known
from pipeline.control.flows.known import Known
from pipeline.control.flows.shown import Shown, shown
from pipeline.control.hub import Happened, Hub
from pipeline.control.limit_reports import KEYS
from pipeline.control.workers import Request, RequestError
from pipeline.events.flows import COMPLETED
from pipeline.events.table import KINDS
from pipeline.ipc.flow_rows import OPENED, REFUSED, FlowReport, FlowRow, report_of
from pipeline.ipc.message import MessageError

MAX_WAITING: Final = 4096
"""Reports that wait for their completion. Further ones are lost and counted."""
MAX_OPEN: Final = 16_384
"""Open flows of which is kept what is known. The one that opened longest ago makes room."""


class _Waiting(NamedTuple):
    worker: str
    kind: str
    at: float
    report: FlowReport
    lost: int


class FlowEvents:
    """Registers with the hub for the kinds of flow reports."""

    def __init__(self, request: Request, hub: Hub, log: structlog.typing.FilteringBoundLogger) -> None:
        self._request = request
        self._hub = hub
        self._log = log
        self._waiting: deque[_Waiting] = deque()
        self._lost = 0
        self._task: asyncio.Task[None] | None = None
        self._open: OrderedDict[tuple[str, int], Known] = OrderedDict()
        """What is known of an open flow."""
        self._end_log: Callable[[], None] | None = None
        """Ends the lines of the log, if there are any."""
        hub.complete(COMPLETED, self.on_report)

    def log_each(self, *, on: bool) -> None:
        """Whether to write a line of the log for each event from now on. For level debug."""
        if on and self._end_log is None:
            self._end_log = self._hub.subscribe(COMPLETED, self._log_one)
        elif not on and self._end_log is not None:
            self._end_log()
            self._end_log = None

    def _log_one(self, happened: Happened) -> None:
        row = KINDS[happened.kind]
        self._log.log(row.level, row.text, **{**happened.fields, "worker": happened.worker})

    def on_report(
        self, kind: str, fields: Mapping[str, object], *, at: float, worker: str, lost: int
    ) -> None:
        """A worker reports a flow. lost: events that the worker had to drop before."""
        facts = fields.get("facts")
        if not isinstance(facts, list):
            return
        if len(self._waiting) >= MAX_WAITING:
            self._lost += 1 + lost
            return
        self._waiting.append(_Waiting(worker, kind, at, report_of(facts), lost + self._lost))
        self._lost = 0
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._complete())

    async def stop(self) -> None:
        """Publish what waits, without asking anyone: the workers end."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait((self._task,))
            self._task = None
        self._publish(list(self._waiting), Known({}, {}))
        self._waiting.clear()

    async def _complete(self) -> None:
        while self._waiting:
            batch = list(self._waiting)
            found = await self._ask([each.report.flow for each in batch if self._is_new(each)])
            for _ in batch:
                self._waiting.popleft()
            self._publish(batch, found)
        self._task = None

    def _is_new(self, waiting: _Waiting) -> bool:
        """Whether nothing is known of the flow yet."""
        return (waiting.worker, waiting.report.flow.number) not in self._open

    async def _ask(self, rows: list[FlowRow]) -> Known:
        if not rows:
            return Known({}, {})
        try:
            return await known.ask(self._request, rows)
        except (RequestError, MessageError) as error:
            self._log.warning("flows are reported without names", error=str(error))
            return Known({}, {})

    def _publish(self, batch: list[_Waiting], found: Known) -> None:
        for each in batch:
            facts = self._facts(each, found)
            fields = _fields(each.kind, each.report, shown(each.worker, each.report.flow, facts))
            self._hub.publish(each.kind, fields, at=each.at, worker=each.worker, lost=each.lost)

    def _facts(self, waiting: _Waiting, found: Known) -> Known:
        """What is known of a flow. That of an open flow is kept until its end."""
        row = waiting.report.flow
        key = waiting.worker, row.number
        if waiting.kind != OPENED:
            return self._open.pop(key, found)
        pair = row.guest_address, row.address
        facts = Known(
            {row.guest_address: found.guests[row.guest_address]} if row.guest_address in found.guests else {},
            {pair: found.names[pair]} if pair in found.names else {},
        )
        self._open[key] = facts
        if len(self._open) > MAX_OPEN:
            self._open.popitem(last=False)
        return facts


def _fields(kind: str, report: FlowReport, flow: Shown) -> Shown:
    """The fields of an event."""
    if kind == OPENED:
        return flow
    flow |= {
        "ended_by": report.ended_by,
        "reason": report.reason,
        "errno": errno.errorcode.get(report.error) if report.error else None,
        "duration_seconds": flow["age_seconds"],
        "rule": report.rule or None,
        "stated_name": report.stated_name or None,
    }
    if kind == REFUSED:
        flow |= {"limit": KEYS.get(report.limit) or report.limit or None}
    return flow
