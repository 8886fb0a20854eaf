"""The guests of a tcp worker, and the limits on the number of their connections.

=====================  =====================================================================
limit on               what happens at the limit
=====================  =====================================================================
SYNs a second          The SYN is dropped. An honest guest sends it again.
sockets of egress      Egress first closes an idle flow. Otherwise the oldest half-open connection ends.
half-open connections  The guest's oldest half-open connection ends.
connections            Another connection ends (pipeline.stages.tcp.eviction). If there is none to end, the
                       SYN is dropped. A host's client of a forwarded port is reset.
=====================  =====================================================================

pipeline.stages.tcp.eviction chooses the connection that is ended. Limits on memory are in
pipeline.stages.tcp.memory and pipeline.stages.tcp.out_of_order.
"""

from typing import Final

from pipeline.config.limits import Limits
from pipeline.engines.tcp.state import SYN_RECEIVED
from pipeline.stages.tcp.flow import Flow, Guest, GuestLink

TOO_MANY_FLOWS: Final = "tcp_syn_dropped_too_many_flows"
TOO_MANY_FLOWS_OF_GUEST: Final = "tcp_syn_dropped_too_many_flows_of_guest"
NO_MEMORY: Final = "tcp_syn_dropped_no_memory"
SYN_RATE: Final = "tcp_syn_dropped_rate_limit"


class Guests:
    """All guests of one tcp worker, by number, and their links."""

    def __init__(self, limits: Limits) -> None:
        self._max_flows = limits.max_tcp_flows
        self._max_flows_of_guest = limits.max_tcp_flows_per_guest
        self._max_half_open = limits.max_half_open_per_guest
        self._syns_per_second = float(limits.max_syns_per_second)
        self._links: dict[int, GuestLink] = {}
        self._guests: dict[int, Guest] = {}
        """Guests that have a link or a connection."""
        self.flows = 0
        """The number of connections of all guests, including guests that are gone."""

    def __len__(self) -> int:
        return len(self._guests)

    @property
    def links(self) -> int:
        """The number of links."""
        return len(self._links)

    def set_limits(self, limits: Limits) -> None:
        """Change the limits. Connections that exceed lower ones stay."""
        self._max_flows = limits.max_tcp_flows
        self._max_flows_of_guest = limits.max_tcp_flows_per_guest
        self._max_half_open = limits.max_half_open_per_guest
        self._syns_per_second = float(limits.max_syns_per_second)

    def link_up(self, link: int, guest: int, reporter: int = 0) -> GuestLink:
        """The guest with this number has opened a link. Ingress and demux both report it."""
        found = self._links.get(link)
        if found is None:
            account = self._guests.get(guest)
            if account is None:
                account = self._guests[guest] = Guest(guest)
            account.links += 1
            found = self._links[link] = GuestLink(link, account)
        found.up(reporter)
        return found

    def link(self, link: int) -> GuestLink:
        """The link with this number. An unknown one is a guest of its own."""
        return self._links.get(link) or self.link_up(link, link)

    def known(self, guest: int) -> Guest:
        """The guest with this number. An unknown one is not remembered, since it may already be gone."""
        return self._guests.get(guest) or Guest(guest)

    def sums(self) -> dict[str, dict[int, int]]:
        """What each guest has, by kind and by the guest's number."""
        guests = self._guests.items()
        return {
            "tcp_flows": {number: len(guest.flows) for number, guest in guests},
            "half_open": {number: len(guest.half_open) for number, guest in guests},
            "receive_bytes": {number: guest.held_bytes for number, guest in guests},
        }

    def refuses_syn(self, guest: Guest, now: float) -> str:
        """The counter of the limit on SYNs that this one exceeds; "" if it is allowed. Call full() next."""
        return "" if guest.take_syn_token(self._syns_per_second, now) else SYN_RATE

    def full(self, guest: Guest) -> str:
        """The counter of the limit that one more connection of the guest exceeds; "" if none.

        The caller may end another connection instead, of the guest or of any guest. Then it may go on without
        another call.
        """
        if len(guest.flows) >= self._max_flows_of_guest:
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

    def most_above_share(self, asker: Guest) -> Guest | None:
        """The guest that must give a connection to ``asker``; None if ``asker`` has its share already.

        The share is an equal part of the limit for each guest with connections. A guest may have more while
        nobody else needs them.
        """
        others = [guest for guest in self._guests.values() if guest.flows and guest is not asker]
        share = self._max_flows // (len(others) + 1)
        if len(asker.flows) >= share or not others:
            return None
        most = max(others, key=_flow_count)
        return most if len(most.flows) > share else None

    def add(self, flow: Flow) -> None:
        """Count a new connection."""
        self.flows += 1
        flow.begin()

    def remove(self, flow: Flow) -> None:
        """Stop counting a connection that has ended."""
        flow.end()
        self.flows -= 1
        self._forget_if_gone(flow.guest)

    def move(self, flow: Flow, link: GuestLink) -> None:
        """A guest is back on this link, and the connection goes on there."""
        before = flow.guest
        flow.move(link)
        self._forget_if_gone(before)

    def link_numbers(self) -> list[int]:
        """The numbers of all links."""
        return list(self._links)

    def link_down(self, link: int, reporters: int, *, stays: bool = False) -> GuestLink | None:
        """A link is down for these reporters. Returns it if it is gone now, else None.

        stays: it is not gone, since a successor of the reporters will report it again. A link that is unknown
        is gone already.
        """
        found = self._links.get(link)
        if found is None or not found.down(reporters) or stays:
            return None
        found.leave()
        del self._links[link]
        found.guest.links -= 1
        self._forget_if_gone(found.guest)
        return found

    def _forget_if_gone(self, guest: Guest) -> None:
        if not guest.links and not guest.flows and self._guests.get(guest.number) is guest:
            del self._guests[guest.number]


def _flow_count(guest: Guest) -> int:
    return len(guest.flows)
