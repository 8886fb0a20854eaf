"""The flows that are open now: the supervisor collects them from the workers, and can end one.

A worker carries packets while nobody asks. So a request to it is for few flows (ROWS_A_REQUEST), whatever a
client of the API wants, and one client's requests come after those of another.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from heapq import nlargest
from typing import TYPE_CHECKING, Final

from pipeline.control.flows import known
from pipeline.control.flows.shown import Shown, shown
from pipeline.control.workers import Request
from pipeline.ipc import flow_messages
from pipeline.ipc.flow_rows import FlowRow, row_of

if TYPE_CHECKING:
    from pipeline.control.flows.query import FlowQuery

ROWS_A_REQUEST: Final = 256
"""Flows that a worker reports at once. It does nothing else for less than two milliseconds."""
MOST_OF_WORKER: Final = 65_536
"""Flows of one worker that a request looks at. Its limits are lower by default."""
MAX_NUMBER: Final = 1 << 63


class LiveFlows:
    """All open flows."""

    def __init__(self, request: Request, tcp_workers: Sequence[str], egress_workers: Sequence[str]) -> None:
        self._request = request
        self._tcp_workers = tuple(tcp_workers)
        self._egress_workers = tuple(egress_workers)
        self._turn = asyncio.Lock()

    async def find(self, query: "FlowQuery") -> tuple[list[Shown], int]:
        """The flows that a client asks for, and how many would fit without its limit. Raises RequestError.

        A flow that begins meanwhile may be missing. At most twice as many flows as the limit are kept, since
        there may be ten times as many.
        """
        best: list[Shown] = []
        total = 0
        order = _ORDERS[query.sort]
        async with self._turn:
            for worker in self._asked(query):
                async for rows in self._parts(worker):
                    facts = await known.ask(self._request, rows)
                    fitting = [flow for row in rows if query.fits(flow := shown(worker, row, facts))]
                    total += len(fitting)
                    best += fitting
                    if len(best) > 2 * query.limit:
                        best = nlargest(query.limit, best, key=order)
        return nlargest(query.limit, best, key=order), total

    async def end(self, name: str) -> bool:
        """End the flow with this id. False if there is none. Raises RequestError."""
        worker, _, number = name.rpartition("-")
        if worker not in (*self._tcp_workers, *self._egress_workers):
            return False
        if not (number.isascii() and number.isdigit() and len(number) < len(str(MAX_NUMBER))):
            return False
        answer = await self._request(worker, flow_messages.EndFlow(int(number)))
        return flow_messages.EndFlowAnswer.decode(answer).found

    def _asked(self, query: "FlowQuery") -> tuple[str, ...]:
        """The workers that may have such flows."""
        if query.protocol is None:
            return (*self._tcp_workers, *self._egress_workers)
        return self._tcp_workers if query.protocol == "tcp" else self._egress_workers

    async def _parts(self, worker: str) -> AsyncIterator[list[FlowRow]]:
        """The flows of a worker, ROWS_A_REQUEST at a time."""
        answer = flow_messages.FlowIdsAnswer.decode(await self._request(worker, flow_messages.FlowIds()))
        numbers = answer.numbers[:MOST_OF_WORKER]
        for at in range(0, len(numbers), ROWS_A_REQUEST):
            ask = flow_messages.Flows(numbers[at : at + ROWS_A_REQUEST])
            part = flow_messages.FlowsAnswer.decode(await self._request(worker, ask))
            yield [row_of(found) for found in part.flows]


def _bytes(flow: Shown) -> float:
    return _number(flow, "bytes_from_guest") + _number(flow, "bytes_to_guest")


def _age(flow: Shown) -> float:
    return _number(flow, "age_seconds")


def _idle(flow: Shown) -> float:
    return _number(flow, "idle_seconds")


def _number(flow: Shown, key: str) -> float:
    value = flow[key]
    return value if isinstance(value, int | float) else 0.0


_ORDERS: Final = {"bytes": _bytes, "age": _age, "idle": _idle}
