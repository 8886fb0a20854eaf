"""UDP flows whose datagrams wait until they state a name (pipeline.engines.stated.quic).

A held flow has no host socket yet. Its datagrams are copied, at most MAX_DATAGRAMS. The rest is lost, as in a
full queue on the way. A client of QUIC sends its first ones again after a while.
"""

from collections import OrderedDict
from typing import Final, NamedTuple

from pipeline.engines.stated.quic import Initials
from pipeline.records.addresses import Addr
from pipeline.records.flows import FlowKey
from pipeline.wire import quic_initial
from pipeline.wire.stated import MORE, NAMELESS, QUIC, UNKNOWN, Stated

HOLD_S: Final = 5.0
"""Seconds from the first datagram until the name must be known."""
MAX_DATAGRAMS: Final = 16
MAX_BYTES: Final = 24_576
"""Bytes that are kept of one flow."""
MAX_FLOWS: Final = 256
"""At more, the flow that waits for longest is decided on."""
_NEVER: Final = float("inf")

_DENIED: Final = Stated(NAMELESS, protocol=QUIC)


class Request(NamedTuple):
    """A flow that a guest asks for: its number, ends and link, and the remote's address for the host."""

    number: int
    key: FlowKey
    link: int
    host_addr: Addr


class Hold:
    """The first datagrams of one flow."""

    def __init__(self, request: Request, since: float, *, denies: bool) -> None:
        """denies: a QUIC connection counts as one that states no name, so none is read."""
        self.request = request
        self.since = since
        self.datagrams: list[bytes] = []
        self._reader = None if denies else Initials()
        self._bytes = 0

    @property
    def count(self) -> int:
        """Datagrams that are kept."""
        return len(self.datagrams)

    def read(self, pieces: list[memoryview], *, last: bool) -> Stated | None:
        """What the flow states with these datagrams too; None if further ones may say it.

        last: there will be none.
        """
        for piece in pieces:
            if self.count >= MAX_DATAGRAMS or self._bytes + len(piece) > MAX_BYTES:
                break
            datagram = bytes(piece)
            self.datagrams.append(datagram)
            self._bytes += len(datagram)
            stated = self._read(datagram)
            if stated.kind != MORE:
                return stated
        return _DENIED if last else None

    def _read(self, datagram: bytes) -> Stated:
        if self._reader is not None:
            return self._reader.read(datagram)
        return UNKNOWN if quic_initial.packet_at(datagram, 0) is None else _DENIED


class Holds:
    """The held flows, by number."""

    def __init__(self) -> None:
        self._held: OrderedDict[int, Hold] = OrderedDict()

    def __len__(self) -> int:
        return len(self._held)

    def __contains__(self, number: int) -> bool:
        return number in self._held

    def get(self, number: int) -> Hold | None:
        """The held flow with this number."""
        return self._held.get(number) if self._held else None

    def add(self, request: Request, now: float, *, denies: bool) -> Hold:
        """Hold a flow from now on. denies: see Hold."""
        hold = self._held[request.number] = Hold(request, now, denies=denies)
        return hold

    def remove(self, number: int) -> None:
        """The flow is decided on, or over."""
        del self._held[number]

    def deadline(self) -> float:
        """When due() has a flow."""
        if not self._held:
            return _NEVER
        return 0.0 if len(self._held) > MAX_FLOWS else next(iter(self._held.values())).since + HOLD_S

    def due(self, now: float) -> list[Hold]:
        """Flows that wait for too long, or make room for others."""
        found: list[Hold] = []
        for hold in self._held.values():
            if len(self._held) - len(found) <= MAX_FLOWS and hold.since + HOLD_S > now:
                break
            found.append(hold)
        return found
