"""aiohttp's runner, with the deadlines of the control endpoints."""

import asyncio
import logging
from typing import Final

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

from pipeline.control.http.connection import LINGER, MAX_FIELDS, TIMEOUT, Connection, Server
from pipeline.control.http.head import MAX_HEAD

_HTTP_LOG: Final = logging.getLogger("pipeline.control.http")
_FAULTS_OF_CLIENTS: Final = (HttpProcessingError, web.RequestPayloadError, ConnectionError)
"""Nonsense, a body that is not encoded as its head says, a client that leaves: answered, and not an event."""
_HTTP_LOG.addFilter(
    lambda record: not (record.exc_info and isinstance(record.exc_info[1], _FAULTS_OF_CLIENTS))
)


def connection_of(request: web.BaseRequest) -> Connection | None:
    """The Connection that a request came over, None when it is gone or not one of ours."""
    protocol = request.transport.get_protocol() if request.transport is not None else None
    return protocol if isinstance(protocol, Connection) else None


def make_runner(app: web.Application) -> web.AppRunner:
    """The runner of an application with the deadlines of connection.py. Front takes its server_of().

    Signals are not touched. ``await runner.setup()`` before, ``cleanup()`` after.
    """
    return web.AppRunner(
        app,
        handle_signals=False,
        access_log=None,
        keepalive_timeout=TIMEOUT,
        tcp_keepalive=False,
        lingering_time=LINGER,
        max_line_size=MAX_HEAD,
        max_field_size=MAX_HEAD,
        max_headers=MAX_FIELDS,
        logger=_HTTP_LOG,
    )


def server_of(runner: web.AppRunner) -> Server:
    """The server of a runner that is set up."""
    server = runner.server
    assert server is not None

    async def make() -> asyncio.Protocol:
        return server()

    return make
