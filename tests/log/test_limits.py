"""Rates of log lines: what one guest can write, what others still can, and that every line is counted."""

from hypothesis import given
from hypothesis import strategies as st

from pipeline.log.limits import (
    KIND,
    MAX_KINDS,
    MAX_SUBJECTS,
    NAMED,
    OPERATOR,
    OTHERS,
    SUBJECT,
    LeftOut,
    Limiter,
)


def written(limiter: Limiter, kind: str, subject: str, times: int, now: float = 0.0) -> int:
    return sum(limiter.admit(kind, subject, now) >= 0 for _ in range(times))


def test_one_guest_writes_a_burst_and_then_one_line_in_a_while() -> None:
    limiter = Limiter()
    assert written(limiter, "guest mac", "link 1", 1000) == SUBJECT.burst
    assert written(limiter, "guest mac", "link 1", 1000, SUBJECT.seconds * 2) == 2


def test_a_guest_that_makes_up_names_is_bounded_by_the_kind() -> None:
    limiter = Limiter()
    count = sum(limiter.admit("guest mac", f"link {number}", 0.0) >= 0 for number in range(10_000))
    assert count == KIND.burst
    count = sum(limiter.admit("guest mac", f"link {number}", KIND.seconds * 3) >= 0 for number in range(100))
    assert count == 3


def test_a_noisy_guest_leaves_lines_to_the_others_and_kinds_to_each_other() -> None:
    limiter = Limiter()
    written(limiter, "guest mac", "link 1", 1000)
    assert written(limiter, "guest mac", "link 2", 1) == 1
    written(limiter, "guest mac", "", 1000)
    assert written(limiter, "worker died", "", 1) == 1


def test_the_first_lines_about_a_guest_are_written_while_many_others_never_stop() -> None:
    limiter, now = Limiter(), 0.0
    for _ in range(3000):
        now += 1.0
        for number in range(10):
            written(limiter, "API request refused", f"192.168.127.{number}", 20, now)
    assert written(limiter, "API request refused", "192.168.127.99", 5, now) == 5
    count = sum(
        limiter.admit("API request refused", f"192.168.127.{number % 10}", now) >= 0 for number in range(1000)
    )
    assert count == 0


def test_first_lines_of_many_subjects_do_not_lift_the_bound_of_the_kind() -> None:
    limiter, count = Limiter(), 0
    for second in range(1000):
        for number in range(300):
            count += limiter.admit("guest mac", f"link {number}", float(second)) >= 0
    bound = KIND.burst + 999 // KIND.seconds
    assert bound - KIND.burst / 2 <= count <= bound


def test_a_summary_names_the_guests_with_most_lines() -> None:
    limiter = Limiter()
    for number in range(NAMED + 3):
        written(limiter, "guest mac", f"link {number}", 100 * (number + 1))
    left = limiter.take_pending()["guest mac"]
    assert list(left.subjects) == [f"link {number}" for number in reversed(range(3, NAMED + 3))]
    assert sum(left.subjects.values()) < left.lines < 100 * sum(range(NAMED + 4))
    assert len(left.subjects) == NAMED
    assert limiter.take_pending() == {}


def test_the_operators_lines_have_bounds_of_their_own() -> None:
    limiter = Limiter()
    written(limiter, "forward opened", "", 10_000)
    count = sum(limiter.admit("forward opened", "", 0.0, operator=True) >= 0 for _ in range(10_000))
    assert count == OPERATOR.burst


def test_the_next_line_has_the_count_of_those_before_it() -> None:
    limiter = Limiter()
    written(limiter, "guest mac", "link 1", SUBJECT.burst + 7)
    written(limiter, "guest mac", "link 2", SUBJECT.burst + 5)
    assert limiter.admit("guest mac", "link 1", SUBJECT.seconds) == 7
    assert limiter.take_pending() == {"guest mac": LeftOut(5, {"link 2": 5})}
    assert limiter.admit("guest mac", "link 2", SUBJECT.seconds) == 0
    assert limiter.take_pending() == {}


def test_texts_that_a_guest_chooses_share_one_bucket_in_the_end() -> None:
    limiter = Limiter()
    count = sum(limiter.admit(f"text {number}", "", 0.0) >= 0 for number in range(100_000))
    assert count == MAX_KINDS + KIND.burst
    assert limiter.take_pending() == {OTHERS: LeftOut(100_000 - count, {})}
    assert len(limiter._kinds) == MAX_KINDS + 1


@given(
    st.lists(
        st.tuples(
            st.sampled_from("abc"), st.integers(0, 3 * MAX_SUBJECTS), st.floats(0.0, 1.0), st.booleans()
        ),
        max_size=300,
    )
)
def test_every_line_is_written_or_counted_once(lines: list[tuple[str, int, float, bool]]) -> None:
    limiter, now, counted, through = Limiter(), 0.0, 0, 0
    for kind, subject, pause, operator in lines:
        now += pause
        before = limiter.admit(kind, f"guest {subject % 5}", now, operator=operator)
        through += before >= 0
        counted += max(before, 0)
    assert through + counted + sum(left.lines for left in limiter.take_pending().values()) == len(lines)


def test_subjects_are_bounded_and_lose_no_count() -> None:
    limiter = Limiter()
    for number in range(3 * MAX_SUBJECTS):
        limiter.admit("guest mac", f"link {number}", 0.0)
    assert len(limiter._subjects) == MAX_SUBJECTS
    assert limiter.take_pending()["guest mac"].lines == 3 * MAX_SUBJECTS - KIND.burst
