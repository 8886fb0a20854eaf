"""RFC 5681 congestion avoidance."""

from pipeline.engines.tcp.newreno import NewReno

MSS = 1000


def test_avoidance_adds_one_segment_a_window() -> None:
    cc = NewReno(MSS, 10)
    cc.ssthresh = cc.cwnd
    for _ in range(9):
        cc.on_ack(MSS, 0.0, 0.1)
    assert cc.cwnd == 10 * MSS
    cc.on_ack(MSS, 0.0, 0.1)
    assert cc.cwnd == 11 * MSS


def test_a_huge_ack_adds_one_segment_only() -> None:
    cc = NewReno(MSS, 10)
    cc.ssthresh = cc.cwnd
    cc.on_ack(500 * MSS, 0.0, 0.1)
    cc.on_ack(1, 0.0, 0.1)
    assert cc.cwnd == 11 * MSS


def test_loss_halves_what_was_in_flight() -> None:
    cc = NewReno(MSS, 10)
    cc.cwnd = 50 * MSS
    cc.on_loss(40 * MSS, 0.0)
    assert cc.cwnd == cc.ssthresh == 20 * MSS
