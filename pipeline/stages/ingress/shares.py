"""How guests share the processor time of the workers.

While several guests are active, ingress charges each burst to its guest: the time that ingress needed to read
it, and the times that demux, tcp and egress report for its records (WORK). Two rules use these times.

*Turns* (deficit round robin). In each round, every guest with something to read gets the same time, and is
read once if it has time left. A round may take several steps. If only one guest has something to read, its
debt is cancelled. A guest with expensive frames is read in smaller bursts, so other guests wait less than a
millisecond for one of them. A guest beside which all others wait, or do nothing, is read in longer ones.

*Small work* (a token bucket). Time counts as small work by the length of the frames that it went into: all of
it for the smallest frames, none for frames of LARGE_FRAME bytes and more (``smallness``). A flood consists of
small frames, or of small ones among large ones. It costs the host more than is measured here, since the
kernel and the guest's machine monitor work for it too. Acknowledgments of a download are small too; the bytes
that a guest gets pay for them (PRICE_S). Small work is limited while another guest is active and time is
short (pipeline.stages.ingress.pressure). Buckets that are not full get equal parts of the time for small
work. A guest whose bucket is empty is not read. A guest that is alone is not limited.

*Unhurried guests*. A guest that sends one frame and waits for the answer is not a flood. So a frame counts
less (UNHURRIED) if the read that brought it emptied the socket. That holds for UNHURRIED_FRAMES a second of
each guest: an exchange of single frames brings no more. So a flood that is sent in small portions, each of
which is read at once, gains little.
"""

from collections.abc import Collection, Iterable, Sequence
from typing import Final

from pipeline.engines.activity import Activity
from pipeline.links.base import FULL_READ
from pipeline.stages.ingress.pressure import Pressure
from pipeline.wire.framing import EVERY_FRAME

PRICE_S: Final = 1.5e-9
"""Seconds that a byte to the guest pays for: about four times what its acknowledgments cost."""
LARGE_FRAME: Final = 1000
"""A frame of n bytes counts as 1 - n / LARGE_FRAME small frames."""
MIXED: Final = 128
"""Frames over which the part of small ones is averaged. Beside others, workers hold fewer of one guest. A
guest that begins to send large frames soon has no small work any more."""
UNHURRIED: Final = 0.25
"""The part of the work that counts for frames whose read emptied the socket."""
UNHURRIED_FRAMES: Final = 8000
"""Frames of a guest a second for which only this part counts."""
UNHURRIED_AT_ONCE: Final = 80
"""Frames of a guest at once for which only this part counts."""
AVERAGED: Final = 16
"""Frames over which that part is averaged, since other workers report their work later than ingress reads."""
SAVED_S: Final = 0.01
"""Seconds of small work that a guest can save up, so that a short burst does not wait."""
DEBT_S: Final = 0.03
"""The most seconds that a guest can owe."""
LONGEST_WAIT_S: Final = 1.0
"""A guest owes no more than its bucket gets in this time. So it waits no longer, however many guests share
the time for small work. With up to two guests that owe, DEBT_S is less."""
SHARING_S: Final = 0.5
"""Seconds for which guests share the workers after a time when two of them were active."""
ACTIVE_S: Final = 0.1
"""Seconds for which a guest counts as active after it was read."""
QUANTUM_S: Final = 0.0002
"""Seconds of processor time for each guest in a round."""
BURST_S: Final = 0.0002
"""About how many seconds one read of small frames may cost in all workers, while other guests have links.
One of large frames may cost twice as much, since these are cheap only if many of them are merged."""
LONG_BURST_S: Final = 0.001
"""The same while only one guest is read: the first frame of a silent guest waits no longer."""
WHOLE_READ: Final = 32768
"""Bytes from which on a read may fill its slot: half a slot. Else each slot would take a long read and
a short one."""
LEAST_READ: Final = 512
"""Bytes that one read may bring, however much they cost. Each SYN that opens a host socket costs 50 µs."""
FIRST_READ: Final = 2048
"""Bytes of a guest's first read. Its account begins as if these had cost BURST_S. So reads grow while the
guest's frames turn out to be cheap, and a new guest with expensive ones is no burden for others."""

FRAMES_OF_STEP: Final = 64
"""Small frames that one step may bring while other guests have links, and frames that one read may bring. A
slot full of frames of 1294 bytes has fewer. What bytes have cost says nothing of the next ones: after large
frames, a guest could send a slot full of SYNs, which are 40 ms of work."""
LARGE_OF_STEP: Final = 256
"""Frames of any kind that one step may bring: five slots full of frames of 1514 bytes."""
LEAST_FRAMES: Final = 8
"""Frames that one read may bring, whatever they cost: as many as LEAST_READ has."""
SHORTEST: Final = 64
"""Bytes of the shortest frame with what delimits it."""

_NEVER: Final = float("inf")
_REMEMBERED: Final = 131072
"""After this many bytes, a guest's older costs count half."""


def small_frames(frames: Sequence[tuple[int, int]]) -> float:
    """How many of the frames (offset, length) are small, where a longer one counts less."""
    return sum([LARGE_FRAME - length for _, length in frames if length < LARGE_FRAME]) / LARGE_FRAME


class Account:
    """The account of one guest."""

    __slots__ = (
        "_filled_at",
        "_unhurried",
        "bytes_read",
        "cost",
        "counted_at",
        "deficit",
        "level",
        "read_at",
        "round",
        "smallness",
        "waits",
        "weight",
    )

    def __init__(self, now: float) -> None:
        self.deficit = 0.0
        """Seconds left in this round. If negative, the guest used more than its part."""
        self.round = 0
        """The last round in which the guest got time."""
        self.level = SAVED_S
        """Seconds left in the bucket for small work. If negative, the guest owes them."""
        self.weight = 1.0
        """The part of its work that counts, on average: from UNHURRIED to 1."""
        self.smallness = 1.0
        """The part of its work that is small work, on average: from 0 to 1."""
        self.waits = False
        """Whether may_read() refused the guest the last time, because it owes time for small work."""
        self.read_at = now
        self.counted_at = now
        self.cost = BURST_S
        self.bytes_read = FIRST_READ
        self._unhurried = 0.0
        """A token bucket: the frames for which only UNHURRIED counts. _filled_at: the time of its level."""
        self._filled_at = now

    def was_read(self, count: int, frames: int, small: float, now: float, emptied: bool, more: bool) -> None:
        """``count`` bytes in ``frames`` frames were read, ``small`` of them small (see small_frames()).

        emptied: the link says that the read has emptied its socket. Some links do not know it. Then a read of
        less than half the limit has, unless the link says that it holds ``more`` frames.
        """
        self.read_at = now
        price = 1.0
        if emptied or (not more and count < min(self.read_limit(), WHOLE_READ) >> 1):
            fresh = (now - self._filled_at) * UNHURRIED_FRAMES
            self._unhurried = min(self._unhurried + fresh, UNHURRIED_AT_ONCE)
            self._filled_at = now
            if frames <= self._unhurried:
                self._unhurried -= frames
                price = UNHURRIED
        self.weight += (price - self.weight) * min(frames / AVERAGED, 1.0)
        if frames:
            self.smallness += (small / frames - self.smallness) * min(frames / MIXED, 1.0)
        self.bytes_read += count
        if self.bytes_read > _REMEMBERED:
            self.bytes_read >>= 1
            self.cost /= 2

    def read_limit(self, seconds: float = BURST_S) -> int:
        """Bytes that cost about so many seconds: the most that one read may bring. See WHOLE_READ."""
        seconds *= 2.0 - self.smallness
        count = max(int(seconds * self.bytes_read / max(self.cost, 1e-9)), LEAST_READ)
        return count if count < WHOLE_READ else FULL_READ

    def expected_cost(self, count: int) -> float:
        """Seconds that this many bytes will take in all workers."""
        return count * self.cost / self.bytes_read


class Shares:
    """The accounts of all guests, by their numbers."""

    def __init__(self, pressure: Pressure) -> None:
        self._pressure = pressure
        self._accounts: dict[int, Account] = {}
        self.linked = False
        """Whether more than one guest has links. Ports sets it."""
        self.several = False
        """Whether more than one guest was active lately. Until then nothing is charged."""
        self._present = Activity(SHARING_S)
        self._filling: dict[int, Account] = {}
        """Accounts whose bucket for small work is not full. Only these are refilled."""
        self._ready: dict[int, Account] = {}
        """Accounts that were read in the last ACTIVE_S, or a little before, and do not wait."""
        self.pauses = 0
        """How often a guest began to wait because of its small work."""
        self._round = 0
        self._put_off: frozenset[int] = frozenset()
        """Guests that have not yet had their turns of this round."""
        self.expected = 0.0
        """About how many seconds all workers will need for the bytes read; for large frames half of them.

        begin_step() sets it to 0.
        """
        self._small = 0.0
        self._frames = 0
        """The small frames of this step, and all."""
        self._activity = Activity(ACTIVE_S)

    def add(self, guest: int, now: float) -> None:
        """Open the account of a guest, unless it has one."""
        self._accounts.setdefault(guest, Account(now))

    def remove(self, guest: int) -> None:
        """Close the account of a guest that is gone."""
        self._accounts.pop(guest, None)
        self._filling.pop(guest, None)
        self._ready.pop(guest, None)

    def meet(self, guests: Iterable[int], now: float) -> bool:
        """These guests have something to read. Returns whether ``several`` has changed."""
        several = False
        if self.linked:
            present = self._present
            for guest in guests:
                present.saw(guest, now)
                several = present.has_others(guest, now)
        changed = several != self.several
        self.several = several
        return changed

    # --- accounts -----------------------------------------------------------------------------

    def was_read(
        self,
        guest: int,
        count: int,
        frames: int,
        small: float,
        now: float,
        *,
        emptied: bool = False,
        more: bool = False,
    ) -> None:
        """``count`` bytes of a guest were read, in ``frames`` frames, ``small`` of them small.

        emptied, more: see Account.was_read().
        """
        self._activity.saw(guest, now)
        account = self._ready[guest] = self._accounts[guest]
        account.was_read(count, frames, small, now, emptied, more)
        # As in read_limit(), large frames may take twice as long.
        self.expected += account.expected_cost(count) / (2.0 - account.smallness)

    def credit(self, guest: int, count: int) -> None:
        """Credit a guest for ``count`` bytes that were sent to it."""
        account = self._filling.get(guest)
        if account is not None:
            account.level += count * PRICE_S

    def charge(self, guest: int, seconds: float, now: float) -> None:
        """Charge a guest for processor time that its frames cost."""
        account = self._accounts.get(guest)
        if account is None:
            return
        account.deficit = max(account.deficit - seconds, -DEBT_S)
        account.cost += seconds
        if guest not in self._filling:
            self._filling[guest] = account
            account.counted_at = now
        account.level = max(account.level - seconds * account.weight * account.smallness, -DEBT_S)

    def refill(self, now: float) -> None:
        """Put into each bucket its part of the time for small work since the last call."""
        filling = self._filling
        if not filling:
            return
        self._pressure.adapt(now)
        rate = self._rate()
        for guest, account in list(filling.items()):
            account.level = max(account.level, -LONGEST_WAIT_S * rate) + (now - account.counted_at) * rate
            account.counted_at = now
            if account.level >= SAVED_S:
                account.level = SAVED_S
                del filling[guest]

    def _rate(self) -> float:
        """Seconds of small work that each bucket which is not full gets in a second."""
        return self._pressure.small_s / max(len(self._filling), 1)

    # --- turns -------------------------------------------------------------------------------

    def begin_step(self) -> None:
        """Ingress begins to read."""
        self.expected = self._small = 0.0
        self._frames = 0

    def count_frames(self, frames: Sequence[tuple[int, int]]) -> float:
        """These frames (offset, length) were read in this step, while several guests have links.

        Returns how many of them are small.
        """
        small = small_frames(frames)
        self._small += small
        self._frames += len(frames)
        return small

    @property
    def is_full(self) -> bool:
        """Whether the step has as many frames as it may. Nobody knows yet what these cost."""
        return self._small > FRAMES_OF_STEP - LEAST_FRAMES or self._frames >= LARGE_OF_STEP

    def frame_limit(self, limit: int) -> int:
        """The most frames that the next read may bring, if it may bring ``limit`` bytes."""
        if not self.linked:
            return EVERY_FRAME
        left = FRAMES_OF_STEP - int(self._small)
        return max(min(left, limit // SHORTEST), LEAST_FRAMES)

    def may_read(self, guest: int, now: float) -> bool:
        """Whether a guest with something to read may be read: it owes no time, or no other guest is active.

        A guest that has to wait is active too. Else other guests would not be limited any more.
        """
        account = self._filling.get(guest)
        if account is None:
            return True
        waits = account.level < 0 and self._activity.has_others(guest, now)
        if waits:
            self._activity.saw(guest, now)
            self._ready.pop(guest, None)
            self.pauses += not account.waits
        account.waits = waits
        return not waits

    def crowded(self, turns: Collection[int], now: float) -> bool:
        """Whether several guests have a turn, or had one lately and do not wait.

        Only then must a read be short, since another guest would wait for its end.
        """
        ready = self._ready
        for guest, account in list(ready.items()):
            if now > account.read_at + ACTIVE_S:
                del ready[guest]
        return len(ready) + sum([guest not in ready for guest in turns]) > 1

    def order(self, guests: Iterable[int]) -> list[int]:
        """Begin a round, or go on with one. Returns the guests that have a turn, most time left first.

        guests: in the order in which they have waited. Guests with the same time left keep that order. A
        round goes on while one of those that were put off may be read. Whoever has come since then joins it.
        """
        accounts, put_off = self._accounts, self._put_off
        waiting = [(accounts[guest], guest) for guest in guests]
        if not waiting:
            return []
        self._put_off = frozenset()
        grant = QUANTUM_S
        if put_off and any(guest in put_off and account.deficit > 0 for account, guest in waiting):
            waiting = [
                (account, guest)
                for account, guest in waiting
                if guest in put_off or account.round != self._round
            ]
        else:
            self._round += 1
            most = max([account.deficit for account, _ in waiting])
            if most <= -QUANTUM_S:
                grant -= most
        for account, _ in waiting:
            if account.round != self._round:
                account.round = self._round
                account.deficit = min(account.deficit + grant, QUANTUM_S)
        ready = [
            (-account.deficit, at, guest)
            for at, (account, guest) in enumerate(waiting)
            if account.deficit > 0
        ]
        return [guest for _, _, guest in sorted(ready)]

    def put_off(self, guests: Iterable[int]) -> None:
        """The step is long enough: these guests have their turns of this round in the next step.

        Else each step would be a round, and all guests would get time for a round in which two were read. So
        one with expensive frames would have paid its debt too early.
        """
        self._put_off = frozenset(guests)

    def is_empty(self, guest: int) -> None:
        """A guest has nothing to read: it saves no time for later rounds."""
        account = self._accounts.get(guest)
        if account is not None:
            account.deficit = min(account.deficit, 0.0)

    def read_limit(self, guest: int, *, crowded: bool = True) -> int:
        """The most bytes that one read of a guest may bring, while several have links. See crowded()."""
        return self._accounts[guest].read_limit(BURST_S if crowded else LONG_BURST_S)

    def deadline(self, guests: Iterable[int], now: float) -> float:
        """When the first of these guests, which have something to read, may be read; inf if none waits."""
        at = _NEVER
        rate = self._rate()
        for guest in guests:
            account = self._filling.get(guest)
            if account is not None and account.level < 0 and self._activity.has_others(guest, now):
                wait = min(-account.level / rate, LONGEST_WAIT_S)
                at = min(at, account.counted_at + wait, self._activity.others_end_at(guest))
        return at
