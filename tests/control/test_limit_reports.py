"""Limits that were reached: one event a minute for each, with its key and count."""

from typing import Any

import pytest
import structlog

from pipeline.config import limits
from pipeline.control.hub import Happened, Hub
from pipeline.control.limit_reports import KEYS, PERIOD, USUAL, WITHOUT_KEY, LimitReports
from pipeline.counters import INDEX
from pipeline.events.table import PUBLISHED

SYNS = "tcp_syn_dropped_rate_limit"


class Rig:
    def __init__(self) -> None:
        self.counts: dict[str, dict[str, int]] = {"tcp0": {SYNS: 0}, "tcp1": {SYNS: 0}}
        hub = Hub(lambda _watch: None, structlog.get_logger())
        self.events: list[Happened] = []
        hub.subscribe(PUBLISHED, self.events.append)
        self.reports = LimitReports(lambda: self.counts, hub)

    def check(self, now: float) -> list[dict[str, Any]]:
        self.events.clear()
        self.reports.check(now)
        return [dict(event.fields) for event in self.events]


def test_a_limit_is_reported_with_its_key_and_the_sum_of_all_workers() -> None:
    rig = Rig()
    assert rig.check(100.0) == []
    rig.counts["tcp0"][SYNS], rig.counts["tcp1"][SYNS] = 3, 4
    assert rig.check(105.0) == [{"key": "max-syns-per-second", "counter": SYNS, "count": 7}]
    assert [event.kind for event in rig.events] == ["limit-reached"]


def test_it_is_reported_once_a_minute_and_nothing_is_lost_from_the_count() -> None:
    rig = Rig()
    rig.counts["tcp0"][SYNS] = 1
    assert len(rig.check(0.0)) == 1
    rig.counts["tcp0"][SYNS] = 11
    assert rig.check(PERIOD - 1) == []
    rig.counts["tcp0"][SYNS] = 21
    (event,) = rig.check(PERIOD)
    assert event["count"] == 20
    assert rig.check(3 * PERIOD) == []


def test_one_limit_does_not_hold_back_another() -> None:
    rig = Rig()
    rig.counts["tcp0"][SYNS] = 1
    rig.check(0.0)
    rig.counts["ingress"] = {"link_refused_too_many": 2}
    assert rig.check(1.0) == [{"key": "", "counter": "link_refused_too_many", "count": 2}]


def test_what_is_usual_is_not_a_warning() -> None:
    rig = Rig()
    rig.counts["egress0"] = {"egress_bytes_spilled": 100}
    rig.check(0.0)
    assert [event.kind for event in rig.events] == ["limit-met"]


def test_limits_that_share_a_counter_are_both_named() -> None:
    assert KEYS["tcp_segment_dropped_no_memory"] == "max-receive-memory, max-receive-memory-per-guest"


@pytest.mark.parametrize("counter", [*KEYS, *sorted(USUAL)])
def test_every_counter_is_there(counter: str) -> None:
    assert counter in INDEX
    assert counter in KEYS


def test_every_limit_is_watched() -> None:
    assert {row.counter for row in limits.TABLE} | set(WITHOUT_KEY) == set(KEYS)
