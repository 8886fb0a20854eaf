"""Token buckets by key."""

from hypothesis import given
from hypothesis import strategies as st

from pipeline.engines.buckets import Buckets


def test_a_full_bucket_gives_its_burst_and_then_the_rate() -> None:
    buckets = Buckets(10.0, 5.0)
    assert [buckets.take(1, 0.0) for _ in range(6)] == [True] * 5 + [False]
    assert not buckets.take(1, 0.09)
    assert [buckets.take(1, 0.2) for _ in range(3)] == [True, True, False]


def test_keys_do_not_share() -> None:
    buckets = Buckets(1.0, 1.0)
    assert buckets.take(1, 0.0)
    assert buckets.take(2, 0.0)
    assert not buckets.take(1, 0.0)


def test_a_charge_may_leave_a_debt_that_is_paid_at_the_rate() -> None:
    buckets = Buckets(10.0, 5.0)
    buckets.charge(1, 25, 0.0)
    assert buckets.level(1, 0.0) == -20.0
    assert buckets.ready_at(1, 1.0) == 2.1
    assert not buckets.take(1, 2.0)
    assert buckets.take(1, 2.11)


def test_a_key_that_was_forgotten_begins_full() -> None:
    buckets = Buckets(1.0, 1.0)
    buckets.take(1, 0.0)
    buckets.forget(1)
    assert buckets.take(1, 0.0)


def test_only_buckets_that_are_full_again_are_forgotten() -> None:
    buckets = Buckets(10.0, 5.0)
    buckets.charge(1, 25, 0.0)
    buckets.take(2, 0.0)
    buckets.forget_full(0.5)
    assert buckets.level(1, 0.5) == -15.0
    assert len(buckets) == 1


@given(st.lists(st.floats(0, 1), max_size=60))
def test_no_more_is_given_than_burst_and_rate_allow(pauses: list[float]) -> None:
    buckets = Buckets(20.0, 3.0)
    now = 0.0
    given_out = 0
    for pause in pauses:
        now += pause
        given_out += buckets.take(1, now)
    assert given_out <= 3 + 20 * now + 1e-6
