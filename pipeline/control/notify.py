"""Notifications: one connection to a unix socket for each event, one JSON object and a newline on it.

Events stay in order, and no caller waits for the listener. An event is lost if the queue is full, if there is
no listener, or if the listener does not take it in time. A lost event is logged and counted. It is not sent
again.
"""

import asyncio
import json
from collections.abc import Callable
from typing import Final

import structlog

QUEUE: Final = 100
"""Events that wait for a slow listener."""
TIMEOUT: Final = 5.0
"""Seconds that the listener has to take one event."""

READY: Final = "ready"
CONNECTION_ESTABLISHED: Final = "connection_established"
CONNECTION_CLOSED: Final = "connection_closed"
HYPERVISOR_ERROR: Final = "hypervisor_error"
WORKER_RESTARTED: Final = "worker_restarted"

_LOST: Final = "notifications_dropped"


class Notifier:
    """Sends to one socket path. With "" it accepts every event and sends none."""

    def __init__(
        self,
        path: str,
        log: structlog.typing.FilteringBoundLogger,
        count: Callable[[str], None] = lambda _name: None,
    ) -> None:
        """count is called with a counter's name for each event that is lost."""
        self._path = path
        self._count = count
        self._log = log
        self._queue: asyncio.Queue[bytes] = asyncio.Queue(QUEUE)
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Start to send. The event loop must be running."""
        if self._path:
            self._task = asyncio.get_running_loop().create_task(self._run())

    def notify(self, kind: str, mac: str = "") -> None:
        """Queue one event, without waiting. mac: of the guest, as text; "" for events not about a guest."""
        if not self._path:
            return
        event = {"notification_type": kind} | ({"mac_address": mac} if mac else {})
        try:
            self._queue.put_nowait(json.dumps(event, separators=(",", ":")).encode() + b"\n")
        except asyncio.QueueFull:
            self._count(_LOST)
            self._log.warning("unable to send notification", notification=kind)

    async def stop(self, grace: float = 0.5) -> None:
        """Give the queue grace seconds to empty, then end."""
        if self._task is None:
            return
        try:
            async with asyncio.timeout(grace):
                await self._queue.join()
        except TimeoutError:
            for _ in range(self._queue.qsize()):
                self._count(_LOST)
            self._log.warning("notifications lost at the end", count=self._queue.qsize())
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        self._task = None

    async def _run(self) -> None:
        while True:
            event = await self._queue.get()
            try:
                async with asyncio.timeout(TIMEOUT):
                    await self._send(event)
            except (OSError, TimeoutError) as error:
                self._count(_LOST)
                self._log.error(
                    f"failed to send notification: cannot dial notification socket: {error or 'timed out'}",
                    kind="notification-failed",
                )
            finally:
                self._queue.task_done()

    async def _send(self, event: bytes) -> None:
        _, writer = await asyncio.open_unix_connection(self._path)
        try:
            writer.write(event)
            await writer.drain()
        finally:
            writer.close()
            await writer.wait_closed()
