"""The endpoint of -web: a page for browsers, its sessions, and the paths of the API that it asks.

Everybody who reaches the endpoint gets the files of the page, which hold no secret. All other paths need a
session (login.py). Nobody else's page may use or frame this one: there is no CORS, the Host must be an
address or localhost (web_pages.py), and the headers below forbid frames and everything from outside.
"""

from importlib import resources
from pathlib import PurePath
from typing import Final

from aiohttp import web

from pipeline.control.http.access import Access
from pipeline.control.http.answers import READING
from pipeline.control.http.api import Api, WebFields
from pipeline.control.web.login import Login

SESSION: Final = "/session"
PAGE: Final = "index.html"
TYPES: Final = {
    ".html": "text/html",
    ".css": "text/css",
    ".js": "text/javascript",
    ".svg": "image/svg+xml",
}
POLICY: Final = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self'",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        # No text may become HTML or code, not even by mistake.
        "require-trusted-types-for 'script'",
        "trusted-types 'none'",
    )
)
HEADERS: Final = {
    "Content-Security-Policy": POLICY,
    "X-Frame-Options": "DENY",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}
"""Of every answer."""
WRONG_TOKEN: Final = "unauthorized: this token is wrong, or was used before"
NO_SESSION: Final = "unauthorized: open the address that the daemon's log shows"
_BEARER: Final = "bearer"


class Site:
    """The page's files and sessions."""

    def __init__(self, access: Access, login: Login) -> None:
        self._access = access
        self._login = login
        self._files = _read_files()

    def application(self, api: Api) -> web.Application:
        """The endpoint's application."""
        own = {**dict.fromkeys(self._files, self._file), SESSION: self._session}
        app = api.page(self._check, own)
        app.on_response_prepare.append(_add_headers)
        return app

    def _check(self, request: web.Request, client: str, fields: WebFields) -> None:
        """Raise AccessError unless the client may have this path."""
        if request.path in self._files and request.method in READING:
            # A link on another page may lead here: the files are the same for all.
            self._access.check_web_page(client, fields[0], (), ())
            return
        self._access.check_web_page(client, *fields)
        if request.path == SESSION and request.method == "POST":
            return
        if not self._login.is_valid(self._cookie(request), _bearer(request)):
            raise self._access.refuse_session(client, NO_SESSION)

    async def _file(self, request: web.Request) -> web.Response:
        if request.method not in READING:
            raise web.HTTPMethodNotAllowed(request.method, READING)
        body, kind = self._files[request.path]
        return web.Response(body=body, content_type=kind, charset="utf-8")

    async def _session(self, request: web.Request) -> web.Response:
        """POST: a session for a token. DELETE: its end."""
        if request.method == "DELETE":
            self._login.end(self._cookie(request))
            response = web.Response()
            response.del_cookie(self._login.cookie_name, httponly=True, samesite="Strict")
            return response
        if request.method != "POST":
            raise web.HTTPMethodNotAllowed(request.method, ("POST", "DELETE"))
        session = self._login.exchange(_bearer(request))
        if session is None:
            raise self._access.refuse_session(str(request.remote), WRONG_TOKEN)
        response = web.json_response({"key": session.key})
        response.set_cookie(self._login.cookie_name, session.cookie, httponly=True, samesite="Strict")
        return response

    def _cookie(self, request: web.Request) -> str:
        return request.cookies.get(self._login.cookie_name, "")


def _read_files() -> dict[str, tuple[bytes, str]]:
    """Path -> content and type of each file of the page. There is no other way from a path to a file."""
    found = {}
    for file in (resources.files("pipeline.control.web") / "static").iterdir():
        kind = TYPES.get(PurePath(file.name).suffix)
        if kind is not None:
            found["/" if file.name == PAGE else f"/{file.name}"] = file.read_bytes(), kind
    return found


def _bearer(request: web.Request) -> str:
    scheme, _, word = request.headers.get("Authorization", "").strip().partition(" ")
    return word.strip() if scheme.lower() == _BEARER else ""


async def _add_headers(_request: web.Request, response: web.StreamResponse) -> None:
    response.headers.update(HEADERS)
