"""What a supervisor knows beside its configuration: collects it for a successor, and takes it over from one.

The messages are those of ipc.handover_messages. The workers pause while it is collected, so nothing changes
between the first message and the last. What a guest or a client has at this moment is here; connections,
datagram flows and what the workers have learned are not.
"""

import asyncio
import json
import os
import socket
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import Final, NamedTuple

import structlog

from pipeline.config.errors import ConfigError
from pipeline.config.model import Config, EgressPolicy, PortForward
from pipeline.control.forward_sockets import ForwardSockets
from pipeline.control.forward_texts import ForwardError, proxy_text
from pipeline.control.forwarder import FLEET, HOST, Forward, Forwarder
from pipeline.control.lease_writer import LeaseWriter
from pipeline.control.memory import Memory
from pipeline.control.quotas.ledger import Saved
from pipeline.control.reload import LiveSettings, ReloadError
from pipeline.control.ssh.destination import SocketError, SshError, host_path
from pipeline.control.ssh.forwards import SocketForwards
from pipeline.control.workers import Channels, RequestError
from pipeline.ipc import forward_messages, healing_messages, messages
from pipeline.ipc.channel import close_all
from pipeline.ipc.handover_messages import (
    Connections,
    GuestLink,
    HandoverMessage,
    Known,
    Leases,
    OpenForward,
    Policy,
    Used,
    Zone,
)
from pipeline.ipc.message import MessageError
from pipeline.links import adopted
from pipeline.topology import DEMUX, INGRESS, RESOLVER, TCP

ROUNDS_S: Final = (0.1, 1.0, 3.0)
"""Seconds from a question for guests to the segments that they answer. A frame may be lost, so there are
several rounds."""
STEP_TIMEOUT: Final = 3.0
"""Seconds that a worker has to say what it hands over."""
LOOK_UP_TIMEOUT: Final = 3.0
"""Seconds for the files and the proxies of a policy. Guests wait meanwhile."""


class SuccessionError(Exception):
    """The state of a predecessor cannot be taken over. The text says why."""


class Item(NamedTuple):
    """A message, and the descriptors that go with it."""

    message: HandoverMessage
    fds: Sequence[int]


class Succession:
    """Of one control plane."""

    def __init__(
        self,
        channels: Channels,
        memory: Memory,
        forwarder: Forwarder,
        sockets: tuple[ForwardSockets, SocketForwards],
        live: LiveSettings,
        leases: LeaseWriter,
        log: structlog.typing.FilteringBoundLogger,
    ) -> None:
        """sockets: those of forwards, and of forwards over ssh."""
        self._channels = channels
        self._shards = [name for name in channels.channels if name.startswith(TCP)]
        self._memory = memory
        self._forwarder = forwarder
        self._sockets, self._over_ssh = sockets
        self._live = live
        self._leases = leases
        self._log = log
        self._links: list[tuple[healing_messages.LinkEvent, list[int]]] | None = None
        """What ingress has reported, while somebody collects."""
        self._told: list[Item] = []
        """What else workers have reported meanwhile."""
        self._has_left = False
        self.lasting: Callable[[EgressPolicy], EgressPolicy] = lambda policy: policy
        """What of the policy is for a successor."""
        self.used: Callable[[], list[Saved]] = list
        """What guests have used of their quotas."""
        self._policy: Config | None = None
        """The settings with the policy of a predecessor's clients, if they have set one."""
        self._meeting: asyncio.Task[None] | None = None

    # --- the old supervisor ---------------------------------------------------------------

    def on_link(self, event: healing_messages.LinkEvent, fds: list[int]) -> None:
        """Ingress reports a link. This object owns the descriptors."""
        if self._links is None or not fds:
            close_all(fds)
        else:
            self._links.append((event, fds))

    def on_told(self, event: healing_messages.ConnectionsEvent | healing_messages.KnowledgeEvent) -> None:
        """A tcp worker reports its connections, or another one what it knows."""
        if self._links is None:
            return
        if isinstance(event, healing_messages.ConnectionsEvent):
            self._told.append(Item(Connections(event.ends), ()))
        else:
            self._told.append(Item(Known.with_fields_of(event), ()))

    @asynccontextmanager
    async def alone(self) -> AsyncIterator[None]:
        """No client and no reload changes forwards and settings in the block, nor after leave()."""
        async with AsyncExitStack() as turns:
            await turns.enter_async_context(self._live.turn)
            await turns.enter_async_context(self._forwarder.turn)
            yield
            if self._has_left:
                # Who waits would get an answer, and his change would be lost.
                turns.pop_all()

    @asynccontextmanager
    async def collected(self) -> AsyncIterator[list[Item]]:
        """All messages for a successor. The descriptors are open in the block. All workers pause.

        Raises RequestError.
        """
        self._links = []
        try:
            ask = healing_messages.HandOver()
            for name in (INGRESS, RESOLVER, *self._shards):
                await self._channels.request(name, ask, timeout=STEP_TIMEOUT)
            await self._leases.flush()
            yield [*self._forwards(), *self._knowledge(), *self._guest_links(), *self._told]
        finally:
            for _, fds in self._links:
                close_all(fds)
            self._links = None
            self._told.clear()

    def _forwards(self) -> list[Item]:
        items = []
        configured = self._live.config.access
        paths = {host_path(each.socket) for each in configured.socket_forwards}
        for forward, asked in self._forwarder.opened():
            sock = self._sockets.socket_of(asked) if asked is not None else self._ssh_socket(forward.local)
            if sock is None:
                continue
            is_configured = any(_is(forward, each) for each in configured.forwards)
            expose = asked.encode() if asked is not None else None
            items.append(_forward_item(forward, expose, sock, configured=is_configured))
        over_ssh = [(path, self._over_ssh.listener_of(path)) for path in sorted(paths)]
        items += [
            _forward_item(Forward(path, "", "unix"), None, sock, configured=True)
            for path, sock in over_ssh
            if sock is not None
        ]
        return items

    def _ssh_socket(self, local: str) -> socket.socket | None:
        return self._over_ssh.listener_of(host_path(local))

    def _knowledge(self) -> list[Item]:
        items = [Item(Zone(each.zone), ()) for each in self._memory.zones]
        policy = self.lasting(self._live.policy)
        if policy != self._live.policy_of_file:
            texts = (_policy_text(self._live.policy_of_file), _policy_text(policy))
            items.append(Item(Policy(*texts), ()))
        if used := self.used():
            items.append(Item(Used([list(row) for row in used]), ()))
        if (leases := self._memory.leases) is not None:
            items.append(Item(Leases.with_fields_of(leases), ()))
        return items

    def _guest_links(self) -> list[Item]:
        return [Item(GuestLink.with_fields_of(event), fds) for event, fds in self._links or ()]

    def leave(self) -> None:
        """All of it is a successor's now: touch no file and no socket of it any more."""
        self._has_left = True
        self._sockets.leave()
        self._over_ssh.leave()
        self._leases.leave()

    # --- the successor, before the predecessor has let go -----------------------------------

    async def take_sockets(
        self, forwards: list[tuple[OpenForward, int]], config: Config
    ) -> list[tuple[OpenForward, forward_messages.Expose | None]]:
        """Take the sockets of forwards, and bind those that the configuration needs beside them.

        Returns the forwards. The descriptors are this object's. Raises SuccessionError, ForwardError,
        SocketError, SshError.
        """
        known: list[tuple[OpenForward, forward_messages.Expose | None]] = []
        while forwards:
            forward, fd = forwards.pop()
            try:
                asked = forward_messages.Expose.decode(forward.expose) if forward.expose is not None else None
                sock = socket.socket(fileno=fd)
            except (MessageError, OSError) as error:
                os.close(fd)
                raise SuccessionError(f"the forward {forward.local}: {error}") from error
            if asked is not None:
                self._sockets.give(asked, sock)
            else:
                self._over_ssh.give(host_path(forward.local), sock)
            known.append((forward, asked))
        for each in config.access.forwards:
            if not any(_is(_forward_of(forward), each) for forward, _ in known):
                await self._forwarder.reserve(each, self._sockets.reserve)
        for over_ssh in config.access.socket_forwards:
            await self._over_ssh.reserve(host_path(over_ssh.socket), over_ssh.identity)
        return known

    async def check_policy(self, policy: Policy | None) -> None:
        """Read the policy that a client of the API has set, unless that of the file has changed since.

        The last change counts. Raises SuccessionError if it cannot be used any more, for instance because a
        file of names is gone: guests must not get the one of the file instead.
        """
        if policy is None:
            return
        from pipeline.config import policy_json  # noqa: PLC0415  it loads pydantic

        try:
            if policy_json.read(policy.of_file.encode()) == self._live.policy_of_file:
                of_api = policy_json.read(policy.of_api.encode())
                async with asyncio.timeout(LOOK_UP_TIMEOUT):
                    self._policy = await self._live.with_policy(of_api)
        except ConfigError as error:
            raise SuccessionError(f"the policy of the API: {error}") from error
        except TimeoutError as error:
            words = f"its files and proxies were not there within {LOOK_UP_TIMEOUT:g} s"
            raise SuccessionError(f"the policy of the API: {words}") from error

    def refuse(self) -> None:
        """The predecessor goes on: close its sockets, and remove only what this process has made."""
        self._sockets.drop_given(keep_files=True)
        self._over_ssh.drop_given(keep_files=True)

    # --- the successor, afterwards ----------------------------------------------------------

    async def learn(self, zones: list[Zone], leases: Leases | None, knowledge: Sequence[Known]) -> None:
        """Know what clients of the API have set, and the guests' leases. Before guests are served.

        The policy is the one of check_policy().
        """
        if leases is not None:
            self._memory.leases = healing_messages.LeasesEvent.with_fields_of(leases)
            await self._ask(RESOLVER, healing_messages.RestoreLeases.with_fields_of(leases), "leases")
        for each in zones:
            zone = messages.DnsAdd(each.zone)
            if await self._ask(RESOLVER, zone, "zone of a client"):
                self._memory.zones.append(zone)
        if self._policy is not None:
            try:
                await self._live.use(self._policy)
            except (ReloadError, RequestError) as error:
                self._lost("policy of a client", str(error))
        for known in knowledge:
            know = healing_messages.Know.with_fields_of(known)
            if known.last_link is not None:
                self._memory.numbers = know
                await self._ask(INGRESS, know, "numbers of links")
            if known.names is not None:
                # After the policy: another one makes the resolver forget them.
                await self._ask(RESOLVER, know, "names that guests were told")

    async def _ask(self, worker: str, ask: messages.Request, what: str) -> bool:
        try:
            await self._channels.request(worker, ask)
        except RequestError as error:
            self._lost(what, str(error))
            return False
        return True

    async def restore_configured(
        self, known: list[tuple[OpenForward, forward_messages.Expose | None]], forwards: Sequence[PortForward]
    ) -> None:
        """Open the forwards that are still configured. They keep the ports that the system chose."""
        for forward, asked in known:
            found = _forward_of(forward)
            if asked is not None and forward.configured and any(_is(found, each) for each in forwards):
                await self._restore(found, asked)

    async def restore_others(self, known: list[tuple[OpenForward, forward_messages.Expose | None]]) -> None:
        """Open the forwards of the API's clients. Close the sockets that nobody has asked for."""
        for forward, asked in known:
            if not forward.configured and self._is_wanted(forward):
                await self._restore(_forward_of(forward), asked)
        self._sockets.drop_given(keep_files=False)
        self._over_ssh.drop_given(keep_files=False)

    def _is_wanted(self, forward: OpenForward) -> bool:
        """A forward of a fleet is closed if this host is in none any more."""
        return forward.opened_by != FLEET or bool(self._live.config.fleet.fleet_servers)

    async def _restore(self, forward: Forward, asked: forward_messages.Expose | None) -> None:
        try:
            if not await self._forwarder.restore(forward, asked):
                self._lost(f"forward {forward.local}", "the configuration has another one there")
        except (ForwardError, RequestError, SocketError, SshError) as error:
            self._lost(f"forward {forward.local}", str(error))

    async def adopt_links(self, links: list[tuple[GuestLink, list[int]]]) -> int:
        """Have ingress carry these links on. The descriptors are this object's. Returns how many go on."""
        count = 0
        while links:
            link, fds = links.pop(0)
            try:
                await self._channels.request(INGRESS, healing_messages.Adopt.with_fields_of(link), fds)
            except RequestError as error:
                self._lost(f"link {link.number}", str(error))
            else:
                count += 1
                self._remember(link, fds)
                continue
            close_all(fds)
        return count

    def meet_guests(self, ends: list[list[object]]) -> None:
        """Find all guests, and let them find out that these connections are gone.

        The switch drops frames for guests that it does not know. And guests may wait for bytes of the host.
        """
        addrs = {row[0] for row in ends if row and isinstance(row[0], bytes)}
        addrs.update(self._memory.guest_addresses())
        if addrs:
            self._meeting = asyncio.get_running_loop().create_task(self._meet_guests(sorted(addrs), ends))

    async def _meet_guests(self, addrs: list[bytes], ends: list[list[object]]) -> None:
        for seconds in ROUNDS_S:
            with suppress(RequestError):
                await self._channels.request(DEMUX, healing_messages.Seek(addrs))
                # The guests' answers arrive meanwhile.
                await asyncio.sleep(seconds)
                if not ends:
                    continue
                # Any tcp worker will do: an answer goes to the one that RSS chooses, which resets.
                await self._channels.request(self._shards[0], healing_messages.EndStrays(ends))

    async def stop(self) -> None:
        """The program ends."""
        if self._meeting is not None:
            self._meeting.cancel()
            await asyncio.gather(self._meeting, return_exceptions=True)

    def _remember(self, link: GuestLink, fds: list[int]) -> None:
        """Keep a link for a successor of ingress, if it can outlive that. Owns the descriptors."""
        form = "" if link.form in (adopted.OFFLOAD, adopted.STDIO) else link.form
        if not form:
            close_all(fds)
        up = healing_messages.LinkUpEvent(
            link.number, link.guest, link.protocol, link.peer, link.identity, form, link.vnet
        )
        self._memory.link_up(up, fds if form else [])
        self._memory.has_inner(link.number, link.places or [])

    def _lost(self, what: str, error: str) -> None:
        self._log.error("not taken over", what=what, error=error)


def _is(forward: Forward, configured: PortForward) -> bool:
    """Whether an open forward is this one of a configuration. The system may have chosen its port."""
    wanted = (configured.protocol, configured.local, configured.remote, proxy_text(configured))
    open_as = (forward.protocol, forward.asked or forward.local, forward.remote, forward.proxy_protocol)
    return forward.opened_by == HOST and open_as == wanted


def _forward_of(message: OpenForward) -> Forward:
    return Forward(
        message.local,
        message.remote,
        message.protocol,
        message.proxy_protocol,
        message.opened_by,
        message.guest,
        message.asked,
    )


def _forward_item(
    forward: Forward, expose: dict[str, object] | None, sock: socket.socket, *, configured: bool
) -> Item:
    message = OpenForward(
        forward.local,
        forward.remote,
        forward.protocol,
        configured,
        forward.proxy_protocol,
        forward.opened_by,
        forward.guest,
        forward.asked,
        expose,
    )
    return Item(message, [sock.fileno()])


def _policy_text(policy: EgressPolicy) -> str:
    from pipeline.config import policy_json  # noqa: PLC0415  as above

    return json.dumps(policy_json.written(policy))
