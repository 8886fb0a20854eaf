"""Opens on this host what the fleet forwards, and closes what it forwards no more.

A forward that cannot be opened, because its port is busy here or its address is not one of this host, is
reported once. It is tried again every RETRY_S. The other hosts have theirs.

A forward of the host itself with the same local address stays: whoever was first has it. The host's own
forwards are opened before the fleet is reached.
"""

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from typing import Final

import structlog

from pipeline.control.forward_texts import ForwardError
from pipeline.control.forwarder import FLEET, Forwarder, Owner
from pipeline.control.hub import Hub
from pipeline.control.workers import RequestError
from pipeline.engines.fleet.values import Forward

RETRY_S: Final = 30.0
_OWNER: Final = Owner(FLEET)


class SharedForwards:
    """The forwards of the fleet on this host. Needs a running event loop."""

    def __init__(self, forwarder: Forwarder, hub: Hub, log: structlog.typing.FilteringBoundLogger) -> None:
        self._log = log
        self._forwarder = forwarder
        self._hub = hub
        self._wanted: dict[tuple[str, str], str] = {}
        """The guest's side by protocol and local address."""
        self._refused: dict[tuple[str, str], str] = {}
        """Why each that is not open is not."""
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    @property
    def waiting_count(self) -> int:
        """How many cannot be open on this host now."""
        return len(self._refused)

    def want(self, forwards: Sequence[Forward]) -> None:
        """These are to be open from now on, and no others of the fleet."""
        self._wanted = {(each.protocol, each.local): each.remote for each in forwards}
        self._wake.set()
        if self._task is None:
            self._task = asyncio.create_task(self._run())

    async def stop(self) -> None:
        """Change nothing further."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        while True:
            self._wake.clear()
            try:
                await self._close_others()
                await self._open_missing()
            except Exception as error:
                self._log.error("fleet error", error=str(error) or type(error).__name__, exc_info=True)
            with suppress(TimeoutError):
                async with asyncio.timeout(RETRY_S):
                    await self._wake.wait()

    def _open(self) -> dict[tuple[str, str], str]:
        """The fleet's forwards that are open."""
        all_open = self._forwarder.all()
        return {(each.protocol, each.local): each.remote for each in all_open if each.opened_by == FLEET}

    async def _close_others(self) -> None:
        for (protocol, local), remote in self._open().items():
            if self._wanted.get((protocol, local)) != remote:
                # An error means that it is closed, or that the listen worker has died: then it comes again.
                with suppress(ForwardError, RequestError):
                    await self._forwarder.unexpose(protocol, local, owner=_OWNER)

    async def _open_missing(self) -> None:
        is_open = self._open()
        wanted = dict(self._wanted)
        self._refused = {key: why for key, why in self._refused.items() if key in wanted}
        for key, remote in wanted.items():
            if key in is_open:
                self._refused.pop(key, None)
                continue
            protocol, local = key
            try:
                await self._forwarder.expose(protocol, local, remote, owner=_OWNER)
            except (ForwardError, RequestError) as error:
                self._refuse(key, remote, str(error))
            else:
                self._refused.pop(key, None)

    def _refuse(self, key: tuple[str, str], remote: str, error: str) -> None:
        if self._refused.get(key) != error:
            protocol, local = key
            self._hub.report(
                "fleet-forward-refused", protocol=protocol, local=local, remote=remote, error=error
            )
        self._refused[key] = error
