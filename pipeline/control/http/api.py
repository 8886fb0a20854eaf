"""The HTTP API: gvproxy's paths, methods, statuses and texts, as an aiohttp application.

Two versions: `full` for host endpoints and `guest` for the gateway's port 80, which has the
port forwarder alone. Answers are texts with a newline; wrong methods are 400 "post only".
Does not listen and does not take connections over: front.py and takeover.py do.
"""

import asyncio
import posixpath
from collections.abc import Awaitable, Callable
from typing import Any, Final
from urllib.parse import quote

import structlog
from aiohttp import web

from pipeline.control.forwarder import Forwarder, ForwardError, resolve_remote
from pipeline.control.http import openapi, stats
from pipeline.control.http.access import Access, AccessError
from pipeline.control.http.front import TIMEOUT, TOO_LONG, connection_of
from pipeline.control.http.takeover import CONNECT, TUNNEL
from pipeline.control.workers import RefusedError, Request, RequestError
from pipeline.go import text as gotext
from pipeline.go.text import GoError

MAX_BODY: Final = 1 << 20

_PATH_CHARS: Final = "/%:@!$&'()*+,;=-._~"
"""What may stand in a path as it is (RFC 3986 section 3.3)."""

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

_GUESTS: Final = web.AppKey("guests", bool)
"""Whether an application serves the gateway's port 80."""
_PLAIN: Final = {"Content-Type": "text/plain; charset=utf-8"}
_PROMETHEUS: Final = {"Content-Type": "text/plain; version=0.0.4; charset=utf-8"}


class ApiError(Exception):
    """An answer that is an error: HTTP status and text."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


class Api:
    """The handlers, over the forwarder, the workers and the counters.

    counters gives each worker's counters by name: {worker: {counter: value}}.
    """

    def __init__(
        self,
        forwarder: Forwarder,
        request: Request,
        counters: Callable[[], stats.Snapshot],
        log: structlog.typing.FilteringBoundLogger,
        *,
        access: Access | None = None,
        description: dict[str, Any] | None = None,
    ) -> None:
        """access: by default everybody may do everything. description: what /openapi.json says."""
        self._access = Access(log) if access is None else access
        self._description = openapi.document("", token=False) if description is None else description
        self._forwarder = forwarder
        self._request = request
        self._counters = counters
        self._log = log

    def full(self) -> web.Application:
        """Everything; for endpoints on the host."""
        app = self._application(self._for_hosts, guests=False)
        routes: dict[str, Handler] = {
            "/openapi.json": self._openapi,
            "/stats": self._stats,
            "/metrics": self._metrics,
            "/cam": self._cam,
            "/leases": self._leases,
            "/services/dhcp/leases": self._leases,
            "/services/dns/all": self._dns_all,
            "/services/dns/add": self._dns_add,
            "/services": _redirect,
            "/services/dhcp": _redirect,
            "/services/dns": _redirect,
            "/services/forwarder": _redirect,
            TUNNEL: _not_first,
            CONNECT: _not_first,
        }
        for path, handler in routes.items():
            app.router.add_route("*", path, handler)
        return app

    def guest(self) -> web.Application:
        """The forwarder alone; for guests."""
        return self._application(self._for_guests, guests=True)

    def _application(self, guard: Any, *, guests: bool) -> web.Application:
        app = web.Application(middlewares=[self._answer, guard, _clean_path], client_max_size=MAX_BODY)
        app[_GUESTS] = guests
        app.on_response_prepare.append(_trim_headers)
        app.router.add_route("*", "/services/forwarder/all", self._forwarder_all)
        app.router.add_route("*", "/services/forwarder/expose", self._expose)
        app.router.add_route("*", "/services/forwarder/unexpose", self._unexpose)
        return app

    @web.middleware
    async def _answer(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Errors become texts, and the connection learns that its answer is decided."""
        try:
            if request.rel_url.raw_path == TOO_LONG:
                raise ApiError(431, "431 Request Header Fields Too Large")
            response = await handler(request)
        except (ApiError, AccessError) as error:
            response = _error(error.status, str(error))
            if error.status == 401:
                response.headers["WWW-Authenticate"] = "Bearer"
        except RequestError as error:
            self._log.error("request of the API failed", path=request.path, error=str(error))
            response = _error(500, str(error))
        except web.HTTPException as error:
            text = "404 page not found" if error.status == 404 else str(error.reason).lower()
            response = error if error.status < 400 else _error(error.status, text)
        except Exception as error:  # one broken answer must not end the control plane
            self._log.exception("API failed", path=request.path, error=str(error))
            response = _error(500, "internal error")
        connection = connection_of(request)
        if connection is not None:
            connection.answering = False
            if connection.half_closed:
                response.force_close()
        return response

    @web.middleware
    async def _for_hosts(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        self._access.check_host(request.headers.get("Authorization", ""), _client(request))
        return await handler(request)

    @web.middleware
    async def _for_guests(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        self._access.check_guest(_client(request))
        return await handler(request)

    def _check_forward(self, request: web.Request, protocol: str, local: str) -> None:
        if request.app[_GUESTS]:
            self._access.check_guest_forward(_client(request), protocol, local)

    # --- forwarder ----------------------------------------------------------------------

    async def _forwarder_all(self, _request: web.Request) -> web.Response:
        forwards = (forward._asdict() for forward in self._forwarder.all())
        # A key that gvproxy does not have, so only where it says something.
        return _json([{k: v for k, v in f.items() if v or k != "proxy_protocol"} for f in forwards])

    async def _expose(self, request: web.Request) -> web.Response:
        keys = await _posted(request)
        try:
            local, remote = gotext.field(keys, "local"), gotext.field(keys, "remote")
            protocol = gotext.field(keys, "protocol") or "tcp"
            proxy = gotext.field(keys, "proxy_protocol")
            if protocol not in ("unix", "npipe"):
                remote = resolve_remote(remote, _client(request))
        except GoError as error:
            raise ApiError(400, str(error)) from None
        self._check_forward(request, protocol, local)
        try:
            await self._forwarder.expose(protocol, local, remote, proxy)
        except ForwardError as error:
            raise ApiError(500, str(error)) from None
        return web.Response()

    async def _unexpose(self, request: web.Request) -> web.Response:
        keys = await _posted(request)
        try:
            local, protocol = gotext.field(keys, "local"), gotext.field(keys, "protocol") or "tcp"
        except GoError as error:
            raise ApiError(400, str(error)) from None
        self._check_forward(request, protocol, local)
        try:
            await self._forwarder.unexpose(protocol, local)
        except ForwardError as error:
            raise ApiError(500, str(error)) from None
        return web.Response()

    # --- what the workers know --------------------------------------------------------------

    async def _cam(self, _request: web.Request) -> web.Response:
        answer = await self._request("demux", {"op": "cam"})
        return _json(dict(sorted(answer["cam"].items())))

    async def _leases(self, _request: web.Request) -> web.Response:
        answer = await self._request("resolver", {"op": "leases"})
        return _json(dict(sorted(answer["leases"].items())))

    async def _dns_all(self, _request: web.Request) -> web.Response:
        answer = await self._request("resolver", {"op": "dns_all"})
        return _json(answer["zones"] or None)

    async def _dns_add(self, request: web.Request) -> web.Response:
        keys = await _posted(request)
        try:
            zone = {
                "Name": gotext.field(keys, "name"),
                "Records": [
                    {name: gotext.field(record, name.lower()) for name in ("Name", "IP", "Regexp")}
                    for record in gotext.objects(keys, "records")
                ],
                "DefaultIP": gotext.field(keys, "defaultip"),
            }
            await self._request("resolver", {"op": "dns_add", "zone": zone})
        except (GoError, RefusedError) as error:
            raise ApiError(400, str(error)) from None
        return web.Response()

    # --- counters ---------------------------------------------------------------------------

    async def _stats(self, _request: web.Request) -> web.Response:
        return _json(stats.gvisor(self._counters()))

    async def _openapi(self, _request: web.Request) -> web.Response:
        return web.json_response(self._description)

    async def _metrics(self, _request: web.Request) -> web.Response:
        return web.Response(body=stats.prometheus(self._counters()), headers=_PROMETHEUS)


def _client(request: web.Request) -> str:
    connection = connection_of(request)
    return connection.client if connection is not None else "@"


async def _posted(request: web.Request) -> dict[str, Any]:
    """The object that a POST brings. Raises ApiError."""
    if request.method != "POST":
        raise ApiError(400, "post only")
    try:
        async with asyncio.timeout(TIMEOUT):
            body = await request.read()
    except TimeoutError:
        raise ApiError(408, "the body did not come in time") from None
    try:
        return gotext.first_object(body)
    except GoError as error:
        raise ApiError(400, str(error)) from None


async def _redirect(request: web.Request) -> web.Response:
    return _redirection(f"{request.rel_url.raw_path}/", request)


@web.middleware
async def _clean_path(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Send who asks for //a/./b to /a/b, as the original's server does."""
    path = request.rel_url.raw_path
    if request.method != "CONNECT" and path.startswith("/") and (clean := _cleaned(path)) != path:
        return _redirection(clean, request)
    return await handler(request)


def _cleaned(path: str) -> str:
    """The path without empty steps, ``.`` and ``..``; a slash at its end stays."""
    clean = "/" + posixpath.normpath(path).strip("/")
    return f"{clean}/" if path.endswith("/") and clean != "/" else clean


def _redirection(path: str, request: web.Request) -> web.Response:
    query = request.rel_url.raw_query_string
    # Quoted: some clients take a backslash for a slash, and two of them for the name of a host.
    target = quote(path, safe=_PATH_CHARS) + (f"?{query}" if query else "")
    return web.Response(status=307, headers={"Location": target})


async def _not_first(request: web.Request) -> web.Response:
    """Behind other requests of a connection its bytes are not ours to hand over any more."""
    connection = connection_of(request)
    if connection is None or request.path not in connection.take_overs:
        raise web.HTTPNotFound
    response = _error(400, "only the first request of a connection can be taken over: open a new one")
    response.force_close()
    return response


def _json(value: object) -> web.Response:
    return web.Response(body=gotext.dumps(value).encode("utf-8", "replace"), headers=_PLAIN)


def _error(status: int, text: str) -> web.Response:
    headers = {**_PLAIN, "X-Content-Type-Options": "nosniff"}
    response = web.Response(status=status, body=f"{text}\n".encode("utf-8", "replace"), headers=headers)
    if status == 408:
        response.force_close()
    return response


async def _trim_headers(_request: web.Request, response: web.StreamResponse) -> None:
    # The server's software and version is nobody's business.
    response.headers.pop("Server", None)
