"""What each subject has used, by all workers, over their deaths, periods and restarts."""

import sys
from datetime import UTC, datetime
from types import FrameType

import pytest

from pipeline.config.model import Quota
from pipeline.control.quotas.ledger import Ledger, Saved, known_rows, period_end, period_of
from pipeline.ipc.policy_messages import UseRow

NOW = datetime(2026, 1, 31, 23, 30, tzinfo=UTC).timestamp()
GUEST = "guest 1"
QEMU = "process 12"


def report(ledger: Ledger, worker: str, *sums: int, subject: str = GUEST, incarnation: int = 0) -> bool:
    return ledger.on_report(worker, incarnation, [UseRow("day", subject, list(sums), [0])], NOW)


@pytest.fixture
def ledger() -> Ledger:
    made = Ledger()
    made.set_guests({1: QEMU})
    return made


def used(ledger: Ledger) -> dict[str, list[int]]:
    return {entry.subject: entry.sums for entry in ledger.entries()}


def test_workers_are_told_what_the_others_have_counted_and_only_once(ledger: Ledger) -> None:
    assert report(ledger, "egress0", 10, 20, 1, 0)
    assert report(ledger, "egress1", 1, 2, 3, 0)
    assert used(ledger) == {QEMU: [11, 22, 4, 0]}
    assert ledger.news("egress0") == [["day", GUEST, [1, 2, 3, 0]]]
    assert ledger.news("egress1") == [["day", GUEST, [10, 20, 1, 0]]]
    assert ledger.news("resolver") == [["day", GUEST, [11, 22, 4, 0]]]
    assert ledger.news("egress0") == ledger.news("egress1") == []
    report(ledger, "egress1", 5, 2, 3, 0)
    assert ledger.news("egress0") == [["day", GUEST, [5, 2, 3, 0]]]
    assert ledger.news("egress1") == [], "its own are known to it"


def test_a_worker_that_died_leaves_what_it_had_counted(ledger: Ledger) -> None:
    report(ledger, "egress0", 10, 0, 1, 0)
    assert ledger.news("egress0") == []
    assert not report(ledger, "egress0", 1, 0, 0, 0, incarnation=1), "it has to be told everything"
    assert used(ledger) == {QEMU: [11, 0, 1, 0]}
    assert ledger.news("egress0") == [["day", GUEST, [10, 0, 1, 0]]]


def test_a_last_report_that_is_read_after_the_death_counts_once(ledger: Ledger) -> None:
    report(ledger, "egress0", 10, 0, 1, 0)
    ledger.restarted("egress0")
    assert report(ledger, "egress0", 10, 0, 1, 0)
    assert used(ledger) == {QEMU: [10, 0, 1, 0]}
    assert report(ledger, "egress0", 1, 0, 0, 0, incarnation=1)
    assert used(ledger) == {QEMU: [11, 0, 1, 0]}


def test_many_guests_cost_the_supervisor_no_more_each_than_few() -> None:
    def calls(count: int) -> int:
        made, found = Ledger(), 0

        def called(_: FrameType, event: str, __: object) -> None:
            nonlocal found
            found += event in ("call", "c_call")

        made.set_guests({number: f"process {number}" for number in range(1, count + 1)})
        rows = [UseRow("day", f"guest {number}", [1, 1, 1, 1], [0]) for number in range(1, count + 1)]
        before = sys.getprofile()
        sys.setprofile(called)
        try:
            for worker in ("egress0", "egress1"):
                made.on_report(worker, 0, rows, NOW)
                made.news(worker)
            made.entries()
            made.numbers_of("process 1")
            made.set_guests({})
            made.settle("egress0", made.gone("egress0"))
        finally:
            sys.setprofile(before)
        return found

    assert calls(400) < 6 * calls(100)


def test_a_successor_is_told_before_it_reports(ledger: Ledger) -> None:
    report(ledger, "egress0", 10, 0, 1, 0)
    ledger.restarted("egress0")
    assert ledger.news("egress0") == [["day", GUEST, [10, 0, 1, 0]]]
    assert report(ledger, "egress0", 1, 0, 0, 0, incarnation=1)
    assert ledger.news("egress0") == []


def test_a_guest_that_comes_back_with_another_number_gains_nothing(ledger: Ledger) -> None:
    report(ledger, "egress0", 10, 0, 1, 0)
    ledger.set_guests({2: QEMU, 3: ""})
    assert ledger.gone("egress0") == [["day", GUEST]]
    ledger.settle("egress0", ledger.gone("egress0"))
    assert used(ledger) == {QEMU: [10, 0, 1, 0]}
    assert ledger.news("egress0") == [["day", "guest 2", [10, 0, 1, 0]]]
    assert ledger.numbers_of(QEMU) == [2]


def test_workers_are_not_told_of_guests_that_are_away(ledger: Ledger) -> None:
    report(ledger, "egress0", 10, 0, 1, 0)
    report(ledger, "egress0", 5, 0, 1, 0, subject="192.168.127.9")
    ledger.set_guests({})
    ledger.settle("egress0", ledger.gone("egress0"))
    assert ledger.news("resolver") == [["day", "192.168.127.9", [5, 0, 1, 0]]]
    ledger.set_guests({4: QEMU})
    assert ledger.news("resolver") == [["day", "guest 4", [10, 0, 1, 0]]]


def test_a_guest_of_which_only_a_number_is_known_is_forgotten_when_it_is_gone() -> None:
    ledger = Ledger()
    ledger.set_guests({1: ""})
    report(ledger, "egress0", 10, 0, 1, 0)
    assert used(ledger) == {GUEST: [10, 0, 1, 0]}
    ledger.set_guests({})
    ledger.settle("egress0", ledger.gone("egress0"))
    assert len(ledger) == 0


def test_a_guest_that_has_just_come_is_counted_when_it_is_known(ledger: Ledger) -> None:
    report(ledger, "egress0", 10, 0, 1, 0, subject="guest 2")
    assert used(ledger) == {}
    ledger.set_guests({1: QEMU, 2: "process 13"})
    assert ledger.gone("egress0") == []
    report(ledger, "egress0", 11, 0, 1, 0, subject="guest 2")
    assert used(ledger) == {"process 13": [11, 0, 1, 0]}


def test_a_guest_that_was_never_there_is_forgotten_by_the_worker(ledger: Ledger) -> None:
    report(ledger, "resolver", 0, 0, 0, 1, subject="guest 65543")
    assert ledger.gone("resolver") == [["day", "guest 65543"]]


def test_a_period_begins_at_zero_and_the_workers_learn_it(ledger: Ledger) -> None:
    report(ledger, "egress0", 10, 20, 1, 0)
    ledger.turn(NOW)
    assert used(ledger) == {QEMU: [10, 20, 1, 0]}
    ledger.turn(NOW + 1800)
    assert used(ledger) == {QEMU: [0, 0, 0, 0]}
    assert ledger.news("egress0") == [["day", GUEST, [-10, -20, -1, 0]]]
    report(ledger, "egress0", 13, 20, 1, 0)
    assert used(ledger) == {QEMU: [3, 0, 0, 0]}


def test_a_clock_that_is_set_back_gives_nothing_back(ledger: Ledger) -> None:
    report(ledger, "egress0", 10, 0, 1, 0)
    for back in (3600, 86400, 40 * 86400):
        ledger.turn(NOW - back)
        assert used(ledger) == {QEMU: [10, 0, 1, 0]}
    saved = ledger.saved(numbers=True)
    ledger.turn(NOW)
    assert used(ledger) == {QEMU: [0, 0, 0, 0]}, "a day has begun"
    after = Ledger()
    after.restore(saved, NOW - 80 * 86400)
    assert used(after) == {QEMU: [10, 0, 1, 0]}


def test_a_reset_is_about_a_subject_and_a_period(ledger: Ledger) -> None:
    report(ledger, "egress0", 10, 20, 1, 0)
    assert ledger.reset(["process 13"], "") == ledger.reset([QEMU], "month") == 0
    assert used(ledger) == {QEMU: [10, 20, 1, 0]}
    assert ledger.reset([QEMU], "day") == 1
    assert used(ledger) == {QEMU: [0, 0, 0, 0]}
    assert ledger.reset([], "") == 1


def test_another_process_with_the_same_number_begins_at_zero(ledger: Ledger) -> None:
    report(ledger, "egress0", 10, 0, 1, 0)
    ledger.mark({QEMU: 500})
    assert used(ledger) == {QEMU: [10, 0, 1, 0]}
    ledger.mark({QEMU: 900})
    assert used(ledger) == {QEMU: [0, 0, 0, 0]}
    ledger.set_guests({})
    ledger.settle("egress0", ledger.gone("egress0"))
    ledger.mark({QEMU: 0})
    assert used(ledger) == {}


def test_a_successor_of_the_program_goes_on(ledger: Ledger) -> None:
    report(ledger, "egress0", 10, 0, 1, 0)
    report(ledger, "egress0", 5, 0, 1, 0, subject="link:3")
    ledger.mark({QEMU: 500})
    rows = ledger.saved(numbers=True)
    assert Saved("day", QEMU, "2026-01-31", 500, [10, 0, 1, 0]) in rows
    assert [row.subject for row in ledger.saved(numbers=False)] == [QEMU], "links get other numbers"
    after = Ledger()
    after.set_guests({1: QEMU})
    after.restore(rows, NOW + 60)
    assert used(after)[QEMU] == [10, 0, 1, 0]
    assert ["day", GUEST, [10, 0, 1, 0]] in after.news("egress0")
    report(after, "egress0", 2, 0, 0, 0)
    assert used(after)[QEMU] == [12, 0, 1, 0]
    late = Ledger()
    late.restore(rows, NOW + 86400)
    assert len(late) == 0, "the day is over"


def test_rows_of_another_version_that_nobody_understands_are_left_out() -> None:
    row: list[object] = ["day", QEMU, "2026-01-31", 500, [10, 0, 1, 0]]
    longer: list[object] = ["day", QEMU, "2026-01-31", 500, [10, 0, 1, 0, 7]]
    expected = Saved("day", QEMU, "2026-01-31", 500, [10, 0, 1, 0])
    assert known_rows([[*row, "more"], longer, [], row]) == [expected]


def test_what_is_left_of_each_quota(ledger: Ledger) -> None:
    report(ledger, "egress0", 10, 20, 1, 0)
    quotas = [Quota(per="day", total_bytes=40, connections=1), Quota(dns_questions=5)]
    (entry,) = ledger.entries()
    bounds = list(entry.bounds(quotas))
    assert [(bound.limit, bound.most, bound.used, bound.is_used_up) for bound in bounds] == [
        ("bytes", 40, 30, False),
        ("connections", 1, 1, True),
    ]
    ledger.forget_quotas()
    assert list(entry.bounds(quotas)) == []


@pytest.mark.parametrize(
    ("per", "name", "end"),
    [
        ("life", "", ""),
        ("hour", "2026-01-31T23", "2026-02-01T00:00:00Z"),
        ("day", "2026-01-31", "2026-02-01T00:00:00Z"),
        ("month", "2026-01", "2026-02-01T00:00:00Z"),
    ],
)
def test_periods_are_those_of_the_calendar_in_utc(per: str, name: str, end: str) -> None:
    assert (period_of(per, NOW), period_end(per, NOW)) == (name, end)


def test_a_year_ends_with_its_month() -> None:
    assert period_end("month", datetime(2026, 12, 5, tzinfo=UTC).timestamp()) == "2027-01-01T00:00:00Z"
