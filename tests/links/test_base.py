"""The cursor over the slot being filled keeps one reference, and carries over what is not handed out."""

from pipeline.ipc import arena
from pipeline.links import base
from pipeline.links.base import HEADROOM, SlotCursor

SLOTS = [memoryview(bytearray(arena.SLOT_BYTES)) for _ in range(2)]


def test_a_fresh_slot_takes_over_the_bytes_not_handed_out() -> None:
    pool = arena.Pool(0, 2)
    cursor = SlotCursor(pool, SLOTS)
    assert cursor.fresh()
    first = cursor.slot
    cursor.view[1000:1005] = b"whole"
    cursor.view[1005:1009] = b"part"
    cursor.begin, cursor.end = 1005, 1009
    assert cursor.fresh()
    assert cursor.slot != first
    assert (cursor.begin, cursor.end) == (HEADROOM, HEADROOM + 4)
    assert cursor.view[HEADROOM : HEADROOM + 4] == b"part"
    assert pool.refs_out == 1
    cursor.release()
    cursor.release()
    assert pool.refs_out == 0
    assert pool.audit() is None


def test_without_a_free_slot_the_cursor_stays_where_it_is() -> None:
    pool = arena.Pool(0, 1)
    cursor = SlotCursor(pool, SLOTS)
    assert cursor.fresh()
    cursor.begin, cursor.end = 300, 400
    assert not cursor.fresh()
    assert (cursor.slot, cursor.begin, cursor.end) == (0, 300, 400)


def test_the_headroom_is_that_of_the_arena() -> None:
    assert base.HEADROOM == arena.HEADROOM
