"""The agent against a store in memory: sessions that fail and end, what workers are told, what is written."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

pytest.importorskip("nats")

from pipeline.config.fleet import station_mac_of
from pipeline.engines.fleet import values
from pipeline.engines.fleet.mirror import Entry
from pipeline.engines.fleet.values import Host, Place
from pipeline.engines.fleet.view import FleetView
from pipeline.fleet import agent as agent_module
from pipeline.fleet.agent import Agent
from pipeline.fleet.store import Access
from pipeline.ipc import fleet_messages
from pipeline.wire import ip

FIRST = ip.parse_ipv4("192.168.127.10")
MAC = b"\2\0\0\0\0\1"
ADDR = bytes((192, 168, 127, 40))
SERVERS = ("nats://a:4222", "nats://b:4222")


class Store:
    """Keys with revisions, and the watches of all sessions."""

    def __init__(self) -> None:
        self.keys: dict[str, tuple[bytes, int]] = {}
        self.revision = 0
        self.sessions: list[FakeSession] = []
        self.down: set[str] = set()
        self.hangs = False
        self.is_mute = False
        """Whether watches report nothing, although writes succeed."""
        self.is_slow = False
        """Whether a watch reports its keys some time after it has begun, as the real one does."""
        self.takes_s = 0.0
        """Seconds over which a watch reports its keys, evenly; 0: all at once."""
        self.watch_ends_late = False
        """Whether a watch goes on with other things after it has reported all keys."""
        self.asked: list[str] = []
        self.published: list[tuple[str, bytes]] = []

    def put(self, key: str, value: bytes | None) -> None:
        self.revision += 1
        if value is None:
            self.keys.pop(key, None)
        else:
            self.keys[key] = value, self.revision
        for session in self.sessions:
            if session.on_entry is not None and not session.lost.is_set() and not self.is_mute:
                session.on_entry(Entry(key, value, self.revision))


async def forever() -> None:
    """Wait as the client of NATS does, which swallows cancellations."""
    while True:
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(60.0)
        if ENDED:
            return


ENDED: list[bool] = []
"""Not empty: no fake session waits any more."""


class FakeSession:
    def __init__(self, store: Store) -> None:
        self.store = store
        self.lost = asyncio.Event()
        self.error: Exception | None = None
        self.on_entry: Callable[[Entry | None], None] | None = None

    async def open(self, server: str) -> None:
        self.store.asked.append(server)
        if server in self.store.down:
            raise OSError("refused")
        self.store.sessions.append(self)

    async def watch(self, on_entry: Callable[[Entry | None], None]) -> None:
        if self.store.takes_s:
            self._report_slowly(on_entry, self.store.takes_s / (len(self.store.keys) + 1))
        elif self.store.is_slow:
            asyncio.get_running_loop().call_later(0.05, self._report, on_entry)
        else:
            self._report(on_entry)
        if self.store.watch_ends_late:
            await asyncio.sleep(0.05)

    def _report(self, on_entry: Callable[[Entry | None], None]) -> None:
        if self.lost.is_set():
            return
        for key, (value, revision) in self.store.keys.items():
            on_entry(Entry(key, value, revision))
        on_entry(None)
        self.on_entry = on_entry

    def _report_slowly(self, on_entry: Callable[[Entry | None], None], pause: float) -> None:
        """Report a key after each pause."""
        keys = iter(list(self.store.keys.items()))

        def report() -> None:
            if self.lost.is_set():
                return
            found = next(keys, None)
            if found is None:
                on_entry(None)
                self.on_entry = on_entry
                return
            key, (value, revision) = found
            on_entry(Entry(key, value, revision))
            asyncio.get_running_loop().call_later(pause, report)

        asyncio.get_running_loop().call_later(pause, report)

    async def write(self, key: str, value: bytes | None, revision: int | None) -> bool:
        if self.lost.is_set():
            raise OSError("closed")
        if self.store.hangs:
            await forever()
        found = self.store.keys.get(key)
        if revision is not None and revision != (found[1] if found is not None else 0):
            return False
        self.store.put(key, value)
        return True

    async def publish(self, subject: str, value: bytes) -> None:
        self.store.published.append((subject, value))

    async def remove_markers(self) -> None:
        """There are none."""

    async def close(self) -> None:
        self.lost.set()


class FakeHub:
    def __init__(self) -> None:
        self.kinds: list[str] = []

    def report(self, kind: str, **fields: object) -> None:
        self.kinds.append(kind)


class FakeHands:
    """Notes what the workers would be told."""

    def __init__(self) -> None:
        self.hosts: list[str] = []
        self.macs: dict[bytes, str] = {}
        self.place_messages: list[dict[bytes, str]] = []
        self.gone: dict[bytes, tuple[bytes, ...]] = {}
        self.answers: dict[bytes, Any] = {}
        self.name_map: dict[str, bytes] = {}
        self.name_messages: list[dict[str, bytes]] = []
        self.asked = 0
        self.stations: list[bytes] = []
        self.host_macs: set[bytes] = set()

    def members(self, members: Any) -> None:
        self.hosts = sorted(host.address for host in members.others().values())

    def places(self, changes: Any, members: Any) -> None:
        self.macs |= {mac: members.address_of(host) for mac, host in changes.macs.items()}
        self.place_messages.append(dict(changes.macs))

    def away(self, stations: dict[bytes, tuple[bytes, ...]]) -> None:
        self.gone |= stations

    def granted(self, answer: Any) -> None:
        self.answers[answer.mac] = answer.grant

    def names(self, names: dict[str, bytes], *, complete: bool) -> None:
        self.name_messages.append(dict(names))
        if complete:
            self.name_map.clear()
        self.name_map |= names
        self.name_map = {label: address for label, address in self.name_map.items() if address}

    def ask_for_stations(self) -> None:
        self.asked += 1

    def far_stations(self, macs: Any) -> None:
        self.host_macs = set(macs)

    def station(self, addr: bytes) -> None:
        self.stations.append(addr)


class FakeSettings:
    def __init__(self) -> None:
        self.changed: dict[str, bytes | None] = {}

    def change(self, key: str, value: bytes | None) -> None:
        self.changed[key] = value

    async def stop(self) -> None:
        """Nothing runs."""


class FakeForwards:
    """Notes what is to be open."""

    def __init__(self) -> None:
        self.wanted: list[list[values.Forward]] = []

    def want(self, forwards: list[values.Forward]) -> None:
        self.wanted.append(forwards)

    async def stop(self) -> None:
        """Nothing runs."""


class FakeFeed:
    def __init__(self) -> None:
        self.waiting: list[tuple[str, bytes]] = []
        self.stopped = False

    def take(self) -> list[tuple[str, bytes]]:
        taken, self.waiting = self.waiting, []
        return taken

    def stop(self) -> None:
        self.stopped = True


class FakeLog:
    def __init__(self) -> None:
        self.errors: list[object] = []

    def debug(self, *_: object, **__: object) -> None:
        """Nobody reads it."""

    def error(self, *_: object, error: object, **__: object) -> None:
        self.errors.append(error)


class Rig:
    """One agent."""

    def __init__(self, store: Store, number: int = 1, run: str = "") -> None:
        self.log = FakeLog()
        self.hub, self.hands, self.settings = FakeHub(), FakeHands(), FakeSettings()
        own = Host(f"10.0.0.{number}", 4789, "net", run or f"run{number}", 0)
        view = FleetView(f"host{number}", own, 90.0, range(FIRST, FIRST + 100), lambda count: count // 2)
        access = Access(SERVERS, "net", f"host{number}", "", "", None)
        self.feed = FakeFeed()
        self.forwards = FakeForwards()
        fakes: Any = (self.hands, self.hub, self.settings, self.forwards, self.feed, self.log)
        self.agent = Agent(access, view, *fakes)
        self.view = view


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> Store:
    made = Store()
    monkeypatch.setattr(agent_module, "Session", lambda access: FakeSession(made))
    return made


async def until(condition: Callable[[], object], seconds: float = 5.0) -> None:
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.005)


def run(scenario: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(asyncio.wait_for(scenario(), 20.0))  # type: ignore[arg-type]


def test_two_hosts_find_each_other_and_one_leaves(store: Store) -> None:
    async def scenario() -> None:
        one, two = Rig(store, 1), Rig(store, 2)
        one.agent.start()
        two.agent.start()
        await until(lambda: one.hands.hosts == ["10.0.0.2"] and two.hands.hosts == ["10.0.0.1"])
        await two.agent.stop()
        await until(lambda: one.hands.hosts == [])
        assert one.hub.kinds == ["fleet-reached", "fleet-host-joined", "fleet-host-left"]
        await one.agent.stop()
        assert not [key for key in store.keys if key.startswith(values.HOST)]

    run(scenario)


def test_the_next_server_is_tried_and_a_lost_session_is_replaced(store: Store) -> None:
    async def scenario() -> None:
        rig = Rig(store)
        store.down = set(SERVERS)
        rig.agent.start()
        await until(lambda: set(store.asked) == set(SERVERS))
        assert rig.hub.kinds == ["fleet-away"]
        store.down = {SERVERS[0]}
        await until(lambda: rig.view.online)
        before = len(store.sessions)
        store.sessions[-1].lost.set()
        await until(lambda: len(store.sessions) > before and rig.view.online)
        assert rig.hub.kinds == ["fleet-away", "fleet-reached", "fleet-away", "fleet-reached"]
        await rig.agent.stop()

    run(scenario)


def test_a_guest_gets_an_address_and_keeps_it_while_the_store_is_away(store: Store) -> None:
    async def scenario() -> None:
        rig = Rig(store)
        rig.agent.start()
        await until(lambda: rig.view.pool.reserve_size(asyncio.get_running_loop().time()) > 0)
        store.down = set(SERVERS)
        store.sessions[-1].lost.set()
        await until(lambda: not rig.view.online)
        rig.agent.on_event(fleet_messages.LeaseWantedEvent(MAC, 3600.0))
        await until(lambda: MAC in rig.hands.answers)
        grant = rig.hands.answers[MAC]
        assert FIRST <= grant.addr < FIRST + 100
        store.down = set()
        await until(lambda: rig.view.online)
        await until(lambda: MAC.hex().encode() in store.keys[values.claim_key(grant.addr)][0])
        rig.agent.on_event(fleet_messages.LeaseOverEvent(MAC, ip.packed(grant.addr), False))
        await until(lambda: MAC.hex().encode() not in store.keys.get(values.claim_key(grant.addr), (b"",))[0])
        await rig.agent.stop()

    run(scenario)


def test_a_guest_that_cannot_be_served_is_answered_in_the_end(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.engines.fleet.grants.WAIT_S", 0.05)

    async def scenario() -> None:
        rig = Rig(store)
        store.down = set(SERVERS)
        rig.agent.start()
        rig.agent.on_event(fleet_messages.LeaseWantedEvent(MAC, 3600.0))
        await until(lambda: MAC in rig.hands.answers)
        assert rig.hands.answers[MAC] is None
        await rig.agent.stop()

    run(scenario)


def test_a_station_that_appears_elsewhere_is_away_and_its_new_place_is_known(store: Store) -> None:
    async def scenario() -> None:
        one, two = Rig(store, 1), Rig(store, 2)
        one.agent.start()
        two.agent.start()
        await until(lambda: one.hands.hosts and two.hands.hosts)
        one.agent.on_event(fleet_messages.StationsEvent({MAC: True}, {ADDR: MAC}, False))
        await until(lambda: two.hands.macs.get(MAC) == "10.0.0.1")
        two.agent.on_event(fleet_messages.StationsEvent({MAC: True}, {ADDR: MAC}, False))
        await until(lambda: one.hands.gone == {MAC: (ADDR,)})
        await until(lambda: one.hands.macs.get(MAC) == "10.0.0.2")
        assert "fleet-guest-moved" in one.hub.kinds
        assert values.place_of(store.keys[values.mac_key(MAC)][0]) == Place("host2", (ADDR,))
        two.agent.on_event(fleet_messages.StationsEvent({}, {}, True))
        await until(lambda: values.mac_key(MAC) not in store.keys)
        await one.agent.stop()
        await two.agent.stop()

    run(scenario)


def test_names_and_settings_reach_the_workers(store: Store) -> None:
    async def scenario() -> None:
        one, two = Rig(store, 1), Rig(store, 2)
        one.agent.start()
        two.agent.start()
        await until(lambda: one.hands.hosts and two.hands.hosts)
        one.agent.on_event(fleet_messages.NamesEvent({"web": ADDR}))
        await until(lambda: two.hands.name_map == {"web": ADDR})
        assert one.hands.name_map == {}
        store.put(values.POLICY, b'{"default":"deny"}')
        await until(lambda: two.settings.changed == {values.POLICY: b'{"default":"deny"}'})
        await one.agent.stop()
        await two.agent.stop()

    run(scenario)


def test_what_is_wrong_in_the_store_is_counted_and_harms_nothing(store: Store) -> None:
    async def scenario() -> None:
        store.put("place.zz", b"{}")
        store.put("claim.192.168.127.11", b"\xff")
        store.put("host.host9", b'{"address":"nowhere"}')
        rig = Rig(store)
        rig.agent.start()
        await until(lambda: rig.view.online)
        assert rig.view.bad_values == 3
        assert rig.hands.hosts == []
        await rig.agent.stop()

    run(scenario)


def test_a_successor_of_ingress_is_told_everything(store: Store) -> None:
    async def scenario() -> None:
        one, two = Rig(store, 1), Rig(store, 2)
        one.agent.start()
        two.agent.start()
        await until(lambda: one.hands.hosts and two.hands.hosts)
        two.agent.on_event(fleet_messages.StationsEvent({MAC: True}, {}, False))
        await until(lambda: MAC in one.hands.macs)
        one.hands.hosts, one.hands.macs = [], {}
        await one.agent.introduce("ingress")
        assert one.hands.hosts == ["10.0.0.2"]
        assert one.hands.macs[MAC] == "10.0.0.2"
        asked = one.hands.asked
        await one.agent.introduce("demux")
        assert one.hands.asked == asked + 1
        await one.agent.stop()
        await two.agent.stop()

    run(scenario)


def test_the_first_host_removes_what_hosts_have_left_that_are_gone(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(agent_module, "FIRST_CLEAN_S", 0.0)
    monkeypatch.setattr(agent_module, "LOOK_EVERY_S", 0.05)

    async def scenario() -> None:
        store.put(values.mac_key(MAC), values.place_bytes(Place("lost", (ADDR,))))
        rig = Rig(store)
        rig.agent.start()
        await until(lambda: values.mac_key(MAC) not in store.keys)
        await rig.agent.stop()

    run(scenario)


def test_the_forwards_of_the_store_are_opened_when_all_are_known(store: Store) -> None:
    async def scenario() -> None:
        forward = values.Forward("tcp", ":8080", "192.168.127.40:80")
        key = values.forward_key(forward.protocol, forward.local)
        store.put(key, values.forward_bytes(forward))
        store.is_slow = True
        rig = Rig(store)
        rig.agent.start()
        await until(lambda: rig.forwards.wanted)
        assert rig.forwards.wanted == [[forward]], "never none before"
        store.put(key, None)
        await until(lambda: rig.forwards.wanted[-1] == [])
        # Away, and back with another one.
        store.sessions[-1].lost.set()
        await until(lambda: not rig.view.online)
        store.put(key, values.forward_bytes(forward))
        await until(lambda: rig.forwards.wanted[-1] == [forward])
        await rig.agent.stop()

    run(scenario)


def test_a_host_has_an_address_and_a_place_of_its_own(store: Store) -> None:
    async def scenario() -> None:
        rig = Rig(store)
        rig.agent.start()
        await until(lambda: rig.hands.stations)
        (addr,) = rig.hands.stations
        mac = station_mac_of("net", "host1")
        await until(lambda: values.mac_key(mac) in store.keys)
        assert values.place_of(store.keys[values.mac_key(mac)][0]) == Place("host1", (addr,))
        assert mac not in rig.hands.answers, "no client of DHCP asked"
        # Demux knows nothing of it, and does not report it.
        rig.agent.on_event(fleet_messages.StationsEvent({MAC: True}, {}, True))
        assert mac in rig.view.places.here()
        await rig.agent.introduce("demux")
        assert rig.hands.stations == [addr, addr]
        await rig.agent.stop()

    run(scenario)


def test_what_is_not_read_is_counted(store: Store) -> None:
    async def scenario() -> None:
        for key in ("foreign", "claim.x", "host.other", "forward.tcp.80.any"):
            store.put(key, b"?")
        rig = Rig(store)
        rig.agent.start()
        await until(lambda: rig.view.online)
        assert rig.agent.unread_count == 4
        await rig.agent.stop()

    run(scenario)
