"""The learning switch between guest links and the gateway (in the spirit of IEEE 802.1D).

The switch remembers on which link it saw each MAC address, and decides for each frame where it goes.
Broadcast and multicast go to the gateway and to every other link. The switch drops a unicast frame for an
unknown MAC and does not flood it, so that one guest cannot read another's lost traffic. There is no ageing:
a link's addresses are forgotten when the link goes down.

A MAC that appears on another link moves there. If its station has IPv4 addresses, the gateway asks it
first, by unicast ARP. The station keeps its MAC if it sends a frame within ANSWER_SECONDS. If it does not,
or its link goes down, the other link gets the MAC. Until then the claimant's frames are dropped.

Hostile guests: the switch does not learn the gateway's MAC or group addresses. Each link has a bound on its
addresses and on the ARP requests that it causes. An address that has moved stays on its new link for a
while, so that two links which both claim it do not cause an event for each frame. A claim of the gateway's
MAC is an event too, at most one in CLAIM_INTERVAL for each link.
"""

from collections.abc import Callable
from typing import Final, Literal, NamedTuple

from pipeline.engines.buckets import Buckets
from pipeline.wire import ethernet
from pipeline.wire.errors import WireError

MAX_MACS_PER_LINK: Final = 256
MAX_MACS: Final = 8192
MOVE_HOLD: Final = 1.0
"""Seconds for which an address that moved to another link cannot move again."""
ANSWER_SECONDS: Final = 1.0
"""How long the station on the old link has to send a frame."""
ASK_AGAIN: Final = 0.5
"""Seconds between two ARP requests to it: one may be lost."""
CONTESTS_PER_SECOND: Final = 16
"""MACs of other links that one link may claim in a second. Further claims change nothing."""
CLAIM_INTERVAL: Final = 10.0
"""Seconds between two events about a link that claims the gateway's MAC."""

TO_GATEWAY: Final = -1
FLOOD: Final = -2
"""To the gateway and to every link except the one that the frame came from."""


class SwitchEvent(NamedTuple):
    """A MAC was first seen on ``link``, moved there, or is gone from there.

    Or the link claims a MAC that it does not have: the gateway's ("claimed"), or another link's
    ("contested").
    """

    kind: Literal["seen", "moved", "gone", "claimed", "contested"]
    mac: bytes
    link: int


class _Port:
    """The link of a MAC."""

    __slots__ = ("asked_at", "claimed_at", "contested", "link", "since")

    def __init__(self, link: int, since: float) -> None:
        self.link = link
        self.since = since
        """When the MAC moved there; -inf if it was first seen there."""
        self.contested = False
        """Whether another link claims the MAC and its station has sent no frame since."""
        self.claimed_at = 0.0
        self.asked_at = float("-inf")

    def seen(self) -> None:
        """The station sent a frame: it keeps its MAC."""
        self.contested = False

    def ask(self, now: float) -> bool:
        """The station is asked to send a frame. Returns whether a contest begins with that."""
        self.asked_at = now
        if self.contested:
            return False
        self.contested = True
        self.claimed_at = now
        return True


class Switch:
    """The MAC table of one virtual network."""

    def __init__(
        self,
        gateway_mac: bytes,
        max_macs_per_link: int = MAX_MACS_PER_LINK,
        max_macs: int = MAX_MACS,
        ask: Callable[[bytes, int], bool] | None = None,
    ) -> None:
        """ask(mac, link): send ARP requests to a station. Returns False if it has no address to ask for."""
        self._ask = ask
        self._contests = Buckets(CONTESTS_PER_SECOND, CONTESTS_PER_SECOND)
        self._gateway_mac = gateway_mac
        self._max_per_link = max_macs_per_link
        self._max = max_macs
        self._ports: dict[bytes, _Port] = {}
        self._macs: dict[int, set[bytes]] = {}
        self._events: list[SwitchEvent] = []
        self._claims: dict[int, float] = {}
        self.not_learned = 0
        """Frames whose source was not learned because of a bound (``switch_mac_dropped_table_full``)."""

    def __len__(self) -> int:
        return len(self._ports)

    def on_frame(self, dst: bytes, src: bytes, link: int, now: float) -> int:
        """Learn src on link, and decide where the frame goes.

        Returns a link number (>= 0), TO_GATEWAY or FLOOD. Raises WireError when the frame is to be dropped.
        """
        port = self._ports.get(src)
        if port is None or port.link != link:
            self._learn(src, link, now, port)
        elif port.contested:
            port.seen()
        if dst == self._gateway_mac:
            return TO_GATEWAY
        if dst[0] & 1:
            return FLOOD
        port = self._ports.get(dst)
        if port is None:
            raise WireError("switch_frame_dropped_unknown_destination")
        if port.link == link:
            raise WireError("switch_frame_dropped_same_link")
        return port.link

    def _learn(self, mac: bytes, link: int, now: float, old: _Port | None) -> None:
        if mac[0] & 1 or mac == ethernet.ZERO:
            raise WireError("switch_frame_dropped_bad_source")
        if mac == self._gateway_mac:
            if now - self._claims.get(link, float("-inf")) >= CLAIM_INTERVAL:
                self._claims[link] = now
                self._events.append(SwitchEvent("claimed", mac, link))
            raise WireError("switch_frame_dropped_gateway_source")
        if old is not None and not self._may_move(old, mac, link, now):
            raise WireError("switch_frame_dropped_moving_source")
        macs = self._macs.setdefault(link, set())
        if len(macs) >= self._max_per_link or (old is None and len(self._ports) >= self._max):
            # The frame itself is still delivered. Only unicast from other guests will not reach this MAC.
            self.not_learned += 1
            return
        macs.add(mac)
        if old is None:
            # A new MAC may move at once: the guest that really has it may come second.
            self._ports[mac] = _Port(link, float("-inf"))
            self._events.append(SwitchEvent("seen", mac, link))
            return
        self._macs[old.link].discard(mac)
        self._ports[mac] = _Port(link, now)
        self._events.append(SwitchEvent("moved", mac, link))

    def _may_move(self, port: _Port, mac: bytes, link: int, now: float) -> bool:
        """Whether a MAC may move to link: its station has no address, or did not answer in time."""
        if now - port.since < MOVE_HOLD:
            return False
        if port.contested and now - port.claimed_at >= ANSWER_SECONDS:
            return True
        if now - port.asked_at < ASK_AGAIN:
            return False
        if not port.contested and self._contests.level(link, now) < 1.0:
            return False
        if self._ask is None or not self._ask(mac, port.link):
            return True
        if port.ask(now):
            self._contests.take(link, now)
            self._events.append(SwitchEvent("contested", mac, link))
        return False

    def forget_link(self, link: int) -> None:
        """The link is gone, and with it every MAC on it."""
        self._claims.pop(link, None)
        self._contests.forget(link)
        for mac in sorted(self._macs.pop(link, ())):
            del self._ports[mac]
            self._events.append(SwitchEvent("gone", mac, link))

    def take_events(self) -> list[SwitchEvent]:
        """The events since the last call."""
        events, self._events = self._events, []
        return events

    def link_of(self, mac: bytes) -> int | None:
        """The link on which a station was seen; None if it never was."""
        port = self._ports.get(mac)
        return port.link if port is not None else None

    def cam(self) -> dict[bytes, int]:
        """A copy of the table: MAC to link."""
        return {mac: port.link for mac, port in self._ports.items()}
