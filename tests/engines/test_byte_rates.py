"""A rate of bytes for each guest: who waits, and for how long."""

from pipeline.engines.byte_rates import BURST_S, LEAST_BURST, ByteRates

NEVER = float("inf")
RATE = 1_000_000.0
BURST = max(RATE * BURST_S, LEAST_BURST)


def rates(per_second: float = RATE) -> ByteRates:
    made = ByteRates()
    made.set_rate(per_second)
    return made


def test_without_a_rate_nothing_is_asked() -> None:
    assert not ByteRates().on
    assert not rates(0).on
    assert rates().on


def test_a_guest_waits_until_its_bytes_are_paid_and_others_do_not() -> None:
    made = rates()
    assert made.may_pass(1, 10.0)
    made.charge(1, int(BURST + RATE), 10.0)
    assert not made.may_pass(1, 10.5)
    assert made.may_pass(2, 10.5)
    assert made.deadline([2]) == NEVER
    assert abs(made.deadline([1, 2]) - 11.0) < 0.001
    assert made.may_pass(1, made.deadline([1]))
    assert made.deadline([1, 2]) == NEVER
    assert made.pauses == 1


def test_the_rate_holds_on_average() -> None:
    made, passed, now = rates(), 0, 0.0
    while now < 10.0:
        if made.may_pass(1, now):
            made.charge(1, 65536, now)
            passed += 65536
        now += 0.001
    assert abs(passed - 10 * RATE) < 2 * BURST


def test_a_guest_that_comes_back_at_once_owes_what_it_owed() -> None:
    made = rates()
    made.charge(1, int(BURST + RATE), 10.0)
    made.forget_full(10.5)
    assert not made.may_pass(1, 10.5)
    made.forget_full(20.0)
    assert made.may_pass(1, 20.0)


def test_a_guest_whose_bucket_is_forgotten_does_not_wait_any_more() -> None:
    made = rates()
    made.charge(1, int(BURST + RATE), 10.0)
    assert not made.may_pass(1, 10.0)
    assert made.deadline([1]) < NEVER
    made.forget_full(20.0)
    assert made.deadline([1]) == NEVER, "not long ago, which would keep the worker awake"


def test_a_rate_that_ends_lets_everybody_pass() -> None:
    made = rates()
    made.charge(1, int(BURST + RATE), 10.0)
    assert not made.may_pass(1, 10.0)
    made.set_rate(0)
    assert (made.on, made.deadline([1])) == (False, NEVER)


def test_room_is_never_nothing() -> None:
    made = rates()
    assert made.room(1, 0.0) == int(BURST)
    made.charge(1, int(BURST) * 2, 0.0)
    assert made.room(1, 0.0) == 1
