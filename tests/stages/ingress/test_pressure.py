"""Small work is limited where time is short, and only there."""

import pytest

from pipeline.stages.ingress import pressure
from pipeline.stages.ingress.pressure import LOOK_EVERY_S, Pressure

CORES = 4
FLOOR = pressure.MAX_FLOOR_S


class Played:
    """A process whose waits and idle time the test sets."""

    def __init__(self) -> None:
        self.waited: float | None = 0.0
        self.idle = 0.0
        self.now = 100.0
        self.pressure = Pressure(CORES, lambda: self.waited, lambda: self.idle)
        self.pressure.adapt(self.now)

    def run(self, looks: int, waits: float = 0.0, idle: float = 0.5) -> float:
        """Go on for that many looks, with seconds of waiting and a part of idle time in each.

        Returns what small work may take then.
        """
        for _ in range(looks):
            self.now += 1.001 * LOOK_EVERY_S
            if self.waited is not None:
                self.waited += waits
            self.idle += idle * 1.001 * LOOK_EVERY_S
            self.pressure.adapt(self.now)
        return self.pressure.small_s


@pytest.fixture
def played() -> Played:
    return Played()


def test_small_work_begins_at_the_floor(played: Played) -> None:
    assert Pressure(CORES, lambda: 0.0, lambda: 0.0).small_s == FLOOR
    assert Pressure(1, lambda: 0.0, lambda: 0.0).small_s == pressure.FLOOR_PART


def test_small_work_may_take_all_cores_while_no_time_is_short(played: Played) -> None:
    assert played.run(200) == CORES


def test_waiting_for_a_core_brings_small_work_down_to_the_floor(played: Played) -> None:
    played.run(200)
    assert played.run(1, waits=0.2 * LOOK_EVERY_S) == CORES / 2
    assert played.run(10, waits=0.2 * LOOK_EVERY_S) == FLOOR


@pytest.mark.parametrize("idle", [0.0, 0.2])
def test_a_worker_that_is_seldom_idle_has_no_time_left(played: Played, idle: float) -> None:
    played.run(200)
    assert played.run(10, idle=idle) == FLOOR
    assert played.run(200) == CORES, "later it has"


def test_a_short_wait_hurts_nobody(played: Played) -> None:
    assert played.run(200, waits=0.05 * LOOK_EVERY_S) == CORES


def test_where_the_system_counts_no_waits_the_floor_holds(played: Played) -> None:
    played.waited = None
    assert played.run(200) == FLOOR


def test_looks_are_rare(played: Played) -> None:
    before = played.run(1)
    for _ in range(10):
        played.now += LOOK_EVERY_S / 20
        played.pressure.adapt(played.now)
    assert played.pressure.small_s == before
