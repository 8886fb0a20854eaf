"""RACK and tail-loss probes (RFC 8985)."""

import pytest

from pipeline.engines.tcp import rack
from pipeline.engines.tcp.seq import NO_POSITION
from pipeline.engines.tcp.state import OPEN, RECOVERY
from pipeline.engines.tcp.timers import NEVER, PTO, REORDER, RTO
from pipeline.wire.tcp import ACK, FIN
from tests.engines.tcp.builders import EFF_MSS, MASK, NO_OPTIONS, Rig
from tests.engines.tcp.test_recovery import block, in_flight, sack, segments


def test_one_sacked_segment_waits_for_the_reordering_window() -> None:
    rig = in_flight(10)
    sack(rig, (1, 2))
    assert rig.silent()
    wait = rig.conn.agenda.timers[REORDER] - rig.now
    assert 0 < wait <= rig.conn.rtt.srtt
    sent = rig.run(wait + 0.001)
    assert segments(rig, [out for _, out in sent]) == [(0, 1)]
    assert rig.conn.recovery.phase == RECOVERY


def test_reordering_within_the_window_causes_no_retransmission() -> None:
    rig = in_flight(10)
    sack(rig, (1, 2))
    assert rig.silent()
    sack(rig, (1, 2), ack=2)
    assert rig.conn.rack.reordering_seen
    assert rig.conn.agenda.timers[REORDER] == NEVER or rig.conn.agenda.timers[REORDER] > rig.now
    assert rig.run(0.01) == []


def test_once_reordering_was_seen_three_segments_are_not_enough() -> None:
    rig = in_flight(20)
    rig.conn.rack.reordering_seen = True
    sack(rig, (1, 9))
    assert rig.silent()
    assert rig.run(0.01)


def test_a_dsack_widens_the_window_once_a_round_trip() -> None:
    rig = in_flight(20)
    rig.conn.snd.board.retransmitted_bytes = 10 * EFF_MSS
    sack(rig, (-1, 0))
    sack(rig, (-1, 0))
    assert rig.conn.rack.reo_wnd_mult == 2
    for _ in range(rack.REO_WND_PERSIST):
        rig.conn.rack.on_recovery_exit()
    assert rig.conn.rack.reo_wnd_mult == 1


def test_more_dsacks_than_retransmissions_are_the_links_doing() -> None:
    rig = in_flight(20)
    sack(rig, (-1, 0))
    assert rig.conn.rack.reo_wnd_mult == 1


def test_a_dsack_inside_the_second_block_is_one_too() -> None:
    rig = in_flight(20)
    rig.conn.snd.board.retransmitted_bytes = 10 * EFF_MSS
    sack(rig, (5, 6), (4, 8))
    assert rig.conn.rack.reo_wnd_mult == 2


def test_an_ack_too_early_for_a_retransmission_is_the_originals() -> None:
    rig = in_flight(10)
    original = rig.ts_echo
    rig.now += 0.01
    sack(rig, (1, 5))
    rig.send()
    rig.conn.recovery.undo.cwnd = 0
    before = rig.conn.rack.rack_xmit_ts
    rig.ack = (rig.ack + EFF_MSS) & MASK
    rig.guest(ts_ecr=original, sack=(block(rig, 1, 5),))
    assert rig.conn.rack.rack_xmit_ts == before


def test_without_timestamps_the_shortest_round_trip_decides_that() -> None:
    rig = in_flight(10, has_ts=False)
    sack(rig, (1, 5))
    rig.send()
    before = rig.conn.rack.rack_xmit_ts
    rig.now += rig.conn.rtt.min_rtt / 2
    sack(rig, (1, 5), ack=1)
    assert rig.conn.rack.rack_xmit_ts == before


# --- tail-loss probes ---------------------------------------------------------------------------------


def probe(rig: Rig) -> list[tuple[int, int]]:
    """Run to the probe timer; what was sent."""
    wait = rig.conn.agenda.timers[PTO] - rig.now
    assert 0 < wait < rig.conn.agenda.timers[RTO] - rig.now
    return segments(rig, [out for _, out in rig.run(wait + 1e-6)])


def test_silence_sends_the_last_segment_again_before_the_time_out() -> None:
    rig = in_flight(10)
    assert probe(rig) == [(9, 1)]
    assert rig.conn.recovery.timeouts == 0
    assert rig.conn.agenda.timers[RTO] > rig.now
    assert rig.conn.recovery.phase == OPEN


def test_a_probe_takes_two_segments_of_new_data_if_there_are_any() -> None:
    rig = in_flight(10)
    rig.conn.cc.cwnd = 10 * EFF_MSS
    rig.host_data(3 * EFF_MSS)
    assert rig.silent(), "cwnd is full"
    assert probe(rig) == [(10, 2)]


def test_a_probe_with_a_fin_sends_the_fin_again() -> None:
    rig = in_flight(3)
    rig.host_data(EFF_MSS)
    rig.conn.on_host_eof(rig.now)
    rig.send()
    wait = rig.conn.agenda.timers[PTO] - rig.now
    (sent,) = [out for _, out in rig.run(wait + 1e-6)]
    assert sent.flags & (ACK | FIN) == ACK | FIN
    assert rig.rel(sent.seq) == 1 + 3 * EFF_MSS
    assert sent.length == EFF_MSS


def test_the_sack_of_a_probe_reveals_the_lost_tail() -> None:
    rig = in_flight(10)
    probe(rig)
    rig.now += 0.01
    sack(rig, (9, 10), ack=5)
    rig.run(0.02)
    assert rig.conn.recovery.phase == RECOVERY
    assert rig.conn.recovery.timeouts == 0
    first, count = segments(rig, rig.wire)[-1]
    assert first == 5
    assert count >= 2


def test_a_probe_that_repaired_the_only_loss_counts_as_congestion() -> None:
    rig = in_flight(10)
    probe(rig)
    cwnd = rig.conn.cc.cwnd
    rig.host_data(EFF_MSS)
    rig.send()
    rig.acknowledge_all()
    assert rig.conn.cc.cwnd < cwnd
    assert rig.conn.rack.tlp_end_seq == NO_POSITION


def test_a_needless_probe_does_not() -> None:
    rig = in_flight(10)
    probe(rig)
    cwnd = rig.conn.cc.cwnd
    rig.acknowledge_all(sack=(block(rig, 9, 10),))
    assert rig.conn.cc.cwnd >= cwnd
    assert rig.conn.rack.tlp_end_seq == NO_POSITION
    assert not rig.conn.recovery.loss_suspected


def test_a_lost_retransmission_with_nothing_behind_it_is_repeated_without_a_time_out() -> None:
    rig = in_flight(10)
    sack(rig, (1, 10))
    assert segments(rig, rig.send()) == [(0, 1)]
    # It is lost, and nothing is left to send whose SACK would report that.
    (again,) = rig.run(0.1)
    assert segments(rig, [again[1]]) == [(0, 1)]
    assert again[0] < 0.05
    assert rig.conn.recovery.timeouts == 0
    assert rig.conn.recovery.phase == RECOVERY
    rig.acknowledge_all()
    assert not rig.given
    assert not rig.conn.recovery.loss_suspected


def test_in_recovery_there_is_one_probe_until_something_new_arrives() -> None:
    rig = in_flight(10)
    sack(rig, (1, 5))
    rig.send()
    sent = rig.run(0.15)
    assert segments(rig, [out for _, out in sent]).count((0, 1)) == 1
    assert rig.conn.recovery.timeouts == 0
    rig.run(0.3)
    assert rig.conn.recovery.timeouts == 1


@pytest.mark.parametrize("case", ["one segment", "no sack", "after a time-out"])
def test_no_probe_where_it_cannot_help(case: str) -> None:
    if case == "one segment":
        rig = in_flight(1)
    elif case == "no sack":
        rig = in_flight(10, **NO_OPTIONS)
    else:
        rig = in_flight(10)
        rig.run(0.3)
        assert rig.conn.recovery.timeouts == 1
    assert rig.conn.agenda.timers[PTO] == NEVER


def test_only_one_probe_until_it_is_answered() -> None:
    rig = in_flight(10)
    probe(rig)
    assert rig.conn.agenda.timers[PTO] == NEVER
    sent = rig.run(0.3)
    assert rig.conn.recovery.timeouts == 1
    assert segments(rig, [out for _, out in sent]) == [(0, 1)]
