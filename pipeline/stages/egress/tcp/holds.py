"""Connections whose guest's bytes wait until they state a name (pipeline.engines.stated).

The host connection is open, and what the host sends goes to the guest: a server that speaks first, as that of
ssh does, is heard. The guest's bytes go nowhere. If the first ones decide, they never leave their slots.
Otherwise they are copied, and MAX_BYTES bounds the copies of each connection, MAX_HELD all of them. A guest
that sends a part of a hello has HOLD_S for the rest. One that sends nothing may wait as long as it likes.
"""

from collections import OrderedDict
from collections.abc import Callable
from typing import Final, Generic, TypeVar

from pipeline.engines.stated.first_bytes import MAX_BYTES, FirstBytes
from pipeline.host.stream import HostStream
from pipeline.wire.stated import MORE, Stated

HOLD_S: Final = 10.0
"""Seconds from the first byte until the name must be known."""
MAX_HELD: Final = 8 << 20
"""Bytes of all held connections. At more, the one that waits for longest is decided on."""
_NEVER: Final = float("inf")


class Hold:
    """The first bytes of one connection."""

    def __init__(self) -> None:
        self._reader = FirstBytes()
        self._taken = bytearray()
        self.whole = False
        """Whether the bytes that were read say all, and not their end."""

    @property
    def size(self) -> int:
        """Bytes that are held outside of slots."""
        return len(self._taken)

    def read(self, stream: HostStream, free: Callable[[int], None], *, last: bool) -> Stated | None:
        """What the guest's bytes state; None if further ones may say it. last: there will be none."""
        if self._taken:
            self._taken += stream.take(free)
            stated = self._reader.read(self._taken)
        else:
            stated = self._reader.read(stream.first(MAX_BYTES))
        self.whole = stated.kind != MORE
        if self.whole:
            return stated
        if last or stream.finishes:
            return self._reader.end()
        self._taken += stream.take(free)
        return None

    def is_silent(self, stream: HostStream) -> bool:
        """Whether the guest has ended its half without a byte. Then there is nothing to hold any more."""
        return stream.finishes and not self._taken and not stream.queued_bytes

    def release(self, stream: HostStream) -> None:
        """Give the bytes back to the stream."""
        stream.put_back(bytes(self._taken))


F = TypeVar("F")


class Holds(Generic[F]):
    """The held connections whose guests have sent something. The one that waits for longest comes first."""

    def __init__(self) -> None:
        self._since: OrderedDict[F, float] = OrderedDict()
        self._sizes: dict[F, int] = {}
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._since)

    def wait(self, flow: F, size: int, now: float) -> None:
        """The flow waits for further bytes. size: of those that it keeps."""
        if not size:
            return
        self._since.setdefault(flow, now)
        self._bytes += size - self._sizes.get(flow, 0)
        self._sizes[flow] = size

    def keep(self, flow: F, size: int, now: float, *, anew: bool) -> None:
        """The flow is open, and waits for the rest of a request unless size is 0. anew: of another one."""
        if self._since and (anew or not size):
            self.remove(flow)
        if size:
            self.wait(flow, size, now)

    def remove(self, flow: F) -> None:
        """The flow is decided on, or over."""
        if self._since.pop(flow, None) is not None:
            self._bytes -= self._sizes.pop(flow)

    def deadline(self) -> float:
        """When due() has a flow."""
        if not self._since:
            return _NEVER
        return 0.0 if self._bytes > MAX_HELD else next(iter(self._since.values())) + HOLD_S

    def due(self, now: float) -> list[F]:
        """Flows that wait for too long, or make room for others."""
        found: list[F] = []
        over = self._bytes - MAX_HELD
        for flow, since in self._since.items():
            if over <= 0 and since + HOLD_S > now:
                break
            over -= self._sizes[flow]
            found.append(flow)
        return found
