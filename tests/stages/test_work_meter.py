"""What records cost a worker, by the links that they came from."""

import pytest

from pipeline.records import kinds
from pipeline.records.frames import Frame
from pipeline.records.guests import LinkNotice, Work
from pipeline.records.kinds import RECORD_BYTES
from pipeline.stages import work_meter
from pipeline.stages.work_meter import WorkMeter


class Ring:
    """Takes records; ``free`` says how many more fit."""

    def __init__(self) -> None:
        self.free = 10
        self.work: list[tuple[int, int]] = []

    def room(self) -> int:
        return self.free

    def push(self, record: bytes) -> None:
        done = Work.unpack(memoryview(record), 0)
        self.work.append((done.link, done.nanoseconds))


def make() -> tuple[WorkMeter, Ring]:
    ring = Ring()
    meter = WorkMeter(ring)  # type: ignore[arg-type]
    meter.switch(True)
    return meter, ring


def test_each_record_bears_an_equal_part_while_nothing_is_known() -> None:
    meter, ring = make()
    meter.add([1, 2, 2, 1, 2, 2], 600_000)
    assert sorted(ring.work) == [(1, 200_000), (2, 400_000)]


def test_a_guest_does_not_pay_for_the_expensive_records_of_another_one() -> None:
    meter, ring = make()
    for _ in range(40):
        meter.add([1] * 4, 4 * 200_000)
        meter.add([2] * 4, 4 * 50_000)
    ring.work.clear()
    ring.free = 10
    meter.add([1, 2, 1, 2], 500_000)
    assert sorted(ring.work) == [(1, 400_000), (2, 100_000)]


def test_what_records_cost_follows_the_newest_bursts() -> None:
    meter, ring = make()
    meter.add([1], 900_000)
    meter.add([2], 300_000)
    for _ in range(60):
        meter.add([1], 300_000)
    ring.work.clear()
    ring.free = 10
    meter.add([1, 2], 600_000)
    assert sorted(ring.work) == [(1, 300_000), (2, pytest.approx(300_000, abs=1))]


def test_links_that_come_and_go_leave_no_memory() -> None:
    meter, ring = make()
    for link in range(1, 20_000):
        meter.add([link], 1000)
        meter.add([link, link % 7 + 1], 1000)
    assert len(meter) <= 2 * work_meter.MAX_LINKS
    meter.add([7], work_meter.REPORT_NS)
    assert ring.work[-1][0] == 7


def test_a_burst_that_took_no_time_is_no_work() -> None:
    meter, ring = make()
    meter.add([1], 0)
    meter.add([2], 0)
    meter.add([1, 2], 100_000)
    assert ring.work == []


def test_little_work_adds_up_before_it_is_reported() -> None:
    meter, ring = make()
    for _ in range(9):
        meter.add([7], work_meter.REPORT_NS // 10)
    assert not ring.work
    meter.add([7], work_meter.REPORT_NS // 10)
    assert ring.work == [(7, work_meter.REPORT_NS)]


def test_a_full_ring_loses_no_work() -> None:
    meter, ring = make()
    ring.free = 0
    meter.add([7], 500_000)
    assert not ring.work
    ring.free = 1
    meter.add([7], 100_000)
    assert ring.work == [(7, 600_000)]


def test_records_of_no_link_are_nobodys_work() -> None:
    meter, ring = make()
    meter.add([0], 5_000_000)
    assert not ring.work


def test_a_burst_names_the_link_of_each_record() -> None:
    meter, ring = make()
    found: list[list[int]] = []
    meter.add = lambda links, spent: found.append(links)  # type: ignore[method-assign]
    records = [
        Frame(link=3, slot=0, off=256, length=60, vnet=False).pack(),
        LinkNotice.pack(kinds.LINK_UP, 9, 9),
    ]
    burst = memoryview(b"".join(records))
    assert len(burst) == 2 * RECORD_BYTES
    meter.charge(burst, meter.begin())
    assert found == [[3, 9]]
    assert not ring.work


def test_nothing_is_kept_from_before_there_were_several_guests() -> None:
    meter, ring = make()
    meter.add([7], work_meter.REPORT_NS - 1)
    meter.switch(False)
    meter.switch(True)
    meter.add([7], 1)
    assert not ring.work


def test_work_for_a_link_that_contains_work_for_another_one_is_not_paid_twice(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = [1_000_000_000]
    monkeypatch.setattr(work_meter, "thread_time_ns", lambda: clock[0])
    meter, ring = make()
    asked = meter.begin()
    clock[0] += 300_000
    burst = meter.begin()
    clock[0] += 500_000
    meter.charge(memoryview(Frame(link=2, slot=0, off=256, length=60, vnet=False).pack()), burst)
    clock[0] += 200_000
    meter.charge_link(1, asked)
    assert ring.work == [(2, 500_000), (1, 500_000)]


def test_links_that_only_ask_for_something_leave_no_memory() -> None:
    meter, _ = make()
    for link in range(1, 20_000):
        meter.charge_link(link, meter.begin())
    assert len(meter) <= work_meter.MAX_LINKS
