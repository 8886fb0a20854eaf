"""Threads for calls that block: a look-up in the system's resolver, reading a file that a client names.

asyncio.to_thread() is not enough. At its end the event loop waits for those threads. A silent name server, or
a file system that does not answer, would delay an orderly stop until the system gives up.
"""

import asyncio
import errno
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar

_R = TypeVar("_R")


class Threads:
    """At most at_once calls run at a time, each in a thread of its own. Further callers wait."""

    def __init__(self, at_once: int) -> None:
        self._room = asyncio.Semaphore(at_once)

    async def run(self, call: Callable[[], _R]) -> _R:
        """Make the call in a thread. Returns or raises what the call does; OSError if there is no thread.

        If the caller is cancelled, the thread goes on and keeps its place.
        """
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[_R] = loop.create_future()

        def deliver(result: _R | None, error: BaseException | None) -> None:
            self._room.release()
            if answer.done():
                return
            if error is not None:
                answer.set_exception(error)
            else:
                answer.set_result(result)  # type: ignore[arg-type]

        def work() -> None:
            result, error = None, None
            try:
                result = call()
            except BaseException as failure:
                error = failure
            with suppress(RuntimeError):  # the loop has ended meanwhile
                loop.call_soon_threadsafe(deliver, result, error)

        await self._room.acquire()
        try:
            threading.Thread(target=work, daemon=True).start()
        except RuntimeError as error:
            self._room.release()
            raise OSError(errno.EAGAIN, "the system gives no further thread") from error
        return await answer
