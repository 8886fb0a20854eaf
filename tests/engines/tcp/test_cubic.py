"""RFC 9438: the curve, its friendly region, and fast convergence."""

import pytest

from pipeline.engines.tcp.cubic import BETA, Cubic

MSS = 1000


def after_loss(segments: int) -> Cubic:
    cc = Cubic(MSS, 10)
    cc.cwnd = segments * MSS
    cc.on_loss(segments * MSS, 0.0)
    return cc


def grow(cc: Cubic, start: float, seconds: float, rtt: float) -> None:
    """Acknowledge a full window every rtt, in ACKs of two segments."""
    now = start
    while now < start + seconds:
        acks = max(1, cc.cwnd // (2 * MSS))
        for _ in range(acks):
            cc.on_ack(2 * MSS, now, rtt)
        now += rtt


def test_loss_leaves_seventy_percent() -> None:
    cc = after_loss(100)
    assert cc.cwnd == cc.ssthresh == 70 * MSS


def test_the_window_returns_to_the_old_one_after_k_seconds_and_flattens_there() -> None:
    cc = after_loss(1000)
    k = (300 / 0.4) ** (1 / 3)
    grow(cc, 0.0, k, 0.1)
    assert cc.cwnd == pytest.approx(1000 * MSS, rel=0.02)
    grow(cc, k, 1.0, 0.1)
    assert cc.cwnd == pytest.approx(1000 * MSS, rel=0.02)


def test_beyond_the_plateau_it_probes_faster_and_faster() -> None:
    cc = after_loss(1000)
    k = (300 / 0.4) ** (1 / 3)
    grow(cc, 0.0, k + 4, 0.1)
    first = cc.cwnd
    grow(cc, k + 4, 2.0, 0.1)
    assert cc.cwnd - first > first - 1000 * MSS


def test_on_a_short_path_it_is_at_least_as_fast_as_reno() -> None:
    cc = after_loss(20)
    grow(cc, 0.0, 0.1, 0.001)
    # Reno's equal with BETA 0.7: alpha of 0.53 segments a round trip, 100 round trips.
    assert cc.cwnd >= (14 + 0.5 * 90) * MSS


def test_growth_is_at_most_half_a_window_a_round_trip() -> None:
    cc = Cubic(MSS, 10)
    cc.ssthresh = cc.cwnd
    cc.on_ack(MSS, 0.0, 0.1)
    before = cc.cwnd
    cc.on_ack(before, 3600.0, 0.1)
    assert cc.cwnd <= 1.5 * before + MSS


def test_a_second_loss_below_the_last_maximum_gives_room_to_others() -> None:
    cc = after_loss(100)
    cc.on_loss(70 * MSS, 1.0)
    assert cc._w_max == pytest.approx(70 * (1 + BETA) / 2)


def test_idle_time_does_not_count_as_growth() -> None:
    cc = after_loss(100)
    cc.on_ack(MSS, 0.0, 0.1)
    cc.on_idle()
    cc.ssthresh = cc.cwnd
    before = cc.cwnd
    cc.on_ack(MSS, 3600.0, 0.1)
    assert cc.cwnd < before + 2 * MSS
