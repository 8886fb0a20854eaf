"""Gives the running program other settings: forwards, then all workers, then the supervisor's own parts.

Three things may refuse: a forward whose address is in use, a socket over ssh, and a zone that does not fit
beside those of the API. They come first, and what was done before a refusal is undone. Nothing after them may
refuse. A worker replaces its settings between two breaths.

Forwards and zones that came through the API stay. So does the egress policy of the API, until that of the
file changes: the last change counts. A forward of the file that changes is closed and opened
again. Connections of a forward that is closed go on, as with the API.
"""

import asyncio
import pickle
from collections.abc import Awaitable, Callable, Collection, Sequence
from contextlib import AsyncExitStack
from dataclasses import replace
from functools import partial
from typing import Final

import structlog

from pipeline.config import name_lists, outside, proxy_hosts
from pipeline.config.model import Config, EgressPolicy, PortForward, SocketForward, forward_key
from pipeline.control.forward_shares import ForwardShares
from pipeline.control.forward_texts import ForwardError
from pipeline.control.forwarder import Forwarder
from pipeline.control.http.access import Access
from pipeline.control.ssh.destination import Destination, SocketError, SshError, host_path
from pipeline.control.ssh.forwards import SocketForwards
from pipeline.control.threads import Threads
from pipeline.control.workers import Channels, GoneError, RefusedError, RequestError
from pipeline.ipc import messages, policy_messages
from pipeline.system import inet
from pipeline.topology import EGRESS, INGRESS, RESOLVER
from pipeline.wire import ip

TRIES: Final = 20
"""How often a UDP port is bound that was just closed: an egress worker closes it a little later."""
TRY_AGAIN_S: Final = 0.05

MakePolicy = Callable[[EgressPolicy], Awaitable[EgressPolicy]]

_IN_USE: Final = "address already in use"


class ReloadError(Exception):
    """The new settings are refused. Nothing has changed. The text names the key."""


class LiveSettings:
    """The settings that the supervisor's parts and the workers have now."""

    def __init__(
        self,
        config: Config,
        channels: Channels,
        forwarder: Forwarder,
        sockets: SocketForwards,
        log: structlog.typing.FilteringBoundLogger,
        changed: Callable[[], None] = lambda: None,
    ) -> None:
        """changed: called when the workers have other settings."""
        self._changed = changed
        self._config = config
        self._policy_of_file = config.access.egress_policy
        self._turn = asyncio.Lock()
        self._channels = channels
        self._forwarder = forwarder
        self._sockets = sockets
        self._log = log
        self._threads = Threads(1)
        """A look-up of a proxy may take long."""

    @property
    def config(self) -> Config:
        """The present settings."""
        return self._config

    @property
    def policy(self) -> EgressPolicy:
        """The egress policy that the workers have."""
        return self._config.access.egress_policy

    @property
    def policy_of_file(self) -> EgressPolicy:
        """The egress policy of the configuration."""
        return self._policy_of_file

    @property
    def turn(self) -> asyncio.Lock:
        """Who holds it is alone with the settings."""
        return self._turn

    async def change(self, read: Config, access: Access, shares: ForwardShares) -> None:
        """Use these settings of the file from now on. Raises ReloadError if they are refused."""
        async with self._turn:
            before, of_file = self._config, read.access.egress_policy
            config = read if of_file != self._policy_of_file else await self._with_policy(read, self.policy)
            async with AsyncExitStack() as undo:
                await self._change_ports(before.access.forwards, config.access.forwards, undo)
                await self._change_sockets(before.access.socket_forwards, config.access.socket_forwards, undo)
                await self._ask_resolver(config)
                undo.pop_all()
            self._policy_of_file = of_file
            access.set_guests(config.access.guest_api)
            shares.set_limits(config.limits)
            await self._give(config)
            if config.access.policy != before.access.policy:
                await self._end_forbidden()

    async def change_policy(self, make: MakePolicy, *, cut: bool) -> int:
        """Use another policy from now on. Returns how many flows have ended.

        make: makes it of the present one; no other change comes between. cut: end the open flows that it
        forbids. Raises what make raises, ConfigError if the policy does not fit the other settings,
        ReloadError if it is refused, and RequestError if a worker has not taken it.
        """
        async with self._turn:
            return await self._use_policy(await self.with_policy(await make(self.policy)), cut=cut)

    async def with_policy(self, policy: EgressPolicy) -> Config:
        """The present settings with another policy. Raises ConfigError if it does not fit the others."""
        config = await self._with_policy(self._config, policy)
        outside.check_together(config)
        return config

    async def use(self, config: Config) -> None:
        """Use what with_policy() has made. Raises ReloadError and RequestError as change_policy()."""
        async with self._turn:
            await self._use_policy(config, cut=False)

    async def _use_policy(self, config: Config, *, cut: bool) -> int:
        await self._ask_resolver(config)
        silent = await self._give(config)
        ended = await self._end_forbidden() if cut else 0
        if silent:
            raise RequestError(f"workers that have not taken the policy: {', '.join(silent)}")
        return ended

    async def _ask_resolver(self, config: Config) -> None:
        """Give the resolver the settings, which it may refuse. Raises ReloadError."""
        try:
            await self._channels.request(RESOLVER, messages.Reload(pickle.dumps(config)))
        except RefusedError as error:
            raise ReloadError(str(error)) from None
        except RequestError as error:
            # It may still take them. It serves requests in order, so this one gives it the old ones back.
            await self._tell([RESOLVER], messages.Reload(pickle.dumps(self._config)))
            raise ReloadError(str(error)) from None

    async def _give(self, config: Config) -> list[str]:
        """Give all other workers the settings. Returns those that have not taken them."""
        self._config = config
        ask = messages.Reload(pickle.dumps(config))
        # Ingress lets no SYN overtake a name, if the policy has names. So it is asked before egress.
        silent = await self._tell([INGRESS], ask)
        others = [name for name in self._channels.channels if name not in (RESOLVER, INGRESS)]
        silent += await self._tell(others, ask)
        self._changed()
        return silent

    async def _end_forbidden(self) -> int:
        """End the open flows that the policy forbids. Returns how many."""
        names = [name for name in self._channels.channels if name.startswith(EGRESS)]
        ask = policy_messages.EndForbidden()
        ended = 0
        answers = await asyncio.gather(
            *(self._channels.request(name, ask) for name in names), return_exceptions=True
        )
        for name, answer in zip(names, answers, strict=True):
            if isinstance(answer, GoneError):
                continue  # with its flows
            if isinstance(answer, BaseException):
                self._log.error("a worker has not taken the new settings", of=name, error=str(answer))
            else:
                ended += policy_messages.EndForbiddenAnswer.decode(answer).ended
        return ended

    async def _tell(self, workers: Sequence[str], ask: messages.Reload) -> list[str]:
        """Give these workers the settings, at the same time. They do not refuse. Returns the silent ones.

        One that has died is none of these: its successor begins with the new settings.
        """
        answers = await asyncio.gather(
            *(self._channels.request(name, ask) for name in workers), return_exceptions=True
        )
        silent = []
        for name, answer in zip(workers, answers, strict=True):
            if isinstance(answer, BaseException) and not isinstance(answer, GoneError):
                self._log.error("a worker has not taken the new settings", of=name, error=str(answer))
                silent.append(name)
        return silent

    # --- forwards of ports ------------------------------------------------------------------

    async def _change_ports(
        self, before: Collection[PortForward], after: Collection[PortForward], undo: AsyncExitStack
    ) -> None:
        """Close the forwards that are gone or have changed, then open what is not open."""
        wanted = {_key(forward): forward for forward in after}
        gone = [forward for forward in before if wanted.get(_key(forward)) != forward]
        for forward in gone:
            if not self._forwarder.is_open(forward):
                continue
            try:
                await self._forwarder.unexpose(forward.protocol, forward.local)
            except (ForwardError, RequestError) as error:
                raise ReloadError(f"stack.forwards: {forward_key(forward)}: {error}") from None
            undo.push_async_callback(self._undo, forward_key(forward), partial(self._open, forward))
        for forward in after:
            if self._forwarder.is_open(forward):
                continue
            try:
                await self._open(forward)
            except (ForwardError, RequestError) as error:
                raise ReloadError(f"stack.forwards: {forward_key(forward)}: {error}") from None
            undo.push_async_callback(
                self._undo,
                forward_key(forward),
                partial(self._forwarder.unexpose, forward.protocol, forward.local),
            )

    async def _open(self, forward: PortForward) -> None:
        """Open a forward. A UDP port that was just closed may need a moment."""
        for tries in range(TRIES, 0, -1):
            try:
                await self._forwarder.expose_configured(forward)
            except ForwardError as error:
                if tries == 1 or forward.protocol not in inet.UDP or not str(error).endswith(_IN_USE):
                    raise
                await asyncio.sleep(TRY_AGAIN_S)
            else:
                return

    # --- forwards of sockets over ssh -------------------------------------------------------

    async def _change_sockets(
        self, before: Collection[SocketForward], after: Collection[SocketForward], undo: AsyncExitStack
    ) -> None:
        for forward in before:
            if forward not in after:
                await self._sockets.close(host_path(forward.socket))
                undo.push_async_callback(self._undo, forward.socket, partial(self.open_socket, forward))
        for forward in after:
            if forward in before:
                continue
            try:
                await self.open_socket(forward)
            except (SocketError, SshError, OSError) as error:
                raise ReloadError(f"forwards: {forward.socket}: {error}") from None
            path = host_path(forward.socket)
            undo.push_async_callback(self._undo, forward.socket, partial(self._sockets.close, path))

    async def open_socket(self, forward: SocketForward) -> None:
        """Open a configured forward over ssh. Raises SocketError, SshError, OSError."""
        guest = ip.text(self._config.network.device_ip)
        await self._sockets.check_key(forward.identity)
        destination = Destination(forward.user, guest, forward.dest, forward.identity)
        await self._sockets.open(host_path(forward.socket), destination)

    async def _with_policy(self, config: Config, policy: EgressPolicy) -> Config:
        return await self._threads.run(partial(_with_policy, config, policy))

    async def _undo(self, what: str, step: Callable[[], Awaitable[None]]) -> None:
        try:
            await step()
        except (ForwardError, RequestError, SocketError, SshError, OSError) as error:
            self._log.error("a forward cannot be as it was", forward=what, error=str(error))


def _with_policy(config: Config, policy: EgressPolicy) -> Config:
    """The settings with another policy.

    Raises ConfigError for a file of names that cannot be read, and for a proxy whose name has no address.
    """
    lists, hosts = name_lists.read_all(policy), proxy_hosts.look_up_all(policy)
    access = replace(config.access, egress_policy=policy, name_lists=lists, proxy_hosts=hosts)
    return replace(config, access=access)


def _key(forward: PortForward) -> tuple[str, str]:
    return forward.protocol, forward.local
