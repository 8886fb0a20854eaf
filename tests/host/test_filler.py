"""SlotFiller: short reads share a slot, each with a reference of its own."""

from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.host.filler import SlotFiller
from pipeline.ipc.arena import Pool
from pipeline.records.kinds import NO_SLOT


def test_short_reads_share_a_slot_until_the_room_is_gone() -> None:
    pool = Pool(0, 4)
    filler = SlotFiller(pool, 1000, 100, 50)
    assert filler.place(500)
    first = filler.slot
    assert filler.off == 100
    filler.commit(10)
    assert filler.place(500)
    assert filler.slot == first
    assert filler.off >= 160
    filler.commit(10)
    assert filler.place(900)
    assert filler.slot != first
    assert pool.refs(first) == 2


def test_no_slot_is_said_and_the_next_try_succeeds_when_one_came_home() -> None:
    pool = Pool(0, 1)
    filler = SlotFiller(pool, 1000, 0, 0)
    assert filler.place(1000)
    filler.commit(1000)
    assert not filler.place(1)
    assert filler.slot == NO_SLOT
    pool.unref(0)
    assert filler.place(1000)


def test_retire_gives_the_slot_back() -> None:
    pool = Pool(0, 1)
    filler = SlotFiller(pool, 1000, 0, 0)
    filler.place(10)
    filler.retire()
    filler.retire()
    assert pool.free_count == 1


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(1, 900), st.integers(0, 900)), max_size=60))
def test_commits_never_overlap_and_all_references_are_counted(reads: list[tuple[int, int]]) -> None:
    pool = Pool(3, 100)
    filler = SlotFiller(pool, 1000, 64, 32)
    used: dict[int, int] = {}
    commits = []
    for room, length in reads:
        if not filler.place(room):
            break
        assert filler.off >= used.get(filler.slot, 64)
        assert filler.off + room <= 1000
        length = min(length, room)
        filler.commit(length)
        commits.append(filler.slot)
        used[filler.slot] = filler.off
    filler.retire()
    assert pool.refs_out == len(commits)
    for slot in commits:
        pool.unref(slot)
    assert pool.audit() is None
    assert pool.free_count == 100
