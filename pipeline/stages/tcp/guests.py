"""The guests of a tcp worker, and the limits on the number of their connections.

=====================  =====================================================================
limit on               what happens at the limit
=====================  =====================================================================
SYNs a second          The SYN is dropped. An honest guest sends it again.
sockets of egress      Egress first closes an idle flow. Otherwise the oldest half-open connection ends.
half-open connections  The guest's oldest half-open connection ends.
connections            The oldest connection in TIME-WAIT ends (of the guest, or of any guest), else the
                       oldest half-open one. If there is none, the SYN is dropped. A host's client of a
                       forwarded port is reset.
=====================  =====================================================================

pipeline.stages.tcp.eviction chooses the connection that is ended. Limits on memory are in
pipeline.stages.tcp.memory and pipeline.stages.tcp.out_of_order.
"""

from typing import Final

from pipeline.config.limits import Limits
from pipeline.engines.tcp.state import SYN_RECEIVED
from pipeline.stages.tcp.flow import Flow, Guest

TOO_MANY_FLOWS: Final = "tcp_syn_dropped_too_many_flows"
TOO_MANY_FLOWS_OF_GUEST: Final = "tcp_syn_dropped_too_many_flows_of_guest"
SYN_RATE: Final = "tcp_syn_dropped_rate_limit"


class Guests:
    """All guests of one tcp worker, by link."""

    def __init__(self, limits: Limits) -> None:
        self._max_flows = limits.max_tcp_flows
        self._max_flows_of_guest = limits.max_tcp_flows_per_guest
        self._max_half_open = limits.max_half_open_per_guest
        self._syns_per_second = float(limits.max_syns_per_second)
        self._guests: dict[int, Guest] = {}
        self.flows = 0
        """The number of connections of all guests, including guests that are gone."""

    def get(self, link: int) -> Guest:
        """The guest on a link. A new guest is remembered."""
        guest = self._guests.get(link)
        if guest is None:
            guest = self._guests[link] = Guest(link)
        return guest

    def known(self, link: int) -> Guest:
        """The same, but a new guest is not remembered, since its link may already be gone."""
        return self._guests.get(link) or Guest(link)

    def __len__(self) -> int:
        return len(self._guests)

    def refuses_syn(self, guest: Guest, now: float) -> str:
        """The counter of the limit on SYNs that this one exceeds; "" if it is allowed. Call full() next."""
        return "" if guest.take_syn_token(self._syns_per_second, now) else SYN_RATE

    def full(self, guest: Guest) -> str:
        """The counter of the limit that one more connection of the guest exceeds; "" if none.

        The caller may end another connection instead, of the guest or of any guest. Then it may go on without
        another call.
        """
        if guest.flows >= self._max_flows_of_guest:
            return TOO_MANY_FLOWS_OF_GUEST
        if self.flows >= self._max_flows:
            return TOO_MANY_FLOWS
        return ""

    def too_many_half_open(self, guest: Guest) -> bool:
        """Whether the guest has reached its limit of half-open connections."""
        return len(guest.half_open) >= self._max_half_open

    def half_open_to_end(
        self, asker: Guest, *, others: bool = True, egress: int = -1, but: Flow | None = None
    ) -> Flow | None:
        """The half-open connection to end so that ``asker`` can have one more; None if there is none.

        This is the oldest half-open connection of ``asker``. If another guest has at least two more of them
        than ``asker``, it is the oldest one of the guest with most. So a flooding guest loses its own
        connections, and no guest loses its only one to another guest.

        others: whether other guests may lose a connection. egress: the connection must have a socket of this
        egress worker; -1 for any. but: a connection that is never chosen.
        """
        payer = asker
        most = len(asker.half_open) + (0 if but in asker.half_open else 1)
        if others:
            for guest in self._guests.values():
                if len(guest.half_open) > most:
                    payer, most = guest, len(guest.half_open)
        for guest in (payer, asker):
            for flow in guest.half_open:
                if (
                    # A guest may have completed the handshake in this burst. half_open is updated later.
                    flow.conn.state == SYN_RECEIVED
                    and flow is not but
                    and (egress < 0 or (flow.host.egress == egress and flow.host.open))
                ):
                    return flow
        return None

    def add(self, flow: Flow) -> None:
        """Count a new connection."""
        self.flows += 1
        flow.begin()

    def remove(self, flow: Flow) -> None:
        """Stop counting a connection that has ended."""
        flow.end()
        self.flows -= 1

    def link_down(self, link: int) -> Guest | None:
        """Ingress or demux reports that a link is down. Returns its guest after both reports, else None."""
        guest = self.get(link)
        if not guest.link_down():
            return None
        del self._guests[link]
        return guest
