"""Guests share the workers by the time that their frames cost."""

import pytest

from pipeline.links.base import FULL_READ
from pipeline.stages.ingress import shares
from pipeline.stages.ingress.pressure import MAX_FLOOR_S, Pressure
from pipeline.stages.ingress.shares import Shares

FLOOD, HONEST, THIRD = 1, 2, 3
FRAME_S = 5e-6


@pytest.fixture
def both() -> Shares:
    made = Shares(Pressure(2, lambda: None, lambda: 0.0))
    made.add(FLOOD, 0.0)
    made.add(HONEST, 0.0)
    return made


def run(made: Shares, until: float, active: tuple[int, ...], frame: int = 60, step: float = 0.001) -> float:
    """Let FLOOD send as much as it may, while the others are active; seconds of work it got."""
    now = spent = 0.0
    while now < until:
        now += step
        for guest in active:
            made.was_read(guest, 60, 1, 0.94, now)
        left = step
        made.refill(now)
        while left > 0 and made.may_read(FLOOD, now):
            count = made.read_limit(FLOOD)
            cost = count // frame * FRAME_S
            frames = count // frame
            made.was_read(FLOOD, count, frames, frames * max(1 - frame / 1000, 0), now)
            made.charge(FLOOD, cost, now)
            left -= cost
            spent += cost
    return spent


def test_a_flood_of_small_frames_gets_its_part_while_another_guest_is_active(both: Shares) -> None:
    got = run(both, 2.0, (HONEST,))
    assert MAX_FLOOR_S < got / 2.0 < 1.3 * MAX_FLOOR_S, "the least that small work gets"


def test_a_guest_alone_is_never_limited(both: Shares) -> None:
    assert run(both, 1.0, ()) > 0.98


def test_large_frames_are_no_small_work(both: Shares) -> None:
    for _ in range(20):
        both.was_read(FLOOD, 1_500_000, 1000, 0.0, 0.0)
    assert run(both, 1.0, (HONEST,), frame=1500) > 0.98


def test_small_frames_among_large_ones_are_small_work(both: Shares) -> None:
    now = spent = 0.0
    while now < 2.0:
        now += 0.001
        both.was_read(HONEST, 60, 1, 0.94, now)
        both.refill(now)
        for _ in range(20):
            if both.may_read(FLOOD, now):
                both.was_read(FLOOD, 64_000, 82, 38.5, now)
                both.charge(FLOOD, 5e-5, now)
                spent += 5e-5
    assert spent / now < 2.5 * MAX_FLOOR_S


def test_how_small_a_frame_is() -> None:
    assert shares.small_frames([]) == 0.0
    assert shares.small_frames([(0, 0), (10, 250)]) == 1.75
    assert shares.small_frames([(0, 1000), (2000, 65000)]) == 0.0


def test_two_floods_share_what_small_work_may_take(both: Shares) -> None:
    both.add(THIRD, 0.0)
    both.charge(THIRD, 0.2, 0.0)
    now, spent = 0.0, {FLOOD: 0.0, THIRD: 0.0}
    while now < 3.0:
        now += 0.001
        both.was_read(HONEST, 60, 1, 0.94, now)
        both.refill(now)
        for guest in spent:
            if both.may_read(guest, now):
                both.charge(guest, 0.001, now)
                spent[guest] += 0.001
    assert MAX_FLOOR_S * now * 0.7 < spent[FLOOD] + spent[THIRD] < MAX_FLOOR_S * now
    assert spent[THIRD] == pytest.approx(spent[FLOOD], abs=0.1)


def test_a_guest_that_waits_for_each_answer_pays_less(both: Shares) -> None:
    def exchanges(empties_its_socket: bool) -> int:
        now = 10.0 if empties_its_socket else 20.0
        count = 0
        for _ in range(100_000):
            both.was_read(HONEST, 60, 1, 0.94, now)
            both.refill(now)
            if both.may_read(FLOOD, now):
                both.was_read(FLOOD, 60 if empties_its_socket else both.read_limit(FLOOD), 1, 0.94, now)
                both.charge(FLOOD, 1e-3, now)
                count += 1
            now += 1e-5
        return count

    patient = exchanges(True)
    assert patient > 3 * exchanges(False)


def flood_in_small_portions(made: Shares, frames_a_second: float, frame_s: float, portion: int) -> float:
    """Seconds of work a second of a flood that always sends less than a read may take, and never waits."""
    now, spent, pause = 10.0, 0.0, portion / frames_a_second
    while now < 14.0:
        now += pause
        made.was_read(HONEST, 60, 1, 0.94, now)
        made.refill(now)
        if made.may_read(FLOOD, now):
            made.was_read(FLOOD, 60 * portion, portion, 0.94 * portion, now)
            made.charge(FLOOD, frame_s * portion, now)
            spent += frame_s * portion
    return spent / 4.0


@pytest.mark.parametrize("portion", [2, 8, 30])
def test_a_flood_in_small_portions_gains_next_to_nothing(both: Shares, portion: int) -> None:
    got = flood_in_small_portions(both, 190_000.0, FRAME_S, portion)
    gain = (1 - shares.UNHURRIED) * shares.UNHURRIED_FRAMES * FRAME_S
    assert got < MAX_FLOOR_S + gain + 0.01, "what one exchange after the other may take"


def test_expensive_frames_one_by_one_are_worth_no_more_than_those_of_one_exchange_after_the_other(
    both: Shares,
) -> None:
    got = flood_in_small_portions(both, 25_000.0, 40e-6, 1)
    assert got < MAX_FLOOR_S + 0.75 * shares.UNHURRIED_FRAMES * 40e-6 + 0.02


def test_a_burst_in_small_portions_after_a_pause_does_not_count_less(both: Shares) -> None:
    both.was_read(FLOOD, 60, 1, 0.94, 0.0)
    both.was_read(HONEST, 60, 1, 0.94, 1000.0)
    for _ in range(100):
        both.was_read(FLOOD, 1800, 30, 28.2, 1000.0)
        both.charge(FLOOD, 30 * FRAME_S, 1000.0)
    assert not both.may_read(FLOOD, 1000.0), "15 ms of work, of which 10 were saved"


def test_a_guest_that_has_to_wait_is_no_silent_one(both: Shares) -> None:
    both.was_read(HONEST, 60, 1, 0.94, 10.0)
    both.was_read(FLOOD, 60, 1, 0.94, 10.0)
    both.charge(HONEST, 5.0, 10.0)
    both.charge(FLOOD, 5.0, 10.0)
    now = 10.0
    for _ in range(3):
        now += shares.ACTIVE_S * 0.9
        assert not both.may_read(HONEST, now)
        assert not both.may_read(FLOOD, now), "the other waits, so this one must not take all"


def test_a_guest_that_had_to_wait_is_looked_at_when_it_may_be_read(both: Shares) -> None:
    both.was_read(HONEST, 60, 1, 0.94, 10.0)
    both.charge(FLOOD, 0.015, 10.0)
    both.refill(10.0)
    assert not both.may_read(FLOOD, 10.0)
    assert both.may_read(HONEST, 10.0)
    again = both.deadline([FLOOD, HONEST], 10.0)
    assert 10.0 < again < 10.0 + shares.ACTIVE_S
    both.refill(again + 1e-6)
    assert both.may_read(FLOOD, again + 1e-6)
    assert both.deadline([HONEST], 10.0) == float("inf")


def test_a_wait_ends_when_no_other_guest_is_active_any_more(both: Shares) -> None:
    both.was_read(HONEST, 60, 1, 0.94, 10.0)
    both.was_read(FLOOD, 60, 1, 0.94, 10.0)
    both.charge(FLOOD, 5.0, 10.0)
    again = both.deadline([FLOOD], 10.0)
    assert again == pytest.approx(10.0 + shares.ACTIVE_S)
    assert both.may_read(FLOOD, again + 1e-6)


def test_bytes_that_a_guest_gets_are_worth_time_too(both: Shares) -> None:
    both.was_read(HONEST, 60, 1, 0.94, 10.0)
    both.charge(FLOOD, 0.03, 10.0)
    assert not both.may_read(FLOOD, 10.0)
    both.credit(FLOOD, 40_000_000)
    assert both.may_read(FLOOD, 10.0)


def test_turns_go_to_the_guest_with_most_time_left(both: Shares) -> None:
    assert sorted(both.order([FLOOD, HONEST])) == [FLOOD, HONEST]
    both.charge(FLOOD, 0.0005, 0.0)
    assert both.order([FLOOD, HONEST]) == [HONEST]
    both.charge(HONEST, 0.0001, 0.0)
    assert both.order([FLOOD, HONEST]) == [HONEST, FLOOD]
    both.charge(HONEST, 0.01, 0.0)
    assert both.order([FLOOD, HONEST]) == [FLOOD]


def test_of_guests_with_the_same_time_left_the_one_that_has_waited_longest_comes_first(both: Shares) -> None:
    assert both.order([HONEST, FLOOD]) == [HONEST, FLOOD]
    assert both.order([FLOOD, HONEST]) == [FLOOD, HONEST]


def test_somebody_always_has_a_turn(both: Shares) -> None:
    both.charge(FLOOD, 1.0, 0.0)
    both.charge(HONEST, 2.0, 0.0)
    assert both.order([FLOOD, HONEST])
    assert both.order([FLOOD]) == [FLOOD]
    assert both.order([]) == []


def test_a_guest_with_expensive_frames_is_read_in_small_pieces(both: Shares) -> None:
    assert both.read_limit(FLOOD) == shares.FIRST_READ, "not known yet"
    for _ in range(200):
        both.was_read(FLOOD, 4096, 1, 1.0, 0.0)
        both.charge(FLOOD, 512 * FRAME_S, 0.0)
        both.was_read(HONEST, 65536, 1, 0.0, 0.0)
        both.charge(HONEST, 0.00005, 0.0)
    assert both.read_limit(FLOOD) == shares.LEAST_READ
    assert shares.LEAST_READ < both.read_limit(FLOOD, crowded=False) < 4 * shares.LEAST_READ, "a millisecond"
    assert both.read_limit(HONEST) == FULL_READ


def test_guests_share_from_the_second_active_one_until_there_is_one_for_a_while() -> None:
    made = Shares(Pressure(2, lambda: 0.0, lambda: 0.0))
    assert not made.meet([1, 2], 0.0), "one of them is about to be closed: only one guest has links"
    made.linked = True
    assert not made.meet([1], 1.0)
    assert not made.meet([1], 2.0)
    assert made.meet([2], 2.1)
    assert made.several
    assert not made.meet([2], 2.0 + shares.SHARING_S - 0.01), "the first may be back at any time"
    assert made.meet([2], 2.0 + shares.SHARING_S + 0.01)
    assert not made.several
    assert made.meet([1, 2], 9.0), "both at once"
    made.linked = False
    assert made.meet((), 9.0)
    assert not made.several


def test_a_read_of_large_frames_may_cost_twice_as_much(both: Shares) -> None:
    for guest, small in ((HONEST, 0.0), (FLOOD, 10.0)):
        for _ in range(200):
            both.was_read(guest, 15_000, 10, small, 0.0)
            both.charge(guest, 0.0003, 0.0)
    assert both.read_limit(HONEST) == pytest.approx(2 * both.read_limit(FLOOD), rel=0.01)


def test_a_read_of_half_a_slot_may_fill_it(both: Shares) -> None:
    limits = set()
    for bytes_a_burst in range(8_000, 30_000, 500):
        for _ in range(50):
            both.was_read(HONEST, bytes_a_burst, 10, 0.0, 0.0)
            both.charge(HONEST, shares.BURST_S, 0.0)
        limits.add(both.read_limit(HONEST))
    assert max(limits) == FULL_READ
    assert 10_000 < max(limits - {FULL_READ}) < shares.WHOLE_READ


def test_the_first_reads_of_a_guest_grow_with_what_its_frames_turn_out_to_cost(both: Shares) -> None:
    def reads(guest: int, byte_s: float) -> list[int]:
        found = []
        for _ in range(12):
            found.append(both.read_limit(guest))
            both.was_read(guest, found[-1], 1, 0.0, 0.0)
            both.charge(guest, found[-1] * byte_s, 0.0)
        return found

    cheap, expensive = reads(HONEST, 1e-9), reads(FLOOD, 1e-6)
    assert cheap == sorted(cheap)
    assert cheap[-1] > 30_000
    assert max(expensive) == expensive[0] == shares.FIRST_READ
    assert expensive[-1] == shares.LEAST_READ


def test_a_guest_that_owes_waits_no_longer_than_a_second_however_many_flood(both: Shares) -> None:
    floods = range(10, 60)
    for guest in floods:
        both.add(guest, 0.0)
        both.charge(guest, 1.0, 0.0)
    now, waited, since = 0.0, dict.fromkeys(floods, 0.0), dict.fromkeys(floods, 0.0)
    spent = 0.0
    while now < 6.0:
        now += 0.01
        both.was_read(HONEST, 60, 1, 0.94, now)
        both.refill(now)
        for guest in floods:
            if both.may_read(guest, now):
                assert both.deadline([guest], now) == float("inf"), "it does not wait"
                waited[guest] = max(waited[guest], now - since[guest])
                since[guest] = now
                both.was_read(guest, 512, 8, 7.5, now)
                both.charge(guest, 0.0005, now)
                spent += 0.0005
            else:
                assert now < both.deadline([guest], now) <= now + shares.LONGEST_WAIT_S
    assert 0.2 < min(waited.values()) <= max(waited.values()) < shares.LONGEST_WAIT_S + 0.02
    assert spent < 1.3 * MAX_FLOOR_S * now, "all floods together get what one gets"


def test_a_guest_that_is_gone_leaves_no_account(both: Shares) -> None:
    both.charge(FLOOD, 1.0, 0.0)
    both.remove(FLOOD)
    both.charge(FLOOD, 1.0, 0.0)
    both.credit(FLOOD, 10)
    both.is_empty(FLOOD)
    both.refill(1.0)
    assert both.may_read(HONEST, 1.0)


def test_a_guest_that_begins_to_send_large_frames_is_soon_no_flood_any_more(both: Shares) -> None:
    now = 10.0
    for _ in range(2000):
        both.was_read(FLOOD, 60, 1, 0.94, now)
        both.was_read(HONEST, 60, 1, 0.94, now)
        both.charge(FLOOD, FRAME_S, now)
    both.refill(now + 1.0)
    both.was_read(HONEST, 60, 1, 0.94, now + 1.0)
    for _ in range(100):
        both.was_read(FLOOD, 15_000, 10, 0.0, now + 1.0)
        both.charge(FLOOD, 0.0004, now + 1.0)
    assert both.may_read(FLOOD, now + 1.0), "40 ms of work, of which 10 were saved"


def test_reads_are_short_only_beside_a_guest_that_does_not_wait(both: Shares) -> None:
    both.was_read(HONEST, 60, 1, 0.94, 10.0)
    assert not both.crowded([HONEST], 10.0)
    assert both.crowded([FLOOD, HONEST], 10.0), "both have a turn"
    both.was_read(FLOOD, 60, 1, 0.94, 10.0)
    assert both.crowded([HONEST], 10.0), "the other had one lately"
    both.charge(FLOOD, 5.0, 10.0)
    assert not both.may_read(FLOOD, 10.0)
    assert not both.crowded([HONEST], 10.0), "the other waits"
    both.was_read(FLOOD, 60, 1, 0.94, 10.0)
    both.was_read(HONEST, 60, 1, 0.94, 10.0 + 2 * shares.ACTIVE_S)
    assert not both.crowded([HONEST], 10.0 + 2 * shares.ACTIVE_S), "the other is silent"
    both.was_read(FLOOD, 60, 1, 0.94, 11.0)
    both.remove(FLOOD)
    assert not both.crowded([HONEST], 11.0), "the other is gone"
