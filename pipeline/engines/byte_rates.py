"""How many bytes a second each guest may send, or get: a token bucket for each guest.

A guest whose bucket is empty is not read until it holds tokens again. Its sockets fill up meanwhile, so it is
slowed down and loses nothing. A read may bring more bytes than the bucket holds. Then the guest owes them.
"""

from collections.abc import Iterable
from typing import Final

from pipeline.engines.buckets import Buckets

BURST_S: Final = 0.1
"""A guest that was idle may pass the bytes of this many seconds at once."""
LEAST_BURST: Final = 65536
"""Bytes that may always pass at once: one read brings that many."""

_NEVER: Final = float("inf")


class ByteRates:
    """The buckets of all guests, by number. Ask may_pass() only while ``on``."""

    def __init__(self) -> None:
        self.on = False
        """Whether there is a rate at all."""
        self.pauses = 0
        """How often a guest began to wait."""
        self._buckets = Buckets(1.0, 1.0)
        self._waiting: set[int] = set()

    def set_rate(self, per_second: float) -> None:
        """The rate of each guest from now on; 0 for none."""
        self.on = per_second > 0
        self._buckets.set_rate(per_second, max(per_second * BURST_S, float(LEAST_BURST)))
        if not self.on:
            self._waiting.clear()

    def may_pass(self, guest: int, now: float) -> bool:
        """Whether bytes of this guest may be read now."""
        if self._buckets.level(guest, now) > 0:
            self._waiting.discard(guest)
            return True
        if guest not in self._waiting:
            self._waiting.add(guest)
            self.pauses += 1
        return False

    def charge(self, guest: int, count: int, now: float) -> None:
        """This many bytes of the guest were read."""
        self._buckets.charge(guest, count, now)

    def room(self, guest: int, now: float) -> int:
        """About how many bytes may be read now."""
        return max(int(self._buckets.level(guest, now)), 1)

    def deadline(self, guests: Iterable[int]) -> float:
        """When the first of these guests that waits may be read; inf if none waits."""
        waiting = self._waiting
        if not waiting:
            return _NEVER
        at = _NEVER
        for guest in guests:
            if guest in waiting:
                at = min(at, self._buckets.ready_at(guest, 1.0))
        return at

    def forget_full(self, now: float) -> None:
        """Guests may be gone: forget those whose buckets are full. Others must not gain by coming back."""
        self._buckets.forget_full(now)
        self._waiting = {guest for guest in self._waiting if guest in self._buckets}
