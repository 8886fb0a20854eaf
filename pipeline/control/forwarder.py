"""The list of port forwards: what may be asked, in which words it is refused, and what is open.

Checks a request as gvproxy does and lets the listen worker bind the address; a forward is
in the list exactly when that worker has it. The key of a forward is its protocol and the
text of its local address. Moves no traffic.
"""

import asyncio
import ipaddress
from typing import Any, Final, NamedTuple

from pipeline.control.channel import RefusedError, Request
from pipeline.control.gotext import GoError, parse_uint, split_host_port, split_scheme

WORKER: Final = "listen"
MAX_FORWARDS: Final = 4096
"""Each one costs a descriptor of the listen worker, and a guest may ask for them."""


class ForwardError(Exception):
    """A forward that cannot be opened or closed; the text is for the client."""


class Forward(NamedTuple):
    """One open forward, texts as asked for. The order of fields is that of the API's JSON."""

    local: str
    remote: str
    protocol: str
    proxy_protocol: str = ""


def resolve_remote(remote: str, client: str) -> str:
    """The remote of a tcp or udp forward: an empty host means the client's own. Raises GoError."""
    host, _ = split_host_port(remote)
    return remote if host else split_host_port(client)[0] + remote


class Forwarder:
    """All forwards. One change at a time: two requests for one address cannot both succeed."""

    def __init__(self, request: Request) -> None:
        self._request = request
        self._forwards: dict[tuple[str, str], Forward] = {}
        self._lock = asyncio.Lock()

    def all(self) -> list[Forward]:
        """Sorted by local address, then protocol."""
        return sorted(self._forwards.values(), key=lambda forward: (forward.local, forward.protocol))

    async def expose(self, protocol: str, local: str, remote: str, proxy_protocol: str = "") -> None:
        """Open a forward; remote has its host. ForwardError in the API's words, or RequestError.

        proxy_protocol: "v1" or "v2" lets the guest see the client's address, in a PROXY header.
        """
        async with self._lock:
            key = (protocol, local)
            if key in self._forwards:
                raise ForwardError(f"proxy already running for {protocol} on {local}")
            target = _target(protocol, remote)
            version = _proxy_version(protocol, proxy_protocol)
            if len(self._forwards) >= MAX_FORWARDS:
                raise ForwardError(f"there are {MAX_FORWARDS} forwards already")
            op: dict[str, Any] = {"op": "expose", "protocol": protocol, "local": local, "remote": target}
            if version:
                op["proxy"] = version
            try:
                await self._request(WORKER, op)
            except RefusedError as error:
                raise ForwardError(str(error)) from None
            self._forwards[key] = Forward(local, remote, protocol, proxy_protocol)

    async def unexpose(self, protocol: str, local: str) -> None:
        """Close a forward; its connections live on. Errors as of expose."""
        async with self._lock:
            if (protocol, local) not in self._forwards:
                raise ForwardError("proxy not found")
            try:
                await self._request(WORKER, {"op": "unexpose", "protocol": protocol, "local": local})
            except RefusedError as error:
                raise ForwardError(str(error)) from None
            del self._forwards[protocol, local]


def _target(protocol: str, remote: str) -> str:
    """The remote as the listen worker takes it: ``ip:port``, for unix ``tcp://ip:port``."""
    match protocol:
        case "tcp" | "udp":
            return _guest_address(remote)
        case "unix":
            return f"tcp://{_unix_target(remote)}"
        case "npipe":
            raise ForwardError("named pipes are not supported by this platform")
    raise ForwardError(f"unknown protocol {protocol}")


def _proxy_version(protocol: str, text: str) -> int:
    if text not in ("", "v1", "v2"):
        raise ForwardError(f"unknown proxy_protocol {text} (allowed: v1, v2)")
    if text and protocol == "udp":
        raise ForwardError("proxy_protocol is for connections, not for udp")
    return int(text[1:]) if text else 0


def _unix_target(remote: str) -> str:
    try:
        scheme, rest = split_scheme(remote)
    except GoError as error:
        raise ForwardError(f"failed to parse remote uri :{remote} : {error}") from None
    if scheme != "tcp":
        raise ForwardError(f"remote protocol for unix forwarder is not implemented: {scheme}")
    return _guest_address(rest.removeprefix("//").partition("/")[0])


def _guest_address(text: str) -> str:
    host, colon, port_text = text.partition(":")
    if not colon or ":" in port_text:
        raise ForwardError("invalid remote addr")
    try:
        port = parse_uint(port_text, 16)
    except GoError as error:
        raise ForwardError(str(error)) from None
    try:
        ip = ipaddress.IPv4Address(host)
    except ValueError:
        raise ForwardError(f"invalid remote addr: {host} is not an IPv4 address") from None
    return f"{ip}:{port}"
