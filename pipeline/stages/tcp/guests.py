"""The guests of a tcp worker, and how many connections each may have.

=====================  =====================================================================
limit of               when it is reached
=====================  =====================================================================
SYNs a second          the SYN is dropped; an honest guest sends it again
sockets of egress      the oldest half-open connection is ended (egress first closes what is idle)
half-open connections  the guest's oldest one is ended
connections            the oldest in TIME-WAIT is ended (of the guest, or of any guest), else the oldest
                       half-open one. Else the SYN is dropped, or the host's client of a forwarded port
                       is reset.
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
        """Connections of all guests, also of those that are gone."""

    def get(self, link: int) -> Guest:
        """The guest on a link."""
        guest = self._guests.get(link)
        if guest is None:
            guest = self._guests[link] = Guest(link)
        return guest

    def known(self, link: int) -> Guest:
        """The same, but a guest without connections is not remembered: its link may be gone already."""
        return self._guests.get(link) or Guest(link)

    def __len__(self) -> int:
        return len(self._guests)

    def refuses_syn(self, guest: Guest, now: float) -> str:
        """The counter of the limit on SYNs that this one reaches; "" if it may pass. Ask full() after it."""
        return "" if guest.take_syn_token(self._syns_per_second, now) else SYN_RATE

    def full(self, guest: Guest) -> str:
        """The counter of the limit that one more connection of the guest reaches; "" if none.

        The caller may end another connection, of the guest or of any guest, and need not ask again.
        """
        if guest.flows >= self._max_flows_of_guest:
            return TOO_MANY_FLOWS_OF_GUEST
        if self.flows >= self._max_flows:
            return TOO_MANY_FLOWS
        return ""

    def too_many_half_open(self, guest: Guest) -> bool:
        """Whether the guest's oldest half-open connection has to end before it begins another one."""
        return len(guest.half_open) >= self._max_half_open

    def half_open_to_end(
        self, asker: Guest, *, others: bool = True, egress: int = -1, but: Flow | None = None
    ) -> Flow | None:
        """The half-open connection that ends so that ``asker`` can have one more; None if there is none.

        It is the oldest one of the guest with most of them: of ``asker``, unless another guest has at least
        two more. So a guest that floods pays for it, and no guest loses its only connection to another.
        others: whether another guest may pay at all. egress >= 0: one with a socket of that worker.
        Never ``but``.
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
                    # The guest may have completed the handshake in this very burst. Established comes later.
                    flow.conn.state == SYN_RECEIVED
                    and flow is not but
                    and (egress < 0 or (flow.host.egress == egress and flow.host.open))
                ):
                    return flow
        return None

    def add(self, flow: Flow) -> None:
        """A connection begins."""
        self.flows += 1
        flow.begin()

    def remove(self, flow: Flow) -> None:
        """The connection is over."""
        flow.end()
        self.flows -= 1

    def link_down(self, link: int) -> Guest | None:
        """Ingress or demux reports that a link is down. Returns its guest when both have."""
        guest = self.get(link)
        if not guest.link_down():
            return None
        del self._guests[link]
        return guest
