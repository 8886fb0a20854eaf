"""A copy of the common store of a fleet, made from what a watch of it reports.

A watch begins with the newest value of each key (the *snapshot*), then reports each write in order. When the
connection was lost, a new watch begins. What was deleted meanwhile may not be in its snapshot. So the mirror
reports keys that are missing there as deleted.

A snapshot is reported when it is complete. Claims and the like come before ``last`` keys: a host's own beat
means that the host has seen everything before it (lease_pool.py).
"""

from typing import Final, NamedTuple

MAX_KEYS: Final = 1 << 18
"""The most keys. Further ones are not seen, and counted."""
MAX_BYTES: Final = 1 << 27
"""Bytes of all keys and values of a snapshot. What comes later is not seen, and counted."""


class Entry(NamedTuple):
    """A key of the store as it is now. value: None if the key does not exist any more."""

    key: str
    value: bytes | None
    revision: int


class Mirror:
    """The keys of the store, and the revision of each."""

    def __init__(self, last: str) -> None:
        """last: how the keys begin that a snapshot reports at its end."""
        self._last = last
        self._revisions: dict[str, int] = {}
        self._snapshot: dict[str, Entry] | None = None
        self._snapshot_bytes = 0
        self.lost = 0
        """Entries for which there was no room."""

    def __len__(self) -> int:
        return len(self._revisions)

    def begin(self) -> None:
        """A watch begins."""
        self._snapshot = {}
        self._snapshot_bytes = 0

    def on_entry(self, entry: Entry) -> list[Entry]:
        """The watch reports an entry. Returns what is to be passed on."""
        if self._snapshot is None:
            return [entry] if self._note(entry) else []
        self._snapshot_bytes += len(entry.key) + len(entry.value or b"")
        if len(self._snapshot) < MAX_KEYS and self._snapshot_bytes <= MAX_BYTES:
            self._snapshot[entry.key] = entry
        else:
            self.lost += 1
        return []

    def complete(self) -> list[Entry]:
        """The snapshot is complete. Returns what is to be passed on."""
        snapshot, self._snapshot = self._snapshot or {}, None
        gone = [key for key in self._revisions if key not in snapshot]
        entries = [Entry(key, None, 0) for key in gone]
        ordered = sorted(snapshot.values(), key=lambda entry: entry.key.startswith(self._last))
        entries += [entry for entry in ordered if self._revisions.get(entry.key) != entry.revision]
        return [entry for entry in entries if self._note(entry)]

    def _note(self, entry: Entry) -> bool:
        """Whether the entry is passed on."""
        if entry.value is None:
            return self._revisions.pop(entry.key, None) is not None
        if entry.key not in self._revisions and len(self._revisions) >= MAX_KEYS:
            self.lost += 1
            return False
        self._revisions[entry.key] = entry.revision
        return True
