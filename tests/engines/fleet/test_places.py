"""Places of stations, in random worlds: hosts that are cut off, stations that move, writes that come late."""

from typing import NamedTuple

from hypothesis import given
from hypothesis import strategies as st

from pipeline.engines.fleet.outbox import MAX_IDLE
from pipeline.engines.fleet.places import Places, WritePlace
from pipeline.engines.fleet.values import MAX_ADDRESSES, Place

HOSTS = ("alpha", "beta", "gamma")
MACS = [bytes((2, 0, 0, 0, 0, number)) for number in range(3)]
ADDRS = [bytes((192, 168, 127, number)) for number in range(10, 14)]


class Stored(NamedTuple):
    place: Place | None
    revision: int


class World:
    """A store with all its writes in order, and hosts that see them in order and late."""

    def __init__(self) -> None:
        self.hosts = {name: Places(name) for name in HOSTS}
        self.log: list[tuple[bytes, Stored]] = []
        self.newest: dict[bytes, Stored] = {}
        self.seen = dict.fromkeys(HOSTS, 0)
        self.reachable = dict.fromkeys(HOSTS, True)
        self.at: dict[bytes, str] = {}
        self.away: list[tuple[str, bytes]] = []
        self.now = 0.0
        for host in self.hosts.values():
            host.on_online()

    def appear(self, name: str, mac: bytes) -> None:
        """The station appears on a host. The host that had it notices nothing."""
        self.at[mac] = name
        self.hosts[name].on_here(mac)

    def deliver(self, name: str, count: int) -> None:
        """A host sees some more writes."""
        host = self.hosts[name]
        for mac, stored in self.log[self.seen[name] : self.seen[name] + count]:
            host.on_place(mac, stored.place, stored.revision)
        self.seen[name] = min(len(self.log), self.seen[name] + count)
        changes = host.take_changes()
        self.away += [(name, mac) for mac in (changes.away if changes is not None else ())]

    def send(self, name: str) -> None:
        """A host sends its writes."""
        host = self.hosts[name]
        for write in host.take_writes(self.now):
            self.apply(host, write)

    def apply(self, host: Places, write: WritePlace) -> None:
        stored = self.newest.get(write.mac, Stored(None, 0))
        if write.revision is not None and write.revision != stored.revision:
            host.on_refused(write.mac)
            return
        found = Stored(write.place, len(self.log) + 1)
        self.newest[write.mac] = found
        self.log.append((write.mac, found))

    def cut(self, name: str) -> None:
        self.reachable[name] = False
        self.hosts[name].on_offline()

    def join(self, name: str) -> None:
        if not self.reachable[name]:
            self.reachable[name] = True
            self.deliver(name, len(self.log))
            self.hosts[name].on_online()

    def settle(self) -> None:
        for name in HOSTS:
            self.join(name)
        for _ in range(10):
            self.now += 10.0
            for name in HOSTS:
                self.send(name)
                self.deliver(name, len(self.log))


STEPS = st.lists(
    st.tuples(
        st.sampled_from(("appear", "address", "gone", "send", "deliver", "cut", "join")),
        st.sampled_from(HOSTS),
        st.sampled_from(MACS),
        st.sampled_from(ADDRS),
    ),
    max_size=60,
)


def play(world: World, steps: list[tuple[str, str, bytes, bytes]]) -> None:
    for step, name, mac, addr in steps:
        match step:
            case "appear":
                world.appear(name, mac)
            case "address":
                world.hosts[name].on_address(addr, mac)
            case "gone":
                world.hosts[name].on_gone(mac)
                if world.at.get(mac) == name:
                    del world.at[mac]
            case "cut":
                world.cut(name)
            case "join":
                world.join(name)
            case _ if world.reachable[name]:
                if step == "send":
                    world.send(name)
                else:
                    world.deliver(name, 1)
        world.now += 1.0


@given(STEPS)
def test_in_the_end_each_station_is_on_one_host_at_most_and_all_agree(
    steps: list[tuple[str, str, bytes, bytes]],
) -> None:
    world = World()
    play(world, steps)
    world.settle()
    views = [{mac: host.host_of(mac) for mac in MACS} for host in world.hosts.values()]
    assert views[0] == views[1] == views[2]
    for mac in MACS:
        places = [name for name, host in world.hosts.items() if mac in host.here()]
        assert len(places) <= 1
        assert places == ([views[0][mac]] if views[0][mac] else [])


@given(STEPS, st.sampled_from(MACS), st.sampled_from(HOSTS))
def test_a_station_that_appears_last_is_where_it_appeared(
    steps: list[tuple[str, str, bytes, bytes]], mac: bytes, name: str
) -> None:
    world = World()
    play(world, steps)
    world.settle()
    world.appear(name, mac)
    world.settle()
    for host in world.hosts.values():
        assert host.host_of(mac) == name


def test_a_station_that_moves_takes_its_addresses_along() -> None:
    world = World()
    world.appear("alpha", MACS[0])
    world.hosts["alpha"].on_address(ADDRS[0], MACS[0])
    world.settle()
    changes = world.hosts["gamma"].everything()
    assert (changes.macs, changes.addrs) == ({MACS[0]: "alpha"}, {ADDRS[0]: "alpha"})
    world.away.clear()
    world.appear("beta", MACS[0])
    world.hosts["beta"].on_address(ADDRS[0], MACS[0])
    world.settle()
    assert world.away == [("alpha", MACS[0])]
    changes = world.hosts["gamma"].everything()
    assert (changes.macs, changes.addrs) == ({MACS[0]: "beta"}, {ADDRS[0]: "beta"})


def test_the_places_of_one_host_are_told_without_those_of_others() -> None:
    world = World()
    world.appear("alpha", MACS[0])
    world.hosts["alpha"].on_address(ADDRS[0], MACS[0])
    world.appear("beta", MACS[1])
    world.hosts["beta"].on_address(ADDRS[1], MACS[1])
    world.settle()
    changes = world.hosts["gamma"].of_hosts({"beta"})
    assert (changes.macs, changes.addrs) == ({MACS[1]: "beta"}, {ADDRS[1]: "beta"})


def test_a_host_that_was_started_again_removes_what_it_does_not_have() -> None:
    world = World()
    world.appear("alpha", MACS[0])
    world.settle()
    world.hosts["alpha"] = Places("alpha")
    world.seen["alpha"] = 0
    world.reachable["alpha"] = False
    world.settle()
    assert len(world.hosts["beta"]) == 0


def test_what_a_host_has_left_that_is_gone_can_be_removed_and_comes_back_with_it() -> None:
    world = World()
    world.appear("alpha", MACS[0])
    world.settle()
    beta = world.hosts["beta"]
    assert beta.orphans(lambda _: True) == []
    (write,) = beta.orphans(lambda host: host != "alpha")
    world.apply(beta, write)
    world.deliver("beta", len(world.log))
    assert beta.host_of(MACS[0]) == ""
    world.settle()
    assert beta.host_of(MACS[0]) == "alpha"


def test_a_station_has_a_bounded_number_of_addresses_the_newest_ones() -> None:
    host = Places("alpha")
    host.on_here(MACS[0])
    addrs = [bytes((10, 0, 0, number)) for number in range(MAX_ADDRESSES + 3)]
    for addr in addrs:
        host.on_address(addr, MACS[0])
    assert host.here()[MACS[0]] == tuple(addrs[3:])


def test_a_write_without_an_answer_is_repeated() -> None:
    host = Places("alpha")
    host.on_online()
    host.on_here(MACS[0])
    first = host.take_writes(0.0)
    assert [write.mac for write in first] == [MACS[0]]
    assert host.take_writes(1.0) == []
    assert host.take_writes(host.deadline(1.0)) == first


def test_a_station_that_goes_while_its_place_is_written_has_none() -> None:
    host = Places("here")
    host.on_online()
    host.on_here(MACS[0])
    (write,) = host.take_writes(0.0)
    host.on_gone(MACS[0])
    assert host.take_writes(0.0) == []
    host.on_place(MACS[0], write.place, 1)
    assert host.take_writes(0.1) == [WritePlace(MACS[0], None, 1)]


def test_stations_that_come_and_go_while_the_store_is_away_fill_no_memory() -> None:
    places = Places("alpha")
    for number in range(3 * MAX_IDLE):
        mac = b"\2\0" + number.to_bytes(4, "big")
        places.on_here(mac)
        places.on_gone(mac)
    assert len(places._outbox) <= MAX_IDLE
