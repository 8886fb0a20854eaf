"""The copy of the store, against a model: snapshots miss what was deleted, and watches begin anew."""

from hypothesis import given
from hypothesis import strategies as st

from pipeline.engines.fleet.mirror import Entry, Mirror

KEYS = ("claim.1", "claim.2", "member.a", "member.b", "place.x")
WRITES = st.lists(st.tuples(st.sampled_from(KEYS), st.booleans()), max_size=30)


def newest(log: list[Entry], *, markers: bool) -> list[Entry]:
    """The newest entry of each key, in order. markers: deleted keys have one too."""
    found = {entry.key: entry for entry in log}
    rows = sorted(found.values(), key=lambda entry: entry.revision)
    return [entry for entry in rows if markers or entry.value is not None]


@given(WRITES, st.integers(0, 30), st.integers(0, 30), st.booleans())
def test_after_a_new_watch_the_copy_is_that_of_the_store(
    writes: list[tuple[str, bool]], cut: int, away: int, markers: bool
) -> None:
    log = [
        Entry(key, b"value" if there else None, number) for number, (key, there) in enumerate(writes, start=1)
    ]
    mirror = Mirror("member.")
    seen: dict[str, bytes | None] = {}
    mirror.begin()
    told = mirror.complete()
    for entry in log[:cut]:
        told += mirror.on_entry(entry)
    mirror.begin()
    for entry in newest(log[: cut + away], markers=markers):
        assert mirror.on_entry(entry) == []
    told += mirror.complete()
    for entry in log[cut + away :]:
        told += mirror.on_entry(entry)
    for entry in told:
        seen[entry.key] = entry.value
    expected = {entry.key for entry in newest(log, markers=False)}
    assert {key for key, value in seen.items() if value is not None} == expected
    assert len(mirror) == len(expected)


def test_members_come_last_in_a_snapshot() -> None:
    mirror = Mirror("member.")
    mirror.begin()
    for number, key in enumerate(("member.a", "claim.1", "place.x"), start=1):
        mirror.on_entry(Entry(key, b"", number))
    assert [entry.key for entry in mirror.complete()] == ["claim.1", "place.x", "member.a"]


def test_what_has_not_changed_is_not_reported_again() -> None:
    mirror = Mirror("member.")
    mirror.begin()
    mirror.on_entry(Entry("claim.1", b"", 1))
    assert mirror.complete()
    mirror.begin()
    mirror.on_entry(Entry("claim.1", b"", 1))
    assert mirror.complete() == []
