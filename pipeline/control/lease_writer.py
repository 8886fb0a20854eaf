"""Writes the state file with the leases of DHCP and DHCPv6, for the resolver worker, which can open no file.

If a write fails, it is tried again: at first after FIRST_RETRY, then less and less often. A change in the
meantime does not shorten the wait.
"""

import asyncio
from contextlib import suppress
from functools import partial
from typing import Final

import structlog

from pipeline.control.threads import Threads
from pipeline.system import output_file

MODE: Final = 0o600
FIRST_RETRY: Final = 1.0
LAST_RETRY: Final = 60.0
"""The least and the most seconds between two attempts. Each wait doubles."""
END_WAIT: Final = 1.0
"""Seconds that the end of the program waits for the last write."""


class LeaseWriter:
    """The state file. It needs a running event loop."""

    def __init__(self, path: str, log: structlog.typing.FilteringBoundLogger) -> None:
        self._path = path
        self._log = log
        self._threads = Threads(1)
        self._content: bytes | None = None
        """What is to be written, None if all is."""
        self._task: asyncio.Task[None] | None = None

    def put(self, content: bytes) -> None:
        """Replace the content of the file, soon."""
        if not self._path:
            return
        self._content = content
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._write_until_done())

    async def _write_until_done(self) -> None:
        retry = 0.0
        while (content := self._content) is not None:
            try:
                await self._write(content)
            except OSError as error:
                if not retry:
                    self.failed(str(error))
                retry = min(2 * retry, LAST_RETRY) if retry else FIRST_RETRY
                await asyncio.sleep(retry)
            else:
                if retry:
                    self.written_again()
                retry = 0.0

    def failed(self, error: str) -> None:
        """The first attempt to write has failed."""
        self._log.warning("leases not written yet", path=self._path, error=error)

    def written_again(self) -> None:
        """A later attempt has not."""
        self._log.info("leases written again", path=self._path)

    async def _write(self, content: bytes) -> None:
        await self._threads.run(partial(output_file.replace, self._path, content, MODE))
        if self._content is content:
            self._content = None

    async def flush(self) -> None:
        """Wait until all is written, or an attempt has failed."""
        if self._task is not None and self._content is not None:
            with suppress(TimeoutError):
                async with asyncio.timeout(END_WAIT):
                    await asyncio.shield(self._task)

    def leave(self) -> None:
        """Another process writes the file from now on."""
        self._path = ""
        self._content = None
        if self._task is not None:
            self._task.cancel()

    async def close(self) -> None:
        """Write what is not written yet, once."""
        if self._task is not None and self._content is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task
            with suppress(OSError, TimeoutError):
                async with asyncio.timeout(END_WAIT):
                    await self._write(self._content)
