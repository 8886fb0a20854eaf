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
equally, and wait. A guest that is alone is not limited.

*Unhurried guests*. A guest that sends one frame and waits for the answer is not a flood. So a frame counts
less (UNHURRIED) if the read that brought it emptied the socket. That holds for UNHURRIED_FRAMES a second of a
guest, which is as many as one exchange after the other brings. A flood that is sent in small portions, so
that each read empties its socket, gains no more than these.
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
"""What counts of small work for frames whose read emptied the socket."""
UNHURRIED_FRAMES: Final = 8000
"""Frames of a guest for which this holds, a second."""
UNHURRIED_AT_ONCE: Final = 80
"""Frames of a guest for which this holds at once."""
AVERAGED: Final = 16
"""Frames over which the price of work is averaged: other workers report it later than ingress reads."""
SAVED_S: Final = 0.01
"""Time that a guest may save for small work: a short burst of it does not wait."""
DEBT_S: Final = 0.05
"""A guest waits no longer than for this much time that it used too much."""
ACTIVE_S: Final = 0.1
"""A guest is active for so long after something was read from it."""
QUANTUM_S: Final = 0.0002
"""Time for each guest in a round."""
BURST_S: Final = 0.0002
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

    __slots__ = (
        "_filled_at",
        "_unhurried",
        "bytes_read",
        "cost",
        "counted_at",
        "deficit",
        "factor",
        "level",
        "waits",
    )

    def __init__(self, now: float) -> None:
        self.deficit = 0.0
        """Time left in this round; negative: more than its part was used."""
        self.level = SAVED_S
        """Time left for small work; negative: time that is owed."""
        self.factor = 1.0
        """What counts of its work, on average."""
        self.waits = False
        """Whether it was not read when it was last looked at, because of what it owes."""
        self.counted_at = now
        self.cost = 0.0
        self.bytes_read = 0
        self._unhurried = 0.0
        """Frames that may still count less: a bucket of UNHURRIED_AT_ONCE, and the time of its level."""
        self._filled_at = now

    def was_read(self, count: int, frames: int, now: float) -> None:
        """``count`` bytes in ``frames`` frames were read. Less than half of the limit emptied the socket."""
        price = 1.0
        if count < self.read_limit() >> 1:
            fresh = (now - self._filled_at) * UNHURRIED_FRAMES
            self._unhurried = min(self._unhurried + fresh, UNHURRIED_AT_ONCE)
            self._filled_at = now
            if frames <= self._unhurried:
                self._unhurried -= frames
                price = UNHURRIED
        self.factor += (price - self.factor) * min(frames / AVERAGED, 1.0)
        self.bytes_read += count
        if self.bytes_read > _REMEMBERED:
            self.bytes_read >>= 1
            self.cost /= 2

    def read_limit(self) -> int:
        """Bytes of one read that cost about BURST_S."""
        if self.bytes_read < KNOWN_AFTER:
            return FIRST_READ
        return min(max(int(BURST_S * self.bytes_read / max(self.cost, 1e-9)), LEAST_READ), FULL_READ)

    def expected_cost(self, count: int) -> float:
        """Seconds that this many bytes will take in all workers, as far as it is known."""
        return count * self.cost / self.bytes_read if self.bytes_read >= KNOWN_AFTER else 0.0


class Shares:
    """The accounts of all guests, by their numbers."""

    def __init__(self, pressure: Pressure) -> None:
        self._pressure = pressure
        self._shares: dict[int, Share] = {}
        self.several = False
        """Whether more than one guest has links. Until then nothing is charged."""
        self._owing: dict[int, Share] = {}
        """Guests that use what they have for small work."""
        self.pauses = 0
        """How often a guest had to begin to wait because of its small work."""
        self.expected = 0.0
        """Seconds that all workers will need, about, for what was read. The reader sets it to 0."""
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
        """``count`` bytes of a guest, in ``frames`` frames, were read. They are worth time."""
        self._is_active(guest, now)
        share = self._shares[guest]
        share.was_read(count, frames, now)
        self.expected += share.expected_cost(count)
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
        """Whether a guest with something to read may be read: it owes no time, or no other guest is active.

        A guest that has to wait is active too: the others must not take it for one that is silent.
        """
        share = self._owing.get(guest)
        if share is None:
            return True
        waits = share.level < 0 and self._others_active(guest, now)
        if waits:
            self._is_active(guest, now)
            self.pauses += not share.waits
        share.waits = waits
        return not waits

    def order(self, guests: Iterable[int]) -> list[int]:
        """Begin a round: the guests whose turn it is, those with most time left first.

        guests: those that have waited longest come first. Among guests with the same time left they do here.
        """
        shares = self._shares
        waiting = [(shares[guest], guest) for guest in guests]
        if not waiting:
            return []
        most = max([share.deficit for share, _ in waiting])
        grant = QUANTUM_S if most > -QUANTUM_S else QUANTUM_S - most
        for share, _ in waiting:
            share.deficit = min(share.deficit + grant, QUANTUM_S)
        ready = [
            (-share.deficit, at, guest) for at, (share, guest) in enumerate(waiting) if share.deficit > 0
        ]
        return [guest for _, _, guest in sorted(ready)]

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

    def _is_active(self, guest: int, now: float) -> None:
        if guest != self._latest:
            self._latest, self._other_at = guest, self._latest_at
        self._latest_at = now

    def _others_at(self, guest: int) -> float:
        return self._other_at if guest == self._latest else self._latest_at

    def _others_active(self, guest: int, now: float) -> bool:
        return self._others_at(guest) > now - ACTIVE_S
