"""Connections that egress dials to guests for host clients: how many ports of the gateway it tries, and how
long it waits.

A guest has ten seconds to answer a forwarded port or /tunnel, as with gvproxy. TCP's own retransmissions
would go on for two minutes. The wait ends earlier when no guest has the address (ARP), or when the guest
refuses.
"""

from itertools import takewhile
from typing import Final

from pipeline.ipc.ring import Producer
from pipeline.records.addresses import Addr
from pipeline.records.dials import Client, Dial

PATIENCE_S: Final = 10.0
MAX_TRIES: Final = 65
"""Ports of the gateway to try for one connection to a guest."""
_NEVER: Final = float("inf")


class _Attempt:
    """The guest's end of a dialled connection, and how many ports of the gateway were tried."""

    def __init__(self, guest_addr: Addr, guest_port: int, client: Client) -> None:
        self.guest_addr = guest_addr
        self.guest_port = guest_port
        self.client = client
        self.tries = 0


class PendingDials:
    """Dialled connections that no guest has accepted yet, by flow number. All wait for PATIENCE_S."""

    def __init__(self, demux_out: Producer) -> None:
        self._demux_out = demux_out
        self._attempts: dict[int, _Attempt] = {}
        self._new: list[int] = []
        self._until: dict[int, float] = {}
        """When each wait ends, the oldest first."""

    def __len__(self) -> int:
        return len(self._attempts)

    def add(self, number: int, guest_addr: Addr, guest_port: int, client: Client) -> None:
        """Ask demux for a connection to that port of a guest, for this client."""
        self._attempts[number] = _Attempt(guest_addr, guest_port, client)
        self._new.append(number)
        self.try_next(number)

    def try_next(self, number: int) -> bool:
        """Ask demux for the next port of the gateway. False after MAX_TRIES ports.

        A new port does not prolong the wait.
        """
        attempt = self._attempts[number]
        attempt.tries += 1
        if attempt.tries > MAX_TRIES:
            return False
        self._push(number, attempt)
        return True

    def _push(self, number: int, attempt: _Attempt) -> None:
        self._demux_out.push(Dial.pack(number, attempt.guest_addr, attempt.guest_port, attempt.client))

    def ask_again(self) -> None:
        """Demux has died, perhaps with some of these: ask its successor for all, with the same numbers."""
        for number, attempt in self._attempts.items():
            self._push(number, attempt)

    def target(self, number: int) -> tuple[Addr, int] | None:
        """Address and port of the guest; None if the dial is over."""
        attempt = self._attempts.get(number)
        return (attempt.guest_addr, attempt.guest_port) if attempt is not None else None

    def remove(self, number: int) -> None:
        """The guest has answered, or the flow is over. An unknown number is ignored."""
        self._attempts.pop(number, None)
        self._until.pop(number, None)

    def overdue(self, now: float) -> list[int]:
        """The numbers whose wait is over. Also starts the wait of new dials."""
        for number in self._new:
            if number in self._attempts:
                self._until[number] = now + PATIENCE_S
        self._new.clear()
        return [number for number, _ in takewhile(lambda entry: entry[1] <= now, self._until.items())]

    def deadline(self) -> float:
        """When overdue() is to be called."""
        if self._new:
            return 0.0
        return next(iter(self._until.values())) if self._until else _NEVER
