"""Each guest's part of egress's pool."""

from types import SimpleNamespace

import pytest

from pipeline.ipc.arena import Pool
from pipeline.stages.egress.share import (
    CLOSING_FLOW_BYTES,
    CLOSING_PATIENCE,
    EXTRA_SLOTS,
    TIGHT_READ,
    ClosingFlows,
    Share,
    Shares,
)

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
    for slot in range(60):
        while pool.refs(slot):
            pool.unref(slot)
    first.filler.slot = first.small.slot = 0xFFFFFFFF
    assert fill(second) >= 36
    assert first.may_hold() > 0


def test_a_flow_may_hold_a_part_of_what_is_left() -> None:
    made, _ = shares()
    share = made.of(1)
    before = share.may_hold()
    fill(share)
    assert before > share.may_hold()
    assert not share.plenty()


def test_the_flow_that_waits_for_longest_is_tried_first() -> None:
    made, _ = shares()
    share = made.of(1)
    for number in range(2):
        share.waiting[_Flow(number)] = None
    assert isinstance(found := share.next_waiting(), _Flow)
    assert found.number == 0
    assert len(made.wake()) == 1
    assert made.wake() == []


class _Flow:
    def __init__(self, number: int) -> None:
        self.number = number
        self.state = "OPEN"


class _Closing:
    def __init__(self, queued_bytes: int) -> None:
        self.stream = SimpleNamespace(queued_bytes=queued_bytes)


def test_connections_that_are_over_keep_no_more_than_the_limit_for_their_hosts() -> None:
    closing = ClosingFlows(3 * CLOSING_FLOW_BYTES + 100, 10)
    flows = [_Closing(size) for size in (40, 40, 40)]
    assert [wait(closing, flow) for flow in flows] == [[], [], [flows[0]]]
    closing.remove(flows[0])  # type: ignore[arg-type]
    giant = _Closing(5 * CLOSING_FLOW_BYTES)
    assert wait(closing, giant) == [flows[1], flows[2], giant]


def test_connections_that_are_over_are_bounded_in_number_however_little_they_keep() -> None:
    closing = ClosingFlows(1 << 40, 3)
    flows = [_Closing(1) for _ in range(4)]
    assert [wait(closing, flow) for flow in flows] == [[], [], [], [flows[0]]]
    small = ClosingFlows(3 * CLOSING_FLOW_BYTES + 100, 1 << 30)
    assert [wait(small, flow) for flow in flows] == [[], [], [], [flows[0]]]


def test_the_connection_whose_host_took_nothing_for_longest_makes_room() -> None:
    closing = ClosingFlows(1 << 40, 2)
    slow, stuck, newest = (_Closing(1) for _ in range(3))
    for flow in (slow, stuck):
        wait(closing, flow)
    assert wait(closing, stuck, 0, now=8.0) == wait(closing, slow, 1, now=9.0) == []
    assert closing.deadline() == CLOSING_PATIENCE
    assert wait(closing, newest, now=10.0) == [stuck]
    closing.remove(stuck)  # type: ignore[arg-type]
    assert closing.due(9.0 + CLOSING_PATIENCE) == [slow]
    assert closing.due(10.0 + CLOSING_PATIENCE) == [slow, newest]


def wait(closing: ClosingFlows, flow: _Closing, taken: int = 0, *, now: float = 0.0) -> list[_Closing]:
    return closing.wait(flow, taken, now)  # type: ignore[arg-type]
