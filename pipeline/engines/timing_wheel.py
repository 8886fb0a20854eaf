"""A hierarchical timing wheel: many timers, each set or cancelled in O(1) (Varghese and Lauck, SOSP 1987).

Time is divided into ticks of 1/1024 s. Write a timer's tick and the wheel's current tick in base 256. The
highest digit in which they differ gives the timer's level, and the value of that digit is its slot.

::

    level   a slot is           the level reaches
    0       1 tick, 1 ms        0.25 s
    1       256 ticks, 0.25 s   64 s
    2       64 s                4.5 hours: keep-alive
    3 ...   4.5 hours           7 weeks; a timer further away has a level of its own

All timers of a level share the digits above it with the wheel's tick. So no level wraps around, and slots
ordered by (level, digit) are in order of time. One integer for all levels has a bit for each slot with
timers. Its lowest bit is the next slot.

A slot is opened when its time begins. Timers that are due expire. The others move to a lower level, at most
once for each level. ``advance`` moves a timer straight to its new slot, however far time has moved: a jump of
ten hours opens the slots that have timers and visits no tick in between. A new timer's slot may have begun
already, because the wheel's tick is that of the last ``advance``. It is then the next slot to open.

A timer is never early, and is late by less than one tick:

- a second has 1024 ticks, a power of two, so converting floats to ticks does not round;
- epoll waits in milliseconds, and the TCP engine has the same clock granularity G (RFC 6298). A finer wheel
  would open more slots without benefit. Linux rounds its TCP timers to one jiffy, 1 to 10 ms.

The caller passes the time. If it runs backwards, the wheel does not turn until the time has caught up.
"""

from collections.abc import Hashable
from math import ceil, inf
from typing import Final, Generic, TypeVar

TICKS_A_SECOND: Final = 1024

_BITS: Final = 8
"""A level has 2**_BITS slots. With fewer, timers would move more often; with more, the integer is longer."""
_DIGIT: Final = (1 << _BITS) - 1

K = TypeVar("K", bound=Hashable)


class TimingWheel(Generic[K]):
    """Keys and their times. A call costs O(1), ``advance`` O(1) for each key that expires or moves down."""

    __slots__ = ("_deadline", "_occupied", "_slots", "_tick", "_ticks")

    def __init__(self) -> None:
        self._tick = 0
        """The wheel's tick: how far it has turned."""
        self._ticks: dict[K, int] = {}
        """The tick at which each key expires."""
        self._slots: dict[int, dict[K, None]] = {}
        """Keys by level << _BITS | digit. A slot without keys has no entry."""
        self._occupied = 0
        """A bit for each entry of _slots."""
        self._deadline = inf

    def __len__(self) -> int:
        return len(self._ticks)

    def __contains__(self, key: K) -> bool:
        return key in self._ticks

    def schedule(self, key: K, at: float) -> None:
        """Let key expire at ``at`` (seconds), instead of at its previous time. A past time means at once.

        Raises OverflowError for infinity and ValueError for NaN. To let a key never expire, cancel it.
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
        # The wheel may have turned since the key was placed. The highest differing digit is still the same.
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

        This is the time at which the first occupied slot begins. Its first key expires then or later. If
        later, the key moves to a lower level first.
        """
        return self._deadline

    def _index(self, tick: int) -> int:
        """The slot of a tick, which is not before the wheel's own: level << _BITS | digit."""
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
