"""Chooses the connection that a tcp worker ends at a limit, when another one needs its place or host socket.

The first of these that there is makes place for a new connection:

1. A connection in TIME-WAIT, which is over.
2. An orphan, whose guest is gone: of the guest that left first.
3. A half-open connection: of the guest with most, the oldest.
4. If the new connection's guest has fewer connections than its share, an established one. It belongs to the
   guest with most connections. The guest has sent nothing over it for longest.

At the limit of one guest these are connections of that guest, and an established one never ends.
"""

from pipeline.records.streams import MAKE_WAY_ANY
from pipeline.stages.tcp.flow import Flow, Guest
from pipeline.stages.tcp.guests import NO_MEMORY, TOO_MANY_FLOWS, Guests
from pipeline.stages.tcp.orphans import Orphans
from pipeline.stages.tcp.time_waits import TimeWaits


class Eviction:
    """Chooses a connection. The caller ends it."""

    def __init__(self, guests: Guests, orphans: Orphans, time_waits: TimeWaits) -> None:
        self._guests = guests
        self._orphans = orphans
        self._time_waits = time_waits

    def for_place(self, guest: Guest, reason: str) -> Flow | None:
        """The connection to end so that ``guest`` can have one more. reason: the counter of the limit.

        None if there is none.
        """
        others = reason in (TOO_MANY_FLOWS, NO_MEMORY)
        waiting = self._time_waits.first() if others else self._time_waits.first_of(guest)
        if waiting is not None:
            return waiting
        orphan = self._orphans.first() if others else self._orphans.first_of(guest)
        if orphan is not None:
            return orphan
        half_open = self._guests.half_open_to_end(guest, others=others)
        if half_open is not None or not others:
            return half_open
        payer = self._guests.most_above_share(guest)
        return payer.longest_silent() if payer is not None else None

    def oldest_half_open(self, guest: Guest) -> Flow | None:
        """The oldest connection of the guest whose handshake is not complete."""
        return self._guests.half_open_to_end(guest, others=False)

    def for_socket(self, egress: int, guest: int, make_way: int, flow: Flow | None) -> Flow | None:
        """The half-open connection to end so that egress has a socket for a flow of this guest.

        Egress ends orphans and established connections itself. make_way: MAKE_WAY_OWN or MAKE_WAY_ANY.
        flow: the connection that needs the socket; None for UDP.
        """
        return self._guests.half_open_to_end(
            self._guests.known(guest), others=make_way == MAKE_WAY_ANY, egress=egress, but=flow
        )
