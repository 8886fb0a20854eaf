"""A small epoll loop with the interface that workers offer to stages."""

import select
import time
from collections.abc import Callable

LIMIT = 10.0
"""Seconds after which a test fails, if something has not happened that should happen at once."""


class Poller:
    """Descriptors and their callbacks. The test calls ``run``."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self.callbacks: dict[int, Callable[[int], object]] = {}

    def register(self, fd: int, events: int, callback: Callable[[int], object]) -> None:
        self._epoll.register(fd, events)
        self.callbacks[fd] = callback

    def modify(self, fd: int, events: int) -> None:
        self._epoll.modify(fd, events)

    def unregister(self, fd: int) -> None:
        del self.callbacks[fd]
        self._epoll.unregister(fd)

    def run(self, timeout: float = 0.0) -> int:
        """Wait for events and deliver them. Returns their number."""
        events = self._epoll.poll(timeout)
        for fd, mask in events:
            if (callback := self.callbacks.get(fd)) is not None:
                callback(mask)
        return len(events)

    def run_until(self, done: Callable[[], object]) -> None:
        """Deliver events until done() is true."""
        end = time.monotonic() + LIMIT
        while not done():
            assert time.monotonic() < end, "nothing happened"
            self.run(0.02)

    def close(self) -> None:
        self._epoll.close()
