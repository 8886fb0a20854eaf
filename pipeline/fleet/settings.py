"""Settings that all hosts of a fleet take from the store: the egress policy, and zones of the name server.

They are applied one after the other, as if a client of the API had sent them. What is wrong is refused there,
and the host keeps what it has. If the store has no policy any more, the host keeps the last one.
"""

import asyncio
from typing import Final

import structlog

from pipeline.config import policy_json
from pipeline.config.errors import ConfigError
from pipeline.config.model import EgressPolicy
from pipeline.control.hub import Hub
from pipeline.control.reload import LiveSettings, ReloadError
from pipeline.control.workers import Channels, RequestError
from pipeline.engines.fleet import values
from pipeline.ipc import messages
from pipeline.topology import RESOLVER

MAX_WAITING: Final = 1024
"""Keys that wait to be applied."""


class SharedSettings:
    """Applies them, in order of arrival. Needs a running event loop."""

    def __init__(
        self,
        live: LiveSettings,
        channels: Channels,
        hub: Hub,
        log: structlog.typing.FilteringBoundLogger,
    ) -> None:
        self._live = live
        self._channels = channels
        self._hub = hub
        self._log = log
        self._waiting: dict[str, bytes | None] = {}
        self._task: asyncio.Task[None] | None = None

    def change(self, key: str, value: bytes | None) -> None:
        """The store has this value, or none any more."""
        if key in self._waiting or len(self._waiting) < MAX_WAITING:
            self._waiting[key] = value
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._apply_all())

    async def stop(self) -> None:
        """Apply nothing further."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _apply_all(self) -> None:
        while self._waiting:
            key = next(iter(self._waiting))
            value = self._waiting.pop(key)
            try:
                await self._apply(key, value)
            except (ConfigError, ReloadError, RequestError, OSError, values.StoredValueError) as error:
                self._log.error("fleet setting refused", key=key, error=str(error))

    async def _apply(self, key: str, value: bytes | None) -> None:
        if value is None:
            return
        if key != values.POLICY:
            zone = values.zone_of(value)
            await self._channels.request(RESOLVER, messages.DnsAdd(zone))
            return
        policy = policy_json.read(value)
        if policy == self._live.policy:
            return

        async def make(_: EgressPolicy) -> EgressPolicy:
            return policy

        ended = await self._live.change_policy(make, cut=True)
        self._hub.report("policy-changed", default=policy.default, rules=len(policy.rules), ended=ended)
