"""Judges each request of an HTTP/1 connection that was held for its name, not only the first one.

So a connection to an allowed name cannot be used for another one at the same address (keep-alive,
pipelining). Only bytes of the guest are read, and bodies are passed by their length. Bytes of a head that is
not whole wait here. Holds bounds them and their time, as for first bytes.
"""

from collections.abc import Callable

from pipeline.engines.stated.requests import REFUSED, Requests
from pipeline.host.stream import HostStream
from pipeline.wire.stated import Stated


class RequestGuard:
    """The requests of one connection, and what of them waits."""

    def __init__(self, queued: int) -> None:
        """queued: bytes that the stream has already. They begin with the first head."""
        self._requests = Requests()
        self._held = b""
        self._fresh = queued
        """Bytes at the end of the stream's queue that were not read yet."""
        self.moved = False
        """Whether the last examine() has let something pass."""

    @property
    def size(self) -> int:
        """Bytes that wait for the rest of a head."""
        return len(self._held)

    def queued(self, count: int) -> None:
        """The guest has sent more. The bytes are in the stream's queue."""
        self._fresh += count

    def examine(
        self, stream: HostStream, free: Callable[[int], None], judge: Callable[[Stated], bool]
    ) -> bool:
        """Leave what may go to the host in the queue. False if a request must not go on. judge: see Judge."""
        self.moved = False
        if not self._fresh:
            return True
        if not self._held and self._requests.skip(self._fresh):
            self._fresh = 0
            return True
        data = stream.take(free)
        old = len(data) - self._fresh
        fresh = self._held + data[old:]
        self._fresh = 0
        passed = self._requests.read(fresh, judge)
        if passed == REFUSED:
            self._held = b""
            return False
        self._held = fresh[passed:]
        self.moved = passed > 0
        stream.put_back(data[:old] + fresh[:passed])
        return True
