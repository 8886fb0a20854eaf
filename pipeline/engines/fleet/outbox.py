"""What a host has yet to write to the store, key by key, in a bounded number of writes at a time."""

from collections.abc import Callable, Iterable
from typing import Final, Generic, TypeVar

MAX_WRITES: Final = 64
"""Writes that are under way at the same time."""
RETRY_S: Final = 5.0
"""Seconds after which a write without an answer may be repeated."""
MAX_IDLE: Final = 4096
"""Keys that may wait although nothing has to be written about them now."""

_NEVER: Final = float("inf")


def _always(_key: object) -> bool:
    return True


K = TypeVar("K")
W = TypeVar("W")


class Outbox(Generic[K, W]):
    """Keys whose value in the store is not what it should be, and those about which a write is under way."""

    def __init__(self, write: Callable[[K], W | None], is_needed: Callable[[K], bool] = _always) -> None:
        """write(key): what the store has to be told about a key now; None if it knows.

        is_needed(key): whether a key must be kept although its owner may add it again.
        """
        self._write = write
        self._is_needed = is_needed
        self._dirty: dict[K, None] = {}
        self._most = MAX_IDLE
        """How many keys may wait before those that nobody needs are forgotten."""
        self._pending: dict[K, float] = {}
        """When the write about a key may be repeated."""
        self.online = False
        """Whether the store is reached."""

    def __len__(self) -> int:
        return len(self._dirty)

    def __contains__(self, key: K) -> bool:
        return key in self._dirty

    def add(self, keys: Iterable[K]) -> None:
        """The store may have to be told about these."""
        self._dirty.update(dict.fromkeys(keys))
        if len(self._dirty) > self._most:
            self._dirty = {key: None for key in self._dirty if key in self._pending or self._is_needed(key)}
            self._most = max(2 * len(self._dirty), MAX_IDLE)

    def go(self, *, online: bool) -> None:
        """The store is reached from now on, or not. Writes that were under way have no answer."""
        self.online = online
        self._pending.clear()

    def on_answer(self, key: K) -> None:
        """The store has answered the write about a key, if there was one."""
        self._pending.pop(key, None)

    def take(self, now: float) -> list[W]:
        """The writes to send now."""
        # A write without an answer may never have been sent, and its key may be gone.
        self._pending = {key: again for key, again in self._pending.items() if again > now}
        writes: list[W] = []
        for key in list(self._dirty) if self.online else ():
            if len(self._pending) >= MAX_WRITES:
                break
            if key in self._pending:
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
