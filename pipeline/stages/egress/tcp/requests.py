"""Judges each request of an HTTP/1 connection that was held for its name, not only the first one.

So a connection to an allowed name cannot be used for another one at the same address (keep-alive,
pipelining). Only bytes of the guest are read, and bodies are passed by their length. Bytes of a head that is
not whole wait here. Holds bounds them and their time, as for first bytes.

Thousands of requests may be in few bytes. So in one step only some are looked at, and what follows has its
turn in the next one.
"""

from collections.abc import Callable
from typing import Final

from pipeline.engines.stated.requests import REFUSED, Judge, Requests
from pipeline.host.stream import HostStream

LOOKS_A_STEP: Final = 512
"""Heads, bodies and lines of chunks that a step looks at, of all connections."""
LOOKS_A_FLOW: Final = 64
LOOKS_AT_LEAST: Final = 4
"""Those that a connection has in each step, whatever others have used."""
WINDOW: Final = 32768
"""Bytes that are read at once: more than any head."""


class Looks:
    """How many looks are left in this step."""

    def __init__(self) -> None:
        self._left = LOOKS_A_STEP

    def begin(self) -> None:
        """A step begins."""
        self._left = LOOKS_A_STEP

    def turn(self) -> int:
        """How many the next connection may have."""
        return max(LOOKS_AT_LEAST, min(LOOKS_A_FLOW, self._left))

    def used(self, count: int) -> None:
        """A connection has had so many."""
        self._left -= count


class RequestGuard:
    """The requests of one connection, and what of them waits."""

    def __init__(self, queued: int, looks: Looks) -> None:
        """queued: bytes that the stream has already. They begin with the first head."""
        self._requests = Requests()
        self._waits = bytearray()
        self._fresh = queued
        """Bytes at the end of the stream's queue that were not read yet."""
        self._looks = looks
        self.more = False
        """Whether some bytes wait for nothing but their turn in the next step."""
        self.moved = False
        """Whether the last examine() has let something pass."""

    @property
    def size(self) -> int:
        """Bytes that wait for the rest of a head."""
        return 0 if self.more else len(self._waits)

    def queued(self, count: int) -> None:
        """The guest has sent more. The bytes are in the stream's queue."""
        self._fresh += count

    def examine(
        self, stream: HostStream, free: Callable[[int], None], judge: Judge, *, last: bool = False
    ) -> bool:
        """Leave what may go to the host in the queue. False if a request must not go on.

        last: there is no more time for the rest of what waits.
        """
        self.moved = False
        if self._fresh and (self._waits or not self._requests.skip(self._fresh)):
            self._waits += stream.take_last(self._fresh, free)
            self.more = True
        self._fresh = 0
        if self.more and not self._read(stream, free, judge):
            return False
        if last and self.size and not self.moved:
            if not self._requests.end(judge):
                return False
            stream.put_last(bytes(self._waits), free)
            self._waits.clear()
        return True

    def _read(self, stream: HostStream, free: Callable[[int], None], judge: Judge) -> bool:
        """Let pass what may, as far as this step goes. False if a request must not go on."""
        waits = self._waits
        most = left = self._looks.turn()
        may_go = bytearray()
        self.more = True
        while waits and left > 0 and self.more:
            window = bytes(waits[:WINDOW])
            passed = self._requests.read(window, judge, left)
            left -= self._requests.looks
            if passed == REFUSED:
                break
            self.more = left <= 0 or (passed > 0 and len(window) < len(waits))
            may_go += window[:passed]
            del waits[:passed]
        else:
            self.more = self.more and bool(waits)
            self._looks.used(most - left)
            self.moved = bool(may_go)
            stream.put_last(bytes(may_go), free)
            return True
        waits.clear()
        return False
