"""What all algorithms share: slow start, time-out, idle restart (RFC 5681, 6928)."""

import pytest

from pipeline.engines.tcp.congestion import Congestion
from pipeline.engines.tcp.cubic import Cubic
from pipeline.engines.tcp.newreno import NewReno
from tests.engines.tcp.builders import EFF_MSS, established

MSS = 1000
ALGORITHMS = [Cubic, NewReno]


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_the_initial_window_is_ten_segments(algorithm: type[Congestion]) -> None:
    assert algorithm(MSS, 10).cwnd == 10 * MSS


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_slow_start_grows_by_what_is_acknowledged_up_to_ssthresh(algorithm: type[Congestion]) -> None:
    cc = algorithm(MSS, 10)
    cc.on_ack(10 * MSS, 0.0, 0.1)
    assert cc.cwnd == 20 * MSS
    cc.ssthresh = 22 * MSS
    cc.on_ack(MSS, 0.0, 0.1)
    assert cc.cwnd == 21 * MSS
    cc.on_ack(5 * MSS, 0.0, 0.1)
    assert 22 * MSS <= cc.cwnd <= 23 * MSS


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_time_out_leaves_one_segment_and_sets_ssthresh_once(algorithm: type[Congestion]) -> None:
    cc = algorithm(MSS, 10)
    cc.cwnd = 100 * MSS
    cc.on_rto(100 * MSS, 0.0, first=True)
    assert cc.cwnd == MSS
    first = cc.ssthresh
    assert 50 * MSS <= first <= 70 * MSS
    cc.on_rto(100 * MSS, 1.0, first=False)
    assert (cc.cwnd, cc.ssthresh) == (MSS, first)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_ssthresh_is_never_under_two_segments(algorithm: type[Congestion]) -> None:
    cc = algorithm(MSS, 10)
    cc.cwnd = MSS
    cc.on_loss(MSS, 0.0)
    assert cc.ssthresh == cc.cwnd == 2 * MSS


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_undo_gives_back_what_a_mistaken_reduction_took(algorithm: type[Congestion]) -> None:
    cc = algorithm(MSS, 10)
    cc.cwnd = 80 * MSS
    before = cc.cwnd, cc.ssthresh
    cc.on_loss(80 * MSS, 0.0)
    assert cc.cwnd < 80 * MSS
    cc.undo(*before)
    assert (cc.cwnd, cc.ssthresh) == before


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_idle_restarts_from_the_initial_window(algorithm: type[Congestion]) -> None:
    cc = algorithm(MSS, 10)
    cc.cwnd = 80 * MSS
    cc.on_idle()
    assert cc.cwnd == 10 * MSS
    cc.cwnd = 3 * MSS
    cc.on_idle()
    assert cc.cwnd == 3 * MSS


def test_a_connection_restarts_its_window_after_an_idle_rto() -> None:
    rig = established()
    rig.conn.cc.cwnd = 100 * EFF_MSS
    rig.host_data(1000)
    rig.send()
    rig.acknowledge_all()
    rig.now += 5
    rig.conn.snd.snd_wnd = 1 << 20
    rig.host_data(65536)
    assert sum(out.length for out in rig.send()) == 10 * EFF_MSS


def test_cwnd_does_not_grow_while_the_application_is_the_limit() -> None:
    rig = established()
    for _ in range(50):
        rig.host_data(100)
        rig.send()
        rig.acknowledge_all()
    assert rig.conn.cc.cwnd == 10 * EFF_MSS


def test_cwnd_grows_while_it_is_the_limit() -> None:
    rig = established()
    for _ in range(3):
        rig.host_data(65536)
        rig.host_data(65536)
        rig.send()
        rig.acknowledge_all()
    assert rig.conn.cc.cwnd >= 40 * EFF_MSS


def test_the_algorithm_is_chosen_by_the_configuration() -> None:
    from_default = established().conn.cc
    assert isinstance(from_default, Cubic)


def test_a_base_without_avoidance_is_no_algorithm() -> None:
    cc = Congestion(MSS, 1)
    with pytest.raises(NotImplementedError):
        cc.avoid(1, 0.0, 0.1)
    with pytest.raises(NotImplementedError):
        cc.reduced(1)
