"""Which connection of a tcp worker ends when there is no room, or no host socket, for another one.

A connection whose handshake is complete never ends for that while its guest is there.
"""

from typing import Generic, Protocol, TypeVar, cast

from pipeline.engines.tcp.connection import Connection
from pipeline.records.flows import FlowKey
from pipeline.records.streams import MAKE_WAY_ANY
from pipeline.stages.tcp.limits import TOO_MANY_FLOWS, Guest, Guests
from pipeline.stages.tcp.orphans import Orphans


class RoomFlow(Protocol):
    """What is needed of a flow of the stage."""

    key: FlowKey
    conn: Connection
    guest: Guest
    half_open: bool
    host_open: bool
    egress: int
    squeezed: bool
    held_ranges: int


F = TypeVar("F", bound=RoomFlow)


class Room(Generic[F]):
    """Chooses; the stage ends what was chosen."""

    def __init__(self, guests: Guests, orphans: Orphans[F]) -> None:
        self._guests = guests
        self._orphans = orphans
        self.time_wait: dict[F, None] = {}
        """Connections in TIME-WAIT, the oldest first."""

    def in_table(self, guest: Guest, reason: str) -> F | None:
        """What ends so that guest can have one more, which meets the limit ``reason``; None if nothing can.

        One in TIME-WAIT, else one whose handshake is not complete, else one whose guest is gone.
        """
        others = reason == TOO_MANY_FLOWS
        for flow in self.time_wait:
            if others or flow.guest is guest:
                return flow
        half_open = self._guests.half_open_to_end(guest, others=others)
        if half_open is not None:
            return cast(F, half_open)
        return self._orphans.first() if others else None

    def half_open(self, guest: Guest) -> F | None:
        """The oldest connection of the guest whose handshake is not complete."""
        found = self._guests.half_open_to_end(guest, others=False)
        return cast(F, found) if found is not None else None

    def with_socket(self, egress: int, link: int, make_way: int, flow: F | None) -> F | None:
        """What ends so that egress has a socket for a guest's flow (a connection, or None for datagrams).

        make_way: MAKE_WAY_OWN or MAKE_WAY_ANY.
        """
        found = self._guests.half_open_to_end(
            self._guests.known(link), others=make_way == MAKE_WAY_ANY, egress=egress, but=flow
        )
        return cast(F, found) if found is not None else None
