"""Host names of a fleet: hosts that give the same name while they are separated agree in the end."""

from hypothesis import given
from hypothesis import strategies as st

from pipeline.engines.fleet.entries import NO_KEY
from pipeline.engines.fleet.names import KEPT_S, MAX_HAD, Names, WriteName
from pipeline.engines.fleet.outbox import MAX_IDLE
from pipeline.engines.fleet.values import Name

ONE, TWO = bytes((10, 0, 0, 1)), bytes((10, 0, 0, 2))
LABELS = ("web", "db")


class World:
    def __init__(self) -> None:
        self.members = {"alpha", "beta"}
        self.hosts = {name: Names(name, self.members.__contains__) for name in sorted(self.members)}
        self.store: dict[str, tuple[Name, int]] = {}
        self.revision = 0
        self.now = 0.0
        for host in self.hosts.values():
            host.on_online()

    def apply(self, host: Names, write: WriteName) -> None:
        stored = self.store.get(write.label)
        if (stored[1] if stored is not None else NO_KEY) != write.revision:
            host.on_refused(write.label)
            return
        self.revision += 1
        if write.name is None:
            del self.store[write.label]
        else:
            self.store[write.label] = write.name, self.revision

    def settle(self) -> None:
        for _ in range(6):
            self.now += 10.0
            for host in self.hosts.values():
                for write in host.take_writes(self.now):
                    self.apply(host, write)
                for label in LABELS:
                    name, revision = self.store.get(label, (None, 0))
                    host.on_name(label, name, revision)


NAMES = st.dictionaries(st.sampled_from(LABELS), st.sampled_from((ONE, TWO)))


@given(st.lists(st.tuples(st.sampled_from(("alpha", "beta")), NAMES, st.booleans()), max_size=12))
def test_all_hosts_agree_and_no_name_is_lost(steps: list[tuple[str, dict[str, bytes], bool]]) -> None:
    world = World()
    here: dict[str, dict[str, bytes]] = {"alpha": {}, "beta": {}}
    for name, names, settles in steps:
        here[name] = names
        world.hosts[name].on_here(names)
        if settles:
            world.settle()
    world.settle()
    assert set(world.store) == here["alpha"].keys() | here["beta"].keys()
    for label, (name, _) in world.store.items():
        assert here[name.host][label] == name.address
    for name, host in world.hosts.items():
        others = {label: found.address for label, (found, _) in world.store.items() if found.host != name}
        assert host.away() == others


def test_only_names_that_have_changed_are_told() -> None:
    members = {"beta", "gamma"}
    host = Names("alpha", members.__contains__)
    host.on_name("web", Name("beta", ONE), 1)
    host.on_name("db", Name("gamma", TWO), 2)
    host.on_name("own", Name("alpha", TWO), 3)
    host.on_online()
    assert host.take_changes() == {"web": ONE, "db": TWO, "own": b""}
    assert host.take_changes() == {}
    host.on_name("web", None, 4)
    assert host.take_changes() == {"web": b""}
    members.remove("gamma")
    host.on_members({"gamma"})
    assert host.take_changes() == {"db": b""}
    members.add("gamma")
    host.on_members({"gamma"})
    assert host.take_changes() == {"db": TWO}
    assert host.away() == {"db": TWO}


def test_the_first_guest_keeps_a_name() -> None:
    world = World()
    world.hosts["alpha"].on_here({"web": ONE})
    world.settle()
    world.hosts["beta"].on_here({"web": TWO})
    world.settle()
    assert world.store["web"][0] == Name("alpha", ONE)


def test_a_name_of_a_host_that_is_gone_may_be_taken() -> None:
    world = World()
    world.hosts["alpha"].on_here({"web": ONE})
    world.settle()
    beta = world.hosts["beta"]
    world.members.remove("alpha")
    del world.hosts["alpha"]
    assert beta.away() == {}
    assert [write.label for write in beta.orphans()] == ["web"]
    beta.on_here({"web": TWO})
    world.settle()
    assert world.store["web"][0] == Name("beta", TWO)


def test_a_guest_that_goes_while_its_name_is_written_has_none() -> None:
    host = Names("here", lambda _: True)
    host.on_online()
    host.on_here({"web": b"\xc0\xa8\x7f\x28"})
    (write,) = host.take_writes(0.0)
    host.on_here({})
    assert host.take_writes(0.0) == []
    host.on_name("web", write.name, 1)
    assert host.take_writes(0.1) == [WriteName("web", None, 1)]


def test_names_of_an_earlier_run_stay_until_guests_have_said_them_again() -> None:
    host = Names("here", lambda _: True)
    for revision, label in enumerate(("db", "web"), start=1):
        host.on_name(label, Name("here", bytes((192, 168, 127, 40 + revision))), revision)
    host.on_online()
    host.on_here({})
    assert host.take_writes(0.0) == []
    host.on_here({"web": bytes((192, 168, 127, 42))})
    assert host.take_writes(KEPT_S - 1) == []
    assert host.take_writes(KEPT_S) == [WriteName("db", None, 1)]
    host.on_name("db", None, 3)
    host.on_here({})
    assert host.take_writes(KEPT_S + 1) == [WriteName("web", None, 2)]


def test_a_guest_that_changes_its_name_without_end_fills_no_memory() -> None:
    """The store may be away, or slower than the guest. Then it has never had most of the names."""
    host = Names("alpha", lambda _: False)
    for online in (False, True):
        if online:
            host.on_online()
        for number in range(3 * MAX_IDLE):
            host.on_here({f"name{number}": ONE})
        assert len(host._outbox) <= MAX_IDLE
        assert len(host._had) <= MAX_HAD
    host.take_writes(0.0)
    host.take_writes(KEPT_S)
    assert not host._had, "from now on, all names of this host are those of this run"
    label, name = f"name{3 * MAX_IDLE}", Name("alpha", ONE)
    host.on_here({label: ONE})
    host.on_here({})
    host.on_name(label, name, 9)
    assert WriteName(label, None, 9) in host.take_writes(KEPT_S + 1.0)
    assert not host._had
