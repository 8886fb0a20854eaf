"""The list of port forwards. It checks requests, and refuses them in gvproxy's words.

If the port of a local address is 0, the system chooses one. The list then has the chosen port.

The listen worker binds the address of a forward. For a forward over ssh, ssh/socket_forward.py does so. A
forward is in the list exactly when it is open there. Its key is its protocol and the text of its local
address. No traffic passes here.
"""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import replace
from typing import Final, NamedTuple

import structlog

from pipeline.config.limits import Limits
from pipeline.config.model import PortForward
from pipeline.control import forward_shares
from pipeline.control import forward_texts as texts
from pipeline.control.forward_shares import ForwardShares
from pipeline.control.forward_texts import ForwardError
from pipeline.control.hub import Hub
from pipeline.control.lookup import Lookups
from pipeline.control.ssh.destination import Destination, SocketError, SshError, host_path
from pipeline.control.ssh.forwards import SocketForwards
from pipeline.control.workers import RefusedError, Request, RequestError
from pipeline.go.text import GoError, split_host_port
from pipeline.host import listener
from pipeline.ipc import forward_messages, messages
from pipeline.system import inet, socket_file

WORKER: Final = "listen"
OPEN_TRIES: Final = 20
"""How often a forward is opened again at a successor of the listen worker."""
OPEN_AGAIN_S: Final = 0.05
_INET: Final = (*inet.TCP, *inet.UDP)
HOST: Final = "host"
"""``opened_by`` of a forward that the configuration or a client of the API on the host has opened."""
FLEET: Final = "fleet"
"""``opened_by`` of a forward that all hosts of a fleet open (docs/fleet.md)."""


class TooManyError(ForwardError):
    """A forward of a guest beyond its share or its rate."""


class Owner(NamedTuple):
    """Who opens or closes a forward: a guest by its address and number, or the host, or the fleet."""

    address: str = HOST
    guest: int = forward_shares.HOST


THE_HOST: Final = Owner()


class Forward(NamedTuple):
    """One open forward, texts as asked for.

    opened_by: a guest's address, HOST or FLEET. guest: the number of this guest. asked: the local address
    with port 0 that the client asked for, if the system chose the port of ``local``.
    """

    local: str
    remote: str
    protocol: str
    proxy_protocol: str = ""
    opened_by: str = HOST
    guest: int = forward_shares.HOST
    asked: str = ""


class Forwarder:
    """All forwards. One change at a time: two requests for one address cannot both succeed."""

    def __init__(
        self,
        request: Request,
        sockets: SocketForwards | None = None,
        hub: Hub | None = None,
        shares: ForwardShares | None = None,
        *,
        udp: bool = True,
    ) -> None:
        """sockets opens forwards over ssh; the listen worker opens all others. hub: gets the events.

        udp: whether forwards of UDP are allowed.
        """
        self._udp = udp
        self._shares = shares or ForwardShares(Limits(), lambda _name: None)
        self._request = request
        self._log: structlog.typing.FilteringBoundLogger = structlog.get_logger(worker="supervisor")
        self._hub = hub or Hub(lambda _watch: None, structlog.get_logger())
        self._sockets = sockets or SocketForwards(request, structlog.get_logger())
        self._forwards: dict[tuple[str, str], Forward] = {}
        self._numbered: dict[tuple[str, str], str] = {}
        """The local address for the worker, of each forward where it differs from the list's.

        The port may be a service's name, or the system has chosen it.
        """
        self._asked: dict[tuple[str, str], forward_messages.Expose] = {}
        """What opens each forward of the listen worker, with the chosen port."""
        self._chosen = 0
        """How many forwards had a port that the system chooses. Makes a name for each."""
        self._over_ssh: set[str] = set()
        self._lookups = {by_guest: Lookups() for by_guest in (False, True)}
        """By whether a guest asks: names that nobody answers for must not hold up the host's requests."""
        self._lock = asyncio.Lock()

    def all(self) -> list[Forward]:
        """Sorted by local address, then protocol."""
        return sorted(self._forwards.values(), key=lambda forward: (forward.local, forward.protocol))

    def check_rate(self, guest: int) -> None:
        """Count one wish to open or close a forward. Raises TooManyError beyond the guest's rate.

        The API calls it for guests before it asks other workers. expose() and unexpose() do not count.
        """
        if refusal := self._shares.refuses_change(guest, asyncio.get_running_loop().time()):
            raise TooManyError(refusal)

    async def expose(
        self, protocol: str, local: str, remote: str, proxy_protocol: str = "", *, owner: Owner = THE_HOST
    ) -> Forward:
        """Open a forward; remote has its host. ForwardError in the API's words, or RequestError.

        proxy_protocol: "v1" or "v2" lets the guest see the client's address, in a PROXY header.
        """
        if protocol in inet.UDP and not self._udp:
            raise ForwardError("udp is switched off for guests (disable: [udp])")
        made = Forward(local, remote, protocol, proxy_protocol, owner.address, owner.guest)
        # Before the lock: a slow name server delays no other request.
        found = await self._found(protocol, local, self._lookups[owner.address != HOST])
        async with self._lock:
            key = (protocol, local)
            if key in self._forwards:
                raise ForwardError(f"proxy already running for {protocol} on {local}")
            destination = texts.destination(protocol, remote)
            target = "" if destination is not None else texts.target(protocol, remote)
            version = texts.proxy_version(protocol, proxy_protocol)
            await self._make_room(owner)
            if destination is not None:
                if version:
                    raise ForwardError("proxy_protocol is not for forwards over ssh")
                await self._open_socket(local, destination)
                self._forwards[key] = made
                self._over_ssh.add(local)
                self._report("forward-opened", made, owner.address)
                return made
            made = await self._open(made, target, version or None, found)
            self._report("forward-opened", made, owner.address)
            return made

    async def _open(
        self, made: Forward, target: str, version: int | None, found: list[str] | None
    ) -> Forward:
        """Have the worker open a forward. Returns it as listed: if its port was 0, with the chosen port."""
        protocol, local = made.protocol, made.local
        numbered = name = texts.with_port_number(protocol, local)
        if any_port := protocol in _INET and texts.is_any_port(numbered):
            self._chosen += 1
            name = f"{numbered} {self._chosen}"
        elif any(
            kind == protocol and self._numbered.get((kind, text), text) == numbered
            for kind, text in self._forwards
        ):
            raise ForwardError(f"listen {protocol} {local}: bind: address already in use")
        asked = forward_messages.Expose(
            protocol, numbered, target, version, found, name if any_port else None
        )
        try:
            answer = forward_messages.ExposeAnswer.decode(await self._request(WORKER, asked))
        except RefusedError as error:
            raise ForwardError(str(error)) from None
        except RequestError:
            # The worker may still open it. It serves requests in order, so this one closes it again.
            with suppress(RequestError):
                await self._request(WORKER, forward_messages.Unexpose(protocol, name))
            raise
        if any_port and answer.port:
            made = made._replace(local=f"{local.rpartition(':')[0]}:{answer.port}", asked=local)
            asked = replace(asked, local=f"{numbered.rpartition(':')[0]}:{answer.port}")
        self._forwards[protocol, made.local] = made
        self._asked[protocol, made.local] = asked
        if name != made.local:
            self._numbered[protocol, made.local] = name
        return made

    async def open_again(self) -> None:
        """The listen worker has a successor: open all forwards there. One that cannot be opened is closed."""
        async with self._lock:
            for key, asked in list(self._asked.items()):
                try:
                    await self._open_again(asked)
                except (RefusedError, RequestError) as error:
                    forward = self._forwards.pop(key)
                    del self._asked[key]
                    self._numbered.pop(key, None)
                    self._report("forward-closed", forward, HOST)
                    self._log.error("a forward cannot be as it was", forward=forward.local, error=str(error))

    async def _open_again(self, asked: forward_messages.Expose) -> None:
        for tries in range(OPEN_TRIES, 0, -1):
            try:
                await self._request(WORKER, asked)
            except RefusedError:
                # An egress worker may close the port of a UDP forward a little later.
                if tries == 1:
                    raise
                await asyncio.sleep(OPEN_AGAIN_S)
            else:
                return

    async def expose_configured(self, forward: PortForward) -> None:
        """Open a forward of the configuration. Errors as of expose."""
        await self.expose(forward.protocol, forward.local, forward.remote, texts.proxy_text(forward))

    def opened(self) -> list[tuple[Forward, forward_messages.Expose | None]]:
        """All forwards, each with the request that opens it. None: over ssh."""
        return [(each, self._asked.get(key)) for key, each in self._forwards.items()]

    @property
    def turn(self) -> asyncio.Lock:
        """Who holds it is alone with the forwards."""
        return self._lock

    async def restore(self, forward: Forward, asked: forward_messages.Expose | None) -> bool:
        """Open a forward of a predecessor of this program. False: its address is another forward's now.

        Errors as of expose.
        """
        key = (forward.protocol, forward.local)
        async with self._lock:
            if key in self._forwards:
                return False
            if asked is None:
                found = texts.destination(forward.protocol, forward.remote)
                if found is None:
                    return False
                await self._open_socket(forward.local, found)
                self._over_ssh.add(forward.local)
            else:
                await self._request(WORKER, asked)
                self._asked[key] = asked
                if (name := asked.name or asked.local) != forward.local:
                    self._numbered[key] = name
                if asked.name and (number := asked.name.rpartition(" ")[2]).isdecimal():
                    self._chosen = max(self._chosen, int(number))
            self._forwards[key] = forward
            return True

    async def reserve(self, forward: PortForward, reserve: Callable[[forward_messages.Expose], None]) -> None:
        """Bind the address of a forward of the configuration that will be opened. Raises ForwardError.

        Nothing else is asked of the listen worker yet.
        """
        protocol, local = forward.protocol, forward.local
        found = await self._found(protocol, local, self._lookups[False])
        numbered = texts.with_port_number(protocol, local)
        if protocol in _INET and texts.is_any_port(numbered):
            return
        target = texts.target(protocol, forward.remote)
        try:
            reserve(
                forward_messages.Expose(protocol, numbered, target, forward.proxy_protocol or None, found)
            )
        except (listener.ListenError, OSError) as error:
            raise ForwardError(str(error)) from None

    def is_open(self, forward: PortForward) -> bool:
        """Whether a forward of the configuration is open as it is configured."""
        configured = Forward(forward.local, forward.remote, forward.protocol, texts.proxy_text(forward))
        # If the system chose the port, the list has the forward under that one.
        return any(
            each._replace(local=each.asked or each.local, asked="") == configured
            for each in self._forwards.values()
        )

    async def unexpose(
        self,
        protocol: str,
        local: str,
        *,
        owner: Owner = THE_HOST,
        check: Callable[[Forward | None], Awaitable[None]] | None = None,
    ) -> None:
        """Close a forward; its connections live on. Errors as of expose.

        A forward whose port the system chose is also found by the address that its owner asked for, if it is
        the only one of these. check gets the forward, None if there is none. It raises an error of its own if
        it may not be closed.
        """
        async with self._lock:
            forward = self._forwards.get((protocol, local)) or self._asked_for(protocol, local, owner)
            if check is not None:
                await check(forward)
            if forward is None:
                raise ForwardError("proxy not found")
            if forward.opened_by == FLEET != owner.address:
                raise ForwardError("all hosts of the fleet have this forward ('fleet unexpose' closes it)")
            await self._close(forward, owner.address)

    def _asked_for(self, protocol: str, local: str, owner: Owner) -> Forward | None:
        if not local:
            # It is the ``asked`` of all forwards whose port the client chose.
            return None
        found = [
            forward
            for forward in self._forwards.values()
            if (forward.protocol, forward.asked) == (protocol, local)
            and (forward.opened_by == owner.address or forward.guest == owner.guest != forward_shares.HOST)
        ]
        return found[0] if len(found) == 1 else None

    def sums(self) -> dict[int, int]:
        """How many forwards each guest has, by its number."""
        return Counter(forward.guest for forward in self._forwards.values() if forward.guest > 0)

    async def _close(self, forward: Forward, closed_by: str) -> None:
        protocol, local = forward.protocol, forward.local
        if protocol == "unix" and local in self._over_ssh:
            await self._sockets.close(host_path(local))
            self._over_ssh.discard(local)
        else:
            numbered = self._numbered.get((protocol, local), local)
            try:
                await self._request(WORKER, forward_messages.Unexpose(protocol, numbered))
            except RefusedError as error:
                raise ForwardError(str(error)) from None
            self._numbered.pop((protocol, local), None)
            self._asked.pop((protocol, local), None)
        del self._forwards[protocol, local]
        self._report("forward-closed", forward, closed_by)

    async def _make_room(self, owner: Owner) -> None:
        """Close another forward if there are as many as there may be. Raises ForwardError if none may be."""
        forwards = self._forwards.values()
        change = self._shares.refuses(owner.guest, forwards)
        if change.refusal:
            raise TooManyError(change.refusal)
        if not change.full:
            return
        if owner.guest == forward_shares.HOST:
            victim = self._shares.to_close_for_host(forwards)
        else:
            answer = messages.GuestsAnswer.decode(await self._request("ingress", messages.Guests()))
            victim = self._shares.to_close_for_guest(forwards, {int(number) for number in answer.guests})
        if victim is None:
            raise ForwardError(f"there are {len(forwards)} forwards already")
        assert isinstance(victim, Forward)
        await self._close(victim, HOST)

    def _report(self, kind: str, forward: Forward, by: str) -> None:
        is_guest = by not in (HOST, FLEET)
        who = {"guest_address": by} if is_guest else {}
        self._hub.report(
            kind,
            operator=not is_guest,
            protocol=forward.protocol,
            local=forward.local,
            remote=texts.without_secrets(forward.remote),
            **who,
        )

    async def _found(self, protocol: str, local: str, lookups: Lookups) -> list[str] | None:
        """The addresses of the host in local. None means that there is no name to look up.

        An unknown name has no addresses. The worker refuses a text that is not an address at all.
        """
        try:
            host = split_host_port(local)[0] if protocol in _INET else ""
        except GoError:
            return None
        if not host or texts.is_number(host):
            return None
        try:
            return await lookups.addresses(host)
        except OSError as error:
            prefix = f"listen {protocol}: " if protocol in inet.TCP else ""
            words = "i/o timeout" if isinstance(error, TimeoutError) else str(error.strerror)
            raise ForwardError(f"{prefix}lookup {host}: {words}") from None

    async def _open_socket(self, local: str, destination: Destination) -> None:
        try:
            path = host_path(local)
            if fault := socket_file.fault(path):
                raise ForwardError(f"listen unix {path}: bind: {fault}")
            await self._sockets.open(path, destination)
        except (SocketError, SshError) as error:
            raise ForwardError(str(error)) from None
