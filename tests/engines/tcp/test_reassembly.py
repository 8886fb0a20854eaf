"""Out-of-order ranges against a model that keeps one entry a byte."""

from hypothesis import given
from hypothesis import strategies as st

from pipeline.engines.tcp.reassembly import Reassembly

BASE = 0xFFFFFFFF - 100
"""Positions cross 2**32 in every test."""


def put(r: Reassembly, start: int, end: int, buf: object) -> tuple[bool, list[object]]:
    dropped: list[object] = []
    kept = r.insert(BASE + start, BASE + end, buf, 0, dropped)
    return kept, dropped


def blocks(r: Reassembly) -> list[tuple[int, int]]:
    return [((left - BASE) & 0xFFFFFFFF, (right - BASE) & 0xFFFFFFFF) for left, right in r.sack_blocks()]


def spans(r: Reassembly) -> list[tuple[int, int, object, int]]:
    return [(start - BASE, end - BASE, buf, skip) for start, end, buf, skip in r.ranges]


def test_ranges_are_kept_in_order_of_position() -> None:
    r = Reassembly(1000, 10)
    put(r, 50, 60, "c")
    put(r, 10, 20, "a")
    put(r, 30, 40, "b")
    assert [span[2] for span in spans(r)] == ["a", "b", "c"]
    assert r.held_bytes == 30


def test_an_overlap_in_front_is_skipped_and_one_behind_cut_off() -> None:
    r = Reassembly(1000, 10)
    put(r, 10, 20, "a")
    put(r, 30, 40, "b")
    assert put(r, 15, 35, "x") == (True, [])
    assert spans(r) == [(10, 20, "a", 0), (20, 30, "x", 5), (30, 40, "b", 0)]


def test_a_range_that_covers_others_replaces_them() -> None:
    r = Reassembly(1000, 10)
    put(r, 10, 20, "a")
    put(r, 30, 40, "b")
    assert put(r, 10, 50, "x") == (True, ["b"])
    assert spans(r) == [(10, 20, "a", 0), (20, 50, "x", 10)]
    assert put(r, 5, 50, "y") == (True, ["a", "x"])
    assert spans(r) == [(5, 50, "y", 0)]
    assert r.held_bytes == 45


def test_a_duplicate_is_dropped_and_reported_again() -> None:
    r = Reassembly(1000, 10)
    put(r, 10, 20, "a")
    put(r, 30, 40, "b")
    assert put(r, 12, 18, "x") == (True, ["x"])
    assert blocks(r) == [(10, 20), (30, 40)]


def test_limits_refuse_and_do_not_report() -> None:
    r = Reassembly(25, 2)
    put(r, 10, 20, "a")
    assert put(r, 30, 50, "too many bytes") == (False, ["too many bytes"])
    put(r, 30, 40, "b")
    assert put(r, 60, 61, "too many ranges") == (False, ["too many ranges"])
    assert blocks(r) == [(30, 40), (10, 20)]


def test_replacing_makes_room_within_the_limits() -> None:
    r = Reassembly(25, 2)
    put(r, 10, 20, "a")
    put(r, 30, 40, "b")
    assert put(r, 5, 25, "x") == (False, ["x"])
    assert put(r, 10, 24, "y") == (False, ["y"])
    assert put(r, 8, 22, "z") == (True, ["a"])


def test_blocks_are_reported_newest_first_and_at_most_three() -> None:
    r = Reassembly(1000, 10)
    for start in (10, 30, 50, 70):
        put(r, start, start + 5, start)
    assert blocks(r) == [(70, 75), (50, 55), (30, 35)]
    put(r, 15, 18, "grows the first")
    assert blocks(r) == [(10, 18), (70, 75), (50, 55)]


def test_touching_blocks_are_reported_as_one() -> None:
    r = Reassembly(1000, 10)
    put(r, 10, 20, "a")
    put(r, 30, 40, "b")
    put(r, 20, 30, "c")
    assert blocks(r) == [(10, 40)]
    assert len(r.ranges) == 3


def test_ranges_come_out_when_the_hole_is_filled_and_their_block_goes() -> None:
    r = Reassembly(1000, 10)
    put(r, 10, 20, "a")
    put(r, 20, 30, "b")
    put(r, 40, 50, "c")
    assert r.next_at(BASE + 9) is None
    first, second = r.next_at(BASE + 10), r.next_at(BASE + 20)
    assert first is not None
    assert second is not None
    assert (first[2], second[2]) == ("a", "b")
    assert r.next_at(BASE + 30) is None
    r.forget_blocks(BASE + 30)
    assert blocks(r) == [(40, 50)]
    assert r.held_bytes == 10
    assert r.clear() == ["c"]
    assert (r.ranges, r.held_bytes, blocks(r)) == ([], 0, [])


@given(st.lists(st.tuples(st.integers(1, 60), st.integers(1, 20)), max_size=30), st.integers(1, 80))
def test_against_a_model_of_single_bytes(arrivals: list[tuple[int, int]], filled: int) -> None:
    """Every held byte is found once, at its place in its handle; everything else was dropped."""
    r = Reassembly(10_000, 1000)
    held: set[int] = set()
    alive: dict[object, tuple[int, int]] = {}
    last: tuple[int, int] | None = None
    for serial, (start, length) in enumerate(arrivals):
        alive[serial] = (start, start + length)
        kept, dropped = put(r, start, start + length, serial)
        assert kept
        for buf in dropped:
            del alive[buf]
        held |= set(range(start, start + length))
        last = (start, start + length)
        seen: list[int] = []
        for begin, end, buf, skip in spans(r):
            origin, stop = alive[buf]
            assert origin + skip == begin
            assert end <= stop
            seen += range(begin, end)
        assert seen == sorted(held)
        assert r.held_bytes == len(held)
        assert len(r.ranges) == len(alive)
        newest = blocks(r)[0]
        assert newest[0] <= last[0]
        assert newest[1] >= last[1]
        for left, right in blocks(r):
            assert set(range(left, right)) <= held
            assert left - 1 not in held
            assert right not in held
    rcv_nxt = filled
    while (item := r.next_at(BASE + rcv_nxt)) is not None:
        rcv_nxt = max(rcv_nxt, item[1] - BASE)
    r.forget_blocks(BASE + rcv_nxt)
    assert all(left > rcv_nxt for left, _ in blocks(r))
    assert {left for left, _ in blocks(r)} <= held
