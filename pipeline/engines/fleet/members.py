"""Which hosts are members of the fleet, and where they are.

Each host writes a row about itself every third part of TTL. A row is good for TTL seconds. There is no
common clock: a host measures how long it has not seen another revision of the row, by its own clock. It
measures only while it reaches the store, and begins anew when it reaches it again. So no member is lost
because the store was away, and traffic between hosts goes on without it.

A host that finds another one silent forgets it, and removes its row if that has not changed in the meantime.
A host that ends in order removes its own row.

This module reads no clock and sends nothing. Its owner passes on what the store reports, calls on_timer() at
deadline(), and carries out take_writes().
"""

from collections import OrderedDict
from typing import Final, NamedTuple

from pipeline.engines.fleet.entries import NO_KEY
from pipeline.engines.fleet.values import Host

BEATS_A_TTL: Final = 3.0
RETRY_S: Final = 2.0
"""Seconds after which the own row is written again, if the store has not reported it."""
MAX_MEMBERS: Final = 4096

_NEVER: Final = float("inf")


class WriteHost(NamedTuple):
    """Ask the store to write the row of a host, or with None to delete it.

    revision: that the row must have; None to write in any case.
    """

    name: str
    host: Host | None
    revision: int | None


class _Seen(NamedTuple):
    """The row of another host."""

    host: Host
    revision: int


class Members:
    """The members, as one host sees them."""

    def __init__(self, name: str, own: Host, ttl: float) -> None:
        """own: the row of this host, whose beat this object counts. ttl: in seconds."""
        self._name = name
        self._own = own
        self._ttl = ttl
        self._seen: dict[str, _Seen] = {}
        self._online = False
        self._beat_at = _NEVER
        self._beat_sent = 0.0
        self._came_back = 0
        """The newest beat of this run that the store has reported."""
        self._writes: list[WriteHost] = []
        self._since: OrderedDict[str, float] = OrderedDict()
        """When the silence of each other host began, as far as this host knows, the longest one first."""
        self._changed: set[str] | None = set()
        self.rival = ""
        """The run of another daemon that has this host's name; empty for none."""
        self._own_revision = NO_KEY
        """Of the row of this host, if this run wrote it; else NO_KEY."""

    def __len__(self) -> int:
        return len(self._seen) + 1

    def others(self) -> dict[str, Host]:
        """The other members by name."""
        return {name: seen.host for name, seen in self._seen.items()}

    def linked(self, most: int) -> list[Host]:
        """The other members with which this host exchanges frames: ``most`` at most.

        If there are more, all hosts choose the same ones, the first by name. So a host that hears another is
        heard by it.
        """
        chosen = sorted((self._name, *self._seen))[: most + 1]
        if self._name not in chosen:
            return []
        return [self._seen[name].host for name in chosen if name != self._name]

    def address_of(self, name: str) -> str:
        """The outer address of another member; empty if there is no such member."""
        seen = self._seen.get(name)
        return seen.host.address if seen is not None else ""

    def strangers(self) -> list[str]:
        """Names of members whose network is another one than this host's."""
        return [name for name, seen in self._seen.items() if seen.host.network != self._own.network]

    def take_changes(self) -> set[str] | None:
        """Hosts that came, went or are elsewhere since the last call. None: none of them; not so at first."""
        changed, self._changed = self._changed, None
        return changed

    def _note_change(self, name: str) -> None:
        if self._changed is None:
            self._changed = set()
        self._changed.add(name)

    @property
    def unanswered(self) -> int:
        """How many beats of this host the store has not reported yet."""
        return self._own.beat - self._came_back

    # --- what the store reports -------------------------------------------------------------

    def on_online(self, now: float) -> None:
        """The store is reached, and has reported all rows."""
        self._online = True
        self._since = OrderedDict.fromkeys(self._seen, now)
        self._came_back = self._own.beat
        self._beat(now)

    def on_offline(self) -> None:
        """The store cannot be reached."""
        self._online = False
        self._beat_at = _NEVER
        self._came_back = self._own.beat
        self._writes.clear()

    def on_host(self, name: str, host: Host | None, revision: int, now: float) -> None:
        """A row as it is in the store now; None if there is none any more."""
        if name == self._name:
            self._on_own(host, revision)
            return
        seen = self._seen.get(name)
        if host is None:
            if seen is not None:
                self._forget(name)
        elif seen is None:
            if len(self._seen) < MAX_MEMBERS:
                self._seen[name] = _Seen(host, revision)
                self._since[name] = now
                self._note_change(name)
        elif seen.revision != revision:
            if (seen.host.address, seen.host.port) != (host.address, host.port):
                self._note_change(name)
            self._seen[name] = _Seen(host, revision)
            self._since[name] = now
            self._since.move_to_end(name)

    def _forget(self, name: str) -> None:
        del self._seen[name], self._since[name]
        self._note_change(name)

    def _on_own(self, host: Host | None, revision: int) -> None:
        is_own = host is not None and host.run == self._own.run
        self._own_revision = revision if is_own else NO_KEY
        if host is None:
            # Another host has found this one silent.
            self._beat_at = -_NEVER if self._online else _NEVER
        elif host.run == self._own.run:
            if host.beat == self._own.beat and self._online:
                self._beat_at = self._beat_sent + self._ttl / BEATS_A_TTL
            self._came_back = max(self._came_back, host.beat)
            self.rival = ""
        elif self._online:
            # A row that was there before may be that of an earlier run.
            self.rival = host.run

    # --- what this host writes ----------------------------------------------------------------

    def take_writes(self) -> list[WriteHost]:
        """The writes to send since the last call."""
        writes, self._writes = self._writes, []
        return writes

    def deadline(self) -> float:
        """When on_timer() has to be called."""
        if not self._online:
            return _NEVER
        silent_at = next(iter(self._since.values()), _NEVER) + self._ttl
        return min(self._beat_at, silent_at)

    def on_timer(self, now: float) -> None:
        """Write the own row if it is time, and forget silent members."""
        if not self._online:
            return
        while self._since:
            name, since = next(iter(self._since.items()))
            if now - since < self._ttl:
                break
            self._writes.append(WriteHost(name, None, self._seen[name].revision))
            self._forget(name)
        if now >= self._beat_at:
            self._beat(now)

    def _beat(self, now: float) -> None:
        self._own = self._own._replace(beat=self._own.beat + 1)
        self._beat_sent = now
        self._beat_at = now + min(RETRY_S, self._ttl / BEATS_A_TTL)
        self._writes.append(WriteHost(self._name, self._own, None))

    def leave(self) -> WriteHost | None:
        """The write that removes this host's row at its end. None: the row is not one of this run."""
        if self._own_revision == NO_KEY:
            return None
        return WriteHost(self._name, None, self._own_revision)
