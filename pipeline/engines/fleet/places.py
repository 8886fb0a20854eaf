"""At which host of the fleet each station is: its MAC address and its IP addresses.

A host writes the place of each station that appears on it, whether another host has written one or not: the
newest write decides, as the newest frame does in a switch. Demux has made sure before that the station is
here (pipeline.engines.switch: a claimed MAC is contested). A host removes a place only if it is its own.

If another host writes the place of a station that is here, the station has moved away. Its MAC is then on the
link to other hosts, and its connections through this host are reset.

What changes while the store is away is written when it is back. A station that has not changed in that time
may have moved meanwhile. Then what the store has is newer.

The module reads no clock and sends nothing. Its owner carries out take_writes() and passes on take_changes().
Everything is bounded: stations of this host by MAX_HERE, those of others by MAX_AWAY, writes by those of
Outbox.
"""

from collections.abc import Callable, Collection
from typing import Final, NamedTuple

from pipeline.engines.fleet.outbox import Outbox
from pipeline.engines.fleet.values import MAX_ADDRESSES, Place

MAX_HERE: Final = 8192
MAX_AWAY: Final = 1 << 17


class WritePlace(NamedTuple):
    """Ask the store to write a place, or with None to delete it.

    revision: that it must have; None to write in any case.
    """

    mac: bytes
    place: Place | None
    revision: int | None


class Changes(NamedTuple):
    """What has changed since the last call. host: a name, empty for none of the other hosts.

    macs, addrs: the host of each MAC and packed IP address. away: stations of this host that have moved to
    another host, each with the addresses that it had here.
    """

    macs: dict[bytes, str]
    addrs: dict[bytes, str]
    away: dict[bytes, tuple[bytes, ...]]


class Places:
    """The places, as one host sees them."""

    def __init__(self, host: str, *, is_known: bool = True) -> None:
        """is_known: whether all stations of this host are known. If not, on_known() says when they are."""
        self._host = host
        self._is_known = is_known
        self._here: dict[bytes, dict[bytes, None]] = {}
        """The addresses of each station of this host, by MAC."""
        self._owner: dict[bytes, bytes] = {}
        """The MAC of each address of this host's stations."""
        self._stored: dict[bytes, tuple[Place, int]] = {}
        self._addr_hosts: dict[bytes, tuple[str, bytes]] = {}
        """Host and MAC of each address of other hosts' stations."""
        self._outbox: Outbox[bytes, WritePlace] = Outbox(
            self._write, lambda mac: mac in self._here or self._write(mac) is not None
        )
        """By MAC."""
        self._changes = Changes({}, {}, {})

    def __len__(self) -> int:
        return len(self._stored)

    def here(self) -> dict[bytes, tuple[bytes, ...]]:
        """The stations of this host, and their addresses."""
        return {mac: tuple(addrs) for mac, addrs in self._here.items()}

    def host_of(self, mac: bytes) -> str:
        """The host of a station, as the store has it; empty for none."""
        found = self._stored.get(mac)
        return found[0].host if found is not None else ""

    def orphans(self, is_member: Callable[[str], bool]) -> list[WritePlace]:
        """The writes that delete places of hosts that are gone. One that comes back writes its own again."""
        return [
            WritePlace(mac, None, revision)
            for mac, (place, revision) in self._stored.items()
            if place.host != self._host and not is_member(place.host)
        ]

    # --- what this host's demux reports ------------------------------------------------------------

    def on_here(self, mac: bytes) -> None:
        """A station is on this host now."""
        if mac not in self._here and len(self._here) < MAX_HERE:
            self._here[mac] = {}
        if mac in self._here:
            self._outbox.add((mac,))

    def on_known(self) -> None:
        """All stations of this host were reported. Before that, no place is removed from the store."""
        if not self._is_known:
            self._is_known = True
            self._outbox.add(self._left())

    def _left(self) -> list[bytes]:
        """Places that the store has of this host, without a station: those of an earlier run."""
        return [
            mac
            for mac, (place, _) in self._stored.items()
            if place.host == self._host and mac not in self._here
        ]

    def on_gone(self, mac: bytes) -> None:
        """The station is not here any more."""
        for addr in self._here.pop(mac, ()):
            self._owner.pop(addr, None)
        self._outbox.add((mac,))

    def on_address(self, addr: bytes, mac: bytes) -> None:
        """The station of this host has this address; no station has it if mac is empty."""
        before = self._owner.get(addr, b"")
        if before == mac:
            return
        if before:
            del self._owner[addr]
            del self._here[before][addr]
            self._outbox.add((before,))
        station = self._here.get(mac)
        if station is None:
            return
        if len(station) >= MAX_ADDRESSES:
            oldest = next(iter(station))
            del station[oldest], self._owner[oldest]
        station[addr] = None
        self._owner[addr] = mac
        self._outbox.add((mac,))

    # --- what the store reports -----------------------------------------------------------------------

    def on_online(self) -> None:
        """The store is reached, and has reported all places."""
        self._outbox.go(online=True)
        self._outbox.add(self._left())

    def on_offline(self) -> None:
        """The store cannot be reached."""
        self._outbox.go(online=False)

    def on_place(self, mac: bytes, place: Place | None, revision: int) -> None:
        """A place as it is in the store now; None if there is none any more."""
        before = self._stored.get(mac)
        if before is not None and before[1] == revision:
            return
        if place is None or place.host == self._host:
            self._outbox.on_answer(mac)
        if before is not None:
            self._forget_addresses(mac, before[0])
        if place is None:
            self._stored.pop(mac, None)
        elif before is not None or len(self._stored) < MAX_AWAY:
            self._stored[mac] = place, revision
        host = place.host if place is not None and place.host != self._host else ""
        self._changes.macs[mac] = host
        if place is None or not host:
            if mac in self._here or place is not None:
                # Not here: the station was gone before its place had come back.
                self._outbox.add((mac,))
            return
        for addr in place.addresses:
            self._addr_hosts[addr] = host, mac
            self._changes.addrs[addr] = host
        if mac in self._here and mac not in self._outbox:
            # Else this host's own write comes later, and is the newest one.
            self._move_away(mac)

    def _move_away(self, mac: bytes) -> None:
        """The station is on another host now."""
        addrs = tuple(self._here.pop(mac))
        for addr in addrs:
            self._owner.pop(addr, None)
        self._changes.away[mac] = addrs

    def _forget_addresses(self, mac: bytes, place: Place) -> None:
        for addr in place.addresses:
            if self._addr_hosts.get(addr, ("", b""))[1] == mac:
                del self._addr_hosts[addr]
                self._changes.addrs[addr] = ""

    def on_refused(self, mac: bytes) -> None:
        """The store has refused to delete a place, since it has another revision. That is on its way."""
        self._outbox.on_answer(mac)

    # --- what follows ---------------------------------------------------------------------------------

    def take_changes(self) -> Changes | None:
        """What has changed since the last call; None if nothing has."""
        if not any(self._changes):
            return None
        changes, self._changes = self._changes, Changes({}, {}, {})
        return changes

    def everything(self) -> Changes:
        """All places of other hosts, for those who know none."""
        macs = {mac: place.host for mac, (place, _) in self._stored.items() if place.host != self._host}
        return Changes(macs, {addr: host for addr, (host, _) in self._addr_hosts.items()}, {})

    def of_hosts(self, hosts: Collection[str]) -> Changes:
        """The places of some other hosts, for those who know none of them."""
        macs = {mac: place.host for mac, (place, _) in self._stored.items() if place.host in hosts}
        addrs = {addr: host for addr, (host, _) in self._addr_hosts.items() if host in hosts}
        return Changes(macs, addrs, {})

    def take_writes(self, now: float) -> list[WritePlace]:
        """The writes to send now."""
        return self._outbox.take(now)

    def _write(self, mac: bytes) -> WritePlace | None:
        """What the store has to be told about a station; None if it knows."""
        stored = self._stored.get(mac)
        addrs = self._here.get(mac)
        if addrs is not None:
            place = Place(self._host, tuple(addrs))
            return None if stored is not None and stored[0] == place else WritePlace(mac, place, None)
        if stored is None or stored[0].host != self._host or not self._is_known:
            return None
        return WritePlace(mac, None, stored[1])

    def deadline(self, now: float) -> float:
        """When take_writes() has to be called again."""
        return self._outbox.deadline(now)
