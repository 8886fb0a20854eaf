"""The neighbour table: which guest has which address. It learns, confirms and forgets addresses.

This is the gateway's side of ARP and of neighbour discovery as a state machine (RFC 826, RFC 4861 section
7.3 in spirit). The states are in entry.py. The table learns an address from ARP, from neighbour discovery,
and from the source of packets of the network. A packet to an unknown address waits while the address is asked
for by up to MAX_REQUESTS requests to all stations. The table sends nothing itself: see take_actions(). The
engines arp and neighbor_discovery make the messages.

A silent guest keeps its address as long as its link is up and no other station wants it. So a suspended
machine finds its connections when it resumes.

A *contest* decides which station gets an address that two stations claim. Within one link there is none: the
newest claim holds at once. A guest may give its interface another MAC, or have a virtual one (VRRP), and
harms only itself. Between two links the table asks the owner by unicast. The owner keeps the address if it
gives a sign of life within CONTEST_SECONDS. Until then the claimant's packets are dropped. If the owner stays
silent, or its link goes down, the claimant gets the address. If the switch has moved the owner's MAC to the
other link, the owner was silent already, and the address follows without a contest. The MAC in a frame alone
proves nothing, since the switch also lets frames pass whose MAC it has no room for. With ``newest_wins`` the
newest claim holds at once between links too. With ``first_keeps`` a link keeps its address until it is down,
however silent it is, and nobody is asked: ingress gives other guests with this address another one.

Hostile guests: no guest can claim an address of the gateway, or one that follows from the name of a host of
the fleet (set_far()). A guest gets an address that is held for the owner of an earlier run (hold()) only
after that owner has not answered. There are bounds on the addresses of a guest on all its links, on all
addresses, on waiting callers, and on the contests that one guest may begin in a second.
"""

from collections.abc import Callable, Collection
from typing import Final

from pipeline.engines.buckets import Buckets
from pipeline.engines.guest_of import NO_UPLINK, by_link
from pipeline.engines.neighbors.actions import Action, Changed, Contested, Learned, Lost, Request, Waiter
from pipeline.engines.neighbors.addresses import GuestAddresses
from pipeline.engines.neighbors.entry import CONTEST_INTERVAL, INCOMPLETE, KNOWN, PROBE, Held, Neighbor
from pipeline.wire import arp, ethernet
from pipeline.wire.errors import WireError

REACHABLE_TIME: Final = 30.0
"""Seconds for which one sign of life proves that a station is there."""
CONTESTS_PER_SECOND: Final = 16
"""Contests that one guest may begin. Claims beyond that are refused, and the owner is not asked."""
MAX_ASKED: Final = 4
"""The most addresses of one station that ask_station() asks for. One answer is enough."""
MAX_NEIGHBORS: Final = 8192
MAX_NEIGHBORS_PER_GUEST: Final = 1024
MAX_PENDING_ADDRS: Final = 256
MAX_PENDING_PER_ADDR: Final = 64

_INF: Final = float("inf")


class Neighbors:
    """The neighbours of one virtual network."""

    def __init__(
        self,
        addresses: GuestAddresses,
        gateway_mac: bytes,
        *,
        max_neighbors: int = MAX_NEIGHBORS,
        max_per_guest: int = MAX_NEIGHBORS_PER_GUEST,
        link_of: Callable[[bytes], int | None] | None = None,
        guest_of: Callable[[int], int] = by_link,
        newest_wins: bool = False,
        first_keeps: bool = False,
    ) -> None:
        """link_of(mac): the link on which the switch has seen a MAC; None if it has not.

        Without link_of, a MAC may be on any link.
        guest_of(link): the number of the guest that opened the link. It stays the same until forget_link().
        """
        self._addresses = addresses
        self._own_reported_at: dict[int, float] = {}
        """When the last event about a claim of each own address was made."""
        self._contests = Buckets(CONTESTS_PER_SECOND, CONTESTS_PER_SECOND)
        self._gateway_mac = gateway_mac
        self._link_of = link_of
        self._guest_of = guest_of
        self._newest_wins = newest_wins
        self._first_keeps = first_keeps
        self._max = max_neighbors
        self._max_per_guest = max_per_guest
        self._uplink = NO_UPLINK
        self._far: frozenset[int] = frozenset()
        self._table: dict[int, Neighbor] = {}
        self._guests: dict[int, dict[int, Neighbor]] = {}
        """The known ones of each guest, on all its links."""
        self._full_until: dict[int, float] = {}
        """For guests whose last claim found no room: when the first of their addresses may go."""
        self._timed: dict[int, Neighbor] = {}
        self._held: dict[int, Held] = {}
        """Addresses of an earlier run. None of them is KNOWN."""
        self._deadline = _INF
        self._actions: list[Action] = []

    def __len__(self) -> int:
        return len(self._table)

    def set_uplink(self, link: int) -> None:
        """This link leads to other hosts, and may have all addresses of the table; NO_UPLINK for none."""
        self._uplink = link

    def set_own(self, addrs: Collection[int]) -> None:
        """The host itself is a station with these addresses, and no guest may have one of them."""
        self._addresses.set_station(addrs)
        for addr in addrs:
            neighbor = self._table.get(addr)
            if neighbor is not None:
                self._drop(neighbor)

    def set_far(self, addrs: Collection[int]) -> None:
        """Other hosts are stations with these addresses, behind the uplink. A guest that has one loses it."""
        self._far = frozenset(addrs)
        for addr in addrs:
            neighbor = self._table.get(addr)
            if neighbor is not None and neighbor.state != INCOMPLETE and neighbor.link != self._uplink:
                self._drop(neighbor)

    def set_bounds(self, max_neighbors: int, max_per_guest: int) -> None:
        """Change the bounds. Addresses that are known already stay."""
        self._max = max_neighbors
        self._max_per_guest = max_per_guest

    # --- learning -----------------------------------------------------------------------

    def learn(self, addr: int, mac: bytes, link: int, now: float, *, by_arp: bool = False) -> None:
        """A packet from addr came from mac over link. Raises WireError if that station may not have addr.

        The caller then drops the packet and counts the reason. An answer would not reach this station.
        by_arp: the packet is a message of ARP or neighbour discovery. Other guests would learn from it too.
        """
        neighbor = self._table.get(addr)
        if neighbor is not None and neighbor.mac == mac and neighbor.link == link:
            neighbor.confirm(now)
            if neighbor.state != KNOWN:
                self._settle(neighbor)
            return
        self._refuse_bad(addr, mac, link, now)
        if neighbor is not None and neighbor.state != INCOMPLETE:
            if neighbor.link == link or self._newest_wins:
                self._change(neighbor, mac, link, now)
                return
            moved = neighbor.mac == mac and (self._link_of is None or self._link_of(mac) == link)
            if not moved:
                self._contest(neighbor, mac, link, now, by_arp)
        if addr in self._held and not self._newest_wins:
            self._check_held(addr, mac, link, now)
        self._make_room(neighbor, link, now)
        if neighbor is None:
            neighbor = self._table[addr] = Neighbor(addr)
        self._place(neighbor, mac, link, now)

    def _change(self, neighbor: Neighbor, mac: bytes, link: int, now: float) -> None:
        """A known address is at (mac, link) now, without a contest."""
        self._make_room(neighbor, link, now)
        self._move(neighbor, mac, link, now)
        self._actions.append(Changed(neighbor.addr, mac, link))

    def _place(
        self, neighbor: Neighbor, mac: bytes, link: int, now: float, *, announce: bool = False
    ) -> None:
        """The address is at (mac, link) from now on, wherever it was."""
        self._held.pop(neighbor.addr, None)
        self._move(neighbor, mac, link, now)
        self._actions.append(Learned(neighbor.addr, mac, link, neighbor.take_waiting(), announce))

    def _move(self, neighbor: Neighbor, mac: bytes, link: int, now: float) -> None:
        if neighbor.state != INCOMPLETE:
            self._remove(neighbor)
        neighbor.move(mac, link, now)
        self._guests.setdefault(self._guest_of(link), {})[neighbor.addr] = neighbor
        self._settle(neighbor)

    def on_arp(self, message: arp.Arp, src: bytes, link: int, now: float) -> None:
        """Learn from the sender fields of an ARP message in a frame from src. Raises WireError like learn().

        A probe (sender address 0, RFC 5227) teaches nothing.
        """
        if message.sha != src:
            raise WireError("arp_message_dropped_foreign_sender")
        if message.spa:
            self.learn(message.spa, message.sha, link, now, by_arp=True)

    def _refuse_bad(self, addr: int, mac: bytes, link: int, now: float) -> None:
        if addr in self._addresses.own:
            if now - self._own_reported_at.get(addr, -_INF) >= CONTEST_INTERVAL:
                self._own_reported_at[addr] = now
                self._actions.append(Contested(addr, self._gateway_mac, mac, link))
            raise WireError("neighbor_claim_refused_gateway_address")
        if addr in self._far and link != self._uplink:
            raise WireError("neighbor_claim_refused_gateway_address")
        if not self._addresses.inside(addr):
            raise WireError("neighbor_claim_refused_outside_subnet")
        if mac[0] & 1 or mac in (ethernet.ZERO, self._gateway_mac):
            raise WireError("neighbor_claim_refused_bad_mac")

    def _contest(self, neighbor: Neighbor, mac: bytes, link: int, now: float, by_arp: bool) -> None:
        """A station on another link uses the address. Raises WireError unless the owner has lost it."""
        if self._first_keeps:
            raise WireError("neighbor_claim_refused_address_taken")
        if now >= neighbor.lost_at:
            return
        if neighbor.may_be_contested(now) and self._contests.take(self._guest_of(link), now):
            if neighbor.contest(mac, link, now):
                self._actions.append(Contested(neighbor.addr, neighbor.mac, mac, link))
            self._ask(neighbor, PROBE, now)
        if by_arp:
            neighbor.announce(mac, link)
        raise WireError("neighbor_claim_refused_address_taken")

    def _hand_over(self, neighbor: Neighbor, now: float) -> None:
        """The owner lost the contest. The claimant gets the address at once, before its next packet."""
        mac, link = neighbor.claimant
        try:
            self._make_room(neighbor, link, now)
        except WireError:
            self._drop(neighbor)
        else:
            self._place(neighbor, mac, link, now, announce=neighbor.announced)

    def ask_station(self, mac: bytes, link: int) -> bool:
        """Send requests for addresses of the station with that MAC. False if it has none on the link.

        The switch calls this when it wants to see a frame of the station. The table does not change.
        """
        addrs = self.addresses_of(mac, link)
        self._actions += [Request(addr, mac, link) for addr in addrs[:MAX_ASKED]]
        return len(addrs) > 0

    def addresses_of(self, mac: bytes, link: int) -> list[int]:
        """The known addresses of the station with that MAC on the link."""
        return [neighbor.addr for neighbor in self._on_link(link) if neighbor.mac == mac]

    # --- addresses of an earlier run ------------------------------------------------------

    def hold(self, addr: int, mac: bytes, now: float) -> None:
        """Keep addr for mac, which had it in an earlier run, until mac was asked for it and did not answer.

        This does nothing if a station uses the address already. The caller bounds the number of calls.
        """
        if self._first_keeps:
            return
        if self.get(addr) is None and self._addresses.may_have(addr):
            self._held[addr] = Held(mac, now)

    def unhold(self, addr: int, mac: bytes) -> None:
        """The DHCP server gave addr to mac: stop keeping it for another station."""
        if addr in self._held and self._held[addr].mac != mac:
            del self._held[addr]

    def withdraw(self, addr: int, mac: bytes, link: int) -> None:
        """The lease of mac for addr is over: the DHCP server has given addr to a station on link.

        A guest that goes on using an address after its lease must not keep it from the next client.
        """
        neighbor = self.get(addr)
        if neighbor is not None and neighbor.mac == mac and neighbor.link != link:
            self._drop(neighbor)

    def _check_held(self, addr: int, mac: bytes, link: int, now: float) -> None:
        """mac uses a held address. Raises WireError if it is held for another station, which is asked."""
        held = self._held[addr]
        if held.mac == mac or held.mac in [known.mac for known in self._on_link(link)]:
            # The owner itself, or another station on the owner's link: that harms no other guest.
            return
        neighbor = self._table.get(addr)
        contested = neighbor is not None and neighbor.contested
        if contested or not self._contests.take(self._guest_of(link), now):
            raise WireError("neighbor_claim_refused_address_taken")
        if held.report_due(now):
            self._actions.append(Contested(addr, held.mac, mac, link))
        if neighbor is not None:
            # Callers of resolve() wait for this address, so all of its MAX_REQUESTS are sent.
            neighbor.contest_held()
        # Half of MAX_PENDING_ADDRS is left for callers of resolve().
        elif len(self._table) < self._max and len(self._timed) < MAX_PENDING_ADDRS // 2:
            neighbor = self._table[addr] = Neighbor(addr)
            neighbor.contest_held()
            self._ask(neighbor, INCOMPLETE, now)
        raise WireError("neighbor_claim_refused_address_taken")

    # --- bounds ---------------------------------------------------------------------------

    def _make_room(self, neighbor: Neighbor | None, link: int, now: float) -> None:
        """Forget an address, if necessary, so that ``neighbor`` may be on link. None: an address without an
        entry. Raises WireError if no address may go.

        A guest with as many as it may have loses the address that was silent for longest. A full table takes
        one from the guest with most addresses. So a guest that makes up addresses does not shut out others.
        """
        guest = self._guest_of(link)
        of_guest = self._guests.get(guest, {})
        if neighbor is not None and neighbor.addr in of_guest:
            return
        most = self._max_per_guest
        if self._uplink != NO_UPLINK and guest == self._guest_of(self._uplink):
            most = self._max
        if len(of_guest) >= most:
            # A guest that makes up addresses causes one search in 30 s, not one for each frame.
            if now < self._full_until.get(guest, 0.0):
                raise WireError("neighbor_claim_refused_table_full")
            oldest = min(of_guest.values(), key=_confirmed)
            if now - oldest.confirmed < REACHABLE_TIME:
                self._full_until[guest] = oldest.confirmed + REACHABLE_TIME
                raise WireError("neighbor_claim_refused_table_full")
            self._drop(oldest)
        elif neighbor is None and len(self._table) >= self._max:
            largest = max(self._guests.values(), key=len, default=of_guest)
            if len(largest) <= len(of_guest) + 1:
                raise WireError("neighbor_claim_refused_table_full")
            self._drop(min(largest.values(), key=_confirmed))

    # --- resolving ----------------------------------------------------------------------

    def get(self, addr: int) -> Neighbor | None:
        """The neighbour, if it is known now. This sends no request."""
        neighbor = self._table.get(addr)
        return None if neighbor is None or neighbor.state == INCOMPLETE else neighbor

    def resolve(self, addr: int, now: float, waiter: Waiter | None = None) -> Neighbor | None:
        """The neighbour to send to. None if it is not known: then waiter comes back in Learned or Lost.

        Lost may come with the next take_actions(): if no guest may have addr, or if too many callers wait.
        Without a waiter the caller drops its packet. An address without a recent sign of life is returned as
        known, and the table confirms it by unicast.
        """
        neighbor = self._table.get(addr)
        if neighbor is not None and neighbor.state != INCOMPLETE:
            if neighbor.state == KNOWN and now - neighbor.confirmed >= REACHABLE_TIME:
                self._ask(neighbor, PROBE, now)
            return neighbor
        waiting = () if waiter is None else (waiter,)
        if neighbor is None:
            full = len(self._table) >= self._max or len(self._timed) >= MAX_PENDING_ADDRS
            if full or not self._addresses.may_have(addr):
                self._actions.append(Lost(addr, waiting))
                return None
            neighbor = self._table[addr] = Neighbor(addr)
            self._ask(neighbor, INCOMPLETE, now)
        elif waiting and neighbor.contested and not neighbor.waiting:
            # The holder's link may have come back just now, after the requests of the contest.
            neighbor.ask_for_caller()
        if len(neighbor.waiting) >= MAX_PENDING_PER_ADDR:
            self._actions.append(Lost(addr, waiting))
        else:
            neighbor.add_waiting(waiting)
        return None

    # --- time ---------------------------------------------------------------------------

    def deadline(self) -> float:
        """When on_timer() next has something to do; inf when never."""
        return self._deadline

    def on_timer(self, now: float) -> None:
        """Repeat the requests that are due, and give up addresses whose requests had no answer."""
        for neighbor in [n for n in self._timed.values() if n.timer <= now]:
            if self._table.get(neighbor.addr) is not neighbor:
                continue  # _hand_over() has just dropped it to make room.
            if neighbor.requests_left:
                self._request(neighbor, now)
            elif neighbor.state == PROBE and neighbor.contested:
                self._hand_over(neighbor, now)
            elif neighbor.state == PROBE:
                self._settle(neighbor)
            else:
                held = self._held.get(neighbor.addr)
                if held is not None and neighbor.contested and now >= held.until:
                    del self._held[neighbor.addr]
                self._drop(neighbor)
        self._deadline = min([n.timer for n in self._timed.values()], default=_INF)

    def _ask(self, neighbor: Neighbor, state: str, now: float) -> None:
        neighbor.ask(state)
        self._timed[neighbor.addr] = neighbor
        self._request(neighbor, now)

    def _request(self, neighbor: Neighbor, now: float) -> None:
        neighbor.next_request(now)
        self._deadline = min(self._deadline, neighbor.timer)
        if neighbor.state == PROBE:
            self._actions.append(Request(neighbor.addr, neighbor.mac, neighbor.link))
        else:
            self._actions.append(Request(neighbor.addr))

    def _settle(self, neighbor: Neighbor) -> None:
        neighbor.settle()
        self._timed.pop(neighbor.addr, None)

    # --- forgetting ---------------------------------------------------------------------

    def forget_link(self, link: int) -> None:
        """The link is gone, and with it every address on it."""
        for neighbor in self._timed.values():
            if neighbor.contested and neighbor.claimant[1] == link and neighbor.state == PROBE:
                neighbor.withdraw_claim()
        for neighbor in self._on_link(link):
            if neighbor.contested:
                self._hand_over(neighbor, neighbor.contest_begun_at())
            else:
                self._drop(neighbor)

    def _drop(self, neighbor: Neighbor) -> None:
        del self._table[neighbor.addr]
        self._timed.pop(neighbor.addr, None)
        if neighbor.state != INCOMPLETE:
            self._remove(neighbor)
        self._actions.append(Lost(neighbor.addr, tuple(neighbor.waiting)))

    def on_guest_gone(self, now: float) -> None:
        """A guest has no link any more. If it comes back at once, it may not begin more contests."""
        self._contests.forget_full(now)

    def _remove(self, neighbor: Neighbor) -> None:
        """The guest does not have the address any more."""
        guest = self._guest_of(neighbor.link)
        of_guest = self._guests[guest]
        del of_guest[neighbor.addr]
        if not of_guest:
            del self._guests[guest]
            self._full_until.pop(guest, None)

    def _on_link(self, link: int) -> list[Neighbor]:
        """The known ones on a link."""
        return [each for each in self._guests.get(self._guest_of(link), {}).values() if each.link == link]

    # --- results --------------------------------------------------------------------------

    @property
    def has_actions(self) -> bool:
        """Whether take_actions() would return any."""
        return bool(self._actions)

    def take_actions(self) -> list[Action]:
        """What the table's owner has to send and to report since the last call, in order."""
        actions, self._actions = self._actions, []
        return actions

    def snapshot(self) -> dict[int, tuple[bytes, int]]:
        """Address -> (MAC, link) of all known neighbours."""
        return {n.addr: (n.mac, n.link) for n in self._table.values() if n.state != INCOMPLETE}


def _confirmed(neighbor: Neighbor) -> float:
    return neighbor.confirmed
