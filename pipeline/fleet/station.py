"""This host as a station of the network: an address of the pool from which it reaches guests of other hosts.

Connections of forwarded ports come from there (pipeline.stages.demux.own_station). The host takes the address
as a guest does, and its place is known to all hosts. It keeps the address while it asks for more time. Its
IPv6 address follows from its MAC address, so it asks nobody for that.

All hosts know the MAC address of each host's station (pipeline.config.fleet). Guests may know it too. So no
guest is one of these stations: DHCP gives it no address, and it has no place.
"""

from collections.abc import Collection, Mapping
from typing import Final

from pipeline.config.fleet import station_mac_of
from pipeline.engines.fleet.grants import Answer
from pipeline.engines.fleet.lease_pool import LEASE
from pipeline.engines.fleet.view import FleetView
from pipeline.fleet.hands import Hands
from pipeline.wire import ip

RETRY_S: Final = 5.0
"""Seconds after which the host asks again if it has no answer, or gets nothing now."""


class OwnStation:
    """The address of this host among those of guests, if it has one."""

    def __init__(self, mac: bytes, view: FleetView, hands: Hands, addr6: bytes = b"") -> None:
        """addr6: the packed IPv6 address that the host has always; empty for none."""
        self.mac = mac
        self._addr6 = addr6
        self._view = view
        self._hands = hands
        self._addr = b""
        self._until = 0.0
        self._ask_at = 0.0

    @property
    def address(self) -> bytes:
        """The packed IPv4 address; empty if there is none."""
        return self._addr

    @property
    def addresses(self) -> Collection[bytes]:
        """The packed addresses."""
        return [addr for addr in (self._addr, self._addr6) if addr]

    def hurry(self) -> None:
        """Ask at once: the store has just been reached."""
        self._ask_at = 0.0

    def on_timer(self, now: float) -> None:
        """Ask for an address, or for more time, if it is due."""
        if self._addr and now >= self._until:
            self._set(b"")
        if now >= self._ask_at:
            self._ask_at = now + RETRY_S
            self._view.grants.ask(self.mac, LEASE, now)

    def deadline(self) -> float:
        """When on_timer() has to be called."""
        return min(self._ask_at, self._until) if self._addr else self._ask_at

    def on_answer(self, answer: Answer, now: float) -> bool:
        """What the pool gives. False: it is for another one."""
        if answer.mac != self.mac:
            return False
        if answer.grant is not None:
            self._until = now + answer.grant.seconds
            self._ask_at = now + answer.grant.seconds / 2
            self._set(ip.packed(answer.grant.addr))
        return True

    def on_away(self, now: float) -> None:
        """Another host has written that the station is there. With the next answer it is here again."""
        self._ask_at = min(self._ask_at, now + RETRY_S)

    def introduce(self) -> None:
        """Demux has a successor, which does not know the address."""
        self._hands.station(self._addr)

    def _set(self, addr: bytes) -> None:
        places = self._view.places
        places.on_here(self.mac)
        if self._addr6:
            places.on_address(self._addr6, self.mac)
        if self._addr and addr != self._addr:
            places.on_address(self._addr, b"")
        if addr:
            places.on_address(addr, self.mac)
        if addr != self._addr:
            self._addr = addr
            self._hands.station(addr)


class FarStations:
    """The MAC addresses of the other hosts' stations."""

    def __init__(self, network: str) -> None:
        self._network = network
        self._macs: dict[str, bytes] = {}
        """By host."""
        self._known: frozenset[bytes] = frozenset()

    def __contains__(self, mac: bytes) -> bool:
        return mac in self._known

    @property
    def macs(self) -> Collection[bytes]:
        """All of them."""
        return self._known

    def on_hosts(self, changed: Collection[str], others: Mapping[str, object]) -> None:
        """Some of the other hosts have come or gone. others: those that are there."""
        for name in changed:
            if name in others:
                self._macs[name] = station_mac_of(self._network, name)
            else:
                self._macs.pop(name, None)
        self._known = frozenset(self._macs.values())
