"""Leases of the DHCP server: who has which address, and who may have one more (RFC 2131 section 4.3).

Each client (its hardware address) gets the lowest free host number of the subnet and keeps it: a lease that
ran out, was released or was never confirmed stays its client's until no other address is free.

=========  ==================================================  =========================================
lease      means                                               may go to another client when no other is free
=========  ==================================================  =========================================
offered    DISCOVER was answered, no REQUEST came              OFFER_SECONDS after the last DISCOVER
bound      REQUEST was answered                                LEASE_SECONDS after the last REQUEST
released   the client sent RELEASE or chose another server     at once
bootp      a BOOTP request was answered                        when its link is gone
static     from the configuration                              never
=========  ==================================================  =========================================

A BOOTP client never asks again, so its lease has no end. It counts for its link like any other.

A guest may make up as many hardware addresses as it likes, so leases count for the link that they came over.
Beyond LEAST_OF_A_LINK, a link gets an address only while it has less than SHARE times what is to be had. A
guest that is alone so gets three quarters of the subnet, and the next one three quarters of the rest. Beyond,
a link is given only what its own clients need no more: a lease cannot be taken back before it ends, so the
next guest would find nothing. A guest that
reconnects has a new link and a new part, so the leases of the link that is gone count for nobody, and where
no address is free a new client gets the one of them that was bound longest ago. Until then they stay
their clients'.

Knows nothing of messages.
"""

import heapq
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from typing import Final, NamedTuple

from pipeline.engines import tally

LEASE_SECONDS: Final = 3600
OFFER_SECONDS: Final = 60.0
DECLINE_SECONDS: Final = 600.0
"""How long an address that a client found in use is given to nobody."""
MAX_LEASES: Final = 16384
"""Dynamic leases, so that a large subnet does not mean a large table."""
LEAST_OF_A_LINK: Final = 8
"""Dynamic leases that one link may have while there is an address at all."""
SHARE: Final = 3
"""Beyond that, a link may have this many times what others may have: free addresses and needless leases."""
MAX_DECLINED: Final = 64
NO_LINK: Final = 0
"""Of leases from a state file whose clients have not been heard yet; links are numbered from 1."""
GONE: Final = -1
"""Of leases that came over a link that is gone."""

OFFERED: Final = "offered"
BOUND: Final = "bound"
RELEASED: Final = "released"
BOOTP: Final = "bootp"

_RECLAIM_ORDER: Final = (RELEASED, OFFERED, BOUND, BOOTP)
_SECONDS: Final[dict[str, float]] = {OFFERED: OFFER_SECONDS, BOUND: LEASE_SECONDS, BOOTP: float("inf")}


class DhcpConfig(NamedTuple):
    """What the server hands out. Addresses are ints, MACs 6 bytes, ``mtu`` bytes.

    ``reserved``: addresses that nobody gets (host address, virtual addresses of the gateway); the
    gateway's, the network's and the broadcast address need not be in it. ``static_leases``: address -> MAC.
    """

    network: int
    prefix_len: int
    gateway_addr: int
    gateway_mac: bytes
    mtu: int
    search_domains: tuple[str, ...] = ()
    static_leases: Mapping[int, bytes] = {}
    reserved: frozenset[int] = frozenset()


class Lease:
    """A dynamic lease; ``expires``: when it may go to another client; ``link``: whose part it is of.

    ``before``: another link that is still there, over which it came first. A guest may ask in the name of
    another's client and leave; that client's lease must not look like one of nobody then.
    """

    __slots__ = ("addr", "before", "expires", "link", "state")

    def __init__(self, addr: int, link: int, state: str, expires: float) -> None:
        self.addr = addr
        self.link = link
        self.before = NO_LINK
        self.state = state
        self.expires = expires


class Leases:
    """The leases of one subnet."""

    def __init__(self, config: DhcpConfig) -> None:
        self._config = config
        mask = 0xFFFFFFFF << (32 - config.prefix_len) & 0xFFFFFFFF
        self._network = network = config.network & mask
        self._broadcast = network | ~mask & 0xFFFFFFFF
        self._never = config.reserved | {config.gateway_addr, *config.static_leases}
        # A MAC with two static addresses gets the lower one, in every run the same.
        self._static = {mac: addr for addr, mac in sorted(config.static_leases.items(), reverse=True)}
        self._leases: dict[bytes, Lease] = {}
        self._owners: dict[int, bytes] = {}
        # MACs by state, each in the order in which their leases run out.
        self._by_state: dict[str, OrderedDict[bytes, None]] = {
            state: OrderedDict() for state in _RECLAIM_ORDER
        }
        self._of_link: dict[int, int] = {}
        """How many leases came over each link."""
        never = sum(network < addr < self._broadcast for addr in self._never)
        self._capacity = min(MAX_LEASES, max(0, self._broadcast - network - 1 - never))
        """Dynamic leases that there can be."""
        self._declined: OrderedDict[int, float] = OrderedDict()
        self._next = network + 1
        self._returned: list[int] = []

    @property
    def count(self) -> int:
        """Dynamic and static leases."""
        return len(self._owners) + len(self._config.static_leases)

    def by_addr(self) -> dict[int, bytes]:
        """Address -> MAC of the gateway, of the static leases and of every client that has an address."""
        return {
            self._config.gateway_addr: self._config.gateway_mac,
            **self._config.static_leases,
            **self._owners,
        }

    def export(self, now: float) -> list[tuple[int, bytes, float]]:
        """(address, MAC, seconds left) of the dynamic leases that are bound, for a state file.

        A BOOTP client's has LEASE_SECONDS, counted from the restart: until then it must be heard again, so
        that clients which are made up do not keep addresses over restarts.
        """
        return [
            (lease.addr, mac, min(max(0.0, lease.expires - now), LEASE_SECONDS))
            for state in (BOUND, BOOTP)
            for mac in self._by_state[state]
            for lease in (self._leases[mac],)
        ]

    def restore(self, rows: Iterable[tuple[int, bytes, float]], now: float) -> int:
        """Take over what export() gave in an earlier run, without the rows that fit no more.

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
        """The client's address, made if need be; 0 when there is none left."""
        if static := self._static.get(mac):
            return static
        lease = self._leases.get(mac)
        if lease is None:
            addr = self._take_address(link, now)
            if not addr:
                return 0
            lease = self._add(mac, addr, link, state)
        if lease.link == GONE and self.is_full(link, now):
            # Answered only if a new client would be: nothing else would keep this lease from others.
            if not (addr := self._reclaim(now, link)):
                return 0
            heapq.heappush(self._returned, addr)
        if lease.link != link and not self.is_full(link, now):
            # Its guest has another link now. (One with two links has no more than the parts of both.)
            if not lease.before and lease.link != GONE:
                lease.before = lease.link
            self._assign(lease, link)
            if lease.before == link:
                lease.before = NO_LINK
        if state == OFFERED and lease.state in (BOUND, BOOTP) and lease.expires > now:
            # A client that starts again still holds what was acknowledged.
            return lease.addr
        self._move(mac, lease, state, now + _SECONDS[state])
        return lease.addr

    def turn_down(self, mac: bytes, link: int, now: float) -> None:
        """The client took another server's offer, so ours is free; what was acknowledged stays its own."""
        lease = self._leases.get(mac)
        if lease is not None and lease.state == OFFERED and link == (lease.before or lease.link):
            self._move(mac, lease, RELEASED, now)

    def _held(self, mac: bytes, addr: int, link: int) -> Lease | None:
        """The lease that a client gives up over link; None if it is not its own.

        Another guest may write the client's hardware address into its message, and may even have asked in its
        name. Only the link over which the lease was given counts: the first one that is still there.
        """
        lease = self._leases.get(mac)
        if lease is None or addr != lease.addr or link != (lease.before or lease.link):
            return None
        return lease

    def release(self, mac: bytes, addr: int, link: int, now: float) -> bool:
        """The client needs its address no more; back in time, it gets it again. False: it is not its own."""
        lease = self._held(mac, addr, link)
        if lease is None:
            return False
        self._move(mac, lease, RELEASED, now)
        return True

    def decline(self, mac: bytes, addr: int, link: int, now: float) -> bool:
        """The client found its address in use: nobody gets it for a while. False: it is not its own.

        At most MAX_DECLINED addresses or a quarter of the subnet are held back, so that a hostile guest
        cannot use up the subnet this way.
        """
        lease = self._held(mac, addr, link)
        if lease is None:
            return False
        self._forget(mac)
        self._declined[lease.addr] = now + DECLINE_SECONDS
        limit = min(MAX_DECLINED, 1 << (32 - self._config.prefix_len) >> 2)
        while len(self._declined) > limit:
            heapq.heappush(self._returned, self._declined.popitem(last=False)[0])
        return True

    def on_link_down(self, link: int) -> None:
        """A guest's link is gone; another one may get its number."""
        for lease in self._leases.values():
            if lease.link == link:
                self._assign(lease, lease.before or GONE)
                lease.before = NO_LINK
            elif lease.before == link:
                lease.before = NO_LINK

    def is_full(self, link: int, now: float) -> bool:
        """Whether the link has its part of the addresses that others may have."""
        count = self._of_link.get(link, 0)
        if count < LEAST_OF_A_LINK:
            return False
        wanted = count // SHARE + 1
        declined = sum(until > now for until in self._declined.values())
        free = self._capacity - len(self._leases) - declined + self._of_link.get(GONE, 0)
        return free < wanted and free + self._needless(now, wanted - free) < wanted

    def _needless(self, now: float, enough: int) -> int:
        """How many leases of links that are there may go to another client; counted up to enough."""
        count = 0
        for state in _RECLAIM_ORDER:
            for mac in self._by_state[state]:
                lease = self._leases[mac]
                if lease.expires > now or count >= enough:
                    break
                if lease.link != GONE:
                    count += 1
        return count

    def _assign(self, lease: Lease, link: int) -> None:
        tally.add(self._of_link, lease.link, -1)
        tally.add(self._of_link, link, 1)
        lease.link = link

    def _add(self, mac: bytes, addr: int, link: int, state: str) -> Lease:
        tally.add(self._of_link, link, 1)
        self._owners[addr] = mac
        lease = self._leases[mac] = Lease(addr, link, state, 0.0)
        return lease

    def _move(self, mac: bytes, lease: Lease, state: str, expires: float) -> None:
        self._by_state[lease.state].pop(mac, None)
        self._by_state[state][mac] = None
        lease.state = state
        lease.expires = expires

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
        """The lowest free address; else one whose client does not need it any more; else 0.

        A link that has its part gets only what one of its own clients needs no more.
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
        """Take back an address that its client needs no more, of this link if one is given; 0 without one."""
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
        """Take back the address of a client whose link is gone, bound longest ago; 0 without one."""
        if GONE not in self._of_link:
            return 0
        for state in _RECLAIM_ORDER:
            for mac in self._by_state[state]:
                lease = self._leases[mac]
                if lease.link == GONE:
                    self._forget(mac)
                    return lease.addr
        return 0
