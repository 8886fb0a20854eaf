"""All endpoints of the API: which paths each of them serves, and to whom.

An endpoint is a listening socket with a front door (front.py). Clients of one kind share a server
(servers.py). Guests reach the API without a listening socket: on the gateway's port 80.
"""

import socket
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Final

import structlog

from pipeline.control.http.access import Access
from pipeline.control.http.connection import Server
from pipeline.control.http.front import MAX_CONNECTIONS, Front, TakeOver
from pipeline.control.http.servers import (
    ATTACHING,
    BROWSERS,
    BROWSERS_MONITORING,
    GUEST,
    HOST,
    MONITORING,
    Servers,
)
from pipeline.control.http.takeover import CAPTURE, CONNECT, TUNNEL, Capture, Connect, Tunnel
from pipeline.control.workers import Request
from pipeline.system import descriptor_limit

if TYPE_CHECKING:
    from pipeline.control.http.api import Api

CONNECTIONS_PART: Final = 4
"""Connections of the API may have one part in this many of the descriptors, for each endpoint."""
_MACHINES: Final = tuple(getattr(socket, name, None) for name in ("AF_VSOCK", "AF_HYPERV"))
"""Families of sockets whose clients are virtual machines."""


class Fronts:
    """The endpoints of one network. Listening sockets stay the caller's."""

    def __init__(
        self,
        request: Request,
        make_api: Callable[[], "Api"],
        access: Access,
        log: structlog.typing.FilteringBoundLogger,
        count: Callable[[str], None],
    ) -> None:
        """request: asks a worker. make_api: called when the first request comes. count: counts by name."""
        self._request = request
        self._access = access
        self._log = log
        self._count = count
        self._servers = Servers(make_api)
        self._fronts: list[Front] = []
        self._guest_front: Front | None = None

    def serve(self, listener: socket.socket, *, guests: bool) -> None:
        """Serve the API. guests: serve /connect too.

        A client of a socket for guests that comes from a virtual machine (vsock) is a guest. It has the API
        of the gateway's port 80.
        """
        browsers = _is_tcp(listener)
        only_guests = guests and listener.family in _MACHINES
        parts = (self._request, self._log, self._access)
        paths: dict[str, TakeOver] = {}
        if guests:
            paths[CONNECT] = Connect(*parts, browsers=browsers)
        if not only_guests:
            paths[TUNNEL] = Tunnel(*parts, browsers=browsers)
            paths[CAPTURE] = Capture(*parts, browsers=browsers)
        kind = GUEST if only_guests else BROWSERS if browsers else HOST
        self._listen(self._front(self._servers.server(kind), paths), listener)

    def serve_connect(self, listener: socket.socket) -> None:
        """Let guests attach. The endpoint has nothing of the API."""
        connect = Connect(self._request, self._log, self._access, browsers=_is_tcp(listener))
        self._listen(self._front(self._servers.server(ATTACHING), {CONNECT: connect}), listener)

    def serve_metrics(self, listener: socket.socket) -> None:
        """Serve what monitors read, and nothing else."""
        kind = BROWSERS_MONITORING if _is_tcp(listener) else MONITORING
        self._listen(self._front(self._servers.server(kind), {}), listener)

    def serve_web(self, listener: socket.socket, on_token: Callable[[str], None]) -> None:
        """Serve the page for browsers. on_token: called with each token that opens the page."""
        from pipeline.control.web.login import Login  # noqa: PLC0415  not without -web

        login = Login(listener.getsockname()[1], on_token)
        self._listen(self._front(self._servers.page(login), {}), listener)
        login.renew()

    # --- guests ---------------------------------------------------------------------------

    def open_to_guests(self) -> None:
        """Serve the gateway's port 80 from now on."""
        self._guest_front = self._front(self._servers.server(GUEST), {})

    @property
    def is_open_to_guests(self) -> bool:
        """Whether serve_guest() may be called."""
        return self._guest_front is not None

    def serve_guest(self, sock: socket.socket, client: str, guest: int) -> None:
        """Serve a connection to port 80, which becomes this object's.

        client: ``ip:port``. guest: its number.
        """
        assert self._guest_front is not None
        self._guest_front.serve(sock, client, guest)

    def guest_connections(self) -> dict[int, int]:
        """How many connections each guest has, by its number."""
        return self._guest_front.seats.sums() if self._guest_front is not None else {}

    # --- all ------------------------------------------------------------------------------

    def pause(self) -> None:
        """Let new connections wait."""
        for front in self._fronts:
            front.pause()

    def go_on(self) -> None:
        """Accept connections again."""
        for front in self._fronts:
            front.go_on()

    async def close(self) -> None:
        """End every connection."""
        for front in (*self._fronts, self._guest_front):
            if front is not None:
                await front.close()

    async def close_servers(self) -> None:
        """End what has served the connections. After close()."""
        await self._servers.close()

    def _front(self, server: Server, take_overs: Mapping[str, TakeOver]) -> Front:
        descriptors = descriptor_limit.soft()
        most = MAX_CONNECTIONS if descriptors < 0 else min(MAX_CONNECTIONS, descriptors // CONNECTIONS_PART)
        return Front(server, take_overs, self._log, max_connections=max(1, most), count=self._count)

    def _listen(self, front: Front, listener: socket.socket) -> None:
        self._fronts.append(front)
        front.listen(listener)


def _is_tcp(listener: socket.socket) -> bool:
    """Whether browsers can reach it."""
    return listener.family in (socket.AF_INET, socket.AF_INET6)
