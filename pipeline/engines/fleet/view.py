"""What one host knows of its fleet, and what it has to write: the engines together, without I/O.

The store reports entries (pipeline.engines.fleet.mirror), the workers report what happens on this host. Each
goes to the engine that it is for. Whoever owns this object then carries out take_writes() and looks at the
engines for what has changed.
"""

from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Final, NamedTuple

from pipeline.engines.fleet import values
from pipeline.engines.fleet.entries import (
    NO_KEY,
    RESERVED,
    Claim,
    Member,
    Write,
    WriteClaim,
    WriteMember,
)
from pipeline.engines.fleet.forwards import Forwards
from pipeline.engines.fleet.grants import Grants
from pipeline.engines.fleet.lease_pool import LeasePool
from pipeline.engines.fleet.members import Members, WriteHost
from pipeline.engines.fleet.mirror import Entry
from pipeline.engines.fleet.names import Names, WriteName
from pipeline.engines.fleet.places import Places, WritePlace
from pipeline.engines.fleet.values import Host, Name

MAX_SETTINGS: Final = 256
"""Zones of the store. Further ones are not read."""

AnyWrite = Write | WriteHost | WritePlace | WriteName


class StoreWrite(NamedTuple):
    """A write as the store takes it, and what asked for it."""

    key: str
    value: bytes | None
    revision: int | None
    cause: AnyWrite


class FleetView:
    """The view of one host."""

    def __init__(
        self, name: str, own: Host, ttl: float, addresses: Sequence[int], choose: Callable[[int], int]
    ) -> None:
        """own: this host's row. addresses: of the pool. choose(n): a random number below n."""
        self.name = name
        self.pool = LeasePool(name, addresses, choose)
        self.grants = Grants(self.pool)
        self.members = Members(name, own, ttl)
        self.places = Places(name, is_known=False)
        self.names = Names(name, lambda host: bool(self.members.address_of(host)))
        self.forwards = Forwards()
        self.online = False
        self.bad_values = 0
        """Keys and values of the store that were not read."""
        self.settings: dict[str, bytes] = {}
        """The policy and the zones, by key."""
        self.settings_changed: set[str] = set()

    # --- what the store reports ----------------------------------------------------------------

    def on_entry(self, entry: Entry, now: float) -> None:
        """A key of the store is like this now."""
        try:
            self._dispatch(entry, now)
        except values.StoredValueError:
            self.bad_values += 1
            self._on_unreadable(entry, now)

    def _on_unreadable(self, entry: Entry, now: float) -> None:
        """A value is not read. It may be of a newer version, of another program, or damaged."""
        key, _, revision = entry
        with suppress(values.StoredValueError):
            if key.startswith(values.CLAIM):
                # Nobody takes the address.
                claim = Claim(values.UNREADABLE, 0, RESERVED)
                self.pool.on_claim(values.addr_of(key), claim, revision, now)
            elif key.startswith(values.PLACE):
                self.places.on_place(values.mac_of(key), None, revision)
            elif key.startswith(values.NAME):
                # Its host is not a member. So a guest may take the name.
                name = Name(values.UNREADABLE, bytes(4))
                self.names.on_name(key.removeprefix(values.NAME), name, revision)
            elif key.startswith(values.FORWARD):
                self.forwards.on_forward(key, None)
            elif key.startswith(values.MEMBER):
                self.pool.on_unreadable_member(key.removeprefix(values.MEMBER), revision, now)

    def _dispatch(self, entry: Entry, now: float) -> None:
        key, value, revision = entry
        if key.startswith(values.CLAIM):
            claim: Claim | None = values.claim_of(value) if value is not None else None
            self.pool.on_claim(values.addr_of(key), claim, revision, now)
        elif key.startswith(values.PLACE):
            place = values.place_of(value) if value is not None else None
            self.places.on_place(values.mac_of(key), place, revision)
        elif key.startswith(values.NAME):
            name = values.name_of(value) if value is not None else None
            self.names.on_name(key.removeprefix(values.NAME), name, revision)
        elif key.startswith(values.HOST):
            host = values.host_of(value) if value is not None else None
            self.members.on_host(key.removeprefix(values.HOST), host, revision, now)
        elif key.startswith(values.MEMBER):
            host_name = key.removeprefix(values.MEMBER)
            if value is None:
                self.pool.on_unreadable_member(host_name, NO_KEY, now)
            else:
                member: Member = values.member_of(value)
                self.pool.on_member(host_name, member, revision, now)
        elif key.startswith(values.FORWARD):
            forward = values.forward_of(key, value) if value is not None else None
            if not self.forwards.on_forward(key, forward):
                self.bad_values += 1
        elif key == values.POLICY or key.startswith(values.ZONE):
            self._on_setting(key, value)

    def _on_setting(self, key: str, value: bytes | None) -> None:
        if value is None:
            self.settings.pop(key, None)
        elif key in self.settings or len(self.settings) < MAX_SETTINGS:
            self.settings[key] = value
        else:
            self.bad_values += 1
            return
        self.settings_changed.add(key)

    def on_online(self, now: float) -> None:
        """All entries of the store were reported."""
        self.online = True
        self.members.on_online(now)
        self.pool.on_online(now)
        self.places.on_online()
        self.names.on_online()
        self.forwards.on_online()

    def on_offline(self) -> None:
        """The store cannot be reached."""
        self.online = False
        self.members.on_offline()
        self.pool.on_offline()
        self.places.on_offline()
        self.names.on_offline()

    def on_refused(self, cause: AnyWrite, now: float) -> None:
        """The store has refused a write, since the key has another revision."""
        if isinstance(cause, WritePlace):
            self.places.on_refused(cause.mac)
        elif isinstance(cause, WriteName):
            self.names.on_refused(cause.label)
        elif not isinstance(cause, WriteHost):
            self.pool.on_refused(cause, now)

    # --- time and writes ------------------------------------------------------------------------

    def deadline(self, now: float) -> float:
        """When on_timer() has to be called."""
        return min(
            self.pool.deadline(),
            self.grants.deadline(),
            self.members.deadline(),
            self.places.deadline(now),
            self.names.deadline(now),
        )

    def on_timer(self, now: float) -> None:
        """Do what is due."""
        self.members.on_timer(now)
        self.pool.on_timer(now)
        self.grants.on_timer(now)

    def orphans(self) -> list[StoreWrite]:
        """The writes that delete what hosts have left that are gone. Their claims are the pool's business."""
        places = self.places.orphans(lambda host: bool(self.members.address_of(host)))
        return [*map(store_write, places), *map(store_write, self.names.orphans())]

    def take_writes(self, now: float) -> list[StoreWrite]:
        """The writes to send now."""
        writes = [*map(store_write, self.members.take_writes()), *map(store_write, self.pool.take_writes())]
        writes += map(store_write, self.places.take_writes(now))
        writes += map(store_write, self.names.take_writes(now))
        return writes


def store_write(write: AnyWrite) -> StoreWrite:
    """A write of an engine as the store takes it."""
    match write:
        case WriteClaim():
            content = values.claim_bytes(write.claim) if write.claim is not None else None
            return StoreWrite(values.claim_key(write.addr), content, write.revision, write)
        case WriteMember():
            content = values.member_bytes(write.member)
            return StoreWrite(values.MEMBER + write.host, content, write.revision, write)
        case WritePlace():
            content = values.place_bytes(write.place) if write.place is not None else None
            return StoreWrite(values.mac_key(write.mac), content, write.revision, write)
        case WriteName():
            content = values.name_bytes(write.name) if write.name is not None else None
            return StoreWrite(values.NAME + write.label, content, write.revision, write)
    content = values.host_bytes(write.host) if write.host is not None else None
    return StoreWrite(values.HOST + write.name, content, write.revision, write)
