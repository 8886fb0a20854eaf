"""Reads the configuration file again after SIGHUP, and applies what can change while the program runs.

The file is read and checked as at the start, and as a whole. If anything in it is wrong, nothing changes and
one line of the log says so. Signals that come during a reload cause one more reload after it.
"""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import Final

import structlog

from pipeline import logs
from pipeline.config import name_lists, outside
from pipeline.config.errors import ConfigError
from pipeline.config.live import reloaded
from pipeline.config.model import Config
from pipeline.control.reload import ReloadError
from pipeline.control.threads import Threads
from pipeline.system.service_manager import READY, ServiceManager

LOOK_EVERY_S: Final = 2.0
"""Seconds between two looks at the files with names."""
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
        self._watch: asyncio.Task[None] | None = None
        """Looks after the files with names, if the policy has some."""

    def request(self) -> None:
        """SIGHUP came. Until start() is called, the reload waits."""
        self._wanted.set()

    def start(self) -> None:
        """The program is ready: serve requests from now on."""
        self._task = asyncio.create_task(self._serve())
        self._watch_names()

    async def stop(self) -> None:
        """The program ends: give up a reload that is under way."""
        for task in (self._watch, self._task):
            if task is not None:
                task.cancel()
                with suppress(asyncio.CancelledError):
                    await task

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
        self._watch_names()

    # --- files with names -------------------------------------------------------------------

    def _watch_names(self) -> None:
        """Look after the files of the present policy from now on."""
        if self._watch is not None:
            self._watch.cancel()
            self._watch = None
        if self._config.access.name_lists:
            self._watch = asyncio.create_task(self._follow_names())

    async def _follow_names(self) -> None:
        """Read the files with names again when one has changed. The rest of the configuration stays."""
        policy = self._config.access.egress_policy
        seen = await self._threads.run(partial(name_lists.stamps, policy))
        while True:
            await asyncio.sleep(LOOK_EVERY_S)
            found = await self._threads.run(partial(name_lists.stamps, policy))
            if found == seen:
                continue
            seen = found
            try:
                await self._reload_names()
            except (ConfigError, ReloadError) as error:
                self._log.error("names not reloaded: nothing has changed", error=str(error))

    async def _reload_names(self) -> None:
        config = self._config
        lists = await self._threads.run(partial(name_lists.read_all, config.access.egress_policy))
        if lists == config.access.name_lists or config is not self._config:
            return
        config = replace(config, access=replace(config.access, name_lists=lists))
        await self._apply(config)
        self._config = config
        self._log.info("names reloaded", names=sum(map(len, lists.values())))
