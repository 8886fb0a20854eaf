"""The two paths after which a connection stops being HTTP: ``/connect`` and ``/tunnel``.

``/connect`` becomes a guest link: no answer is written, and frames follow in both directions.
``/tunnel?ip=A&port=N`` becomes a connection to a guest: the two bytes ``OK`` are written before the guest is
dialled, then the socket goes to the listen worker. Neither path looks at method or body. This process
closes its socket as soon as the worker has its own.
"""

import asyncio
import ipaddress
from http import HTTPStatus
from typing import Final
from urllib.parse import parse_qs

import structlog

from pipeline.control.http.access import Access, AccessError
from pipeline.control.http.connection import TIMEOUT
from pipeline.control.http.front import Taken, close_with
from pipeline.control.workers import Request, RequestError
from pipeline.go.text import GoError, parse_uint
from pipeline.ipc import messages

CONNECT: Final = "/connect"
TUNNEL: Final = "/tunnel"
OFFLOAD_HEADER: Final = "gvtap-offload"
"""Header of a request for /connect: the guest asks for an extension of the protocol (docs/offload.md)."""
MAX_OFFLOAD_TEXT: Final = 200


class Connect:
    """Hands guest links to the ingress worker, 2-byte little-endian framing."""

    def __init__(
        self,
        request: Request,
        log: structlog.typing.FilteringBoundLogger,
        access: Access | None = None,
        *,
        browsers: bool = False,
    ) -> None:
        """browsers: they can reach the endpoint."""
        self._request = request
        self._log = log
        self._access = Access(log) if access is None else access
        self._browsers = browsers

    async def __call__(self, taken: Taken) -> None:
        """Attach the link. Close it if it cannot be attached, and refuse a web page."""
        try:
            if self._browsers:
                _check_web_page(self._access, taken)
        except AccessError as error:
            await close_with(taken.sock, _refusal(error), self._log)
            return
        versions = taken.head.header(OFFLOAD_HEADER)[:MAX_OFFLOAD_TEXT]
        attach = messages.Attach(taken.rest, taken.client, "le16", versions or None)
        try:
            await self._request("ingress", attach, [taken.sock])
        except RequestError as error:
            self._log.error("guest link not attached", client=taken.client, error=str(error))
        finally:
            taken.sock.close()


class Tunnel:
    """Hands connections for guests to the listen worker."""

    def __init__(
        self,
        request: Request,
        log: structlog.typing.FilteringBoundLogger,
        access: Access | None = None,
        *,
        browsers: bool = False,
    ) -> None:
        """browsers: they can reach the endpoint."""
        self._request = request
        self._log = log
        self._access = Access(log) if access is None else access
        self._browsers = browsers

    async def __call__(self, taken: Taken) -> None:
        """Answer a bad query with 500. Answer any other with ``OK``, and connect it to the guest."""
        try:
            if self._browsers:
                _check_web_page(self._access, taken)
            self._access.check_host(taken.head.header("authorization"), taken.client)
            ip, port = _destination(taken.head.query)
        except GoError as error:
            answer = _error_response("500 Internal Server Error", str(error))
            await close_with(taken.sock, answer, self._log)
            return
        except AccessError as error:
            await close_with(taken.sock, _refusal(error), self._log)
            return
        try:
            if await self._confirm(taken):
                await self._request("listen", messages.Tunnel(ip, port, taken.rest), [taken.sock])
        except RequestError as error:
            self._log.error("tunnel not opened", client=taken.client, to=f"{ip}:{port}", error=str(error))
        finally:
            taken.sock.close()

    async def _confirm(self, taken: Taken) -> bool:
        """Write the OK. Returns whether the client took it."""
        try:
            async with asyncio.timeout(TIMEOUT):
                await asyncio.get_running_loop().sock_sendall(taken.sock, b"OK")
        except (OSError, TimeoutError) as error:
            self._log.debug("tunnel's client is gone", client=taken.client, error=str(error))
            return False
        return True


def _check_web_page(access: Access, taken: Taken) -> None:
    head = taken.head
    fields = (head.values(name) for name in ("host", "origin", "sec-fetch-site", "user-agent"))
    access.check_web_page(taken.client, *fields)


def _refusal(error: AccessError) -> bytes:
    status = f"{error.status} {HTTPStatus(error.status).phrase}"
    if error.status == HTTPStatus.UNAUTHORIZED:
        status += "\r\nWWW-Authenticate: Bearer"
    return _error_response(status, str(error))


def _destination(query: str) -> tuple[str, int]:
    keys = parse_qs(query, keep_blank_values=True)
    ip = keys.get("ip", [""])[0]
    if not ip:
        raise GoError("ip is mandatory")
    port = parse_uint(keys.get("port", [""])[0], 16)
    try:
        return str(ipaddress.IPv4Address(ip)), port
    except ValueError:
        raise GoError(f"invalid IP address: {ip}") from None


def _error_response(status: str, text: str) -> bytes:
    body = f"{text}\n".encode()
    head = (
        f"HTTP/1.1 {status}\r\nContent-Type: text/plain; charset=utf-8\r\n"
        f"X-Content-Type-Options: nosniff\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    )
    return head.encode() + body
