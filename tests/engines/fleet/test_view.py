"""What a host makes of a store that holds anything, and of two hosts with one name."""

import json

from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.engines.fleet import values
from pipeline.engines.fleet.entries import WriteClaim, WriteMember
from pipeline.engines.fleet.lease_pool import REJOIN_S, RESERVE, LeasePool
from pipeline.engines.fleet.mirror import Entry, Mirror
from pipeline.engines.fleet.values import Host
from pipeline.engines.fleet.view import MAX_SETTINGS, FleetView, StoreWrite
from pipeline.wire import ip

FIRST = ip.parse_ipv4("192.168.127.10")
MAC = b"\2\0\0\0\0\1"
ADDR = bytes((192, 168, 127, 40))

WORDS = st.sampled_from(
    ["address", "port", "network", "run", "beat", "epoch", "fenced", "host", "mac", "addresses"]
)
LEAVES = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=20)
    | st.sampled_from(["me", "other", "10.0.0.9", "fd00::9", "192.168.127.40", "020000000001", "\x1b[2J"])
)
JSON = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(WORDS, inner, max_size=6),
    max_leaves=12,
)
VALUES = st.none() | st.binary(max_size=40) | JSON.map(lambda value: json.dumps(value).encode())
KEYS = st.sampled_from(
    [
        *("host.me", "host.other", "member.me", "member.other", "claim.192.168.127.11", "claim.x", "claim."),
        *("forward.tcp.80.any", "forward.tcp.80.x", "forward."),
        *("place.020000000001", "place.zz", "name.web", "name.", "policy", "zone.lab", "host.", "member."),
    ]
)


def made() -> FleetView:
    own = Host("10.0.0.1", 4789, "net", "run", 0)
    view = FleetView("me", own, 90.0, range(FIRST, FIRST + 40), lambda count: count // 2)
    view.places.on_here(MAC)
    view.places.on_address(ADDR, MAC)
    view.names.on_here({"web": ADDR})
    return view


class Store:
    """Takes writes, and says which."""

    def __init__(self) -> None:
        self.revision = 0
        self.keys: dict[str, tuple[bytes, int]] = {}

    def put(self, key: str, value: bytes | None) -> Entry:
        self.revision += 1
        if value is None:
            self.keys.pop(key, None)
        else:
            self.keys[key] = value, self.revision
        return Entry(key, value, self.revision)

    def take(self, write: StoreWrite) -> Entry | None:
        found = self.keys.get(write.key)
        if write.revision is not None and write.revision != (found[1] if found is not None else 0):
            return None
        return self.put(write.key, write.value)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(KEYS, VALUES), max_size=20), st.integers(0, 20))
def test_any_store_is_read_and_the_host_goes_on(rows: list[tuple[str, bytes | None]], cut: int) -> None:
    view, store, now, writes = made(), Store(), 0.0, 0
    for number, (key, value) in enumerate([*rows, ("policy", None)]):
        if number == min(cut, len(rows)):
            view.on_online(now)
        view.on_entry(store.put(key, value), now)
        now += 0.3
        view.on_timer(now)
        view.members.take_changes()
        view.places.take_changes()
        view.grants.ask(MAC, 3600.0, now)
        for write in view.take_writes(now):
            writes += 1
            if (entry := store.take(write)) is None:
                view.on_refused(write.cause, now)
            else:
                view.on_entry(entry, now)
    # The row of this host is repaired, whatever was written in its place.
    for _ in range(200):
        now += 1.0
        view.on_timer(now)
        for write in view.take_writes(now):
            writes += 1
            if (entry := store.take(write)) is None:
                view.on_refused(write.cause, now)
            else:
                view.on_entry(entry, now)
    assert values.host_of(store.keys["host.me"][0]).run == "run"
    assert values.place_of(store.keys["place.020000000001"][0]).host in ("me", "other")
    # So is its beat, and it has joined: it may give addresses.
    assert values.member_of(store.keys["member.me"][0]).epoch > 0
    assert view.pool.usable_until() > now
    assert writes < 2000, "nothing is written again and again"


def test_the_number_of_zones_is_bounded() -> None:
    view = made()
    for number in range(2 * MAX_SETTINGS):
        view.on_entry(Entry(f"zone.z{number}", b"{}", number + 1), 0.0)
    assert len(view.settings) == MAX_SETTINGS
    assert view.bad_values == MAX_SETTINGS


def test_a_snapshot_has_a_bounded_size() -> None:
    mirror = Mirror("member.")
    mirror.begin()
    row = bytes(values.MAX_VALUE)
    for number in range(3000):
        mirror.on_entry(Entry(f"zone.z{number}", row, number + 1))
    assert 0 < len(mirror.complete()) < 3000
    assert mirror.lost > 0


def test_two_hosts_with_one_name_do_not_fence_each_other_without_a_pause() -> None:
    pools = [LeasePool("me", range(100, 140), lambda count: count // 2) for _ in range(2)]
    revision = writes = 0
    for pool in pools:
        pool.on_online(0.0)
    now = 0.0
    while now < 60.0:
        for pool in pools:
            pool.on_timer(now)
            for write in pool.take_writes():
                if isinstance(write, WriteMember):
                    revision, writes = revision + 1, writes + 1
                    for each in pools:
                        each.on_member("me", write.member, revision, now)
        now += 0.01
    assert 2 <= writes <= 2 * (60 / REJOIN_S + 2)


def test_thousands_of_addresses_that_come_back_are_free_again() -> None:
    pool = LeasePool("me", range(1, 2000), lambda count: 0)
    revision, now, claims = 0, 0.0, {}

    def settle() -> None:
        nonlocal revision
        while writes := pool.take_writes():
            for write in writes:
                revision += 1
                if isinstance(write, WriteMember):
                    pool.on_member("me", write.member, revision, now)
                elif isinstance(write, WriteClaim):
                    claims[write.addr] = write.claim
                    pool.on_claim(write.addr, write.claim, revision, now)
            pool.on_timer(now)

    pool.on_online(now)
    settle()
    given_to = {}
    for number in range(1000):
        mac = number.to_bytes(6, "big")
        grant = pool.grant(mac, now)
        assert grant is not None
        given_to[grant.addr] = mac
        settle()
    assert len(given_to) == 1000
    for addr, mac in given_to.items():
        pool.release(addr, mac, now)
    settle()
    assert pool.reserve_size(now) == RESERVE
    assert sum(claim is not None for claim in claims.values()) == RESERVE
