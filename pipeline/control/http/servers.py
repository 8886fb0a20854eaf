"""The servers of the API's endpoints, made when a client sends its first request.

aiohttp, pydantic and prometheus_client cost 11 MB and 0.15 s of CPU. Many daemons never get a request beside
/connect, which needs none of them. The first request waits for them, and so does the supervisor.
"""

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from pipeline.control.http.connection import Server

if TYPE_CHECKING:
    from aiohttp.web import Application, AppRunner

    from pipeline.control.http.api import Api
    from pipeline.control.web.login import Login

HOST: Final = "host"
"""An endpoint on the host that browsers cannot reach."""
BROWSERS: Final = "browsers"
"""An endpoint on the host that they can reach."""
GUEST: Final = "guest"
ATTACHING: Final = "attaching"
"""Where guests attach, and nothing else is served."""
MONITORING: Final = "monitoring"
"""What monitors read, where browsers cannot reach it."""
WEB: Final = "web"
"""The page for browsers."""
BROWSERS_MONITORING: Final = "monitoring, browsers"


class Servers:
    """The servers by kind of endpoint, in one event loop."""

    def __init__(self, make_api: Callable[[], "Api"]) -> None:
        """make_api is called when the first request comes."""
        self._make_api = make_api
        self._api: Api | None = None
        self._login: Login | None = None
        self._runners: dict[str, AppRunner] = {}
        self._lock = asyncio.Lock()

    def server(self, kind: str) -> Server:
        """Makes the protocol of a connection to this kind of endpoint."""

        async def make() -> asyncio.Protocol:
            server = (await self._runner(kind)).server
            assert server is not None
            return server()

        return make

    def page(self, login: "Login") -> Server:
        """Makes the protocol of a connection to the web page, of which there is one."""
        self._login = login
        return self.server(WEB)

    async def close(self) -> None:
        """End all of them."""
        async with self._lock:
            for runner in self._runners.values():
                await runner.cleanup()

    async def _runner(self, kind: str) -> "AppRunner":
        async with self._lock:
            if kind not in self._runners:
                from pipeline.control.http.runner import make_runner  # noqa: PLC0415  not before a request

                runner = make_runner(self._application(kind))
                await runner.setup()
                self._runners[kind] = runner
            return self._runners[kind]

    def _application(self, kind: str) -> "Application":
        api = self._api = self._api or self._make_api()
        browsers = kind in (BROWSERS, BROWSERS_MONITORING)
        if kind == WEB and self._login is not None:
            from pipeline.control.web.site import Site  # noqa: PLC0415  not without -web

            return Site(api.access, self._login).application(api)
        if kind == GUEST:
            return api.guest()
        if kind == ATTACHING:
            return api.attaching()
        if kind in (MONITORING, BROWSERS_MONITORING):
            return api.monitoring(browsers=browsers)
        return api.full(browsers=browsers)
