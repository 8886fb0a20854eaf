"""Leases of a DHCP or DHCPv6 server: who has which address, and who may get one (RFC 2131 section 4.3).

A client is a name in bytes. For DHCP that is its hardware address (server.py). For DHCPv6 the DUID and the
IAID of an identity association are in it too (server6.py). Each client gets the lowest free address of the
subnet, or that of ``first_choice``, and keeps it. A lease that expired, was released or was never confirmed
(lease.py) stays with its client until another client needs the address.

**Shares.** A guest may make up any number of hardware addresses. So leases count for the guest whose link
they were asked over. Each guest may have LEAST_OF_A_GUEST leases. Beyond that, it gets an address only while
it has less than SHARE times the addresses that are left for others. So a guest that is alone has a share of
three quarters of the subnet, and the next guest three quarters of the rest.

**Loans.** A guest that has used up its share may still get free addresses as loans. A loan is a lease of
LOAN_SECONDS that counts in no share. No lease can be called back before it ends. But a loan is not renewed
while the reserve is not whole, nor for NO_LOANS_SECONDS after a guest within its share found no address. Then
a DHCP server does not answer, and never sends NAK; a DHCPv6 server answers that there is no address. So
another guest waits for two minutes. With leases of an hour in their place it would wait for an hour. With
neither, the last quarter would never be used. When the guest of a loan is within
its share again, and the client renews, the loan becomes an ordinary lease. BOOTP leases do not expire, so
they are never loans.

**Reserve.** The last addresses are for guests without any, so each guest gets its first address at once.

**Guests that are gone.** A guest that reconnects has a new share. The leases of a link that is gone count for
no guest, and stay with their clients. If no address is free, a new client gets the one of them that was bound
longest ago. Leases from a state file, whose clients have not sent a message yet, come last. Before they
expire, only guests with fewer than LEAST_OF_A_GUEST leases get these, again the oldest first.

This module does not know messages.
"""

from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable
from typing import Final

from pipeline.engines import tally
from pipeline.engines.dhcp.lease import (
    BOOTP,
    BORROWER,
    BOUND,
    GONE,
    LEASE_SECONDS,
    LENT,
    LOAN_SECONDS,
    NO_LINK,
    OFFERED,
    RECLAIM_ORDER,
    RELEASED,
    SECONDS,
    Grant,
    Lease,
    LeaseConfig,
)
from pipeline.engines.dhcp.pool import Pool
from pipeline.engines.guest_of import by_link

LEAST_OF_A_GUEST: Final = 8
"""Dynamic leases that each guest may have while more than the reserve is left."""
SHARE: Final = 3
"""Beyond that, a guest may have this many times the addresses that are left for others."""
MAX_RESERVE: Final = 8
"""Addresses in the reserve; fewer in a small subnet, an eighth of it."""
NO_LOANS_SECONDS: Final = 600.0
"""How long there are no loans after a guest found no address. Some clients ask again only after 5 minutes."""

IN_NO_SHARE: Final = (GONE, BORROWER, NO_LINK)
"""Leases with one of these in place of a guest are in no share. They are left for others."""

TOO_MANY: Final = "dhcp_message_dropped_too_many_of_guest"
NO_ADDRESS: Final = "dhcp_message_dropped_no_address"
LOAN_OVER: Final = "dhcp_message_dropped_loan_over"


class Leases:
    """The leases of one subnet."""

    def __init__(
        self,
        config: LeaseConfig,
        guest_of: Callable[[int], int] = by_link,
        on_end: Callable[[bytes], object] | None = None,
        first_choice: Callable[[bytes], int] | None = None,
        among: tuple[int, int] = (0, 0),
    ) -> None:
        """guest_of: the number of the guest that opened a link, above 0. All links of a peer share it.

        on_end: called with a client when its lease ends before its time, or moves to another link.
        first_choice: the address that a new client gets if it is free. among: as in Pool.
        """
        self._config = config
        self._guest_of = guest_of
        self._on_end = on_end
        self._first_choice = first_choice
        never = config.reserved | {config.gateway_ip, *config.dhcp_static_leases}
        self._pool = Pool(config.subnet, never, among)
        self._reserve = min(MAX_RESERVE, self._pool.capacity // 8)
        # A MAC with two static addresses gets the lower one, the same in every run.
        static = sorted(config.dhcp_static_leases.items(), reverse=True)
        self._static = {client: addr for addr, client in static}
        self._static_links: dict[bytes, int] = {}
        """The link over which each static lease was taken last."""
        self._leases: dict[bytes, Lease] = {}
        self._by_state: dict[str, OrderedDict[bytes, None]] = {
            state: OrderedDict() for state in RECLAIM_ORDER
        }
        """Clients by state, in the order in which their leases expire."""
        self._of_guest: dict[int, int] = {}
        """How many leases are in the share of each guest."""
        self._no_loans_until = float("-inf")

    # --- what there is --------------------------------------------------------------------

    @property
    def count(self) -> int:
        """Dynamic and static leases."""
        return len(self._leases) + len(self._config.dhcp_static_leases)

    def by_addr(self) -> dict[int, bytes]:
        """Address -> the gateway's MAC, and the client of each static lease and of each other address."""
        return {
            self._config.gateway_ip: self._config.gateway_mac,
            **self._config.dhcp_static_leases,
            **{lease.addr: client for client, lease in self._leases.items()},
        }

    def has_static(self, client: bytes) -> bool:
        """Whether the configuration has an address for the client."""
        return client in self._static

    def export(self, now: float) -> list[tuple[int, bytes, float]]:
        """(address, client, seconds left) of the dynamic leases that clients use, for a state file.

        A BOOTP client's lease has LEASE_SECONDS from the restart. If the client sends nothing in that time,
        it may lose the address. So clients that a guest made up do not keep addresses over restarts.
        """
        return [
            (lease.addr, client, min(max(0.0, lease.expires - now), LEASE_SECONDS))
            for state in (BOUND, LENT, BOOTP)
            for client in self._by_state[state]
            for lease in (self._leases[client],)
        ]

    def restore(self, rows: Iterable[tuple[int, bytes, float]], now: float) -> int:
        """Take over the result of export() from an earlier run, except rows that are not valid any more.

        Returns how many leases were taken over.
        """
        count = 0
        for addr, client, seconds in sorted(rows, key=lambda row: row[2]):
            if client in self._static or client in self._leases or not self._pool.claim(addr):
                continue
            lease = self._add(client, Lease(addr, NO_LINK, NO_LINK, BOUND))
            self._move(client, lease, BOUND, now + min(max(seconds, 0.0), LEASE_SECONDS))
            count += 1
        return count

    # --- what clients ask for --------------------------------------------------------------

    def sums(self) -> dict[int, int]:
        """How many leases each guest has, by its number, loans included."""
        return Counter(self._guest_of(lease.link) for lease in self._leases.values() if lease.link > 0)

    def give(self, client: bytes, ident: bytes, link: int, state: str, now: float) -> Grant:
        """Give a client its address, perhaps a new one. ident: as Lease.ident."""
        if static := self._static.get(client):
            return Grant(static, fresh=self._is_first_static(client, link, state))
        guest = self._guest_of(link)
        lease = self._leases.get(client)
        fresh = lease is None or lease.link != link or not lease.is_held(now)
        if lease is None:
            lease = self._new(client, guest, link, state, now)
            if lease is None:
                return self._refuse(guest, now)
        elif not self._recount(lease, guest, link, state, now):
            return Grant(0, 0, LOAN_OVER) if lease.is_lent else self._refuse(guest, now)
        lease.on_asked(link, ident)
        # A DISCOVER of a client that starts again does not shorten a lease that was acknowledged.
        if state != OFFERED or not lease.is_held(now):
            held = LENT if state == BOUND and lease.is_lent else state
            self._move(client, lease, held, now + SECONDS[held])
        return Grant(lease.addr, LOAN_SECONDS if lease.is_lent else LEASE_SECONDS, fresh=fresh)

    def _is_first_static(self, client: bytes, link: int, state: str) -> bool:
        """Whether the client takes its static lease on this link for the first time."""
        first = self._static_links.get(client) != link
        if state != OFFERED:
            self._static_links[client] = link
        return first

    def is_owner(self, client: bytes, link: int) -> bool:
        """Whether a client's lease may be changed over this link. A static lease may be changed over any."""
        lease = self._leases.get(client)
        return lease.owner == link if lease is not None else client in self._static

    def is_holder(self, client: bytes, link: int, now: float) -> bool:
        """Whether a client has a lease now that may be changed over this link, or a static one."""
        lease = self._leases.get(client)
        if lease is None:
            return client in self._static
        return lease.is_held(now) and lease.owner == link

    def turn_down(self, client: bytes, link: int, now: float) -> None:
        """The client took another server's offer, so the offered address is free. A bound lease stays."""
        lease = self._leases.get(client)
        if lease is not None and lease.state == OFFERED and link == lease.owner:
            self._move(client, lease, RELEASED, now)

    def release(self, client: bytes, addr: int, link: int, now: float) -> bool:
        """The client does not need its address any more. Returns False if the message is not the client's.

        Another guest may write the client's hardware address into a message, and may even have asked in its
        name. So the message must come over the link that owns the lease.
        """
        lease = self._leases.get(client)
        if lease is None or addr != lease.addr or link != lease.owner:
            return False
        self._move(client, lease, RELEASED, now)
        self._notify_end(client)
        return True

    def decline(self, client: bytes, ident: bytes, addr: int, link: int, now: float) -> bool:
        """The client found its address in use. No client gets it for a while. False as in release().

        A client sends the same identifier in all messages (RFC 2131 section 2), so it must be that one.
        """
        lease = self._leases.get(client)
        if lease is None or (addr, link, ident) != (lease.addr, lease.owner, lease.ident):
            return False
        self._pool.decline(self._forget(client), now)
        return True

    def on_link_down(self, link: int) -> None:
        """A guest's link is gone. Another guest may get its number."""
        for client, lease in self._leases.items():
            owner = lease.owner
            changed = lease.link_down(link)
            if lease.owner not in (owner, GONE):
                self._notify_end(client)
            if not changed:
                continue
            if lease.link == GONE:
                self._count(lease, GONE, GONE)
            elif not lease.is_lent:
                self._count(lease, self._guest_of(lease.link), lease.link)

    # --- shares ---------------------------------------------------------------------------

    def _refuse(self, guest: int, now: float) -> Grant:
        if self._is_full(guest, now):
            return Grant(0, 0, TOO_MANY)
        self._no_loans_until = now + NO_LOANS_SECONDS
        return Grant(0, 0, NO_ADDRESS)

    def _is_full(self, guest: int, now: float) -> bool:
        """Whether the guest has used up its share of the addresses."""
        count = self._of_guest.get(guest, 0)
        if count < LEAST_OF_A_GUEST:
            return False
        wanted = count // SHARE + 1
        left = self._pool.free_count(now) + sum(self._of_guest.get(each, 0) for each in IN_NO_SHARE)
        return left < wanted and left + self._expired(now, wanted - left, IN_NO_SHARE) < wanted

    def _has_spare(self, now: float, used: int, restored: bool = False) -> bool:
        """Whether the reserve stays whole when ``used`` more addresses are used.

        restored: leases of a state file count as free too.
        """
        wanted = self._reserve + used
        spare = self._pool.free_count(now) + self._of_guest.get(GONE, 0)
        excluded: tuple[int, ...] = (GONE,)
        if restored:
            spare += self._of_guest.get(NO_LINK, 0)
            excluded = (GONE, NO_LINK)
        return spare >= wanted or spare + self._expired(now, wanted - spare, excluded) >= wanted

    def _expired(self, now: float, enough: int, excluded: tuple[int, ...]) -> int:
        """How many expired leases there are, except those of ``excluded``. Stops counting at ``enough``."""
        count = 0
        for state in RECLAIM_ORDER:
            for client in self._by_state[state]:
                lease = self._leases[client]
                if lease.expires > now or count >= enough:
                    break
                if lease.guest not in excluded:
                    count += 1
        return count

    def _may_have_new(self, guest: int, now: float) -> bool:
        """Whether a guest's share has room for one more address."""
        count = self._of_guest.get(guest, 0)
        if not count:
            return True
        return not self._is_full(guest, now) and self._has_spare(now, 1, count < LEAST_OF_A_GUEST)

    def _may_borrow(self, state: str, now: float, used: int) -> bool:
        """Whether a loan is allowed now. used: how many more addresses it needs (0 or 1)."""
        return state != BOOTP and now >= self._no_loans_until and self._has_spare(now, used)

    def _new(self, client: bytes, guest: int, link: int, state: str, now: float) -> Lease | None:
        """A lease for a client that has none; None if there is no address for it."""
        counts_for = guest
        if self._may_have_new(guest, now):
            restored = self._of_guest.get(guest, 0) < LEAST_OF_A_GUEST
            addr = self._take_address(client, now, restored=restored)
        elif not (addr := self._reclaim(now, guest)) and self._may_borrow(state, now, 1):
            counts_for = BORROWER
            # Leases of links that are gone are not reclaimed for a loan before they expire.
            addr = self._take_free(client, now) or self._reclaim(now)
        return self._add(client, Lease(addr, link, counts_for, state)) if addr else None

    def _recount(self, lease: Lease, guest: int, link: int, state: str, now: float) -> bool:
        """A client asks for the lease that it has. Decide in whose share it counts from now on.

        Returns False if the client gets no answer: its lease is in no share, and other guests need it.
        """
        if lease.guest == guest:
            self._count(lease, guest, link)
            return True
        if lease.guest > 0:
            # The client is at another guest now. The lease moves to that guest's share if it has room.
            if not self._is_full(guest, now):
                self._count(lease, guest, link)
            return True
        expired = lease.expires <= now
        if not (self._may_have_new(guest, now) if expired else not self._is_full(guest, now)):
            if addr := self._reclaim(now, guest):
                self._pool.put_back(addr)
            elif self._may_borrow(state, now, int(expired or lease.guest == GONE)):
                guest = BORROWER
            else:
                return False
        self._count(lease, guest, link)
        return True

    # --- tables ---------------------------------------------------------------------------

    def _add(self, client: bytes, lease: Lease) -> Lease:
        tally.add(self._of_guest, lease.guest, 1)
        self._leases[client] = lease
        return lease

    def _count(self, lease: Lease, guest: int, link: int) -> None:
        """The lease counts in the share of this guest from now on."""
        tally.add(self._of_guest, lease.guest, -1)
        tally.add(self._of_guest, guest, 1)
        lease.count_for(guest, link)

    def _notify_end(self, client: bytes) -> None:
        if self._on_end is not None:
            self._on_end(client)

    def _move(self, client: bytes, lease: Lease, state: str, expires: float) -> None:
        self._by_state[lease.state].pop(client, None)
        self._by_state[state][client] = None
        lease.move(state, expires)

    def _forget(self, client: bytes) -> int:
        """The client has no lease any more. Returns its address."""
        lease = self._leases.pop(client)
        self._notify_end(client)
        tally.add(self._of_guest, lease.guest, -1)
        del self._by_state[lease.state][client]
        return lease.addr

    def _take_free(self, client: bytes, now: float) -> int:
        """A free address for a new client: its first choice, or the lowest one; 0 if there is none."""
        return self._pool.take(now, self._first_choice(client) if self._first_choice is not None else 0)

    def _take_address(self, client: bytes, now: float, *, restored: bool) -> int:
        """An address for a new client; 0 if there is none. The first of these that there is:

        a free address, one of an expired lease, one of a link that is gone, and with ``restored``,
        one of the state file.
        """
        return (
            self._take_free(client, now)
            or self._reclaim(now)
            or self._reclaim_oldest(GONE)
            or (self._reclaim_oldest(NO_LINK) if restored else 0)
        )

    def _reclaim(self, now: float, guest: int | None = None) -> int:
        """Take back the address of an expired lease; 0 if there is none. guest: only of this guest."""
        for state in RECLAIM_ORDER:
            for client in self._by_state[state]:
                lease = self._leases[client]
                if lease.expires > now:
                    break
                if guest is None or guest == lease.guest:
                    return self._forget(client)
        return 0

    def _reclaim_oldest(self, guest: int) -> int:
        """Take back the address of the oldest lease of GONE or NO_LINK; 0 if there is none."""
        if guest not in self._of_guest:
            return 0
        for state in RECLAIM_ORDER:
            for client in self._by_state[state]:
                if self._leases[client].guest == guest:
                    return self._forget(client)
        return 0
