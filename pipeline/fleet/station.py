"""This host as a station of the network: an address of the pool from which it reaches guests of other hosts.

Connections of forwarded ports come from there (pipeline.stages.demux.own_station). The host takes the address
as a guest does, and its place is known to all hosts. It keeps the address while it asks for more time.
"""

from typing import Final

from pipeline.engines.fleet.grants import Answer
from pipeline.engines.fleet.lease_pool import LEASE
from pipeline.engines.fleet.view import FleetView
from pipeline.fleet.hands import Hands
from pipeline.wire import ip

RETRY_S: Final = 5.0
"""Seconds after which the host asks again if it has no answer, or gets nothing now."""


class OwnStation:
    """The address of this host among those of guests, if it has one."""

    def __init__(self, mac: bytes, view: FleetView, hands: Hands) -> None:
        self.mac = mac
        self._view = view
        self._hands = hands
        self._addr = b""
        self._until = 0.0
        self._ask_at = 0.0

    @property
    def address(self) -> bytes:
        """The packed address; empty if there is none."""
        return self._addr

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

    def introduce(self) -> None:
        """Demux has a successor, which does not know the address."""
        self._hands.station(self._addr)

    def _set(self, addr: bytes) -> None:
        places = self._view.places
        places.on_here(self.mac)
        if addr == self._addr:
            return
        if self._addr:
            places.on_address(self._addr, b"")
        if addr:
            places.on_address(addr, self.mac)
        self._addr = addr
        self._hands.station(addr)
