"""RFC 6298, and when a connection takes samples (Karn's algorithm, timestamps)."""

import pytest

from pipeline.engines.tcp.config import TcpConfig
from pipeline.engines.tcp.rto import MIN_RTT_LIFETIME, RttEstimator
from pipeline.engines.tcp.timers import RTO
from tests.engines.tcp.builders import NO_OPTIONS, established

CFG = TcpConfig(min_rto=0.2, initial_rto=1.0, max_rto=120.0)


def test_before_a_sample_the_rto_is_one_second() -> None:
    assert RttEstimator(CFG).rto == 1.0


def test_the_first_sample_sets_all_three() -> None:
    rtt = RttEstimator(CFG)
    rtt.sample(0.4, 0.0)
    assert (rtt.srtt, rtt.rttvar) == (0.4, 0.2)
    assert rtt.rto == pytest.approx(0.4 + 4 * 0.2)


def test_later_samples_are_smoothed_with_an_eighth_and_a_quarter() -> None:
    rtt = RttEstimator(CFG)
    rtt.sample(0.4, 0.0)
    rtt.sample(0.8, 1.0)
    assert rtt.rttvar == pytest.approx(0.75 * 0.2 + 0.25 * 0.4)
    assert rtt.srtt == pytest.approx(7 / 8 * 0.4 + 1 / 8 * 0.8)
    assert rtt.rto == pytest.approx(rtt.srtt + 4 * rtt.rttvar)


def test_the_rto_stays_within_its_bounds() -> None:
    rtt = RttEstimator(CFG)
    rtt.sample(0.0, 0.0)
    assert rtt.rto == 0.2
    rtt.sample(5000.0, 1.0)
    assert rtt.rto == 120.0


def test_back_off_doubles_up_to_the_maximum_and_a_sample_ends_it() -> None:
    rtt = RttEstimator(CFG)
    seen = []
    for _ in range(9):
        rtt.back_off()
        seen.append(rtt.rto)
    assert seen == [2, 4, 8, 16, 32, 64, 120, 120, 120]
    assert rtt.backoffs == 9
    rtt.sample(0.1, 0.0)
    assert rtt.backoffs == 0
    assert rtt.rto < 1


def test_a_spurious_expiry_is_undone() -> None:
    rtt = RttEstimator(CFG)
    rtt.sample(0.4, 0.0)
    computed = rtt.rto
    rtt.back_off()
    rtt.undo_back_off()
    assert rtt.rto == computed
    assert rtt.backed_off(2) == pytest.approx(4 * computed)
    assert rtt.backed_off(500) == 120.0


def test_the_minimum_is_forgotten_after_a_while() -> None:
    rtt = RttEstimator(CFG)
    rtt.sample(0.01, 0.0)
    rtt.sample(0.5, 1.0)
    assert rtt.min_rtt == 0.01
    rtt.sample(0.5, MIN_RTT_LIFETIME + 2)
    assert rtt.min_rtt == 0.5


def test_one_sample_a_round_trip_is_taken() -> None:
    rig = established()
    rig.conn.rtt.srtt = 0.0
    rig.host_data(1448 * 4)
    rig.send()
    rig.now += 0.1
    rig.ack += 1448
    rig.guest()
    assert rig.conn.rtt.srtt == pytest.approx(0.1)
    rig.now += 0.3
    rig.ack += 1448
    rig.guest()
    assert rig.conn.rtt.srtt == pytest.approx(0.1), "sent before the last sample: same round trip"


def test_without_timestamps_retransmitted_data_give_no_sample() -> None:
    rig = established(**NO_OPTIONS)
    srtt = rig.conn.rtt.srtt
    rig.host_data(100)
    rig.send()
    rig.run(0.25)
    assert rig.conn.recovery.timeouts == 1
    rig.acknowledge_all()
    assert rig.conn.rtt.srtt == srtt
    assert rig.conn.rtt.backoffs == 1


def test_with_timestamps_they_do_and_end_the_back_off() -> None:
    rig = established()
    rig.host_data(100)
    rig.send()
    rig.run(0.25)
    assert rig.conn.rtt.backoffs == 1
    rig.acknowledge_all()
    assert rig.conn.rtt.backoffs == 0


def test_a_dsack_for_the_range_measures_its_last_copy() -> None:
    rig = established()
    rig.conn.rtt.srtt = 0.0
    rig.host_data(100)
    first = rig.one()
    rig.run(0.25)
    rig.now += 0.01
    rig.acknowledge_all(sack=((first.seq, (first.seq + 100) & 0xFFFFFFFF),), ts_ecr=first.ts_val)
    assert rig.conn.rtt.srtt < 0.1, "not the 0.25 s since the first copy"


def test_the_timer_restarts_when_new_data_are_acknowledged_and_stops_with_the_last() -> None:
    rig = established()
    rig.host_data(1448 * 4)
    rig.send()
    started = rig.conn.agenda.timers[RTO]
    rig.now += 0.1
    rig.ack += 1448
    rig.guest()
    assert rig.conn.agenda.timers[RTO] >= rig.now + 0.2 > started
    rig.acknowledge_all()
    assert rig.conn.agenda.timers[RTO] == float("inf")
