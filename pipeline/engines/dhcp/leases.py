"""Leases of the DHCP server: which client has which address, and which may get one (RFC 2131 section 4.3).

A client is a hardware address. Each gets the lowest free address of the subnet and keeps it. A lease that
expired, was released or was never confirmed stays with its client until no other address is free.

=========  ==================================================  =========================================
lease      means                                               may go to another client when no other is free
=========  ==================================================  =========================================
offered    DISCOVER was answered, no REQUEST came              OFFER_SECONDS after the last DISCOVER
bound      REQUEST was answered                                LEASE_SECONDS after the last REQUEST
released   the client sent RELEASE or chose another server     at once
bootp      a BOOTP request was answered                        when its link is gone
static     from the configuration                              never
=========  ==================================================  =========================================

A BOOTP client never renews, so its lease does not expire. It counts for its link like any other.

A guest may make up any number of hardware addresses, so leases count for the link that they came over. Each
link may have LEAST_OF_A_LINK leases. Beyond that, it gets an address only while it has less than SHARE
times the addresses that are left for others. So a guest that is alone gets three quarters of the subnet,
and the next guest three quarters of the rest. A link with its share gets only addresses that its own
clients do not need any more.

A guest that reconnects has a new link and a new share. The leases of a link that is gone count for no link,
and stay with their clients. When no address is free, a new client gets the one of them that was bound
longest ago.

This module does not know messages.
"""

import heapq
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from ipaddress import IPv4Network
from typing import Final, Protocol

from pipeline.engines import tally

LEASE_SECONDS: Final = 3600
OFFER_SECONDS: Final = 60.0
DECLINE_SECONDS: Final = 600.0
"""How long no client gets an address that a client found in use."""
MAX_LEASES: Final = 16384
"""Dynamic leases: a large subnet must not mean a large table."""
LEAST_OF_A_LINK: Final = 8
"""Dynamic leases that each link may have while any address is left."""
SHARE: Final = 3
"""Beyond that, a link may have this many times the addresses that are left for others."""
MAX_DECLINED: Final = 64
NO_LINK: Final = 0
"""The link of leases from a state file whose clients have not spoken yet. Links are numbered from 1."""
GONE: Final = -1
"""The link of leases that came over a link that is gone."""

OFFERED: Final = "offered"
BOUND: Final = "bound"
RELEASED: Final = "released"
BOOTP: Final = "bootp"

_RECLAIM_ORDER: Final = (RELEASED, OFFERED, BOUND, BOOTP)
_SECONDS: Final[dict[str, float]] = {OFFERED: OFFER_SECONDS, BOUND: LEASE_SECONDS, BOOTP: float("inf")}


class LeaseConfig(Protocol):
    """The part of the configuration that Leases needs. Addresses are ints, MACs 6 bytes."""

    @property
    def subnet(self) -> IPv4Network: ...
    @property
    def gateway_ip(self) -> int: ...
    @property
    def gateway_mac(self) -> bytes: ...
    @property
    def dhcp_static_leases(self) -> Mapping[int, bytes]: ...
    @property
    def reserved(self) -> frozenset[int]:
        """Addresses that no client gets, beside the gateway's, the network's and the broadcast one."""


class Lease:
    """A dynamic lease. ``expires``: when it may go to another client. ``link``: the link that it counts for.

    ``before``: another link that is still up, over which the lease came first. A guest may ask in the name
    of another guest's client and leave. The lease then counts for the first link again.
    """

    __slots__ = ("addr", "before", "expires", "link", "state")

    def __init__(self, addr: int, link: int, state: str, expires: float) -> None:
        self.addr = addr
        self.link = link
        self.before = NO_LINK
        self.state = state
        self.expires = expires

    def move(self, state: str, expires: float) -> None:
        """The client asked for the lease, or gave it up."""
        self.state = state
        self.expires = expires

    def count_for(self, link: int) -> None:
        """The client asked over another link. The lease counts for that one now."""
        if not self.before and self.link != GONE:
            self.before = self.link
        if self.before == link:
            self.before = NO_LINK
        self.link = link

    def link_down(self, link: int) -> None:
        """A link is gone, perhaps the lease's own or the one before."""
        if self.link == link:
            self.link = self.before or GONE
            self.before = NO_LINK
        elif self.before == link:
            self.before = NO_LINK


class Leases:
    """The leases of one subnet."""

    def __init__(self, config: LeaseConfig) -> None:
        self._config = config
        self._network = network = int(config.subnet.network_address)
        self._broadcast = int(config.subnet.broadcast_address)
        self._never = config.reserved | {config.gateway_ip, *config.dhcp_static_leases}
        # A MAC with two static addresses gets the lower one, the same in every run.
        self._static = {mac: addr for addr, mac in sorted(config.dhcp_static_leases.items(), reverse=True)}
        self._leases: dict[bytes, Lease] = {}
        self._owners: dict[int, bytes] = {}
        # MACs by state, in the order in which their leases expire.
        self._by_state: dict[str, OrderedDict[bytes, None]] = {
            state: OrderedDict() for state in _RECLAIM_ORDER
        }
        self._of_link: dict[int, int] = {}
        """How many leases count for each link."""
        never = sum(network < addr < self._broadcast for addr in self._never)
        self._capacity = min(MAX_LEASES, max(0, self._broadcast - network - 1 - never))
        """How many dynamic leases there can be."""
        self._declined: OrderedDict[int, float] = OrderedDict()
        self._next = network + 1
        self._returned: list[int] = []

    @property
    def count(self) -> int:
        """Dynamic and static leases."""
        return len(self._owners) + len(self._config.dhcp_static_leases)

    def by_addr(self) -> dict[int, bytes]:
        """Address -> MAC of the gateway, of the static leases and of every client that has an address."""
        return {
            self._config.gateway_ip: self._config.gateway_mac,
            **self._config.dhcp_static_leases,
            **self._owners,
        }

    def export(self, now: float) -> list[tuple[int, bytes, float]]:
        """(address, MAC, seconds left) of the dynamic leases that are bound, for a state file.

        A BOOTP client's lease has LEASE_SECONDS from the restart. The client must speak until then, so that
        clients which a guest made up do not keep addresses over restarts.
        """
        return [
            (lease.addr, mac, min(max(0.0, lease.expires - now), LEASE_SECONDS))
            for state in (BOUND, BOOTP)
            for mac in self._by_state[state]
            for lease in (self._leases[mac],)
        ]

    def restore(self, rows: Iterable[tuple[int, bytes, float]], now: float) -> int:
        """Take over the result of export() from an earlier run, except rows that do not fit any more.

        Returns how many leases were taken over.
        """
        count = 0
        for addr, mac, seconds in sorted(rows, key=lambda row: row[2]):
            known = mac in self._static or mac in self._leases or addr in self._owners
            if known or len(mac) != 6 or not self._usable(addr) or len(self._leases) >= MAX_LEASES:
                continue
            lease = self._add(mac, addr, NO_LINK, BOUND)
            self._move(mac, lease, BOUND, now + min(max(seconds, 0.0), LEASE_SECONDS))
            count += 1
        return count

    def give(self, mac: bytes, link: int, state: str, now: float) -> int:
        """Give a client its address, perhaps a new one. Returns 0 when no address is left."""
        if static := self._static.get(mac):
            return static
        lease = self._leases.get(mac)
        if lease is None:
            addr = self._take_address(link, now)
            if not addr:
                return 0
            lease = self._add(mac, addr, link, state)
        if lease.link == GONE and self.is_full(link, now):
            # The client gets an answer only if a new client would: its lease is open to others by now.
            if not (addr := self._reclaim(now, link)):
                return 0
            heapq.heappush(self._returned, addr)
        if lease.link != link and not self.is_full(link, now):
            # Its guest has another link now. (A guest with two links has no more than the shares of both.)
            tally.add(self._of_link, lease.link, -1)
            tally.add(self._of_link, link, 1)
            lease.count_for(link)
        if state == OFFERED and lease.state in (BOUND, BOOTP) and lease.expires > now:
            # A client that starts again still has what was acknowledged.
            return lease.addr
        self._move(mac, lease, state, now + _SECONDS[state])
        return lease.addr

    def turn_down(self, mac: bytes, link: int, now: float) -> None:
        """The client took another server's offer, so ours is free. An acknowledged lease stays."""
        lease = self._leases.get(mac)
        if lease is not None and lease.state == OFFERED and link == (lease.before or lease.link):
            self._move(mac, lease, RELEASED, now)

    def _held(self, mac: bytes, addr: int, link: int) -> Lease | None:
        """The lease that a client gives up over link. None if addr is not the client's address.

        Another guest may write the client's hardware address into its message, and may even have asked in its
        name. Only the link over which the lease was given counts: the first one that is still up.
        """
        lease = self._leases.get(mac)
        if lease is None or addr != lease.addr or link != (lease.before or lease.link):
            return None
        return lease

    def release(self, mac: bytes, addr: int, link: int, now: float) -> bool:
        """The client does not need its address any more. Returns False if it is not the client's address."""
        lease = self._held(mac, addr, link)
        if lease is None:
            return False
        self._move(mac, lease, RELEASED, now)
        return True

    def decline(self, mac: bytes, addr: int, link: int, now: float) -> bool:
        """The client found its address in use. No client gets it for a while. False as in release().

        At most MAX_DECLINED addresses or a quarter of the subnet are kept back, so that a hostile guest
        cannot use up the subnet this way.
        """
        lease = self._held(mac, addr, link)
        if lease is None:
            return False
        self._forget(mac)
        self._declined[lease.addr] = now + DECLINE_SECONDS
        limit = min(MAX_DECLINED, 1 << (32 - self._config.subnet.prefixlen) >> 2)
        while len(self._declined) > limit:
            heapq.heappush(self._returned, self._declined.popitem(last=False)[0])
        return True

    def on_link_down(self, link: int) -> None:
        """A guest's link is gone. Another guest may get its number."""
        for lease in self._leases.values():
            counted_for = lease.link
            lease.link_down(link)
            if lease.link != counted_for:
                tally.add(self._of_link, counted_for, -1)
                tally.add(self._of_link, lease.link, 1)

    def is_full(self, link: int, now: float) -> bool:
        """Whether the link has its share of the addresses."""
        count = self._of_link.get(link, 0)
        if count < LEAST_OF_A_LINK:
            return False
        wanted = count // SHARE + 1
        declined = sum(until > now for until in self._declined.values())
        free = self._capacity - len(self._leases) - declined + self._of_link.get(GONE, 0)
        return free < wanted and free + self._needless(now, wanted - free) < wanted

    def _needless(self, now: float, enough: int) -> int:
        """How many leases of links that are up may go to another client. Counts no further than enough."""
        count = 0
        for state in _RECLAIM_ORDER:
            for mac in self._by_state[state]:
                lease = self._leases[mac]
                if lease.expires > now or count >= enough:
                    break
                if lease.link != GONE:
                    count += 1
        return count

    def _add(self, mac: bytes, addr: int, link: int, state: str) -> Lease:
        tally.add(self._of_link, link, 1)
        self._owners[addr] = mac
        lease = self._leases[mac] = Lease(addr, link, state, 0.0)
        return lease

    def _move(self, mac: bytes, lease: Lease, state: str, expires: float) -> None:
        self._by_state[lease.state].pop(mac, None)
        self._by_state[state][mac] = None
        lease.move(state, expires)

    def _forget(self, mac: bytes) -> None:
        lease = self._leases.pop(mac)
        tally.add(self._of_link, lease.link, -1)
        del self._owners[lease.addr]
        del self._by_state[lease.state][mac]

    def _usable(self, addr: int) -> bool:
        return self._network < addr < self._broadcast and addr not in self._never

    def _free(self, addr: int) -> bool:
        return addr not in self._owners and addr not in self._declined

    def _take_address(self, link: int, now: float) -> int:
        """The lowest free address, else one whose client does not need it any more, else 0.

        A link with its share gets only an address that one of its own clients does not need any more.
        """
        if self.is_full(link, now):
            return self._reclaim(now, link)
        while self._declined and next(iter(self._declined.values())) <= now:
            heapq.heappush(self._returned, self._declined.popitem(last=False)[0])
        if len(self._leases) < MAX_LEASES:
            while self._returned:
                addr = heapq.heappop(self._returned)
                if self._free(addr):
                    return addr
            while self._next < self._broadcast:
                addr = self._next
                self._next += 1
                if addr not in self._never and self._free(addr):
                    return addr
        return self._reclaim(now) or self._reclaim_gone()

    def _reclaim(self, now: float, link: int = NO_LINK) -> int:
        """Take back an address that its client does not need any more, of this link if given; else 0."""
        for state in _RECLAIM_ORDER:
            for mac in self._by_state[state]:
                lease = self._leases[mac]
                if lease.expires > now:
                    break
                if link in (NO_LINK, lease.link):
                    self._forget(mac)
                    return lease.addr
        return 0

    def _reclaim_gone(self) -> int:
        """Take back the address that was bound longest ago by a client whose link is gone; else 0."""
        if GONE not in self._of_link:
            return 0
        for state in _RECLAIM_ORDER:
            for mac in self._by_state[state]:
                lease = self._leases[mac]
                if lease.link == GONE:
                    self._forget(mac)
                    return lease.addr
        return 0
