"""Which connection of a tcp worker ends when there is no place, or no host socket, for another one.

A connection whose handshake is complete never ends for that while its guest is there.
"""

from pipeline.records.streams import MAKE_WAY_ANY
from pipeline.stages.tcp.flow import Flow, Guest
from pipeline.stages.tcp.guests import TOO_MANY_FLOWS, Guests
from pipeline.stages.tcp.orphans import Orphans


class Eviction:
    """Chooses the connection. The caller ends it."""

    def __init__(self, guests: Guests, orphans: Orphans) -> None:
        self._guests = guests
        self._orphans = orphans
        self._time_wait: dict[Flow, None] = {}
        """Connections in TIME-WAIT, the oldest first."""

    @property
    def time_wait_count(self) -> int:
        """Connections in TIME-WAIT."""
        return len(self._time_wait)

    def enter_time_wait(self, flow: Flow) -> None:
        """The connection is in TIME-WAIT from now on."""
        self._time_wait[flow] = None

    def in_time_wait(self, flow: Flow) -> bool:
        """Whether the connection is in TIME-WAIT."""
        return flow in self._time_wait

    def forget(self, flow: Flow) -> None:
        """The connection is over."""
        self._time_wait.pop(flow, None)

    def for_place(self, guest: Guest, reason: str) -> Flow | None:
        """The connection to end so that ``guest``, which reaches the limit ``reason``, can have one more.

        One in TIME-WAIT, else a half-open one, else one whose guest is gone. None if there is none of these.
        """
        others = reason == TOO_MANY_FLOWS
        for flow in self._time_wait:
            if others or flow.guest is guest:
                return flow
        half_open = self._guests.half_open_to_end(guest, others=others)
        if half_open is not None:
            return half_open
        return self._orphans.first() if others else None

    def oldest_half_open(self, guest: Guest) -> Flow | None:
        """The oldest connection of the guest whose handshake is not complete."""
        return self._guests.half_open_to_end(guest, others=False)

    def for_socket(self, egress: int, link: int, make_way: int, flow: Flow | None) -> Flow | None:
        """The connection to end so that egress has a socket for a flow of the guest on ``link``.

        make_way: MAKE_WAY_OWN or MAKE_WAY_ANY. flow: the connection that needs it; None for datagrams.
        """
        return self._guests.half_open_to_end(
            self._guests.known(link), others=make_way == MAKE_WAY_ANY, egress=egress, but=flow
        )
