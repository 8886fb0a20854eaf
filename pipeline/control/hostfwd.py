"""slirp4netns' API socket: opens, lists and closes forwards with one JSON request for each connection.

::

    {"execute": "add_hostfwd", "arguments": {"proto": "tcp", "host_addr": "0.0.0.0", "host_port": 8080,
     "guest_addr": "10.0.2.100", "guest_port": 80}}                      {"return":{"id":1}}
    {"execute": "list_hostfwd"}                                          {"return":{"entries":[...]}}
    {"execute": "remove_hostfwd", "arguments": {"id": 1}}                {"return":{}}
    anything else                                                        {"error":{"desc":"bad request: ..."}}

The texts of errors are slirp4netns', since callers may compare them. The socket is for the user who has
started the program alone, so there is no other check of who asks.
"""

import asyncio
import ipaddress
import json
import socket
from contextlib import suppress
from typing import Final, NamedTuple

from pipeline.control.forward_texts import ForwardError
from pipeline.control.forwarder import Forwarder
from pipeline.control.workers import RequestError

MAX_REQUEST: Final = 4095
"""Bytes of the longest request."""
PATIENCE: Final = 1.0
"""Seconds that the rest of a request may take which is not valid JSON so far."""
MAX_WAIT: Final = 30.0
"""Seconds until a client that sends nothing is closed."""
_PROTOCOLS: Final = {"tcp": "tcp4", "udp": "udp4"}
_MAX_PORT: Final = 0xFFFF


class BadRequestError(Exception):
    """The request is refused. The text follows ``bad request: ``."""


class HostForward(NamedTuple):
    """One forward, with the names that its JSON has."""

    id: int
    proto: str
    host_addr: str
    host_port: int
    guest_addr: str
    guest_port: int

    @property
    def local(self) -> str:
        """The address on the host as the forwarder has it."""
        return f"{self.host_addr}:{self.host_port}"


class HostForwards:
    """The forwards that this API has opened, and its requests."""

    def __init__(self, forwarder: Forwarder, guest_addr: str) -> None:
        """guest_addr: the address of forwards whose request names none."""
        self._forwarder = forwarder
        self._guest_addr = guest_addr
        self._by_id: dict[int, HostForward] = {}
        self._last_id = 0

    async def answer(self, request: bytes) -> bytes:
        """The answer to one request."""
        try:
            answer: dict[str, object] = {"return": await self._execute(request)}
        except BadRequestError as error:
            answer = {"error": {"desc": f"bad request: {error}"}}
        return json.dumps(answer, separators=(",", ":")).encode()

    async def _execute(self, request: bytes) -> dict[str, object]:
        if len(request) > MAX_REQUEST:
            raise BadRequestError("too large message")
        try:
            asked = json.loads(request)
        except (ValueError, RecursionError):
            raise BadRequestError("cannot parse JSON") from None
        if not isinstance(asked, dict):
            raise BadRequestError("json_object() failed")
        arguments = asked.get("arguments")
        fields = arguments if isinstance(arguments, dict) else {}
        match asked.get("execute"):
            case "add_hostfwd":
                return {"id": await self._add(fields)}
            case "list_hostfwd":
                return {"entries": [forward._asdict() for forward in self._by_id.values()]}
            case "remove_hostfwd":
                await self._remove(fields.get("id"))
                return {}
            case str():
                raise BadRequestError("unknown execute")
        raise BadRequestError("no execute found")

    async def _add(self, fields: dict[str, object]) -> int:
        proto = fields.get("proto")
        if proto not in _PROTOCOLS:
            raise _bad("proto")
        forward = HostForward(
            self._last_id + 1,
            str(proto),
            _address(fields, "host_addr", "0.0.0.0"),
            _port(fields, "host_port"),
            _address(fields, "guest_addr", self._guest_addr),
            _port(fields, "guest_port"),
        )
        remote = f"{forward.guest_addr}:{forward.guest_port}"
        try:
            await self._forwarder.expose(_PROTOCOLS[forward.proto], forward.local, remote)
        except (ForwardError, RequestError):
            raise BadRequestError("add_hostfwd: slirp_add_hostfwd failed") from None
        # Another request may have got this number meanwhile.
        self._last_id += 1
        self._by_id[self._last_id] = forward._replace(id=self._last_id)
        return self._last_id

    async def _remove(self, number: object) -> None:
        known = isinstance(number, int | float) and not isinstance(number, bool) and number in self._by_id
        if not known:
            raise BadRequestError("remove_hostfwd: bad arguments.id")
        forward = self._by_id.pop(int(number))  # type: ignore[call-overload]
        try:
            await self._forwarder.unexpose(_PROTOCOLS[forward.proto], forward.local)
        except (ForwardError, RequestError):
            self._by_id[forward.id] = forward
            raise BadRequestError("remove_hostfwd: slirp_remove_hostfwd failed") from None


class HostForwardServer:
    """Serves the requests on a listening socket."""

    def __init__(self, forwards: HostForwards) -> None:
        self._forwards = forwards
        self._server: asyncio.Server | None = None

    async def listen(self, listener: socket.socket) -> None:
        """Serve until close(). The socket is this object's from now on."""
        self._server = await asyncio.start_unix_server(self._serve, sock=listener, limit=2 * MAX_REQUEST)

    def close(self) -> None:
        """Accept no more clients."""
        if self._server is not None:
            self._server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError, TimeoutError):
            try:
                async with asyncio.timeout(MAX_WAIT):
                    writer.write(await self._forwards.answer(await _read(reader)))
                    await writer.drain()
            finally:
                writer.close()


async def _read(reader: asyncio.StreamReader) -> bytes:
    """One request: until it is valid, the client ends it, or it is too long or too slow."""
    request = await reader.read(MAX_REQUEST + 1)
    with suppress(TimeoutError):
        async with asyncio.timeout(PATIENCE):
            while len(request) <= MAX_REQUEST and not _is_json(request):
                part = await reader.read(MAX_REQUEST + 1 - len(request))
                if not part:
                    break
                request += part
    return request


def _is_json(request: bytes) -> bool:
    try:
        json.loads(request)
    except (ValueError, RecursionError):
        return False
    return True


def _bad(name: str) -> BadRequestError:
    return BadRequestError(f"add_hostfwd: bad arguments.{name}")


def _address(fields: dict[str, object], name: str, absent: str) -> str:
    text = fields.get(name) or absent
    try:
        return str(ipaddress.IPv4Address(text if isinstance(text, str) else ""))
    except ValueError:
        raise _bad(name) from None


def _port(fields: dict[str, object], name: str) -> int:
    number = fields.get(name)
    if isinstance(number, bool) or not isinstance(number, int | float) or not 1 <= number <= _MAX_PORT:
        raise _bad(name)
    return int(number)
