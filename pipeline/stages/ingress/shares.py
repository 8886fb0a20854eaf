"""How guests share the workers: by the time that their frames cost, not by their number.

While several guests are there, each burst of a guest is charged to it: what ingress needed to read it, and
what demux, tcp and egress report for the records made of it (WORK). Two rules use these times.

*Turns* (deficit round robin). In each round every guest that has something to read gets the same time, and is
read while it has time left. A guest that nobody waits for owes nothing. A guest with expensive frames is read
in smaller bursts, so that the others wait less than a millisecond for one of its bursts.

*Small work*. Bytes are worth time: a guest may cost PRICE_S for each byte that it sends or gets, but for the
first SMALL_FRAME of each frame. Whatever it costs beyond that is small work: tiny frames, requests, frames
that come to nothing. A flood consists of small work. It costs the host more than is measured here, since the
kernel and the guest's monitor work for it too. So while another guest is active and time is short
(pipeline.stages.ingress.pressure), all small work gets only little of it. Guests that want more share it
equally, and wait. A guest that sends one frame and waits for the answer is not a flood: its work counts less
(UNHURRIED) as long as each read empties its socket. A guest that is alone is not limited.
"""

from collections.abc import Iterable
from typing import Final

from pipeline.links.base import FULL_READ
from pipeline.stages.ingress.pressure import Pressure

PRICE_S: Final = 8e-9
"""Processor time that a byte of payload may cost in all workers: a core for a gigabit a second."""
SMALL_FRAME: Final = 128
"""Bytes at the beginning of each frame that are worth nothing."""
UNHURRIED: Final = 0.25
"""What counts of small work for a guest whose socket was empty after the last read."""
SAVED_S: Final = 0.01
"""Time that a guest may save for small work: a short burst of it does not wait."""
DEBT_S: Final = 0.05
"""A guest waits no longer than for this much time that it used too much."""
ACTIVE_S: Final = 0.1
"""A guest is active for so long after something was read from it."""
QUANTUM_S: Final = 0.0002
"""Time for each guest in a round."""
BURST_S: Final = 0.0003
"""What one read of a guest may cost in all workers, about, while others are there."""
LEAST_READ: Final = 4096
"""Bytes of one read, however much they cost."""
FIRST_READ: Final = 16384
"""Bytes of one read while the costs of a guest are not known: until KNOWN_AFTER bytes."""
KNOWN_AFTER: Final = 65536

_NEVER: Final = float("inf")
_REMEMBERED: Final = 262144
"""Bytes after which older costs of a guest count half."""


class Share:
    """The account of one guest."""

    __slots__ = ("bytes_read", "cost", "counted_at", "deficit", "factor", "level")

    def __init__(self, now: float) -> None:
        self.deficit = 0.0
        """Time left in this round; negative: more than its part was used."""
        self.level = SAVED_S
        """Time left for small work; negative: time that is owed."""
        self.factor = 1.0
        """What counts of its work."""
        self.counted_at = now
        self.cost = 0.0
        self.bytes_read = 0

    def read_limit(self) -> int:
        """Bytes of one read that cost about BURST_S."""
        if self.bytes_read < KNOWN_AFTER:
            return FIRST_READ
        return min(max(int(BURST_S * self.bytes_read / max(self.cost, 1e-9)), LEAST_READ), FULL_READ)


class Shares:
    """The accounts of all guests, by their numbers."""

    def __init__(self, pressure: Pressure) -> None:
        self._pressure = pressure
        self._shares: dict[int, Share] = {}
        self.several = False
        """Whether more than one guest has links. Until then nothing is charged."""
        self._owing: dict[int, Share] = {}
        """Guests that use what they have for small work."""
        self._latest = 0
        self._latest_at = self._other_at = -_NEVER
        """Which guest was last read, when, and when one of the others was."""

    def add(self, guest: int, now: float) -> None:
        """The first link of a guest is there."""
        self._shares.setdefault(guest, Share(now))

    def remove(self, guest: int) -> None:
        """The last link of a guest is over."""
        self._shares.pop(guest, None)
        self._owing.pop(guest, None)

    # --- accounts -----------------------------------------------------------------------------

    def was_read(self, guest: int, count: int, frames: int, now: float) -> None:
        """``count`` bytes of a guest, in ``frames`` frames, were read: it is active, and they are worth time.

        A read that is shorter than the guest's limit emptied its socket.
        """
        if guest != self._latest:
            self._latest, self._other_at = guest, self._latest_at
        self._latest_at = now
        share = self._shares[guest]
        share.factor = UNHURRIED if count < share.read_limit() >> 1 else 1.0
        share.bytes_read += count
        if share.bytes_read > _REMEMBERED:
            share.bytes_read >>= 1
            share.cost /= 2
        self.credit(guest, count, frames)

    def credit(self, guest: int, count: int, frames: int) -> None:
        """``frames`` frames with ``count`` bytes in all were carried for a guest."""
        share = self._owing.get(guest)
        if share is not None:
            share.level += max(count - SMALL_FRAME * frames, 0) * PRICE_S

    def charge(self, guest: int, seconds: float, now: float) -> None:
        """Frames of a guest cost this much processor time."""
        share = self._shares.get(guest)
        if share is None:
            return
        share.deficit = max(share.deficit - seconds, -DEBT_S)
        share.cost += seconds
        if guest not in self._owing:
            self._owing[guest] = share
            share.counted_at = now
        share.level = max(share.level - seconds * share.factor, -DEBT_S)

    def refill(self, now: float) -> None:
        """Give each guest that does small work its part of the time since the last call."""
        owing = self._owing
        if not owing:
            return
        self._pressure.look(now)
        rate = self._pressure.small_s / len(owing)
        for guest, share in list(owing.items()):
            share.level += (now - share.counted_at) * rate
            share.counted_at = now
            if share.level >= SAVED_S:
                share.level = SAVED_S
                del owing[guest]

    # --- turns -------------------------------------------------------------------------------

    def may_read(self, guest: int, now: float) -> bool:
        """Whether a guest may be read: it owes no time, or no other guest is active."""
        share = self._owing.get(guest)
        return share is None or share.level >= 0 or not self._others_active(guest, now)

    def order(self, guests: Iterable[int]) -> list[int]:
        """Begin a round: the guests whose turn it is, those with most time left first."""
        shares = self._shares
        waiting = [(shares[guest], guest) for guest in guests]
        if not waiting:
            return []
        most = max([share.deficit for share, _ in waiting])
        grant = QUANTUM_S if most > -QUANTUM_S else QUANTUM_S - most
        for share, _ in waiting:
            share.deficit = min(share.deficit + grant, QUANTUM_S)
        ready = [(-share.deficit, guest) for share, guest in waiting if share.deficit > 0]
        return [guest for _, guest in sorted(ready)]

    def is_empty(self, guest: int) -> None:
        """A guest has nothing to read: it saves no time for later rounds."""
        share = self._shares.get(guest)
        if share is not None:
            share.deficit = min(share.deficit, 0.0)

    def read_limit(self, guest: int) -> int:
        """Bytes of one read of a guest while others are there."""
        return self._shares[guest].read_limit()

    def deadline(self, guests: Iterable[int], now: float) -> float:
        """When one of these guests, which have something to read, may be read; inf if none has to wait."""
        at = _NEVER
        rate = self._pressure.small_s / max(len(self._owing), 1)
        for guest in guests:
            share = self._owing.get(guest)
            if share is not None and share.level < 0 and self._others_active(guest, now):
                at = min(at, share.counted_at - share.level / rate, self._others_at(guest) + ACTIVE_S)
        return at

    def _others_at(self, guest: int) -> float:
        return self._other_at if guest == self._latest else self._latest_at

    def _others_active(self, guest: int, now: float) -> bool:
        return self._others_at(guest) > now - ACTIVE_S
