"""Which guest has which IPv4 address: (MAC, link) for each, learned, confirmed, let go.

The gateway's side of ARP as a state machine (RFC 826, RFC 4861 7.3 in spirit). An address
is learned from ARP and from the source of IPv4 packets of the subnet; packets to an address
that nobody has shown wait for up to MAX_REQUESTS broadcasts. Sends nothing itself: see
take_actions(). The messages are made by the arp engine.

::

    state       means                             becomes
    INCOMPLETE  asked by broadcast, callers wait  KNOWN on a sign of life, else gone
    KNOWN       somebody showed this address      PROBE when contested, or used after
                                                  REACHABLE_TIME without a sign of life
    PROBE       usable, being asked by unicast    KNOWN on a sign of life; without one the
                                                  claimant's when contested, else KNOWN again

A silent guest keeps its address as long as its link is up and nobody else wants it: a
machine that was suspended must find its connections when it comes back.

Who gets an address that another station claims depends on the links. Behind one link there is
nobody to protect: a guest may give its interface another MAC, or keep a virtual one (VRRP), so
the newest claim holds at once. Between two links the owner is asked by unicast. It keeps
the address if it shows any sign of life within CONTEST_SECONDS; until then the claimant's packets are
dropped. If the owner stays silent, or its link goes down, the address is the claimant's. A station whose MAC
the switch has moved was silent already, so its addresses follow without a contest. A MAC alone proves
nothing: the switch lets frames pass whose MAC it has no room for.

Hostile guests: own addresses of the gateway cannot be claimed; an address that is held for its owner
of an earlier run (hold()) cannot be taken until the owner was asked for in vain. Addresses of each link, all
addresses, waiting callers, and the contests that one link may begin in a second are bounded.
"""

from collections.abc import Callable, Iterable
from typing import Final, NamedTuple

from pipeline.engines.buckets import Buckets
from pipeline.wire import arp, ethernet
from pipeline.wire.errors import WireError

MAX_REQUESTS: Final = 3
REQUEST_INTERVAL: Final = 1.0
REACHABLE_TIME: Final = 30.0
"""Seconds for which a sign of life is believed."""
CONTEST_SECONDS: Final = 1.0
"""How long the owner of an address has to answer when another link claims it."""
CONTEST_REQUESTS: Final = 2
"""How often it is asked meanwhile: one question may be lost."""
CONTEST_PAUSE: Final = 2.0
"""Seconds from one contest to the next about the same address: an owner that answers has peace until then."""
CONTESTS_PER_SECOND: Final = 16
"""Contests that one link may begin; a claim over that is refused without a question to the owner."""
CONTEST_INTERVAL: Final = 10.0
"""Seconds between two events while another station keeps claiming an address."""
MAX_ASKED: Final = 4
"""Addresses of one station that ask_station() asks for: one answer is enough."""
HOLD_SECONDS: Final = 10.0
"""How long an address is held at least for the owner of an earlier run: its link has to come back first."""
MAX_NEIGHBORS: Final = 8192
MAX_NEIGHBORS_PER_LINK: Final = 256
MAX_PENDING_ADDRS: Final = 256
MAX_PENDING_PER_ADDR: Final = 64

_INCOMPLETE: Final = "INCOMPLETE"
_KNOWN: Final = "KNOWN"
_PROBE: Final = "PROBE"
_INF: Final = float("inf")


class Neighbor:
    """One address. Read-only outside this module; mac and link mean nothing while INCOMPLETE."""

    __slots__ = (
        "addr", "asked_at", "claimant", "confirmed", "contested", "contested_at", "interval", "link",
        "mac", "requests_left", "state", "timer", "until", "waiting",
    )  # fmt: skip

    def __init__(self, addr: int, mac: bytes, link: int, state: str) -> None:
        self.addr = addr
        self.mac = mac
        self.link = link
        self.state = state
        self.confirmed = -_INF
        self.contested = False
        self.claimant = (mac, link)
        """(MAC, link) of who gets the address if the contest is lost. Means nothing without one."""
        self.until = _INF
        """When a contest is lost."""
        self.asked_at = -_INF
        """When the last contest began."""
        self.contested_at = -_INF
        """When the last event about a contest was."""
        self.requests_left = 0
        self.interval = REQUEST_INTERVAL
        self.timer = _INF
        self.waiting: list[object] = []


class _Held:
    """An address that is kept for mac, at least until then; told: when the last event about it was."""

    __slots__ = ("mac", "told", "until")

    def __init__(self, mac: bytes, until: float) -> None:
        self.mac = mac
        self.until = until
        self.told = -_INF


class Request(NamedTuple):
    """Ask for addr: by broadcast on every link (link -1), or one station behind its link."""

    addr: int
    mac: bytes = ethernet.BROADCAST
    link: int = -1


class Learned(NamedTuple):
    """addr is at (mac, link) now: it is new, or moved. waiting = tokens of resolve()."""

    addr: int
    mac: bytes
    link: int
    waiting: tuple[object, ...] = ()


class Changed(NamedTuple):
    """addr has another MAC behind the same link. A guest can cause one with every packet."""

    addr: int
    mac: bytes
    link: int


class Lost(NamedTuple):
    """addr has no neighbour any more, or never had: callers that waited have failed."""

    addr: int
    waiting: tuple[object, ...] = ()


class Contested(NamedTuple):
    """Another station claims addr while its owner is believed alive, or is the gateway.

    At most one in CONTEST_INTERVAL.
    """

    addr: int
    owner: bytes
    claimant: bytes


Action = Request | Learned | Changed | Lost | Contested


class Neighbors:
    """The neighbours of one virtual network."""

    def __init__(
        self,
        *,
        network: int,
        prefix_len: int,
        own: Iterable[int],
        gateway_mac: bytes,
        max_neighbors: int = MAX_NEIGHBORS,
        max_per_link: int = MAX_NEIGHBORS_PER_LINK,
        link_of: Callable[[bytes], int | None] | None = None,
    ) -> None:
        """own = the gateway's address and its virtual addresses: no guest can have one of them.

        link_of: where the switch has a MAC, if it has; without a switch, where it was seen last.
        """
        mask = 0xFFFFFFFF << (32 - prefix_len) & 0xFFFFFFFF
        self._first = (network & mask) + 1
        self._last = (network & mask | ~mask & 0xFFFFFFFF) - 1
        self._own = frozenset(own)
        self._own_contested_at: dict[int, float] = {}
        self._contests = Buckets(CONTESTS_PER_SECOND, CONTESTS_PER_SECOND)
        self._gateway_mac = gateway_mac
        self._link_of = link_of
        self._max = max_neighbors
        self._max_per_link = max_per_link
        self._table: dict[int, Neighbor] = {}
        self._links: dict[int, dict[int, Neighbor]] = {}
        self._timed: dict[int, Neighbor] = {}
        # None of these addresses is KNOWN.
        self._held: dict[int, _Held] = {}
        self._deadline = _INF
        self._actions: list[Action] = []

    # --- learning -----------------------------------------------------------------------

    def learn(self, addr: int, mac: bytes, link: int, now: float) -> None:
        """A packet from addr came from mac over link. Raises WireError when that cannot be.

        The packet is to be dropped then, and counted by the reason: its answer would go to
        somebody else, or to nobody.
        """
        neighbor = self._table.get(addr)
        if neighbor is not None and neighbor.mac == mac and neighbor.link == link:
            neighbor.confirmed = now
            if neighbor.state != _KNOWN:
                self._settle(neighbor)
            return
        self._refuse_bad(addr, mac, now)
        if neighbor is not None and neighbor.state != _INCOMPLETE:
            if neighbor.link == link:
                neighbor.mac, neighbor.confirmed = mac, now
                self._settle(neighbor)
                self._actions.append(Changed(addr, mac, link))
                return
            moved = neighbor.mac == mac and (self._link_of is None or self._link_of(mac) == link)
            if not moved:
                self._contest(neighbor, mac, link, now)
        if addr in self._held:
            self._check_held(addr, mac, link, now)
        self._make_room(link, now, new=neighbor is None)
        if neighbor is None:
            neighbor = Neighbor(addr, mac, link, _INCOMPLETE)
            self._table[addr] = neighbor
        self._place(neighbor, mac, link, now)

    def _place(self, neighbor: Neighbor, mac: bytes, link: int, now: float) -> None:
        """The address is at (mac, link) from now on, wherever it was."""
        if neighbor.state != _INCOMPLETE:
            self._unlink(neighbor)
        self._held.pop(neighbor.addr, None)
        neighbor.mac, neighbor.link, neighbor.confirmed = mac, link, now
        self._links.setdefault(link, {})[neighbor.addr] = neighbor
        self._settle(neighbor)
        waiting, neighbor.waiting = tuple(neighbor.waiting), []
        self._actions.append(Learned(neighbor.addr, mac, link, waiting))

    def on_arp(self, message: arp.Arp, src: bytes, link: int, now: float) -> None:
        """Learn from the sender fields of an ARP message in a frame from src. Raises WireError as learn().

        A probe (sender address 0, RFC 5227) teaches nothing.
        """
        if message.sha != src:
            raise WireError("arp_message_dropped_foreign_sender")
        if message.spa:
            self.learn(message.spa, message.sha, link, now)

    def _refuse_bad(self, addr: int, mac: bytes, now: float) -> None:
        if addr in self._own:
            if now - self._own_contested_at.get(addr, -_INF) >= CONTEST_INTERVAL:
                self._own_contested_at[addr] = now
                self._actions.append(Contested(addr, self._gateway_mac, mac))
            raise WireError("neighbor_claim_refused_gateway_address")
        if not self._first <= addr <= self._last:
            raise WireError("neighbor_claim_refused_outside_subnet")
        if mac[0] & 1 or mac in (ethernet.ZERO, self._gateway_mac):
            raise WireError("neighbor_claim_refused_bad_mac")

    def _contest(self, neighbor: Neighbor, mac: bytes, link: int, now: float) -> None:
        """Another station, behind another link, shows the address. WireError unless the owner has lost it."""
        if now >= neighbor.until:
            return
        if (
            not neighbor.contested
            and now - neighbor.asked_at >= CONTEST_PAUSE
            and self._contests.take(link, now)
        ):
            if now - neighbor.contested_at >= CONTEST_INTERVAL:
                neighbor.contested_at = now
                self._actions.append(Contested(neighbor.addr, neighbor.mac, mac))
            neighbor.contested = True
            neighbor.claimant = (mac, link)
            neighbor.until = now + CONTEST_SECONDS
            neighbor.asked_at = now
            self._ask(neighbor, _PROBE, now)
        raise WireError("neighbor_claim_refused_address_taken")

    def _hand_over(self, neighbor: Neighbor, now: float) -> None:
        """The contest is lost. The claimant spoke a moment ago and need not speak again."""
        mac, link = neighbor.claimant
        try:
            self._make_room(link, now, new=False)
        except WireError:
            self._drop(neighbor)
        else:
            self._place(neighbor, mac, link, now)

    def ask_station(self, mac: bytes, link: int) -> bool:
        """Ask the station with that MAC for some of its addresses; False if it has none behind the link.

        For the switch, which wants to see a frame of it. The table does not change.
        """
        of_link = self._links.get(link, {})
        asked = 0
        for neighbor in of_link.values():
            if neighbor.mac == mac and asked < MAX_ASKED:
                asked += 1
                self._actions.append(Request(neighbor.addr, mac, link))
        return asked > 0

    def hold(self, addr: int, mac: bytes, now: float) -> None:
        """addr was mac's in an earlier run. Nobody else gets it before mac was asked for it in vain.

        Without effect for an address that somebody has shown already. The caller bounds how many there are.
        """
        if self.get(addr) is None and self._first <= addr <= self._last and addr not in self._own:
            self._held[addr] = _Held(mac, now + HOLD_SECONDS)

    def unhold(self, addr: int, mac: bytes) -> None:
        """addr is mac's now, whoever it was held for."""
        if addr in self._held and self._held[addr].mac != mac:
            del self._held[addr]

    def _check_held(self, addr: int, mac: bytes, link: int, now: float) -> None:
        """mac shows a held address. WireError if it is another's, who is asked for it."""
        held = self._held[addr]
        if held.mac == mac or held.mac in [known.mac for known in self._links.get(link, {}).values()]:
            # Also when its owner is known behind this very link: nobody else is harmed.
            return
        neighbor = self._table.get(addr)
        if (neighbor is not None and neighbor.contested) or not self._contests.take(link, now):
            raise WireError("neighbor_claim_refused_address_taken")
        if now - held.told >= CONTEST_INTERVAL:
            held.told = now
            self._actions.append(Contested(addr, held.mac, mac))
        if neighbor is not None:
            # Callers wait for it: they are owed their three questions.
            neighbor.contested = True
        # Half of the questions are left for those who look for a guest.
        elif len(self._table) < self._max and len(self._timed) < MAX_PENDING_ADDRS // 2:
            neighbor = self._table[addr] = Neighbor(addr, ethernet.ZERO, -1, _INCOMPLETE)
            neighbor.contested = True
            self._ask(neighbor, _INCOMPLETE, now)
        raise WireError("neighbor_claim_refused_address_taken")

    def _make_room(self, link: int, now: float, new: bool) -> None:
        """Forget an address so that link may have one more. WireError when that would be unfair.

        A full link loses the address that was silent for longest; a full table lets the link
        with most addresses pay, so that one guest that makes up addresses shuts out no other.
        """
        of_link = self._links.get(link, {})
        if len(of_link) >= self._max_per_link:
            oldest = min(of_link.values(), key=_confirmed)
            if now - oldest.confirmed < REACHABLE_TIME:
                raise WireError("neighbor_claim_refused_table_full")
            self._drop(oldest)
        elif new and len(self._table) >= self._max:
            largest = max(self._links.values(), key=len, default=of_link)
            if len(largest) <= len(of_link) + 1:
                raise WireError("neighbor_claim_refused_table_full")
            self._drop(min(largest.values(), key=_confirmed))

    # --- resolving ----------------------------------------------------------------------

    def get(self, addr: int) -> Neighbor | None:
        """The neighbour as known right now, without asking anybody."""
        neighbor = self._table.get(addr)
        return None if neighbor is None or neighbor.state == _INCOMPLETE else neighbor

    def resolve(self, addr: int, now: float, token: object = None) -> Neighbor | None:
        """The neighbour to send to, or None: then token comes back in Learned or Lost.

        That may be at once (the next take_actions()), when addr cannot be a guest's or too
        many callers wait. A token of None is not kept: the caller just drops its packet. An
        address without recent sign of life is handed out, and confirmed by unicast meanwhile.
        """
        neighbor = self._table.get(addr)
        if neighbor is not None and neighbor.state != _INCOMPLETE:
            if neighbor.state == _KNOWN and now - neighbor.confirmed >= REACHABLE_TIME:
                self._ask(neighbor, _PROBE, now)
            return neighbor
        waiting = () if token is None else (token,)
        if neighbor is None:
            full = len(self._table) >= self._max or len(self._timed) >= MAX_PENDING_ADDRS
            if full or addr in self._own or not self._first <= addr <= self._last:
                self._actions.append(Lost(addr, waiting))
                return None
            neighbor = Neighbor(addr, ethernet.ZERO, -1, _INCOMPLETE)
            self._table[addr] = neighbor
            self._ask(neighbor, _INCOMPLETE, now)
        if len(neighbor.waiting) >= MAX_PENDING_PER_ADDR:
            self._actions.append(Lost(addr, waiting))
        else:
            neighbor.waiting.extend(waiting)
        return None

    # --- time ---------------------------------------------------------------------------

    def deadline(self) -> float:
        """When on_timer() next has something to do; inf when never."""
        return self._deadline

    def on_timer(self, now: float) -> None:
        """Repeat the requests that are due and give up on those without answer."""
        for neighbor in [n for n in self._timed.values() if n.timer <= now]:
            if self._table.get(neighbor.addr) is not neighbor:
                continue  # It made room for another one just now.
            if neighbor.requests_left:
                self._request(neighbor, now)
            elif neighbor.state == _PROBE and neighbor.contested:
                self._hand_over(neighbor, now)
            elif neighbor.state == _PROBE:
                self._settle(neighbor)
            else:
                held = self._held.get(neighbor.addr)
                if held is not None and neighbor.contested and now >= held.until:
                    del self._held[neighbor.addr]
                self._drop(neighbor)
        self._deadline = min([n.timer for n in self._timed.values()], default=_INF)

    def _ask(self, neighbor: Neighbor, state: str, now: float) -> None:
        neighbor.state = state
        neighbor.requests_left = CONTEST_REQUESTS if neighbor.contested else MAX_REQUESTS
        neighbor.interval = CONTEST_SECONDS / CONTEST_REQUESTS if neighbor.contested else REQUEST_INTERVAL
        self._timed[neighbor.addr] = neighbor
        self._request(neighbor, now)

    def _request(self, neighbor: Neighbor, now: float) -> None:
        neighbor.requests_left -= 1
        neighbor.timer = now + neighbor.interval
        self._deadline = min(self._deadline, neighbor.timer)
        if neighbor.state == _PROBE:
            self._actions.append(Request(neighbor.addr, neighbor.mac, neighbor.link))
        else:
            self._actions.append(Request(neighbor.addr))

    def _settle(self, neighbor: Neighbor) -> None:
        neighbor.state = _KNOWN
        neighbor.contested = False
        neighbor.until = neighbor.timer = _INF
        self._timed.pop(neighbor.addr, None)

    # --- forgetting ---------------------------------------------------------------------

    def forget_link(self, link: int) -> None:
        """The link is gone, and with it every address behind it."""
        self._contests.forget(link)
        for neighbor in self._timed.values():
            if neighbor.contested and neighbor.claimant[1] == link and neighbor.state == _PROBE:
                # Nobody claims it any more; whether its owner answers is of no interest.
                neighbor.contested = False
                neighbor.until = _INF
        for neighbor in list(self._links.get(link, {}).values()):
            if neighbor.contested:
                self._hand_over(neighbor, neighbor.asked_at)
            else:
                self._drop(neighbor)

    def _drop(self, neighbor: Neighbor) -> None:
        del self._table[neighbor.addr]
        self._timed.pop(neighbor.addr, None)
        if neighbor.state != _INCOMPLETE:
            self._unlink(neighbor)
        self._actions.append(Lost(neighbor.addr, tuple(neighbor.waiting)))

    def _unlink(self, neighbor: Neighbor) -> None:
        of_link = self._links[neighbor.link]
        del of_link[neighbor.addr]
        if not of_link:
            del self._links[neighbor.link]

    @property
    def has_actions(self) -> bool:
        """Whether take_actions() would return any."""
        return bool(self._actions)

    def take_actions(self) -> list[Action]:
        """What is to be sent and told since the last call, in order."""
        actions, self._actions = self._actions, []
        return actions

    def snapshot(self) -> dict[int, tuple[bytes, int]]:
        """Address to (MAC, link) of everything known."""
        return {n.addr: (n.mac, n.link) for n in self._table.values() if n.state != _INCOMPLETE}


def _confirmed(neighbor: Neighbor) -> float:
    return neighbor.confirmed
