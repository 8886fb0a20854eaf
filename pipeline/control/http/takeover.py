"""The paths that are taken over from HTTP: ``/connect``, ``/tunnel`` and ``/capture``.

``/connect`` becomes a guest link: no answer is written, and frames follow in both directions.
``/tunnel?ip=A&port=N`` becomes a connection to a guest: the two bytes ``OK`` are written before the guest is
dialled, then the socket goes to the listen worker. ``/capture`` is answered by ingress, which writes the
head of the answer and then a capture that ends with the connection. No path looks at method or body. This
process closes its socket as soon as the worker has its own.
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
from pipeline.ipc import forward_messages, messages

CONNECT: Final = "/connect"
TUNNEL: Final = "/tunnel"
CAPTURE: Final = "/capture"
OFFLOAD_HEADER: Final = "gvtap-offload"
"""Header of a request for /connect: the guest asks for an extension of the protocol (docs/offload.md)."""
MAX_OFFLOAD_TEXT: Final = 200
CAPTURE_KEYS: Final = ("guest", "host", "port", "protocol", "drops", "snaplen")
MAX_SNAPLEN: Final = 262144
MAX_CAPTURE_FIELDS: Final = 1024
_CAPTURE_HEAD: Final = (
    b"HTTP/1.1 200 OK\r\nContent-Type: application/x-pcapng\r\nX-Content-Type-Options: nosniff\r\n"
    b"Connection: close\r\n\r\n"
)


class _Handler:
    """What all take-overs have: the way to the workers, and the check of a client."""

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

    def _check_browser(self, taken: Taken) -> None:
        """Refuse a web page, where browsers can reach the endpoint. Raises AccessError."""
        if self._browsers:
            head = taken.head
            fields = (head.values(name) for name in ("host", "origin", "sec-fetch-site", "user-agent"))
            self._access.check_web_page(taken.client, *fields)


class Connect(_Handler):
    """Hands guest links to the ingress worker, 2-byte little-endian framing."""

    async def __call__(self, taken: Taken) -> None:
        """Attach the link. Close it if it cannot be attached, and refuse a web page."""
        try:
            self._check_browser(taken)
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


class Tunnel(_Handler):
    """Hands connections for guests to the listen worker."""

    async def __call__(self, taken: Taken) -> None:
        """Answer a bad query with 500. Answer any other with ``OK``, and connect it to the guest."""
        try:
            self._check_browser(taken)
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
                await self._request("listen", forward_messages.Tunnel(ip, port, taken.rest), [taken.sock])
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


class Capture(_Handler):
    """Hands clients that want a capture to the ingress worker."""

    async def __call__(self, taken: Taken) -> None:
        """Begin the capture. Answer a bad query with 400, one capture too many with 429."""
        try:
            self._check_browser(taken)
            self._access.check_host(taken.head.header("authorization"), taken.client)
            refused = await self._ask(capture_of(taken.head.query), taken)
        except GoError as error:
            refused = _error_response("400 Bad Request", str(error))
        except AccessError as error:
            refused = _refusal(error)
        except RequestError as error:
            self._log.error("capture not started", client=taken.client, error=str(error))
            refused = _error_response("500 Internal Server Error", str(error))
        if refused:
            await close_with(taken.sock, refused, self._log)

    async def _ask(self, ask: messages.LiveCapture, taken: Taken) -> bytes:
        """Ask ingress. Returns the answer to a client that was refused, and nothing if it has its capture."""
        found = await self._request("ingress", ask, [taken.sock])
        answer = messages.LiveCaptureAnswer.decode(found)
        if answer.refused is not None:
            status = HTTPStatus.TOO_MANY_REQUESTS if answer.busy else HTTPStatus.BAD_REQUEST
            return _error_response(f"{status.value} {status.phrase}", answer.refused)
        taken.sock.close()
        return b""


def capture_of(query: str) -> messages.LiveCapture:
    """The request for ingress in a query such as ``guest=192.168.127.2&port=53&port=80``. Raises GoError."""
    try:
        keys = parse_qs(query, keep_blank_values=True, max_num_fields=MAX_CAPTURE_FIELDS)
    except ValueError:
        raise GoError(f"too many keys (allowed: {MAX_CAPTURE_FIELDS})") from None
    for key in keys:
        if key not in CAPTURE_KEYS:
            raise GoError(f"unknown key {key[:100]!r} (allowed: {', '.join(CAPTURE_KEYS)})")
    drops = keys.get("drops", ["0"])[-1]
    if drops not in ("0", "1"):
        raise GoError(f"drops {drops[:100]!r} is wrong (allowed: 0, 1)")
    text = keys.get("snaplen", ["0"])[-1]
    snaplen = int(text) if text.isascii() and text.isdigit() and len(text) < 10 else -1
    if not 0 <= snaplen <= MAX_SNAPLEN:
        raise GoError(f"snaplen {text[:100]!r} is wrong (allowed: 1 to {MAX_SNAPLEN}, 0 for whole frames)")
    guests, hosts, ports, protocols = (keys.get(key, []) for key in ("guest", "host", "port", "protocol"))
    return messages.LiveCapture(
        _CAPTURE_HEAD, guests, hosts, ports, protocols, drops == "1", snaplen or MAX_SNAPLEN
    )


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
        return str(ipaddress.ip_address(ip)), port
    except ValueError:
        raise GoError(f"invalid IP address: {ip}") from None


def _error_response(status: str, text: str) -> bytes:
    body = f"{text}\n".encode()
    head = (
        f"HTTP/1.1 {status}\r\nContent-Type: text/plain; charset=utf-8\r\n"
        f"X-Content-Type-Options: nosniff\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    )
    return head.encode() + body
