"""What an operator watches: guests, flows and events. Only endpoints on the host have these paths."""

from aiohttp import web
from aiohttp.typedefs import Handler

from pipeline.control.flows import query as flow_query
from pipeline.control.flows.live import LiveFlows
from pipeline.control.guests import GuestSums
from pipeline.control.http import answers, event_stream
from pipeline.control.http.answers import READING, ApiError
from pipeline.control.hub import Hub, TooManyReadersError


class Observation:
    """The handlers."""

    def __init__(self, hub: Hub, flows: LiveFlows, guests: GuestSums) -> None:
        self._hub = hub
        self._flows = flows
        self._guests = guests

    def lists(self) -> dict[str, Handler]:
        """The handlers that list what is there, or end it, by path."""
        return {"/guests": self._guests_all, "/flows": self._flows_all, "/flows/{id}": self._end_flow}

    def streams(self) -> dict[str, Handler]:
        """The handlers whose answer has no end, by path."""
        return {"/events": self._events}

    async def _guests_all(self, _request: web.Request) -> web.Response:
        return answers.json(await self._guests.all())

    async def _flows_all(self, request: web.Request) -> web.Response:
        if request.method not in READING:
            raise ApiError(405, "only GET and HEAD")
        try:
            flows, total = await self._flows.find(flow_query.read(request.query.items()))
        except flow_query.QueryError as error:
            raise ApiError(400, str(error)) from None
        return answers.json({"flows": flows, "total": total})

    async def _end_flow(self, request: web.Request) -> web.Response:
        if request.method != "DELETE":
            raise ApiError(405, "only DELETE")
        name = request.match_info["id"]
        if not await self._flows.end(name):
            raise ApiError(404, f"there is no flow {name[:100]!r}")
        return web.Response()

    async def _events(self, request: web.Request) -> web.StreamResponse:
        if request.method not in READING:
            raise ApiError(405, "only GET and HEAD")
        try:
            return await event_stream.serve(request, self._hub)
        except event_stream.QueryError as error:
            raise ApiError(400, str(error)) from None
        except TooManyReadersError as error:
            raise ApiError(503, str(error)) from None
