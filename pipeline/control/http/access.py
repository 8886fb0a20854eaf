"""Who may use the HTTP API: the token of the endpoints on the host, and what guests may do.

Without a token file, every client that can open an endpoint on the host may use it. The permissions of the
socket's file protect it. ``/connect`` needs no token, since guests attach there. Web pages are refused
(web_pages.py).

Guests have no token. The configuration says what they may ask of the forwarder. A guest may not close a
forward that somebody else opened, nor open one that leads to another guest. Otherwise a guest could make the
host's port 2222 lead to itself.
"""

import ipaddress
import socket
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

import structlog

from pipeline.config.model import GuestApi
from pipeline.control.forward_texts import leads_to
from pipeline.control.forwarder import Forward
from pipeline.control.http import web_pages
from pipeline.control.lookup import port_number
from pipeline.go.text import GoError, split_host_port
from pipeline.system import inet, small_file

UNAUTHORIZED: Final = "unauthorized: this endpoint needs a bearer token"

_UNAUTHORIZED: Final = "api_request_refused_token"
_REFUSED: Final = "api_request_refused_guest"
_WEB_PAGE: Final = "api_request_refused_web_page"


Has = Callable[[str], Awaitable[bool]]
"""Whether the guest that asks has this address."""


class AccessError(Exception):
    """A request that is refused: HTTP status and text for the client."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


class TokenError(Exception):
    """The token's file cannot be used. The text names it and says why."""


class Access:
    """The rules. ``count`` is called with a counter's name for each refusal."""

    def __init__(
        self,
        log: structlog.typing.FilteringBoundLogger,
        *,
        token: str = "",
        guests: GuestApi | None = None,
        count: Callable[[str], None] | None = None,
    ) -> None:
        """token: "" means that none is needed. guests: what guests may do, by default what GuestApi says."""
        self._log = log
        self._token = token.encode()
        self.set_guests(GuestApi() if guests is None else guests)
        self._count = count

    def set_guests(self, guests: GuestApi) -> None:
        """What guests may do from now on. Forwards that they have opened stay."""
        self._guests = guests
        self._networks = [ipaddress.ip_network(text) for text in guests.addresses]

    def check_host(self, authorization: str, client: str) -> None:
        """Raise AccessError unless the Authorization header of a request on the host has the token."""
        if not self._token:
            return
        import hmac  # noqa: PLC0415  it loads OpenSSL, and without a token nothing needs it

        scheme, _, token = authorization.strip().partition(" ")
        given = token.strip().encode("utf-8", "surrogateescape")
        if scheme.lower() != "bearer" or not hmac.compare_digest(given, self._token):
            self._refuse(_UNAUTHORIZED, client, "no valid token")
            raise AccessError(401, UNAUTHORIZED)

    def refuse_session(self, client: str, why: str) -> AccessError:
        """Count and log a request without a session of the web page. Returns the error to raise."""
        self._refuse(_UNAUTHORIZED, client, why)
        return AccessError(401, why)

    def check_web_page(
        self,
        client: str,
        hosts: Sequence[str],
        origins: Sequence[str],
        sites: Sequence[str],
        agents: Sequence[str] = (),
        *,
        guest: bool = False,
    ) -> None:
        """Raise AccessError for a request that a web page may have sent (see web_pages.refusal)."""
        if why := web_pages.refusal(hosts, origins, sites, agents, guest=guest):
            self._refuse(_WEB_PAGE, client, why)
            raise AccessError(403, why)

    def check_guest(self, client: str) -> None:
        """Raise AccessError unless guests may use the forwarder at all."""
        if not self._guests.enabled:
            raise self._forbid(client, "guests may not use the port forwarder")

    async def check_guest_expose(self, client: str, has: Has, protocol: str, local: str, remote: str) -> None:
        """Raise AccessError unless this guest may open the forward, ForwardError for a remote that is wrong.

        has: tells whether the guest has an address. remote has its host.
        """
        address, over_ssh = leads_to(protocol, remote)
        if over_ssh and not self._guests.ssh:
            raise self._forbid(client, "guests may not forward over ssh")
        self.check_guest_forward(client, protocol, local)
        if not self._guests.others and not await has(address):
            raise self._forbid(client, f"guests may not forward to another address than their own, {address}")

    async def check_guest_unexpose(
        self, client: str, has: Has, protocol: str, local: str, open_one: Forward | None
    ) -> None:
        """Raise AccessError unless this guest may close the forward. open_one: that one, if it is open."""
        self.check_guest_forward(client, protocol, local)
        if self._guests.others or open_one is None:
            return
        if not await has(open_one.opened_by):
            raise self._forbid(client, "guests may not close a forward that they have not opened")

    def check_guest_forward(self, client: str, protocol: str, local: str) -> None:
        """Raise AccessError unless guests may open or close a forward on this local address."""
        if protocol == "unix":
            if not self._guests.unix:
                raise self._forbid(client, "guests may not forward unix sockets of the host")
            return
        if not self._networks and not self._guests.ports:
            return
        try:
            host, port_text = split_host_port(local)
            number = port_number(protocol, port_text)
            port = -1 if number is None else number
            # No host means the wildcard.
            address = ipaddress.ip_address(host or inet.WILDCARDS[0])
        except (GoError, ValueError):
            raise self._forbid(client, f"guests may forward numeric addresses only, not {local}") from None
        ranges = self._guests.ports
        if ranges and not any(low <= port <= high for low, high in ranges):
            raise self._forbid(client, f"guests may not forward port {port_text} of the host")
        if self._networks and not self._allows(protocol, address):
            half = inet.is_wildcard(str(address)) and any(net.prefixlen == 0 for net in self._networks)
            hint = f" for {protocol}, which is IPv4 and IPv6" if half and protocol in ("tcp", "udp") else ""
            raise self._forbid(client, f"guests may not forward the host's address {address}{hint}")

    def _allows(self, protocol: str, address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
        if inet.is_wildcard(str(address)):
            # A guest may use it only if it may use every address of each family that the socket has.
            versions = {6 if family == socket.AF_INET6 else 4 for family in inet.families(protocol)}
            return versions <= {net.version for net in self._networks if net.prefixlen == 0}
        mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
        return any((mapped or address) in network for network in self._networks)

    def _forbid(self, client: str, why: str) -> AccessError:
        self._refuse(_REFUSED, client, why)
        return AccessError(403, why)

    def _refuse(self, counter: str, client: str, why: str) -> None:
        if self._count is not None:
            self._count(counter)
        self._log.warning("API request refused", client=client, why=why)


def read_token(path: str) -> str:
    """The token in a file, "" when there is no path. An empty file is a TokenError, not "no token"."""
    if not path:
        return ""
    try:
        token = small_file.read(path).decode("ascii").strip()
    except (OSError, ValueError, small_file.FileError) as error:
        raise TokenError(f"token file {path} cannot be read: {error}") from error
    if not token:
        raise TokenError(f"token file {path} is empty (allowed: one word)")
    return token
