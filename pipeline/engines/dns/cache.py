"""A cache for the answers of upstream servers. Each answer is kept as long as its TTLs allow.

If there are too many answers, or too many bytes, the cache drops the least recently used answer. A key is any
hashable value, and an answer is a Body (message.py).
"""

from collections import OrderedDict
from collections.abc import Hashable
from typing import Final, NamedTuple

from pipeline.engines.dns.message import Body

MAX_ENTRIES: Final = 4096
MAX_BYTES: Final = 4 << 20
ENTRY_BYTES: Final = 512
"""About how many bytes an entry takes in addition to its records."""


class Cached(NamedTuple):
    """An answer, its age in whole seconds, and when that age ends."""

    body: Body
    age: int
    until: float


class DnsCache:
    """Key -> (answer, time at which it came)."""

    def __init__(self, max_entries: int = MAX_ENTRIES, max_bytes: int = MAX_BYTES) -> None:
        self.max_entries = max_entries
        self.max_bytes = max_bytes
        self.held_bytes = 0
        self._entries: OrderedDict[Hashable, tuple[Body, float]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, key: Hashable, now: float) -> Cached | None:
        """The answer; None if there is none, or if its lifetime is over."""
        entry = self._entries.get(key)
        if entry is None:
            return None
        body, since = entry
        age = int(now - since)
        if age >= body.lifetime:
            self._drop(key)
            return None
        self._entries.move_to_end(key)
        return Cached(body, age, since + age + 1)

    def put(self, key: Hashable, body: Body, now: float) -> None:
        """Keep an answer that came now, if its lifetime allows."""
        if key in self._entries:
            self._drop(key)
        size = _size(body)
        if body.lifetime <= 0 or size > self.max_bytes:
            return
        self._entries[key] = (body, now)
        self.held_bytes += size
        while len(self._entries) > self.max_entries or self.held_bytes > self.max_bytes:
            self._drop(next(iter(self._entries)))

    def clear(self) -> None:
        """Forget all answers: the host has other name servers now."""
        self._entries.clear()
        self.held_bytes = 0

    def _drop(self, key: Hashable) -> None:
        self.held_bytes -= _size(self._entries.pop(key)[0])


def _size(body: Body) -> int:
    return ENTRY_BYTES + len(body.records)
