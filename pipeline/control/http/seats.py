"""Which connection of the API makes room for another one when there are as many as there may be.

Connections have an *owner*: a guest, or a process or address on the host. A connection is *idle* while it has
sent no whole request that waits for its answer. At the limit, the first of these is closed:

1. The idle connection that is there for longest, of the owner with most connections.
2. Such a connection of the owner that asks.
3. If the owner that asks has fewer connections than an equal share, the oldest connection of the owner with
   most.

Otherwise the new connection is refused. An owner never loses a connection to one that has as many.
"""

from collections.abc import Callable


class Seat:
    """One connection."""

    def __init__(self, owner: str, guest: int, end: Callable[[], object]) -> None:
        """guest: the number of the owner, if it is a guest; else 0. end: closes the connection, soon."""
        self.owner = owner
        self.guest = guest
        self.end = end
        self.is_busy: Callable[[], bool] = _idle
        """Whether a request waits for its answer."""


class Seats:
    """All connections of one front."""

    def __init__(self, count: int) -> None:
        """count: how many there may be."""
        self.count = count
        self._by_owner: dict[str, dict[Seat, None]] = {}
        self._taken = 0

    def __len__(self) -> int:
        return self._taken

    @property
    def full(self) -> bool:
        """Whether there are as many connections as there may be."""
        return self._taken >= self.count

    def has_idle(self) -> bool:
        """Whether any connection is idle."""
        return any(not seat.is_busy() for seats in self._by_owner.values() for seat in seats)

    def add(self, seat: Seat) -> None:
        """A connection begins."""
        self._by_owner.setdefault(seat.owner, {})[seat] = None
        self._taken += 1

    def remove(self, seat: Seat) -> None:
        """A connection is over. One that make_room() has returned is not an error."""
        seats = self._by_owner.get(seat.owner)
        if seats is None or seat not in seats:
            return
        del seats[seat]
        self._taken -= 1
        if not seats:
            del self._by_owner[seat.owner]

    def make_room(self, owner: str) -> Seat | None:
        """The connection to end for a new one of this owner; it does not count any more. None: refuse."""
        own = self._by_owner.get(owner, {})
        most = max(self._by_owner.values(), key=len, default=own)
        if len(most) <= len(own):
            most = own
        seat = _longest_idle(most) or _longest_idle(own)
        if (
            seat is None
            and most is not own
            and len(own) < self.count // (len(self._by_owner.keys() | {owner}))
        ):
            seat = next(iter(most))
        if seat is not None:
            self.remove(seat)
        return seat

    def sums(self) -> dict[int, int]:
        """How many connections each guest has, by its number."""
        found = {}
        for seats in self._by_owner.values():
            for seat in seats:
                found[seat.guest] = len(seats)
        return {guest: count for guest, count in found.items() if guest > 0}


def _longest_idle(seats: dict[Seat, None]) -> Seat | None:
    return next((seat for seat in seats if not seat.is_busy()), None)


def _idle() -> bool:
    return False
