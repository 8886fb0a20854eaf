"""Kinds and names of timers belong together."""

from pipeline.engines.tcp import timers
from tests.engines.tcp.builders import established, fin_wait_1


def test_every_kind_has_a_name_and_starts_off() -> None:
    assert len(timers.NAMES) == timers.KINDS == len(timers.all_off())
    assert min(timers.all_off()) == timers.NEVER


def test_deadline_is_the_earliest_timer() -> None:
    rig = established()
    assert rig.conn.deadline() == rig.now + rig.cfg.keepalive_idle
    rig.guest(length=10)
    assert rig.conn.deadline() == rig.now + rig.cfg.delayed_ack
    rig.run(1)
    assert rig.conn.deadline() > rig.now + 7000


def test_on_timer_before_the_deadline_does_nothing() -> None:
    rig = fin_wait_1()
    before = rig.conn.snapshot()
    rig.conn.on_timer(rig.now)
    assert rig.conn.snapshot() == before
    assert not rig.conn.wants_transmit
