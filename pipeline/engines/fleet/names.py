"""Host names of guests, one set for all hosts of a fleet.

The first guest that has a name keeps it, on whatever host it is: a host writes a name only if the store has
none, or if the one in the store is its own. A name of a host that is not a member any more may be taken.

If two hosts gave the same name while they were separated, the store decides. The names of other hosts win
over this host's own.

A name server that was started again learns the names when guests renew their leases. So names of an earlier
run stay in the store until then.

This module reads no clock and sends nothing. Its owner carries out take_writes().
"""

from collections.abc import Callable, Collection, Mapping
from typing import Final, NamedTuple

from pipeline.engines.fleet.entries import NO_KEY
from pipeline.engines.fleet.outbox import Outbox
from pipeline.engines.fleet.values import UNREADABLE, Name

MAX_NAMES: Final = 1 << 16
KEPT_S: Final = 3720.0
"""Seconds that names of an earlier run stay: the longest lease (lease_pool.LEASE), and a little more."""
MAX_HAD: Final = 8192
"""Names of guests that are gone which this host knows as those of this run."""

_NEVER: Final = float("inf")
_NOBODY: Final = (Name(UNREADABLE, b""), NO_KEY)
"""In place of a name that the store does not have."""


class WriteName(NamedTuple):
    """Ask the store to write a name, or with None to delete it, if it has this revision."""

    label: str
    name: Name | None
    revision: int


class Names:
    """The names, as one host sees them."""

    def __init__(self, host: str, is_member: Callable[[str], bool]) -> None:
        """is_member(host): whether another host is a member now."""
        self._host = host
        self._is_member = is_member
        self._here: dict[str, bytes] = {}
        self._stored: dict[str, tuple[Name, int]] = {}
        self._outbox: Outbox[str, WriteName] = Outbox(
            self._write, lambda label: label in self._here or self._write(label) is not None
        )
        """By label."""
        self._changed: dict[str, None] = {}
        """Labels about which away() may say something else than at the last take_changes()."""
        self._had: dict[str, None] = {}
        """Names that guests of this host have or had in this run, the newest ones last. Of no use, and empty,
        when names of an earlier run are removed."""
        self._forget_at: float | None = None
        """When names of an earlier run are removed."""

    def __len__(self) -> int:
        return len(self._stored)

    def away(self) -> dict[str, bytes]:
        """The names of guests of all other hosts: packed IPv4 address by label."""
        return {
            label: name.address
            for label, (name, _) in self._stored.items()
            if name.host != self._host and self._is_member(name.host)
        }

    def orphans(self) -> list[WriteName]:
        """The writes that delete names of hosts that are gone. If one comes back, it writes its own again."""
        return [
            WriteName(label, None, revision)
            for label, (name, revision) in self._stored.items()
            if name.host != self._host and not self._is_member(name.host)
        ]

    def take_changes(self) -> dict[str, bytes]:
        """What has changed in away() since the last call. A name that is gone has an empty address."""
        changed, self._changed = self._changed, {}
        return {label: self._away_at(label) for label in changed}

    def _away_at(self, label: str) -> bytes:
        name, _ = self._stored.get(label, _NOBODY)
        return name.address if name.host != self._host and self._is_member(name.host) else b""

    def on_here(self, names: Mapping[str, bytes]) -> None:
        """The names of this host's guests are these."""
        before, self._here = self._here, dict(names)
        if self._forget_at != _NEVER:
            for label in self._here:
                self._had.pop(label, None)
                self._had[label] = None
            while len(self._had) > max(MAX_HAD, len(self._here)):
                del self._had[next(iter(self._had))]
        for label in before.keys() | self._here.keys():
            if before.get(label) != self._here.get(label):
                self._outbox.add((label,))

    def on_members(self, hosts: Collection[str]) -> None:
        """These hosts are members now, or not any more."""
        self._changed.update(
            dict.fromkeys(label for label, (name, _) in self._stored.items() if name.host in hosts)
        )
        self._outbox.add(self._here)

    def on_online(self) -> None:
        """The store is reached, and has reported all names."""
        self._outbox.go(online=True)
        self._outbox.add((*self._own(), *self._here))

    def _own(self) -> list[str]:
        return [label for label, (name, _) in self._stored.items() if name.host == self._host]

    def on_offline(self) -> None:
        """The store cannot be reached."""
        self._outbox.go(online=False)

    def on_name(self, label: str, name: Name | None, revision: int) -> None:
        """A name as it is in the store now; None if there is none any more."""
        before = self._stored.get(label)
        if before is not None and before[1] == revision:
            return
        self._outbox.on_answer(label)
        self._changed[label] = None
        if name is None:
            self._stored.pop(label, None)
            if label not in self._here:
                self._had.pop(label, None)
        elif before is not None or len(self._stored) < MAX_NAMES:
            self._stored[label] = name, revision
        if label in self._here or (name is not None and name.host == self._host):
            # Not here: the guest was gone before its name had come back.
            self._outbox.add((label,))

    def on_refused(self, label: str) -> None:
        """The store has refused a write. What it has is on its way."""
        self._outbox.on_answer(label)

    def take_writes(self, now: float) -> list[WriteName]:
        """The writes to send now."""
        self._forget(now)
        return self._outbox.take(now)

    def _forget(self, now: float) -> None:
        """After the longest lease, guests that are still here have said their names again."""
        if self._outbox.online and self._forget_at is None:
            self._forget_at = now + KEPT_S
        elif self._forget_at is not None and _NEVER > self._forget_at <= now:
            self._forget_at = _NEVER
            self._had.clear()
            self._outbox.add(self._own())

    def _is_of_this_run(self, label: str) -> bool:
        return self._forget_at == _NEVER or label in self._had

    def _write(self, label: str) -> WriteName | None:
        address = self._here.get(label)
        stored = self._stored.get(label)
        if address is None:
            if stored is None or stored[0].host != self._host or not self._is_of_this_run(label):
                return None
            return WriteName(label, None, stored[1])
        name = Name(self._host, address)
        if stored is None:
            return WriteName(label, name, NO_KEY)
        if stored[0] == name or (stored[0].host != self._host and self._is_member(stored[0].host)):
            return None
        return WriteName(label, name, stored[1])

    def deadline(self, now: float) -> float:
        """When take_writes() has to be called again."""
        return self._outbox.deadline(now)
