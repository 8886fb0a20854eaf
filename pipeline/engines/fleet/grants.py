"""What the guests of this host have of the fleet's pool of addresses, and until when.

The DHCP server asks for each message of a client that wants an address. The pool (lease_pool.py) chooses it.
A client that the pool cannot serve at once waits for up to WAIT_S: the store may have to be asked first, as
for a guest that was on another host.

An address that a client found in use by somebody else (DHCPDECLINE) goes to nobody for DECLINED_S.

This module reads no clock. Its owner calls on_timer() at deadline().
"""

from typing import Final, NamedTuple

from pipeline.engines.fleet.lease_pool import LEASE, Grant, LeasePool

WAIT_S: Final = 3.0
MAX_WAITING: Final = 256
DECLINED_S: Final = 600.0
DECLINED: Final = b"\xff" * 6
"""In place of a client. No client has a group address."""
MARGIN_S: Final = 60.0
"""Seconds that an address stays with its client after the end of its lease, since clocks differ."""


class Answer(NamedTuple):
    """What a client gets; None: nothing now."""

    mac: bytes
    grant: Grant | None


class Grants:
    """The addresses of this host's guests."""

    def __init__(self, pool: LeasePool) -> None:
        self._pool = pool
        self._ends: dict[tuple[int, bytes], float] = {}
        """When each address of each client comes back."""
        self._waiting: dict[bytes, tuple[float, float]] = {}
        """Clients that wait: for how long they want an address, and until when they wait."""
        self._answers: list[Answer] = []

    def __len__(self) -> int:
        return len(self._ends)

    @property
    def waiting_count(self) -> int:
        """How many clients wait."""
        return len(self._waiting)

    def ask(self, mac: bytes, seconds: float, now: float) -> None:
        """A client wants an address for some seconds. take_answers() has the answer, perhaps later."""
        if self._try(mac, seconds, now):
            self._waiting.pop(mac, None)
        elif len(self._waiting) >= MAX_WAITING and mac not in self._waiting:
            self._answers.append(Answer(mac, None))
        else:
            self._waiting[mac] = seconds, now + WAIT_S

    def _try(self, mac: bytes, seconds: float, now: float) -> bool:
        grant = self._pool.grant(mac, now)
        if grant is None:
            return False
        given = min(grant.seconds, seconds, LEASE)
        key = (grant.addr, mac)
        self._ends[key] = max(self._ends.get(key, 0.0), now + given + MARGIN_S)
        self._answers.append(Answer(mac, Grant(grant.addr, given)))
        return True

    def over(self, mac: bytes, addr: int, now: float, *, declined: bool) -> None:
        """The client gave the address back. declined: since somebody else uses it."""
        if self._ends.pop((addr, mac), None) is None:
            return
        if declined and self._pool.set_aside(addr, mac, DECLINED, now):
            self._ends[addr, DECLINED] = now + DECLINED_S
        else:
            self._pool.release(addr, mac, now)

    def moved_away(self, mac: bytes) -> None:
        """The guest is on another host. The pool hears that from the store."""
        for key in [key for key in self._ends if key[1] == mac]:
            del self._ends[key]

    def take_answers(self) -> list[Answer]:
        """The answers since the last call."""
        answers, self._answers = self._answers, []
        return answers

    def deadline(self) -> float:
        """When on_timer() has to be called."""
        waits = (until for _, until in self._waiting.values())
        return min((*waits, *self._ends.values()), default=float("inf"))

    def on_timer(self, now: float) -> None:
        """Serve those that wait, if that is possible now, and take back what is over."""
        for mac, (seconds, until) in list(self._waiting.items()):
            if self._try(mac, seconds, now):
                del self._waiting[mac]
            elif now >= until:
                del self._waiting[mac]
                self._answers.append(Answer(mac, None))
        for (addr, mac), end in list(self._ends.items()):
            if now >= end:
                del self._ends[addr, mac]
                self._pool.release(addr, mac, now)
