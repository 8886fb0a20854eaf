"""What a host has yet to write to the store, key by key, in a bounded number of writes at a time."""

from collections.abc import Callable, Iterable
from typing import Final, Generic, TypeVar

MAX_WRITES: Final = 64
"""Writes that are under way at the same time."""
RETRY_S: Final = 5.0
"""Seconds after which a write without an answer may be repeated."""

_NEVER: Final = float("inf")

K = TypeVar("K")
W = TypeVar("W")


class Outbox(Generic[K, W]):
    """Keys whose value in the store is not what it should be, and those about which a write is under way."""

    def __init__(self, write: Callable[[K], W | None]) -> None:
        """write(key): what the store has to be told about a key now; None if it knows."""
        self._write = write
        self._dirty: dict[K, None] = {}
        self._pending: dict[K, float] = {}
        """When the write about a key may be repeated."""
        self.online = False
        """Whether the store is reached."""

    def __contains__(self, key: K) -> bool:
        return key in self._dirty

    def add(self, keys: Iterable[K]) -> None:
        """The store may have to be told about these."""
        self._dirty.update(dict.fromkeys(keys))

    def go(self, *, online: bool) -> None:
        """The store is reached from now on, or not. Writes that were under way have no answer."""
        self.online = online
        self._pending.clear()

    def on_answer(self, key: K) -> None:
        """The store has answered the write about a key, if there was one."""
        self._pending.pop(key, None)

    def take(self, now: float) -> list[W]:
        """The writes to send now."""
        writes: list[W] = []
        for key in list(self._dirty) if self.online else ():
            if len(self._pending) >= MAX_WRITES:
                break
            if self._pending.get(key, now) > now:
                continue
            write = self._write(key)
            if write is None:
                del self._dirty[key]
            else:
                self._pending[key] = now + RETRY_S
                writes.append(write)
        return writes

    def deadline(self, now: float) -> float:
        """When take() has to be called again."""
        if not self.online or not self._dirty:
            return _NEVER
        return min(self._pending.values(), default=now)
