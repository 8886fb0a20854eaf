"""Timestamps, PAWS and window scale (RFC 7323)."""

import pytest

from pipeline.engines.tcp.arrival import PAWS_IDLE
from pipeline.engines.tcp.config import TcpConfig
from pipeline.wire.tcp import ACK, RST
from tests.engines.tcp.builders import MASK, NO_OPTIONS, established, fin_wait_1


def test_every_segment_carries_a_timestamp_in_milliseconds_and_the_echo() -> None:
    rig = established()
    rig.now += 0.25
    rig.guest(length=10, ts_val=777777777)
    # The guest may let its clock jump.
    rig.host_data(10)
    out = rig.one()
    assert out.has_ts
    assert out.ts_val == int(rig.now * 1000) & MASK
    assert out.ts_ecr == 777777777


def test_without_agreement_there_are_none() -> None:
    rig = established(**NO_OPTIONS)
    rig.host_data(10)
    out = rig.one()
    assert not out.has_ts
    assert (out.ts_val, out.ts_ecr) == (0, 0)


def test_an_old_timestamp_is_refused_and_answered() -> None:
    rig = established()
    old = rig.guest_clock() - 1
    assert rig.guest(length=10, ts_val=old) == "tcp_segment_dropped_paws"
    assert rig.one().flags == ACK
    assert rig.delivered == 0


def test_an_equal_timestamp_is_not_old() -> None:
    rig = established()
    assert rig.guest(length=10) is None


def test_the_comparison_wraps() -> None:
    rig = established()
    rig.conn.rcv.ts_recent = MASK - 1
    assert rig.guest(length=10, ts_val=5) is None
    assert rig.guest(length=10, ts_val=MASK) == "tcp_segment_dropped_paws"


def test_a_reset_is_exempt() -> None:
    rig = established()
    rig.guest(RST, ts_val=rig.guest_clock() - 1000)
    assert rig.state == "CLOSED"


def test_after_24_idle_days_the_memory_is_void() -> None:
    rig = established(TcpConfig(keepalive=False))
    rig.now += PAWS_IDLE + 1
    assert rig.guest(length=10, ts_val=(rig.conn.rcv.ts_recent - 5) & MASK) is None


def test_only_segments_at_the_left_edge_move_the_echo() -> None:
    """Section 4.3: with a hole, the echo stays with the segment before it."""
    rig = established()
    before = rig.conn.rcv.ts_recent
    rig.now += 1
    rig.guest(length=10, seq=rig.seq + 100)
    assert rig.one().ts_ecr == before
    rig.now += 1
    rig.guest(length=100)
    assert rig.one().ts_ecr == rig.guest_clock()


def test_delayed_acks_echo_the_first_unacknowledged_segment() -> None:
    rig = established()
    first = rig.guest_clock()
    rig.guest(length=10)
    rig.now += 0.01
    rig.guest(length=10)
    rig.advance(0.05)
    assert rig.one().ts_ecr == first


def test_an_unacceptable_segment_does_not_move_the_echo() -> None:
    rig = established()
    before = rig.conn.rcv.ts_recent
    rig.now += 1
    rig.guest(length=10, seq=rig.seq - 5000)
    assert rig.conn.rcv.ts_recent == before


def test_a_segment_without_timestamps_is_tolerated() -> None:
    """A SHOULD of section 3.2 that Linux does not follow either."""
    rig = established()
    assert rig.guest(length=10, has_ts=False) is None
    assert rig.delivered == 10


@pytest.mark.parametrize("shift", [0, 3, 14])
def test_windows_are_scaled_both_ways(shift: int) -> None:
    rig = established(wscale=shift)
    rig.guest(wnd=1000)
    assert rig.conn.snd_wnd == 1000 << shift
    rig.guest(length=1000)
    rig.conn.on_taken(1000, rig.now)
    assert rig.one().wnd == rig.conn.rcv.capacity >> 7


def test_the_fin_is_stamped_too() -> None:
    assert fin_wait_1().wire[-1].has_ts
