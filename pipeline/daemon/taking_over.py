"""Takes over from a predecessor, in the event loop of the new supervisor. predecessor.py has the messages."""

import asyncio
from collections.abc import Callable
from time import monotonic
from typing import Final

import structlog

from pipeline.config.model import Config
from pipeline.control.forward_texts import ForwardError
from pipeline.control.plane import ControlPlane
from pipeline.control.quotas.ledger import known_rows
from pipeline.control.ssh.destination import SocketError, SshError
from pipeline.control.succession import SuccessionError
from pipeline.control.workers import RequestError
from pipeline.daemon.handover_line import LineError
from pipeline.daemon.predecessor import Predecessor, State
from pipeline.ipc import messages
from pipeline.links.addresses import AddressError

PING_TIMEOUT: Final = 15.0
"""Seconds that new workers have to answer. Their stages load libraries first."""


_REFUSALS: Final = (
    *(LineError, SuccessionError, ForwardError, RequestError, AddressError),
    *(SocketError, SshError, OSError),
)


class TakingOver:
    """One takeover. Its methods are called in this order."""

    def __init__(
        self,
        predecessor: Predecessor,
        plane: ControlPlane,
        config: Config,
        log: structlog.typing.FilteringBoundLogger,
    ) -> None:
        self._predecessor = predecessor
        self._plane = plane
        self._config = config
        self._log = log
        self._state = State()
        self._links = 0
        """How many links go on."""
        self._began = monotonic()

    async def begin(self, version: str, reserve: Callable[[], None]) -> bool:
        """Get everything that the predecessor has. False: the predecessor goes on, and this program must end.

        reserve: binds the sockets that the predecessor did not have. It may raise AddressError, OSError.
        """
        try:
            await self._await_workers()
            self._predecessor.ready(version)
            self._state = self._predecessor.receive_state()
            self._began = monotonic()
            self._known = await self._plane.succession.take_sockets(self._state.forwards, self._config)
            await self._plane.succession.check_policy(self._state.policy)
            reserve()
            # A worker may have died since.
            await self._await_workers()
            self._predecessor.running()
        except _REFUSALS as error:
            self._refuse(str(error))
            return False
        if not self._predecessor.await_end():
            self._drop()
            return False
        return True

    def _refuse(self, reason: str) -> None:
        self._drop()
        self._predecessor.refuse(reason)

    def _drop(self) -> None:
        """Remove what this program has made."""
        self._plane.succession.refuse()
        self._predecessor.given.close(keep_files=True)

    async def _await_workers(self) -> None:
        """Wait until all workers serve. Raises RequestError."""
        channels = self._plane.channels
        await asyncio.gather(
            *(channels.request(name, messages.Ping(), timeout=PING_TIMEOUT) for name in channels.channels)
        )

    async def before_opening(self) -> None:
        """Restore what the workers must know before guests and clients are served."""
        state, succession = self._state, self._plane.succession
        self._plane.quotas.restore(known_rows(state.used))
        await succession.learn(state.zones, state.leases, state.knowledge)
        await succession.restore_configured(self._known, self._config.access.forwards)

    async def restore(self) -> None:
        """Restore the rest: other forwards, and the links of guests."""
        succession = self._plane.succession
        await self._plane.forward_sockets()
        await succession.restore_others(self._known)
        self._links = await succession.adopt_links(self._state.links)
        succession.meet_guests(self._state.connections)

    def end(self) -> None:
        """Everything is open."""
        self._predecessor.await_release()
        self._log.info(
            "taken over from a predecessor",
            links=self._links,
            forwards=len(self._plane.forwarder.all()),
            seconds=round(monotonic() - self._began, 4),
        )
        self._predecessor.close()
