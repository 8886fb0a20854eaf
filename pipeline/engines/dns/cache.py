"""Answers of upstream servers, kept for as long as their TTLs allow and within two bounds.

The least recently used answer goes first when there are too many of them or too many bytes. Knows
nothing of messages: a key is anything hashable, an answer is a Body of dns_message.py.
"""

from collections import OrderedDict
from collections.abc import Hashable
from typing import Final

from pipeline.engines.dns.message import Body

MAX_ENTRIES: Final = 4096
MAX_BYTES: Final = 4 << 20
ENTRY_BYTES: Final = 512
"""What an entry takes beside its records, about, in bytes."""


class DnsCache:
    """Key -> (answer, when it came)."""

    def __init__(self, max_entries: int = MAX_ENTRIES, max_bytes: int = MAX_BYTES) -> None:
        self.max_entries = max_entries
        self.max_bytes = max_bytes
        self.held_bytes = 0
        self._entries: OrderedDict[Hashable, tuple[Body, float]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, key: Hashable, now: float) -> tuple[Body, int] | None:
        """The answer and its age in whole seconds, if it still lives."""
        entry = self._entries.get(key)
        if entry is None:
            return None
        body, since = entry
        age = int(now - since)
        if age >= body.lifetime:
            self._drop(key)
            return None
        self._entries.move_to_end(key)
        return body, age

    def put(self, key: Hashable, body: Body, now: float) -> None:
        """Keep an answer that came now, if it may be kept at all."""
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
        """Forget everything: the host's resolvers are others now."""
        self._entries.clear()
        self.held_bytes = 0

    def _drop(self, key: Hashable) -> None:
        self.held_bytes -= _size(self._entries.pop(key)[0])


def _size(body: Body) -> int:
    return ENTRY_BYTES + len(body.records)
