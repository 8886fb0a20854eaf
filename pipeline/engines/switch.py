"""The learning switch between guest links and the gateway (in the spirit of IEEE 802.1D).

The switch remembers on which link it saw each MAC address, and decides for each frame where it goes.
Broadcast and multicast go to the gateway and to every other link. The switch drops a unicast frame for an
unknown MAC and does not flood it, so that one guest cannot read another's lost traffic. A link's addresses
are forgotten when the link goes down. If a guest has the most addresses that it may have, on all its links
together, the one that was unused for longest makes room. In a full table, the guest with most addresses
makes room.

A MAC that another link claims is contested for ANSWER_SECONDS. Meanwhile the claimant's frames are dropped.
Any frame from the MAC's present link ends the contest, and the MAC stays there. If the station has IPv4
addresses, it is asked for a frame twice, by unicast ARP. If no frame comes, the MAC moves to the claimant. A
contest ends without effect if the claimant's link goes down.

A DHCP client may wait for seconds between two messages. So a second of silence proves little about a station
that has no IPv4 address yet, or that has just booted again. For WIN_BACK_SECONDS after a MAC has moved, the
next frame from the old link takes it back at once. If the guest has really moved, its old link stays silent.

A link to other hosts is an *uplink*: it has many stations, and may have some that have not sent a frame here.
So unicast frames of guests for an unknown MAC go there, and its share of the table is the whole table.

With ``newest_wins`` there are no contests: every frame moves its MAC to its link, as in gvproxy's switch.
Frames from the gateway's MAC then pass too, but are not learned.

Hostile guests: the switch does not learn the gateway's MAC, those of hosts that are stations, or group
addresses. Each guest has bounds on its addresses, on the contests that it may begin, and on how often it
replaces addresses. A contest takes a second, so two links which both claim a MAC cause few events. A claim of
the gateway's MAC is an event too, at most one in CLAIM_INTERVAL for each link.

The switch sends nothing itself and reads no clock. Its owner calls on_timer() at deadline().
"""

from collections.abc import Callable, Iterable
from typing import Final, Literal, NamedTuple

from pipeline.engines.buckets import Buckets
from pipeline.engines.guest_of import NO_UPLINK, by_link
from pipeline.wire import ethernet
from pipeline.wire.errors import WireError

MAX_MACS_PER_GUEST: Final = 256
MAX_MACS: Final = 8192
ANSWER_SECONDS: Final = 1.0
"""How long the station on the MAC's present link has to send a frame."""
QUESTIONS: Final = 2
"""How often it is asked in that time, since one ARP request may be lost."""
ASK_AGAIN: Final = ANSWER_SECONDS / QUESTIONS
"""Seconds between two ARP requests to it."""
WIN_BACK_SECONDS: Final = 600.0
"""How long a station may take back a MAC that it lost. DHCP clients may pause for five minutes."""
CONTESTS_PER_SECOND: Final = 16
"""MACs of other links that one guest may claim in a second. Further claims change nothing."""
UNUSED_SECONDS: Final = 5.0
"""How long a MAC must have been unused before another one of its guest may replace it."""
REPLACED_PER_SECOND: Final = 16
"""How often in a second a guest may make the switch search for a MAC that makes room."""
CLAIM_INTERVAL: Final = 60.0
"""Seconds between two events about a link that claims the gateway's MAC."""

TO_GATEWAY: Final = -1
FLOOD: Final = -2
"""To the gateway and to every link except the one that the frame came from."""


class SwitchEvent(NamedTuple):
    """A MAC was first seen on ``link``, has moved there, or is gone from there.

    Or the link claims a MAC that is not its own: the gateway's ("claimed"), or another link's ("contested").
    """

    kind: Literal["seen", "moved", "gone", "claimed", "contested"]
    mac: bytes
    link: int


class _Port:
    """The link of a MAC."""

    __slots__ = ("asked_at", "contested", "former", "heard", "link", "win_back_until")

    def __init__(self, link: int, heard: float) -> None:
        self.link = link
        self.heard = heard
        """When its last frame came."""
        self.contested = False
        """Whether another link claims the MAC, and no frame has come from this link since."""
        self.asked_at = float("-inf")
        """When its station was last asked for a frame."""
        self.former = link
        """The link that lost the MAC, and may win it back until win_back_until."""
        self.win_back_until = float("-inf")


class _Contest:
    """A claim of another link."""

    __slots__ = ("claimant", "due", "questions_left")

    def __init__(self, claimant: int) -> None:
        self.claimant = claimant
        self.due = 0.0
        """When the next question or the end is due."""
        self.questions_left = QUESTIONS


class Switch:
    """The MAC table of one virtual network."""

    def __init__(
        self,
        gateway_mac: bytes,
        max_macs_per_guest: int = MAX_MACS_PER_GUEST,
        max_macs: int = MAX_MACS,
        ask: Callable[[bytes, int], object] | None = None,
        *,
        guest_of: Callable[[int], int] = by_link,
        newest_wins: bool = False,
    ) -> None:
        """ask(mac, link): send ARP requests to the station, if it has an address to ask for.

        guest_of(link): the number of the guest that opened the link. It stays the same until forget_link().
        """
        self._ask = ask
        self._guest_of = guest_of
        self._newest_wins = newest_wins
        self._may_claim = Buckets(CONTESTS_PER_SECOND, CONTESTS_PER_SECOND)
        self._may_replace = Buckets(REPLACED_PER_SECOND, REPLACED_PER_SECOND)
        self._gateway_mac = gateway_mac
        self._max_per_guest = max_macs_per_guest
        self._max = max_macs
        self._uplink = NO_UPLINK
        self._station_mac = gateway_mac
        self._far_stations: frozenset[bytes] = frozenset()
        self._ports: dict[bytes, _Port] = {}
        self._macs: dict[int, set[bytes]] = {}
        """By guest, on all its links."""
        self._contests: dict[bytes, _Contest] = {}
        """By MAC. The first one is due next, since all wait equally long."""
        self._events: list[SwitchEvent] = []
        self._claims: dict[int, float] = {}
        self.not_learned = 0
        """Frames whose source was not learned because of a bound (``switch_mac_dropped_table_full``)."""

    def set_bounds(self, max_macs_per_guest: int, max_macs: int) -> None:
        """Change the bounds. MACs that are known already stay."""
        self._max_per_guest = max_macs_per_guest
        self._max = max_macs

    def set_uplink(self, link: int) -> None:
        """This link leads to other hosts; NO_UPLINK for none."""
        self._uplink = link

    def set_station(self, mac: bytes) -> None:
        """The host itself is a station with this MAC too, and no guest may have it."""
        self._station_mac = mac

    def set_far_stations(self, macs: Iterable[bytes]) -> None:
        """Other hosts are stations with these MACs, behind the uplink. A guest that has one loses it."""
        self._far_stations = frozenset(macs)
        for mac in [mac for mac in self._far_stations if mac in self._ports]:
            if self._ports[mac].link != self._uplink:
                self._forget(mac)

    def __len__(self) -> int:
        return len(self._ports)

    def on_frame(self, dst: bytes, src: bytes, link: int, now: float) -> int:
        """Learn src on link, and decide where the frame goes.

        Returns a link number (>= 0), TO_GATEWAY or FLOOD. Raises WireError if the frame must be dropped.
        """
        port = self._ports.get(src)
        if port is None or port.link != link:
            self._learn(src, link, now, port)
        else:
            port.heard = now
            if port.contested:
                self._end_contest(src, port)
        if dst == self._gateway_mac:
            return TO_GATEWAY
        if dst[0] & 1:
            return FLOOD
        port = self._ports.get(dst)
        if port is None:
            if self._uplink != NO_UPLINK and link != self._uplink:
                return self._uplink
            raise WireError("switch_frame_dropped_unknown_destination")
        if port.link == link:
            raise WireError("switch_frame_dropped_same_link")
        return port.link

    def _learn(self, mac: bytes, link: int, now: float, old: _Port | None) -> None:
        if mac[0] & 1 or mac == ethernet.ZERO:
            raise WireError("switch_frame_dropped_bad_source")
        is_far = mac in self._far_stations and link != self._uplink
        if is_far or mac in (self._gateway_mac, self._station_mac):
            if self._newest_wins:
                return
            if now - self._claims.get(link, float("-inf")) >= CLAIM_INTERVAL:
                self._claims[link] = now
                self._events.append(SwitchEvent("claimed", mac, link))
            raise WireError("switch_frame_dropped_gateway_source")
        if old is not None:
            if self._newest_wins:
                self._move(old, mac, link, now)
                return
            if old.former != link or now >= old.win_back_until:
                self._contest(old, mac, link, now)
            elif self._move(old, mac, link, now):
                old.win_back_until = float("-inf")
                return
            raise WireError("switch_frame_dropped_moving_source")
        guest = self._guest_of(link)
        if not self._has_room(guest, now, new=True):
            # The frame itself is still delivered. Only unicast from other guests will not reach this MAC.
            self.not_learned += 1
            return
        self._macs.setdefault(guest, set()).add(mac)
        self._ports[mac] = _Port(link, now)
        self._events.append(SwitchEvent("seen", mac, link))

    def _move(self, port: _Port, mac: bytes, link: int, now: float) -> bool:
        """The MAC is on link from now on. If its guest has no room for it, return False."""
        if port.contested:
            self._end_contest(mac, port)
        before, guest = self._guest_of(port.link), self._guest_of(link)
        if guest != before:
            if not self._has_room(guest, now, new=False):
                self.not_learned += 1
                return False
            self._remove(mac, before)
            self._macs.setdefault(guest, set()).add(mac)
        port.link = link
        port.heard = now
        self._events.append(SwitchEvent("moved", mac, link))
        return True

    def station_moved(self, mac: bytes, link: int, now: float) -> None:
        """Somebody who knows says that the station is on this link now, for instance the fleet."""
        port = self._ports.get(mac)
        if port is not None and port.link != link:
            self._move(port, mac, link, now)

    def _has_room(self, guest: int, now: float, *, new: bool) -> bool:
        """Whether the guest may have one more MAC. If necessary, another MAC makes room.

        A guest with as many as it may have replaces one that it does not use. In a full table, the guest with
        most MACs loses one, whether it uses it or not, so that nobody can fill the table.
        """
        macs = self._macs.get(guest, set())
        is_full = new and len(self._ports) >= self._max
        most = self._max_per_guest
        if self._uplink != NO_UPLINK and guest == self._guest_of(self._uplink):
            most = self._max
        if len(macs) < most and not is_full:
            return True
        if not self._may_replace.take(guest, now):
            return False
        used = now - UNUSED_SECONDS
        if len(macs) < most:
            largest = max(self._macs.values(), key=len, default=macs)
            if len(largest) > len(macs) + 1:
                macs, used = largest, now
        heard, oldest = min([(self._ports[mac].heard, mac) for mac in macs], default=(now, b""))
        if not macs or heard > used:
            return False
        self._forget(oldest)
        return True

    # --- contests -----------------------------------------------------------------------

    def _contest(self, port: _Port, mac: bytes, link: int, now: float) -> None:
        """The link claims a MAC of another link, whose station is asked for a frame."""
        if port.contested or now - port.asked_at < ASK_AGAIN:
            return
        if not self._may_claim.take(self._guest_of(link), now):
            return
        port.contested = True
        self._events.append(SwitchEvent("contested", mac, link))
        self._question(port, mac, _Contest(link), now)

    def _question(self, port: _Port, mac: bytes, contest: _Contest, now: float) -> None:
        if self._ask is not None:
            self._ask(mac, port.link)
        port.asked_at = now
        contest.questions_left -= 1
        contest.due = now + ASK_AGAIN
        self._contests[mac] = contest

    def _end_contest(self, mac: bytes, port: _Port) -> None:
        port.contested = False
        del self._contests[mac]

    def deadline(self) -> float:
        """When on_timer() next has something to do; inf when never."""
        return next(iter(self._contests.values())).due if self._contests else float("inf")

    def on_timer(self, now: float) -> None:
        """Ask the stations that were silent again, or let their MACs move."""
        while self.deadline() <= now:
            mac = next(iter(self._contests))
            port, contest = self._ports[mac], self._contests.pop(mac)
            if contest.questions_left:
                self._question(port, mac, contest, now)
                continue
            port.contested = False
            former = port.link
            # If two links take a MAC from each other, the first of them may still win it back.
            if self._move(port, mac, contest.claimant, now) and now >= port.win_back_until:
                port.former = former
                port.win_back_until = now + WIN_BACK_SECONDS

    # --- what is known ------------------------------------------------------------------

    def forget_link(self, link: int) -> None:
        """The link is gone, and with it every MAC on it and every claim of it."""
        self._claims.pop(link, None)
        for mac in [mac for mac, contest in self._contests.items() if contest.claimant == link]:
            self._end_contest(mac, self._ports[mac])
        of_guest = self._macs.get(self._guest_of(link), ())
        for mac in sorted([mac for mac in of_guest if self._ports[mac].link == link]):
            self._forget(mac)
        for port in self._ports.values():
            if port.former == link:
                # Another guest may get the number of this link.
                port.win_back_until = float("-inf")

    def on_guest_gone(self, now: float) -> None:
        """A guest has no link any more. If it comes back at once, it may not claim and replace more."""
        self._may_claim.forget_full(now)
        self._may_replace.forget_full(now)

    def _forget(self, mac: bytes) -> None:
        port = self._ports.pop(mac)
        if port.contested:
            del self._contests[mac]
        self._remove(mac, self._guest_of(port.link))
        self._events.append(SwitchEvent("gone", mac, port.link))

    def _remove(self, mac: bytes, guest: int) -> None:
        """The guest does not have the MAC any more."""
        macs = self._macs[guest]
        macs.discard(mac)
        if not macs:
            del self._macs[guest]

    def take_events(self) -> list[SwitchEvent]:
        """The events since the last call."""
        events, self._events = self._events, []
        return events

    def link_of(self, mac: bytes) -> int | None:
        """The link of a MAC; None if it is not in the table."""
        port = self._ports.get(mac)
        return port.link if port is not None else None

    def cam(self) -> dict[bytes, int]:
        """A copy of the table: MAC -> link."""
        return {mac: port.link for mac, port in self._ports.items()}
