"""Many timers, each set and cancelled in O(1): a hierarchical timing wheel (Varghese and Lauck, SOSP 1987).

Time is cut into ticks of 1/1024 s. Read a tick as a number in base 256. A timer is on the level of the
highest digit in which its tick differs from the wheel's own tick. That digit is its slot.

::

    level   a slot is           the level reaches
    0       1 tick, 1 ms        0.25 s
    1       256 ticks, 0.25 s   64 s
    2       64 s                4.5 hours: keep-alive
    3 ...   4.5 hours           7 weeks; a timer further away has a level of its own

All timers of a level share the digits above it with the wheel's tick. So no level wraps around, and the
order of (level, digit) is the order of time. One integer has a bit for each slot with timers; its lowest
bit is the next slot. All levels share this integer.

A slot above level 0 is opened when its time begins. The timers that are due expire, the others move down,
closer to their ticks. A timer moves at most once for each level. An ``advance`` of any length moves it to
its place at once: a jump of ten hours opens the slots that have timers and visits no tick between. If the
caller advances the wheel only when a timer is due, the slot of a new timer may have begun already: it is
the next to open.

A timer is never early, and is late by less than one tick:

- a tick is a power of two, so seconds become ticks without rounding;
- epoll waits in milliseconds, and the TCP engine has this granularity G (RFC 6298). A finer wheel would open
  more slots without use. Linux rounds its TCP timers to one jiffy, 1 to 10 ms.

The caller passes the time. It must not run backwards; if it does, the wheel stands still meanwhile.
"""

from collections.abc import Hashable
from math import ceil, inf
from typing import Final, Generic, TypeVar

TICKS_A_SECOND: Final = 1024

_BITS: Final = 8
"""Slots of a level, as a power of two. Fewer would move timers more often, more make a longer integer."""
_DIGIT: Final = (1 << _BITS) - 1

K = TypeVar("K", bound=Hashable)


class TimingWheel(Generic[K]):
    """Keys and their times. A call is O(1); ``advance`` is so for each key that expires or moves down."""

    __slots__ = ("_deadline", "_occupied", "_slots", "_tick", "_ticks")

    def __init__(self) -> None:
        self._tick = 0
        """How far the wheel has turned."""
        self._ticks: dict[K, int] = {}
        """When each key expires."""
        self._slots: dict[int, dict[K, None]] = {}
        """Keys by level << _BITS | digit; a slot exists while it is occupied."""
        self._occupied = 0
        self._deadline = inf

    def __len__(self) -> int:
        return len(self._ticks)

    def __contains__(self, key: K) -> bool:
        return key in self._ticks

    def schedule(self, key: K, at: float) -> None:
        """Let key expire at ``at`` (seconds), or at once if that is over. A previous time is forgotten.

        Raises OverflowError for infinity, ValueError for NaN: cancel a key that shall never expire.
        """
        tick = ceil(at * TICKS_A_SECOND)
        if key in self._ticks:
            self.cancel(key)
        if tick < self._tick:
            tick = self._tick
        self._ticks[key] = tick
        self._place(key, tick)

    def cancel(self, key: K) -> None:
        """Forget the key, if it is there."""
        tick = self._ticks.pop(key, None)
        if tick is None:
            return
        # The wheel may have turned since it was placed, but the highest digit that differs is the same.
        index = self._index(tick)
        slot = self._slots[index]
        if len(slot) > 1:
            del slot[key]
            return
        del self._slots[index]
        bit = 1 << index
        self._occupied ^= bit
        if not self._occupied & bit - 1:
            self._deadline = self._first_begins()

    def advance(self, now: float) -> list[K]:
        """Turn the wheel to now (seconds). Removes and returns the keys that expired, in no order."""
        expired: list[K] = []
        down: list[K] = []
        slots, ticks = self._slots, self._ticks
        tick = int(now * TICKS_A_SECOND)
        while now >= self._deadline:
            index = (self._occupied & -self._occupied).bit_length() - 1
            self._occupied &= self._occupied - 1
            self._deadline = self._first_begins()
            for key in slots.pop(index):
                if ticks[key] <= tick:
                    del ticks[key]
                    expired.append(key)
                else:
                    down.append(key)
        if tick > self._tick:
            self._tick = tick
        for key in down:
            self._place(key, ticks[key])
        return expired

    def deadline(self) -> float:
        """When ``advance`` must be called next (seconds); infinity without a key.

        That is when the first occupied slot begins: no later than its first key expires, and
        earlier when that is far away and has to move down first.
        """
        return self._deadline

    def _index(self, tick: int) -> int:
        """The slot where a tick belongs: level << _BITS | digit. It is never before the wheel's own tick."""
        level = ((tick ^ self._tick | _DIGIT).bit_length() - 1) // _BITS
        return level << _BITS | tick >> level * _BITS & _DIGIT

    def _place(self, key: K, tick: int) -> None:
        index = self._index(tick)
        slots = self._slots
        if index in slots:
            slots[index][key] = None
            return
        slots[index] = {key: None}
        bit = 1 << index
        self._occupied |= bit
        if not self._occupied & bit - 1:
            self._deadline = self._first_begins()

    def _first_begins(self) -> float:
        """When the first occupied slot begins (seconds); infinity without one."""
        occupied = self._occupied
        if not occupied:
            return inf
        index = (occupied & -occupied).bit_length() - 1
        shift = (index >> _BITS) * _BITS
        above = self._tick >> shift + _BITS << _BITS
        return ((above | index & _DIGIT) << shift) / TICKS_A_SECOND
