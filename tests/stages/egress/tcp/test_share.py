"""Each guest's part of egress's pool."""

import pytest

from pipeline.ipc.arena import Pool
from pipeline.stages.egress.tcp.share import EXTRA_SLOTS, TIGHT_READ, Share, Shares

SLOT = 72 * 1024
BIG = 65536


def shares(slots: int = 60) -> tuple[Shares, Pool]:
    pool = Pool(0, slots)
    return Shares(pool, SLOT, 256, 64), pool


def take(share: Share, room: int = BIG) -> int:
    """Read until there is no room; the number of reads."""
    count = 0
    while share.place(room):
        share.placed.commit(room)
        count += 1
        assert count < 100000
    return count


def fill(share: Share) -> int:
    """Read as flows do, while they may hold more."""
    count = 0
    while share.may_hold() and share.place(BIG):
        share.placed.commit(BIG)
        count += 1
    return count


def test_a_single_guest_gets_most_of_the_pool_and_leaves_some() -> None:
    made, pool = shares()
    assert 36 <= fill(made.of(1)) <= 40
    assert pool.free_count >= 20


@pytest.mark.parametrize("hogs", [1, 2, 3])
def test_guests_that_give_nothing_back_leave_something_to_the_next(hogs: int) -> None:
    made, pool = shares(200)
    for link in range(1, hogs + 1):
        fill(made.of(link))
    assert pool.free_count > 0
    assert made.of(99).place(BIG)


def test_over_its_share_a_guest_still_reads_a_little_for_many_flows() -> None:
    made, pool = shares()
    hog = made.of(1)
    fill(hog)
    assert hog.may_hold() == 0
    assert take(hog, TIGHT_READ) > 200
    assert pool.free_count >= 60 - 40 - EXTRA_SLOTS - 2


def test_slots_that_came_home_or_went_to_another_guest_do_not_count() -> None:
    made, pool = shares()
    first, second = made.of(1), made.of(2)
    fill(first)
    first.retire()
    for slot in range(60):
        while pool.refs(slot):
            pool.unref(slot)
    assert fill(second) >= 36
    assert first.may_hold() > 0


def test_a_flow_may_hold_a_part_of_what_is_left() -> None:
    made, _ = shares()
    share = made.of(1)
    before = share.may_hold()
    fill(share)
    assert before > share.may_hold()
    assert not share.plenty()
