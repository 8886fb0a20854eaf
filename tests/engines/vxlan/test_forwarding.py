"""The table of MAC addresses and hosts, against a model of it."""

from hypothesis import given
from hypothesis import strategies as st

from pipeline.engines.vxlan.forwarding import AGE_TICKS, ALL_HOSTS, ForwardingTable

HOSTS = 3
MACS = [bytes((2, 0, 0, 0, 0, number)) for number in range(9)]
STEPS = st.lists(st.tuples(st.sampled_from(MACS), st.integers(0, HOSTS - 1)) | st.none(), max_size=60)


@given(STEPS)
def test_the_newest_frame_decides_until_it_is_too_old(steps: list[tuple[bytes, int] | None]) -> None:
    table = ForwardingTable(HOSTS)
    model: dict[bytes, tuple[int, int]] = {}
    tick = 0
    for step in steps:
        if step is None:
            table.age()
            tick += 1
            model = {mac: known for mac, known in model.items() if tick - known[1] <= AGE_TICKS}
        else:
            mac, host = step
            table.learn(mac, host)
            model[mac] = host, tick
        assert table.snapshot() == {mac: host for mac, (host, _) in model.items()}
    for mac in MACS:
        assert table.host_of(mac) == model.get(mac, (ALL_HOSTS, 0))[0]


@given(STEPS, st.integers(1, 9))
def test_no_host_has_more_than_its_share_and_none_loses_to_another(
    steps: list[tuple[bytes, int] | None], limit: int
) -> None:
    table = ForwardingTable(HOSTS, limit)
    share = max(limit // HOSTS, 1)
    for step in steps:
        if step is None:
            table.age()
            continue
        mac, host = step
        others = {known: at for known, at in table.snapshot().items() if at != host and known != mac}
        table.learn(mac, host)
        found = table.snapshot()
        assert found[mac] == host, "the newest entry is there"
        assert others.items() <= found.items()
        for each in range(HOSTS):
            assert list(found.values()).count(each) <= share


def test_entries_that_made_room_are_counted() -> None:
    table = ForwardingTable(1, 4)
    for mac in MACS:
        table.learn(mac, 0)
    assert table.evicted == len(MACS) - 4
    assert set(table.snapshot()) == set(MACS[-4:])


def test_groups_are_not_learned() -> None:
    table = ForwardingTable(1)
    table.learn(b"\xff" * 6, 0)
    assert len(table) == 0
