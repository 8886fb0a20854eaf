"""The HTTP API: gvproxy's paths, methods, statuses and texts, as an aiohttp application.

There are two versions: `full` for endpoints on the host, and `guest` for the gateway's port 80, which has
only the port forwarder. Answers are texts with a newline. A wrong method is 400 "post only". front.py
listens, and takeover.py takes connections over.
"""

import posixpath
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Final, Protocol, TypeVar
from urllib.parse import quote

import structlog
from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from pipeline.control.forward_texts import ForwardError, resolve_remote
from pipeline.control.forwarder import (
    HOST,
    Forward,
    Forwarder,
    Owner,
    TooManyError,
)
from pipeline.control.http import answers, body, forward_answers, models, openapi, stats, status, traffic
from pipeline.control.http.access import Access, AccessError
from pipeline.control.http.answers import PLAIN, READING, ApiError
from pipeline.control.http.approvals import ApprovalPaths
from pipeline.control.http.connection import TOO_LONG
from pipeline.control.http.observation import Observation
from pipeline.control.http.policy import PolicyPaths
from pipeline.control.http.quotas import QuotaPaths
from pipeline.control.http.restart import RestartPath
from pipeline.control.http.runner import connection_of
from pipeline.control.http.stations import Stations
from pipeline.control.http.takeover import CAPTURE, CONNECT, TUNNEL
from pipeline.control.metrics.page import CONTENT_TYPE
from pipeline.control.workers import RefusedError, Request, RequestError
from pipeline.go.text import GoError
from pipeline.ipc import messages
from pipeline.wire import ip

MAX_BODY: Final = 1 << 20
MAX_GUEST_BODY: Final = 16 * 1024
"""Bytes. Parsing a body stops the event loop: 1 MiB of small lists takes a third of a second."""
GONE: Final = "gone:0"
"""The client of a request whose connection has ended already. No guest has this address."""

_PATH_CHARS: Final = "/%:@!$&'()*+,;=-._~"
"""Characters that need no quoting in a path (RFC 3986 section 3.3)."""

_R = TypeVar("_R", bound=models.Request)

_GUESTS: Final = web.AppKey("guests", bool)
"""Whether an application serves the gateway's port 80."""

WebFields = tuple[list[str], list[str], list[str]]
"""All values of Host, Origin and Sec-Fetch-Site."""


class Meter(status.Meter, traffic.Meter, Protocol):
    """What the program counts, and how it is (pipeline.control.metrics.meter.Meter)."""

    async def page(self) -> bytes:
        """The page of ``/metrics``."""


class Api:
    """The handlers, over the forwarder, the workers and the counters."""

    def __init__(
        self,
        forwarder: Forwarder,
        request: Request,
        meter: Meter,
        observation: Observation,
        log: structlog.typing.FilteringBoundLogger,
        *,
        access: Access | None = None,
        description: openapi.Json | None = None,
        policy: Sequence[PolicyPaths | ApprovalPaths | QuotaPaths | RestartPath] = (),
    ) -> None:
        """access: by default every client may do everything. description: the answer of /openapi.json.

        policy: the paths of the egress policy, of approvals, quotas and a restart, which only
        endpoints on the host have.
        """
        self.access = Access(log) if access is None else access
        """Who may do what."""
        self._description = openapi.document("", token=False) if description is None else description
        self._forwarder = forwarder
        self._request = request
        self._stations = Stations(request)
        self._meter = meter
        self._observation = observation
        self._policy = policy
        self._log = log

    def full(self, *, browsers: bool = False) -> web.Application:
        """All paths, for endpoints on the host. browsers: they can reach it, since it is on TCP."""
        guards = [self._for_browsers, self._for_hosts] if browsers else [self._for_hosts]
        app = self._application(guards, guests=False)
        self._add_forwarder(app)
        routes: dict[str, Handler] = {
            **self._probes(),
            **self._live(),
            **self._observation.streams(),
            **{path: handler for each in self._policy for path, handler in each.paths().items()},
            "/openapi.json": self._openapi,
            "/stats": self._stats,
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
            CAPTURE: _not_first,
            CONNECT: _not_first,
        }
        for path, handler in routes.items():
            app.router.add_route("*", path, handler)
        return app

    def guest(self) -> web.Application:
        """Only the paths of the forwarder, for guests."""
        app = self._application([self._for_guests], guests=True)
        self._add_forwarder(app)
        return app

    def attaching(self) -> web.Application:
        """Nothing: every path but /connect is unknown, and that is not served here."""
        app = self._application([], guests=True)
        app.router.add_route("*", CONNECT, _not_first)
        return app

    def monitoring(self, *, browsers: bool = False) -> web.Application:
        """Only what monitors read, without a token. browsers: they can reach it, as it is on TCP."""
        guards = [self._for_browsers, _read_only] if browsers else [_read_only]
        app = self._application(guards, guests=False)
        for path, handler in self._probes().items():
            app.router.add_route("*", path, handler)
        return app

    def page(
        self, check: Callable[[web.Request, str, WebFields], None], own: Mapping[str, Handler]
    ) -> web.Application:
        """What the web page asks. check: raises AccessError, gets the client too. own: the page's paths."""

        @web.middleware
        async def guard(request: web.Request, handler: Handler) -> web.StreamResponse:
            check(request, _client(request), _web_fields(request))
            return await handler(request)

        app = self._application([guard], guests=False)
        # The list of forwards is that of /status, which has no password of a forward over ssh.
        for path, handler in {**self._live(), **self._changes(), **own}.items():
            app.router.add_route("*", path, handler)
        return app

    def _live(self) -> dict[str, Handler]:
        """What changes while the daemon runs."""
        return {"/status": self._status, "/traffic": self._traffic, **self._observation.lists()}

    def _probes(self) -> dict[str, Handler]:
        return {"/metrics": self._metrics, "/healthz": self._healthz, "/version": self._version}

    def _application(self, guards: Sequence[Middleware], *, guests: bool) -> web.Application:
        limit = MAX_GUEST_BODY if guests else MAX_BODY
        app = web.Application(middlewares=[self._answer, *guards, _clean_path], client_max_size=limit)
        app[_GUESTS] = guests
        app.on_response_prepare.append(_trim_headers)
        return app

    def _add_forwarder(self, app: web.Application) -> None:
        app.router.add_route("*", "/services/forwarder/all", self._forwarder_all)
        for path, handler in self._changes().items():
            app.router.add_route("*", path, handler)

    def _changes(self) -> dict[str, Handler]:
        """What opens and closes forwards."""
        return {"/services/forwarder/expose": self._expose, "/services/forwarder/unexpose": self._unexpose}

    @web.middleware
    async def _answer(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Turn errors into texts, and tell the connection that its answer is decided."""
        try:
            if request.rel_url.raw_path == TOO_LONG:
                raise ApiError(431, "431 Request Header Fields Too Large")
            response = await handler(request)
        except (ApiError, AccessError) as error:
            response = answers.error(error.status, str(error))
            if error.status == 401:
                response.headers["WWW-Authenticate"] = "Bearer"
        except RequestError as error:
            self._log.error("request of the API failed", path=request.path, error=str(error))
            response = answers.error(500, str(error))
        except web.HTTPException as error:
            text = "404 page not found" if error.status == 404 else str(error.reason).lower()
            response = error if error.status < 400 else answers.error(error.status, text)
        except Exception as error:  # one broken answer must not end the control plane
            self._log.exception("API failed", path=request.path, error=str(error))
            response = answers.error(500, "internal error")
        connection = connection_of(request)
        if connection is not None:
            connection.answering = False
            if connection.half_closed:
                response.force_close()
        return response

    @web.middleware
    async def _for_hosts(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        self.access.check_host(request.headers.get("Authorization", ""), _client(request))
        return await handler(request)

    @web.middleware
    async def _for_browsers(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        self.access.check_web_page(_client(request), *_web_fields(request))
        return await handler(request)

    @web.middleware
    async def _for_guests(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        client = _client(request)
        self.access.check_web_page(client, *_web_fields(request), guest=True)
        self.access.check_guest(client)
        return await handler(request)

    # --- forwarder ----------------------------------------------------------------------

    async def _forwarder_all(self, request: web.Request) -> web.Response:
        reader = ip.host_of(_client(request)) if request.app[_GUESTS] else HOST
        shown = [forward_answers.shown(forward, reader) for forward in self._forwarder.all()]
        return answers.json([each.model_dump(exclude_defaults=True) for each in shown])

    async def _expose(self, request: web.Request) -> web.Response:
        asked = await _posted(request, models.ExposeRequest)
        protocol, remote = asked.protocol or "tcp", asked.remote
        try:
            if protocol not in ("unix", "npipe"):
                remote = resolve_remote(remote, _client(request))
        except GoError as error:
            raise ApiError(400, str(error)) from None
        client, owner = _client(request), Owner()
        try:
            if request.app[_GUESTS]:
                owner = self._guest(request)
                has = partial(self._stations.has, owner)
                await self.access.check_guest_expose(client, has, protocol, asked.local, remote)
            opened = await self._forwarder.expose(
                protocol, asked.local, remote, asked.proxy_protocol, owner=owner
            )
        except TooManyError as error:
            raise ApiError(429, str(error)) from None
        except ForwardError as error:
            raise ApiError(500, str(error)) from None
        # gvproxy's answer is empty, also if it was asked for port 0.
        if not opened.asked:
            return web.Response()
        return answers.json(forward_answers.shown(opened, HOST).model_dump(exclude_defaults=True))

    async def _unexpose(self, request: web.Request) -> web.Response:
        asked = await _posted(request, models.UnexposeRequest)
        protocol = asked.protocol or "tcp"
        client, owner = _client(request), Owner()

        async def check(forward: Forward | None) -> None:
            has = partial(self._stations.has, owner)
            await self.access.check_guest_unexpose(client, has, protocol, asked.local, forward)

        try:
            if request.app[_GUESTS]:
                owner = self._guest(request)
                await self._forwarder.unexpose(protocol, asked.local, owner=owner, check=check)
            else:
                await self._forwarder.unexpose(protocol, asked.local)
        except TooManyError as error:
            raise ApiError(429, str(error)) from None
        except ForwardError as error:
            raise ApiError(500, str(error)) from None
        return web.Response()

    def _guest(self, request: web.Request) -> Owner:
        """The guest that sent a request through the gateway's port 80. Raises TooManyError beyond its rate.

        The rate comes before everything else, so a guest that asks in a loop costs the workers little.
        """
        connection = connection_of(request)
        number = connection.guest if connection is not None else 0
        self._forwarder.check_rate(number)
        return Owner(ip.host_of(_client(request)), number)

    # --- what the workers know --------------------------------------------------------------

    async def _cam(self, _request: web.Request) -> web.Response:
        answer = messages.CamAnswer.decode(await self._request("demux", messages.Cam()))
        return answers.json(dict(sorted(answer.cam.items())))

    async def _leases(self, _request: web.Request) -> web.Response:
        answer = messages.LeasesAnswer.decode(await self._request("resolver", messages.Leases()))
        return answers.json(dict(sorted(answer.leases.items())))

    async def _dns_all(self, _request: web.Request) -> web.Response:
        answer = messages.DnsAllAnswer.decode(await self._request("resolver", messages.DnsAll()))
        return answers.json(answer.zones or None)

    async def _dns_add(self, request: web.Request) -> web.Response:
        asked = await _posted(request, models.ZoneRequest)
        try:
            await self._request("resolver", messages.DnsAdd(asked.model_dump(by_alias=True)))
        except RefusedError as error:
            raise ApiError(400, str(error)) from None
        return web.Response()

    async def _status(self, _request: web.Request) -> web.Response:
        # People copy the status into reports: it has no password of a forward over ssh.
        nobody = forward_answers.NOBODY
        forwards = [forward_answers.shown(each, nobody) for each in self._forwarder.all()]
        found = await status.read(self._meter, self._request, forwards)
        return answers.json(found.model_dump(exclude_defaults=True))

    async def _traffic(self, _request: web.Request) -> web.Response:
        return answers.json((await traffic.read(self._meter)).model_dump())

    # --- counters ---------------------------------------------------------------------------

    async def _stats(self, _request: web.Request) -> web.Response:
        return answers.json(stats.gvisor(self._meter.counters()))

    async def _openapi(self, _request: web.Request) -> web.Response:
        return web.json_response(self._description)

    # --- for monitors -----------------------------------------------------------------------

    async def _metrics(self, _request: web.Request) -> web.Response:
        return web.Response(body=await self._meter.page(), headers={"Content-Type": CONTENT_TYPE})

    async def _healthz(self, _request: web.Request) -> web.Response:
        if silent := await self._meter.silent_workers():
            raise ApiError(503, f"workers that do not answer: {', '.join(silent)}")
        return web.Response(body=b"ok\n", headers=PLAIN)

    async def _version(self, _request: web.Request) -> web.Response:
        return answers.json(models.Version(**self._meter.build._asdict()).model_dump())


def _client(request: web.Request) -> str:
    connection = connection_of(request)
    return connection.client if connection is not None else GONE


def _web_fields(request: web.Request) -> WebFields:
    """All values of the fields that tell what a web page asks."""
    headers = request.headers
    return headers.getall("Host", []), headers.getall("Origin", []), headers.getall("Sec-Fetch-Site", [])


async def _posted(request: web.Request, model: type[_R]) -> _R:
    """The request in the body of a POST. Raises ApiError."""
    if request.method != "POST":
        raise ApiError(400, "post only")
    try:
        return models.read(model, await body.read(request))
    except GoError as error:
        raise ApiError(400, str(error)) from None


@web.middleware
async def _read_only(request: web.Request, handler: Handler) -> web.StreamResponse:
    if request.method not in READING:
        raise web.HTTPMethodNotAllowed(request.method, READING)
    return await handler(request)


async def _redirect(request: web.Request) -> web.Response:
    return _redirection(f"{request.rel_url.raw_path}/", request)


@web.middleware
async def _clean_path(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Redirect a request for //a/./b to /a/b, as the original's server does."""
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
    # Quoted: some clients treat a backslash as a slash, and two of them as the start of a host's name.
    target = quote(path, safe=_PATH_CHARS) + (f"?{query}" if query else "")
    return web.Response(status=307, headers={"Location": target})


async def _not_first(request: web.Request) -> web.Response:
    """Refuse a take-over that is not the first request: aiohttp may have read the bytes after it."""
    connection = connection_of(request)
    if connection is None or request.path not in connection.take_overs:
        raise web.HTTPNotFound
    response = answers.error(400, "only the first request of a connection can be taken over: open a new one")
    response.force_close()
    return response


async def _trim_headers(_request: web.Request, response: web.StreamResponse) -> None:
    # Clients need not know the server's software and version.
    response.headers.pop("Server", None)
