"""One pool of addresses for the guests of many hosts. No address is ever given to two guests.

Each host has claims on some addresses in the common store (entries.py). It gives an address to a guest only
if it has the claim. Some claims are in *reserve*: no guest has their address yet. From these a host can serve
new guests while it cannot reach the store.

**Terms.** A host may use its claims until TERM seconds after it *sent* the newest beat that has come back to
it. Beats come back in order with all other writes. So a host whose view is stale cannot use its claims for
longer than TERM. Leases of guests end before that.

**Fencing.** A host that sees no beat of another one for TERM + GRACE seconds may write that it is fenced.
This write fails if there was a beat that it has not seen. The claims of a fenced host are free: its term is
over by then, even if clocks run at different rates (GRACE). The fenced host notices when it comes back. Then
it joins with a new epoch, and has only those of its claims that it can write again.

**Moves.** A guest that appears on another host keeps its address: the new host writes the claim as its own.
The old host may not know that for TERM, and would still give the address to this guest, but to no other. So
the new host keeps the address for this guest for as long.

**Offline.** An address from the reserve may be given before the store knows. Nobody else takes a claim of a
living host without a guest. But an address comes back to the reserve only when the store says so. A host that
was started again does not know what it had given that way. So it keeps its old claims for TERM + GRACE.

**Late writes.** A write may come to the store long after it was sent. So a claim that the host has asked to
delete is not used any more, until it has another revision. No number of a beat is used twice.

The pool reads no clock and sends nothing. Its owner passes on what the store reports, and calls on_timer() at
deadline(). Times are those of a clock that counts while the host runs (monotonic).
"""

from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

from pipeline.engines.fleet.entries import (
    NO_KEY,
    RESERVED,
    Claim,
    Member,
    Write,
    WriteClaim,
    WriteMember,
)

TERM: Final = 86400.0
"""Seconds for which a host may use its claims without the store."""
GRACE: Final = TERM / 4
"""Seconds beyond that before others take its claims. So clocks may differ by a tenth."""
BEATS_A_TERM: Final = 8.0
"""How many beats a host sends in a term."""
LEASE: Final = 3600.0
"""The longest lease of a guest."""
SHORTEST_LEASE: Final = 60.0
"""A host whose term ends sooner than this gives no addresses."""
RETRY_S: Final = 5.0
"""Seconds after which a write without an answer may be repeated."""
REJOIN_S: Final = 5.0
"""Seconds between two epochs of a host. Two hosts with one name would fence each other without a pause."""
RESERVE: Final = 16
MAX_WRITES: Final = 64
"""Writes about claims that are under way at the same time."""

_FIRST_BEATS: Final = 1 << 31
"""The first beat has a random number below this one."""
_LOST_EPOCHS: Final = 1 << 20
"""How many epochs are left out when the store has lost the newest one."""
_UNKNOWN: Final = Member(0, 0, False)
"""A member of which nothing is known."""
_NEVER: Final = float("inf")


class Grant(NamedTuple):
    """A guest has the address ``addr`` for ``seconds`` seconds."""

    addr: int
    seconds: float


class _Seen:
    """A member as this host sees it."""

    __slots__ = ("member", "revision", "since")

    def __init__(self, member: Member, revision: int, since: float) -> None:
        self.member = member
        self.revision = revision
        self.since = since
        """When this host saw this revision first."""


class LeasePool:
    """The pool, as one host sees it."""

    def __init__(
        self,
        host: str,
        addresses: Sequence[int],
        choose: Callable[[int], int],
        *,
        term: float = TERM,
        grace: float = GRACE,
        reserve: int = RESERVE,
    ) -> None:
        """addresses: all of the pool. choose(n): a random number below n."""
        self._host = host
        self._addresses = addresses
        self._among = frozenset(addresses)
        self._choose = choose
        self._term = term
        self._grace = grace
        self._reserve = reserve
        self._online = False
        self._claims: dict[int, tuple[Claim, int]] = {}
        """What the store has: claim and revision, by address."""
        self._members: dict[str, _Seen] = {}
        self._named: dict[int, None] = {}
        """Addresses whose claims name this host, of whatever epoch."""
        self._reserved: dict[int, None] = {}
        """Those of them whose claims name no guest."""
        self._by_mac: dict[bytes, int] = {}
        """Addresses whose claims name a guest."""
        self._given: dict[int, bytes] = {}
        """Guests that have addresses of this host, whether the store knows it yet or not."""
        self._clean_at: dict[int, float] = {}
        """When an address may be given to another guest than that of its claim."""
        self._leaving: dict[int, int] = {}
        """Addresses that this host has asked to delete, and their revision then."""
        self._pending: dict[int, float] = {}
        """Addresses about which a write is under way, and when it may be repeated."""
        self._beats: dict[int, float] = {}
        """When each beat of this epoch was sent, if it has not come back."""
        self._epoch = 0
        """0 while this host has not joined."""
        self._beat = choose(_FIRST_BEATS)
        self._beat_at = 0.0
        self._joined_at = -_NEVER
        self._until = -_NEVER
        self._writes: list[Write] = []
        self._waits = False
        """Whether a write had no room."""
        self._is_exhausted = False
        """Whether no address was free at the last look, and nothing has changed about that since."""

    # --- what the owner asks --------------------------------------------------------------

    def usable_until(self) -> float:
        """The end of the term; in the past if this host may give no addresses."""
        return self._until

    def reserve_size(self, now: float) -> int:
        """How many addresses new guests could get without the store."""
        return sum(self._is_spare(addr, now) for addr in self._reserved)

    def grant(self, mac: bytes, now: float) -> Grant | None:
        """The guest asks for an address, or for more time. None: not now, it may ask again."""
        seconds = min(LEASE, self._until - now)
        if seconds < min(SHORTEST_LEASE, self._term / BEATS_A_TERM):
            return None
        addr: int | None = self._address_of(mac)
        if addr is None and self._online and mac in self._by_mac:
            # The guest was on another host. It gets the address when the store has the claim.
            self._move(self._by_mac[mac], mac, now)
            return None
        if addr is None:
            addr = next((each for each in self._reserved if self._is_spare(each, now)), None)
            if addr is None:
                return None
            self._given[addr] = mac
            self._tidy(addr, now)
        return Grant(addr, seconds)

    def release(self, addr: int, mac: bytes, now: float) -> None:
        """The guest's lease of the address is over."""
        if self._given.get(addr) == mac:
            del self._given[addr]
            self._tidy(addr, now)

    def set_aside(self, addr: int, mac: bytes, owner: bytes, now: float) -> bool:
        """The guest's address belongs to owner from now on. False if it is not the guest's."""
        if self._given.get(addr) != mac:
            return False
        self._given[addr] = owner
        self._tidy(addr, now)
        return True

    def _address_of(self, mac: bytes) -> int | None:
        """The address that this host has given to the guest, or may give to it because the claim names it."""
        for addr, owner in self._given.items():
            if owner == mac and self._is_held(addr):
                return addr
        named = self._by_mac.get(mac)
        if named is not None and named not in self._given and self._is_held(named):
            self._given[named] = mac
            return named
        return None

    def _is_mine(self, claim: Claim) -> bool:
        return claim.host == self._host and claim.epoch == self._epoch

    def _is_held(self, addr: int) -> bool:
        """Whether this host may use the address while its term lasts."""
        found = self._claims.get(addr)
        return found is not None and self._is_mine(found[0]) and self._leaving.get(addr) != found[1]

    def _is_spare(self, addr: int, now: float) -> bool:
        """Whether the address is one of the reserve: no guest has it, and the store agrees."""
        return (
            self._is_held(addr)
            and self._claims[addr][0].mac == RESERVED
            and addr not in self._given
            and self._clean_at.get(addr, -_NEVER) <= now
        )

    # --- what the store reports -------------------------------------------------------------

    def on_online(self, now: float) -> None:
        """The store has reported all that it has. From now on it reports each write, in order."""
        self._online = True
        self._pending.clear()
        self._is_exhausted = False
        self._beat_at = now
        self.on_timer(now)

    def on_offline(self) -> None:
        """The store cannot be reached. Writes that are under way may still come to it, or not."""
        self._online = False
        self._writes.clear()

    def on_member(self, host: str, member: Member, revision: int, now: float) -> None:
        """A member as it is in the store now."""
        seen = self._members.get(host)
        if seen is None or seen.revision != revision:
            self._members[host] = _Seen(member, revision, now)
        if member.fenced:
            self._is_exhausted = False
        if host == self._host:
            self._on_own_beat(member, now)

    def on_unreadable_member(self, host: str, revision: int, now: float) -> None:
        """The store has something else in place of a member, or nothing any more (NO_KEY).

        So it may be written again: by the host itself, or by others when it stays silent.
        """
        seen = self._members.get(host)
        if seen is not None or revision != NO_KEY:
            member = seen.member if seen is not None else _UNKNOWN
            self._members[host] = _Seen(member, revision, now)
        if host == self._host:
            # Others have to read it. Not at once: two daemons with one name would take turns without a pause.
            self._beat_at = min(self._beat_at, now + RETRY_S)

    def _on_own_beat(self, member: Member, now: float) -> None:
        if member.fenced or member.epoch > self._epoch > 0:
            # Another host has fenced this one. Nothing is its own any more, and it joins anew.
            self._epoch = 0
            self._until = -_NEVER
            self._given.clear()
            self._beats.clear()
            self._beat_at = max(now, self._joined_at + REJOIN_S)
        elif member.epoch == self._epoch and (sent := self._beats.get(member.beat)) is not None:
            self._until = max(self._until, sent + self._term)
            self._beats = {beat: at for beat, at in self._beats.items() if beat > member.beat}
            self._beat_at = sent + self._term / BEATS_A_TERM
            self._work(now)

    def on_claim(self, addr: int, claim: Claim | None, revision: int, now: float) -> None:
        """The claim on an address as it is in the store now; None if there is none any more."""
        before = self._claims.get(addr)
        if before is not None:
            if before[1] == revision:
                return
            if self._by_mac.get(before[0].mac) == addr:
                del self._by_mac[before[0].mac]
        self._pending.pop(addr, None)
        self._leaving.pop(addr, None)
        if claim is None:
            self._claims.pop(addr, None)
        else:
            self._claims[addr] = claim, revision
            if claim.mac != RESERVED and addr in self._among:
                self._by_mac[claim.mac] = addr
        if claim is not None and claim.host == self._host:
            self._named[addr] = None
            if claim.mac == RESERVED and addr in self._among:
                self._reserved[addr] = None
            else:
                self._reserved.pop(addr, None)
            self._tidy(addr, now)
        else:
            for table in (self._named, self._reserved, self._given, self._clean_at):
                table.pop(addr, None)
        if self._is_free(addr):
            self._is_exhausted = False
        self._fill_reserve(now)

    def on_refused(self, write: Write, now: float) -> None:
        """The store has refused a write, since the key has another revision. What it has is on its way.

        Until then nothing more is written about the address, or after RETRY_S: the value may be unreadable.
        """
        if isinstance(write, WriteClaim):
            self._work(now)

    # --- what this host writes ----------------------------------------------------------------

    def take_writes(self) -> list[Write]:
        """The writes to send since the last call."""
        writes, self._writes = self._writes, []
        return writes

    def deadline(self) -> float:
        """When on_timer() has to be called."""
        if not self._online:
            return _NEVER
        return min(self._beat_at, *self._pending.values(), *self._clean_at.values(), _NEVER)

    def on_timer(self, now: float) -> None:
        """Send a beat if it is time, look for silent hosts, and repeat writes."""
        if not self._online:
            return
        if not self._waits and now < self.deadline():
            return
        if now >= self._beat_at:
            self._send_beat(now)
            self._fence_silent(now)
        self._work(now)

    def _may_write(self, now: float) -> bool:
        return self._online and self._epoch > 0 and now < self._until

    def _work(self, now: float) -> None:
        """Write what follows from the present view."""
        self._waits = False
        pending = {addr: again for addr, again in self._pending.items() if now < again}
        if len(pending) < len(self._pending):
            self._is_exhausted = False
        self._pending = pending
        self._clean_at = {addr: at for addr, at in self._clean_at.items() if now < at}
        for addr in list(self._named):
            self._tidy(addr, now)
        self._fill_reserve(now)

    def _send_beat(self, now: float) -> None:
        """Say that this host is there, or join with a new epoch."""
        seen = self._members.get(self._host)
        if not self._epoch:
            self._epoch = self._next_epoch(seen.member if seen is not None else _UNKNOWN)
            self._joined_at = now
        self._beat += 1
        self._beats[self._beat] = now
        # Until it comes back.
        self._beat_at = now + RETRY_S
        revision = seen.revision if seen is not None else NO_KEY
        self._writes.append(WriteMember(self._host, Member(self._epoch, self._beat, False), revision))

    def _next_epoch(self, last: Member) -> int:
        """A number that no earlier run of this host has used.

        If the store has lost the newest one, claims show some before it. The newest may be a little higher.
        """
        of_claims = (claim.epoch for claim, _ in self._claims.values() if claim.host == self._host)
        if (claimed := max(of_claims, default=0)) > last.epoch:
            return claimed + 1 + self._choose(_LOST_EPOCHS)
        return last.epoch + 1

    def _fence_silent(self, now: float) -> None:
        for host, seen in self._members.items():
            if host != self._host and not seen.member.fenced and now - seen.since > self._term + self._grace:
                self._writes.append(WriteMember(host, seen.member._replace(fenced=True), seen.revision))

    def _tidy(self, addr: int, now: float) -> None:
        """Have the store know who has an address of this host."""
        if not self._may_write(now) or addr in self._pending or addr not in self._claims:
            return
        claim, revision = self._claims[addr]
        given = self._given.get(addr, RESERVED)
        if not self._is_mine(claim):
            # A claim of an earlier epoch. Its guest, or one that the store does not know, may still have it.
            self._clean_at.setdefault(addr, now + self._term + self._grace)
            self._write(addr, Claim(self._host, self._epoch, claim.mac), revision, now)
        elif self._leaving.get(addr) == revision:
            self._write(addr, None, revision, now)
        elif given == RESERVED and now < self._clean_at.get(addr, -_NEVER):
            return
        elif given == RESERVED and self.reserve_size(now) >= self._reserve + (claim.mac == RESERVED):
            self._leaving[addr] = revision
            self._write(addr, None, revision, now)
        elif given != claim.mac:
            self._write(addr, Claim(self._host, self._epoch, given), revision, now)

    def _move(self, addr: int, mac: bytes, now: float) -> None:
        """Write the claim of another host's guest as this host's, since the guest is here."""
        if self._may_write(now) and addr not in self._pending:
            self._clean_at[addr] = now + self._term + self._grace
            self._write(addr, Claim(self._host, self._epoch, mac), self._claims[addr][1], now)

    def _fill_reserve(self, now: float) -> None:
        if self._is_exhausted or not self._may_write(now):
            return
        under_way = sum(addr not in self._named for addr in self._pending)
        for _ in range(self._reserve - self.reserve_size(now) - under_way):
            addr = self._free_address()
            if addr is None:
                self._is_exhausted = True
                return
            revision = self._claims[addr][1] if addr in self._claims else NO_KEY
            self._write(addr, Claim(self._host, self._epoch, RESERVED), revision, now)

    def _free_address(self) -> int | None:
        """An address that nobody claims, or that a fenced host claims. Hosts begin at random places."""
        count = len(self._addresses)
        begin = self._choose(count)
        for step in range(count):
            addr = self._addresses[(begin + step) % count]
            if addr not in self._pending and self._is_free(addr):
                return addr
        return None

    def _is_free(self, addr: int) -> bool:
        found = self._claims.get(addr)
        if found is None:
            return True
        seen = self._members.get(found[0].host)
        return found[0].host != self._host and seen is not None and seen.member.fenced

    def _write(self, addr: int, claim: Claim | None, revision: int, now: float) -> None:
        if len(self._pending) < MAX_WRITES:
            self._pending[addr] = now + RETRY_S
            self._writes.append(WriteClaim(addr, claim, revision))
        else:
            self._waits = True
