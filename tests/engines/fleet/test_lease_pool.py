"""One pool of addresses for many hosts, in virtual time: hosts are cut off, crash and come back in any order.

A store with compare-and-set stands for the cluster. Writes may reach it late, also after their sender has
died. Hosts see writes in order, and late. Clocks run at different rates. Guests believe their leases for as
long as they were told, by clocks of their own.
"""

import random
from collections.abc import Iterator
from typing import NamedTuple

from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.engines.fleet.entries import NO_KEY, Claim, Member, Write, WriteClaim, WriteMember
from pipeline.engines.fleet.lease_pool import LeasePool

TERM = 1000.0
GRACE = TERM / 4
RESERVE = 3
ADDRESSES = range(100, 120)
TICK = 10.0
DRIFT = 0.03
"""How much faster or slower than true time a clock may run."""


class Store:
    """Keys with revisions, and all writes in order."""

    def __init__(self) -> None:
        self.revision = NO_KEY
        self.claims: dict[int, tuple[Claim, int]] = {}
        self.members: dict[str, tuple[Member, int]] = {}
        self.log: list[tuple[Write, int]] = []
        self.up = True

    def apply(self, write: Write) -> bool:
        """Do a write if the key has the expected revision. Returns whether it had."""
        is_claim = isinstance(write, WriteClaim)
        found = self.claims.get(write.addr) if is_claim else self.members.get(write.host)
        if (found[1] if found is not None else NO_KEY) != write.revision:
            return False
        self.revision += 1
        if not is_claim:
            self.members[write.host] = write.member, self.revision
        elif write.claim is not None:
            self.claims[write.addr] = write.claim, self.revision
        else:
            del self.claims[write.addr]
        self.log.append((write, self.revision))
        return True


class Lease(NamedTuple):
    mac: bytes
    end: float


class Host:
    """One host: its pool, its clock, and how far it has seen the log."""

    def __init__(self, name: str, world: "World") -> None:
        self.name = name
        self.world = world
        self.rate = 1 + world.random.uniform(-DRIFT, DRIFT)
        self.start()

    def start(self) -> None:
        """Begin without any memory."""
        self.pool = LeasePool(
            self.name, ADDRESSES, self.world.random.randrange, term=TERM, grace=GRACE, reserve=RESERVE
        )
        self.offset = self.world.random.uniform(0, 1e6)
        self.seen = 0
        self.online = False
        self.reachable = True
        self.leases: dict[tuple[int, bytes], float] = {}
        """By address and guest: when this host's server takes the lease for over, by its own clock."""

    @property
    def now(self) -> float:
        return self.offset + self.world.time * self.rate

    def step(self, catch_up: bool = False) -> None:
        """See what the store reports, and send what the pool writes."""
        world = self.world
        if not (self.reachable and world.store.up):
            if self.online:
                self.online = False
                self.pool.on_offline()
            self._end_leases()
            return
        log = world.store.log
        # A watch may lag behind. One that begins has all before it is online.
        until = len(log) if catch_up or not self.online else world.random.randint(self.seen, len(log))
        for write, revision in log[self.seen : until]:
            if isinstance(write, WriteClaim):
                self.pool.on_claim(write.addr, write.claim, revision, self.now)
            else:
                self.pool.on_member(write.host, write.member, revision, self.now)
        self.seen = until
        if not self.online:
            self.online = True
            self.pool.on_online(self.now)
        self._end_leases()
        if self.now >= self.pool.deadline():
            self.pool.on_timer(self.now)
        for write in self.pool.take_writes():
            world.send(self, write)

    def _end_leases(self) -> None:
        for (addr, mac), end in list(self.leases.items()):
            if self.now > end:
                del self.leases[addr, mac]
                self.pool.release(addr, mac, self.now)

    def ask(self, mac: bytes) -> int | None:
        """A guest asks by DHCP. Its lease goes into the ledger."""
        grant = self.pool.grant(mac, self.now)
        if grant is None:
            return None
        self.leases[grant.addr, mac] = self.now + grant.seconds * (1 + 3 * DRIFT)
        clock = 1 + self.world.random.uniform(-DRIFT, DRIFT)
        self.world.give(grant.addr, mac, grant.seconds / clock)
        return grant.addr


class World:
    """All hosts, the store, and the ledger of what guests believe."""

    def __init__(self, seed: int, hosts: int, hostile_delays: bool = True) -> None:
        self.random = random.Random(seed)
        self.time = 0.0
        self.store = Store()
        self.hostile_delays = hostile_delays
        self.flying: list[tuple[float, Write, Host, LeasePool]] = []
        self.ledger: dict[int, list[Lease]] = {}
        self.hosts = [Host(f"host{number}", self) for number in range(hosts)]

    def send(self, host: Host, write: Write) -> None:
        delay = 0.0
        if self.hostile_delays and self.random.random() < 0.2:
            delay = self.random.choice((5.0, 100.0, TERM, 3 * TERM))
        elif self.hostile_delays and self.random.random() < 0.05:
            return
        self.flying.append((self.time + delay, write, host, host.pool))

    def give(self, addr: int, mac: bytes, seconds: float) -> None:
        """A guest believes from now on that it has the address. Nobody else may believe that."""
        leases = [each for each in self.ledger.get(addr, []) if each.end > self.time]
        assert all(each.mac == mac for each in leases), f"{addr} was given to {mac!r} and {leases}"
        self.ledger[addr] = [*leases, Lease(mac, self.time + seconds)]

    def leave(self, host: Host, mac: bytes) -> None:
        """A guest gives its addresses back, on the host where it is."""
        for addr, leases in self.ledger.items():
            self.ledger[addr] = [each for each in leases if each.mac != mac]
        for addr, owner in list(host.leases):
            if owner == mac:
                del host.leases[addr, mac]
                host.pool.release(addr, mac, host.now)

    def tick(self, catch_up: bool = False) -> None:
        self.time += TICK
        for host in self.hosts:
            host.step(catch_up)
        if self.store.up:
            due = [entry for entry in self.flying if entry[0] <= self.time]
            self.flying = [entry for entry in self.flying if entry[0] > self.time]
            self.random.shuffle(due)
            for _, write, host, pool in due:
                if not self.store.apply(write) and host.pool is pool and host.online:
                    pool.on_refused(write, host.now)

    def run(self, seconds: float) -> None:
        for _ in range(int(seconds / TICK)):
            self.tick()


HOSTS = 3
GUESTS = [bytes((2, 0, 0, 0, 0, number)) for number in range(8)]
HOST = st.integers(0, HOSTS - 1)
GUEST = st.sampled_from(GUESTS)
STEPS = st.lists(
    st.tuples(st.just("ask"), HOST, GUEST)
    | st.tuples(st.just("ask"), HOST, GUEST)
    | st.tuples(st.just("leave"), HOST, GUEST)
    | st.tuples(st.just("run"), st.sampled_from((10.0, 100.0, 600.0, 1300.0, 2600.0)))
    | st.tuples(st.just("cut"), HOST)
    | st.tuples(st.just("join"), HOST)
    | st.tuples(st.just("crash"), HOST)
    | st.tuples(st.just("store"), st.booleans()),
    max_size=60,
)


def play(world: World, steps: list[tuple[object, ...]]) -> None:
    for step in steps:
        match step:
            case ("ask", int(number), bytes(mac)):
                world.hosts[number].ask(mac)
            case ("leave", int(number), bytes(mac)):
                world.leave(world.hosts[number], mac)
            case ("run", float(seconds)):
                world.run(seconds)
            case ("cut", int(number)):
                world.hosts[number].reachable = False
            case ("join", int(number)):
                world.hosts[number].reachable = True
            case ("crash", int(number)):
                world.hosts[number].start()
            case ("store", bool(up)):
                world.store.up = up


@given(STEPS, st.integers(0, 1 << 32))
@settings(deadline=None, max_examples=150)
def test_no_address_is_given_twice(steps: list[tuple[object, ...]], seed: int) -> None:
    world = World(seed, HOSTS)
    world.run(100.0)
    play(world, steps)


@given(STEPS, st.integers(0, 1 << 32))
@settings(deadline=None, max_examples=40)
def test_when_all_is_whole_again_every_host_serves_its_guests(
    steps: list[tuple[object, ...]], seed: int
) -> None:
    world = World(seed, HOSTS)
    world.run(100.0)
    play(world, steps)
    world.store.up = True
    for host in world.hosts:
        host.reachable = True
    world.hostile_delays = False
    world.run(4 * (TERM + GRACE))
    for number, host in enumerate(world.hosts):
        assert host.pool.reserve_size(host.now) >= 1
        assert host.ask(bytes((6, 0, 0, 0, 0, number))) is not None


def test_random_worlds_for_long() -> None:
    for seed in range(15):
        chance = random.Random(seed)
        world = World(seed, 4)
        for _ in range(400):
            host = chance.choice(world.hosts)
            match chance.randrange(12):
                case 0:
                    host.reachable = False
                case 1 | 2:
                    host.reachable = True
                case 3 if chance.random() < 0.3:
                    host.start()
                case 4 if chance.random() < 0.3:
                    world.store.up = False
                case 5:
                    world.store.up = True
                case 6:
                    world.leave(host, chance.choice(GUESTS))
                case _:
                    host.ask(chance.choice(GUESTS))
            world.run(chance.choice((10.0, 30.0, 200.0)))


# --- single rules ---------------------------------------------------------------------------------


def whole(hosts: int = 2) -> World:
    """Hosts whose reserve is there, and a network without delays."""
    world = World(1, hosts, hostile_delays=False)
    world.run(200.0)
    return world


def asked(host: Host, mac: bytes) -> int:
    addr = host.ask(mac)
    assert addr is not None
    return addr


def claims(world: World) -> Iterator[Claim]:
    return (claim for claim, _ in world.store.claims.values())


def test_a_guest_keeps_its_address_and_the_reserve_is_filled_again() -> None:
    world = whole()
    host = world.hosts[0]
    addr = asked(host, GUESTS[0])
    assert asked(host, GUESTS[0]) == addr
    world.run(100.0)
    assert asked(host, GUESTS[0]) == addr
    assert host.pool.reserve_size(host.now) == RESERVE
    assert world.store.claims[addr][0].mac == GUESTS[0]


def test_a_host_that_is_cut_off_serves_new_guests_from_its_reserve() -> None:
    world = whole()
    host = world.hosts[0]
    host.reachable = False
    world.run(300.0)
    got = [host.ask(mac) for mac in GUESTS[: RESERVE + 1]]
    assert None not in got[:RESERVE]
    assert got[RESERVE] is None
    host.reachable = True
    world.run(100.0)
    assert host.ask(GUESTS[RESERVE]) is not None
    assert {claim.mac for claim in claims(world)} >= set(GUESTS[:RESERVE])


def test_after_its_term_a_host_that_is_cut_off_gives_nothing() -> None:
    world = whole()
    host = world.hosts[0]
    host.reachable = False
    asked(host, GUESTS[0])
    world.run(TERM + 100.0)
    assert host.ask(GUESTS[0]) is None


def test_a_guest_that_moves_keeps_its_address() -> None:
    world = whole()
    one, other = world.hosts
    addr = asked(one, GUESTS[0])
    world.run(50.0)
    assert other.ask(GUESTS[0]) is None
    world.run(50.0)
    assert asked(other, GUESTS[0]) == addr
    assert world.store.claims[addr][0].host == other.name


def test_the_address_of_a_guest_that_has_moved_stays_its_own_for_a_term() -> None:
    world = whole()
    one, other = world.hosts
    addr = asked(one, GUESTS[0])
    world.run(50.0)
    one.reachable = False
    other.ask(GUESTS[0])
    world.run(50.0)
    assert asked(other, GUESTS[0]) == addr
    world.leave(other, GUESTS[0])
    world.run(TERM / 2)
    assert world.store.claims[addr][0].mac == GUESTS[0]
    world.run(TERM + GRACE)
    assert addr not in world.store.claims or not world.store.claims[addr][0].mac


def test_the_claims_of_a_dead_host_are_used_again() -> None:
    world = whole(3)
    dead = world.hosts[0]
    for mac in GUESTS[:4]:
        asked(dead, mac)
        world.run(50.0)
    dead.reachable = False
    world.run(TERM + 2 * GRACE)
    assert world.store.members[dead.name][0].fenced
    for number in range(len(ADDRESSES) - 3):
        host = world.hosts[1]
        assert host.ask(bytes((6, 0, 0, 0, 0, number))) is not None
        world.run(50.0)


def test_a_host_that_was_fenced_joins_again_with_another_epoch() -> None:
    world = whole()
    host = world.hosts[0]
    before = world.store.members[host.name][0].epoch
    host.reachable = False
    world.run(TERM + 2 * GRACE)
    host.reachable = True
    world.run(2 * (TERM + GRACE))
    member = world.store.members[host.name][0]
    assert (member.epoch, member.fenced) == (before + 1, False)
    assert host.ask(GUESTS[0]) is not None


def test_a_host_that_was_started_again_keeps_its_guests() -> None:
    world = whole()
    host = world.hosts[0]
    addr = asked(host, GUESTS[0])
    world.run(50.0)
    host.start()
    world.run(100.0)
    assert asked(host, GUESTS[0]) == addr


def test_an_address_that_was_given_offline_goes_to_nobody_else_after_a_crash() -> None:
    world = whole()
    host = world.hosts[0]
    host.reachable = False
    world.run(50.0)
    addr = asked(host, GUESTS[0])
    host.start()
    world.run(50.0)
    got = []
    for number in range(2 * RESERVE):
        got.append(host.ask(bytes((6, 0, 0, 0, 0, number))))
        world.run(50.0)
    assert len(set(got) - {None}) >= RESERVE
    assert addr not in got
    assert world.store.claims[addr][0].host == host.name


def test_a_term_begins_when_its_beat_was_sent() -> None:
    pool = LeasePool("here", ADDRESSES, lambda _: 0, term=TERM, grace=GRACE)
    pool.on_online(50.0)
    (beat,) = pool.take_writes()
    assert isinstance(beat, WriteMember)
    assert pool.usable_until() < 0.0
    pool.on_member("here", beat.member, 1, 900.0)
    assert pool.usable_until() == 50.0 + TERM


def test_a_beat_of_an_earlier_run_begins_no_term() -> None:
    pool = LeasePool("here", ADDRESSES, lambda _: 0, term=TERM, grace=GRACE)
    pool.on_member("here", Member(4, 17, False), 9, 10.0)
    pool.on_online(50.0)
    (beat,) = pool.take_writes()
    assert isinstance(beat, WriteMember)
    assert (beat.member.epoch, beat.revision) == (5, 9)
    assert pool.usable_until() < 0.0
    assert pool.grant(GUESTS[0], 50.0) is None


def test_a_host_joins_although_the_store_has_something_else_in_place_of_its_beat() -> None:
    """It never learnt the revision of its own row. So each of its beats was refused."""
    pool = LeasePool("me", ADDRESSES, lambda count: 0, term=TERM, grace=GRACE, reserve=RESERVE)
    pool.on_unreadable_member("me", 7, 0.0)
    pool.on_online(0.0)
    (beat,) = pool.take_writes()
    assert isinstance(beat, WriteMember)
    assert (beat.revision, beat.member.epoch) == (7, 1)
    pool.on_member("me", beat.member, 8, 0.0)
    assert pool.usable_until() == TERM


def test_a_host_whose_beat_was_deleted_writes_another_one() -> None:
    pool = LeasePool("me", ADDRESSES, lambda count: 0, term=TERM, grace=GRACE, reserve=RESERVE)
    pool.on_member("me", Member(4, 1, False), 7, 0.0)
    pool.on_unreadable_member("me", NO_KEY, 0.0)
    pool.on_online(0.0)
    (beat,) = pool.take_writes()
    assert isinstance(beat, WriteMember)
    assert (beat.revision, beat.member.epoch) == (NO_KEY, 5)


def test_a_beat_that_is_overwritten_is_soon_there_again() -> None:
    pool = LeasePool("me", ADDRESSES, lambda count: 0, term=TERM, grace=GRACE, reserve=RESERVE)
    pool.on_online(0.0)
    (beat,) = pool.take_writes()
    assert isinstance(beat, WriteMember)
    pool.on_member("me", beat.member, 1, 0.0)
    pool.take_writes()
    pool.on_unreadable_member("me", 2, 10.0)
    revisions = []
    for now in (10.0, 12.0, 15.0):
        pool.on_timer(now)
        revisions.append([write.revision for write in pool.take_writes() if isinstance(write, WriteMember)])
    assert revisions == [[], [], [2]]


def test_an_epoch_that_the_store_has_lost_is_not_used_again() -> None:
    """Else claims of an earlier run would count as this run's, and their addresses as free."""
    pool = LeasePool("me", ADDRESSES, lambda count: count // 2, term=TERM, grace=GRACE, reserve=RESERVE)
    pool.on_claim(100, Claim("me", 5, b""), 1, 0.0)
    pool.on_claim(101, Claim("other", 9, b""), 2, 0.0)
    pool.on_online(0.0)
    (beat,) = pool.take_writes()
    assert isinstance(beat, WriteMember)
    assert beat.member.epoch > 1000
    pool.on_member("me", beat.member, 3, 0.0)
    assert pool.reserve_size(0.0) == 0, "the claim is written again first"


def test_the_claims_of_a_gone_host_whose_beat_cannot_be_read_are_used_again() -> None:
    pool = LeasePool("me", ADDRESSES, lambda count: 0, term=TERM, grace=GRACE, reserve=RESERVE)
    pool.on_unreadable_member("gone", 7, 0.0)
    pool.on_online(0.0)
    (beat,) = pool.take_writes()
    assert isinstance(beat, WriteMember)
    pool.on_member("me", beat.member, 8, 0.0)
    pool.take_writes()
    pool.on_timer(TERM + GRACE + 1.0)
    fences = [
        write for write in pool.take_writes() if isinstance(write, WriteMember) and write.host == "gone"
    ]
    assert [(write.revision, write.member.fenced) for write in fences] == [(7, True)]
