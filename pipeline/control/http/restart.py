"""The path with which a client has the program replaced by a new version of itself. Only the host has it."""

from collections.abc import Awaitable, Callable

from aiohttp import web
from aiohttp.typedefs import Handler

from pipeline.control.http import answers, models
from pipeline.control.http.answers import ApiError
from pipeline.control.restart_error import RestartError

Restart = Callable[[], Awaitable[int]]
"""Replaces the program, and returns the process id of the successor. Raises RestartError."""


class RestartPath:
    """The handler."""

    def __init__(self, restart: Callable[[], Restart | None]) -> None:
        """restart: None while the program cannot be replaced."""
        self._restart = restart

    def paths(self) -> dict[str, Handler]:
        """The handler by path."""
        return {"/restart": self._handle}

    async def _handle(self, request: web.Request) -> web.Response:
        if request.method != "POST":
            raise ApiError(400, "post only")
        restart = self._restart()
        if restart is None:
            raise ApiError(500, "this program cannot be replaced while it runs")
        try:
            pid = await restart()
        except RestartError as error:
            raise ApiError(500, str(error)) from None
        response = answers.json(models.Restarted(pid=pid).model_dump())
        # This process ends.
        response.force_close()
        return response
