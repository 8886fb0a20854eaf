"""Reads the configuration file again after SIGHUP, and applies what can change while the program runs.

The file is read and checked as at the start, and as a whole. If anything in it is wrong, nothing changes and
one line of the log says so. Signals that come during a reload cause one more reload after it.
"""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress

import structlog

from pipeline import logs
from pipeline.config import outside
from pipeline.config.errors import ConfigError
from pipeline.config.live import reloaded
from pipeline.config.model import Config
from pipeline.control.reload import ReloadError
from pipeline.control.threads import Threads
from pipeline.system.service_manager import READY, ServiceManager

Reread = Callable[[], tuple[Config, tuple[str, ...]]]
"""Builds the configuration anew. Returns it with warnings, or raises ConfigError. May wait for a disk."""


class Reloader:
    """Reloads one after the other. It needs a running event loop."""

    def __init__(
        self,
        config: Config,
        reread: Reread,
        apply: Callable[[Config], Awaitable[None]],
        manager: ServiceManager,
        log: structlog.typing.FilteringBoundLogger,
    ) -> None:
        """apply: gives all parts of the program new settings, or raises ReloadError."""
        self._config = config
        self._reread = reread
        self._apply = apply
        self._manager = manager
        self._log = log
        self._threads = Threads(1)
        self._wanted = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def request(self) -> None:
        """SIGHUP came. Until start() is called, the reload waits."""
        self._wanted.set()

    def start(self) -> None:
        """The program is ready: serve requests from now on."""
        self._task = asyncio.create_task(self._serve())

    async def stop(self) -> None:
        """The program ends: give up a reload that is under way."""
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task

    async def _serve(self) -> None:
        while True:
            await self._wanted.wait()
            self._wanted.clear()
            self._manager.reloading()
            try:
                await self._reload()
            except (ConfigError, ReloadError, OSError) as error:
                self._log.error("configuration not reloaded: nothing has changed", error=str(error))
            except Exception as error:  # a fault here must not end what guests use, nor the next reload
                self._log.exception("reload failed", error=str(error))
            finally:
                self._manager.notify(READY)

    async def _reload(self) -> None:
        read, warnings = await self._threads.run(self._reread)
        new = reloaded(self._config, read)
        outside.check_together(new.config)
        await self._apply(new.config)
        for warning in warnings:
            self._log.warning(warning, kind="setting-doubtful")
        self._config = new.config
        logs.set_level(new.config.logging.log_level)
        if new.kept:
            self._log.warning(
                "keys that cannot change while the program runs keep their values", keys=", ".join(new.kept)
            )
        self._log.info("configuration reloaded", changed=", ".join(new.changed))
