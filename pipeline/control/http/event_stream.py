"""Events as they happen: server-sent events (the HTML standard, section 9.2) under ``GET /events``.

Each event has its kind under ``event`` and one line of JSON under ``data``. While nothing happens, a comment
goes out every HEARTBEAT seconds, so that both sides notice when the other is gone. A client that does not
read loses events. ``lost`` of the next one says how many. One that does not read for connection.TIMEOUT is
cut off.
"""

import asyncio
import json
from collections.abc import Iterable
from contextlib import suppress
from typing import Final

from aiohttp import web

from pipeline.control.http.runner import connection_of
from pipeline.control.hub import Happened, Hub, Queue
from pipeline.events.table import PUBLISHED

HEARTBEAT: Final[float] = 15.0
"""Seconds."""
HEARTBEAT_BYTES: Final = b":\n\n"
_HEADERS: Final = {
    "Content-Type": "text/event-stream; charset=utf-8",
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
}


class QueryError(Exception):
    """The query of a request is wrong, for this reason."""


def asked_kinds(query: Iterable[tuple[str, str]]) -> frozenset[str]:
    """The kinds that ``kinds=NAME,NAME`` asks for, by default all. Raises QueryError."""
    kinds: set[str] = set()
    for key, value in query:
        if key != "kinds":
            raise QueryError(f'unknown parameter "{key}": only kinds is known')
        kinds.update(name for name in value.split(",") if name)
    if unknown := sorted(kinds - PUBLISHED):
        raise QueryError(f'unknown kind "{unknown[0]}": known are {", ".join(sorted(PUBLISHED))}')
    return frozenset(kinds) or PUBLISHED


async def serve(request: web.Request, hub: Hub) -> web.StreamResponse:
    """Send events until the client leaves. Raises QueryError, TooManyReadersError."""
    kinds = asked_kinds(request.query.items())
    response = web.StreamResponse(headers=_HEADERS)
    if request.method == "HEAD":
        await response.prepare(request)
        return response
    with hub.queue(kinds) as queue, suppress(ConnectionError):
        await response.prepare(request)
        await _stream(request, response, queue)
    return response


async def _stream(request: web.Request, response: web.StreamResponse, queue: Queue) -> None:
    connection = connection_of(request)
    if connection is not None:
        connection.on_lost(queue.close)
    # The first bytes show a client that it misses nothing from now on.
    await response.write(HEARTBEAT_BYTES)
    while not queue.closed:
        await response.write(await _next(queue))


async def _next(queue: Queue) -> bytes:
    try:
        async with asyncio.timeout(HEARTBEAT):
            return b"".join(encoded(happened) for happened in await queue.take())
    except TimeoutError:
        return HEARTBEAT_BYTES


def encoded(happened: Happened) -> bytes:
    """One event as it is sent."""
    text = json.dumps(happened.as_object(), default=str)
    return f"event: {happened.kind}\ndata: {text}\n\n".encode()
