"""Loss recovery: fast retransmit with SACK and without, time-out, undo (RFC 5681, 6582, 6675, 4015)."""

import pytest

from pipeline.engines.tcp.actions import HostReset, Outgoing
from pipeline.engines.tcp.config import TcpConfig
from pipeline.engines.tcp.state import LOSS, OPEN, RECOVERY
from tests.engines.tcp.builders import EFF_MSS, MASK, MSS, NO_OPTIONS, Rig, established


def in_flight(segments: int, cfg: TcpConfig | None = None, **fields: object) -> Rig:
    """Full segments 0..segments-1 sent in one call; the round trip was 10 ms so far."""
    rig = established(cfg, **fields)
    rig.conn.rtt.srtt = 0.0
    rig.conn.rtt.sample(0.01, rig.now)
    rig.conn.cc.cwnd = 100 * rig.conn.snd_mss
    for first in range(0, segments, 40):
        rig.host_data(min(40, segments - first) * rig.conn.snd_mss)
    assert sum(out.length for out in rig.send()) == segments * rig.conn.snd_mss
    rig.now += 0.01
    return rig


def block(rig: Rig, first: int, last: int) -> tuple[int, int]:
    """SACK block over segments first..last-1."""
    size, base = rig.conn.snd_mss, rig.iss + 1
    return ((base + first * size) & MASK, (base + last * size) & MASK)


def sack(rig: Rig, *blocks: tuple[int, int], ack: int = 0) -> None:
    """A duplicate ACK for the first ack segments with these blocks of segments."""
    rig.ack = (rig.iss + 1 + ack * rig.conn.snd_mss) & MASK
    rig.guest(sack=tuple(block(rig, *b) for b in blocks))


def segments(rig: Rig, sent: list[Outgoing]) -> list[tuple[int, int]]:
    """(first segment, number of segments) of each range."""
    size = rig.conn.snd_mss
    return [((rig.rel(out.seq) - 1) // size, -(-out.length // size)) for out in sent]


# --- with SACK ----------------------------------------------------------------------------------


def test_three_sacked_segments_cause_a_fast_retransmit_of_the_hole_only() -> None:
    rig = in_flight(10)
    sack(rig, (1, 4))
    assert segments(rig, rig.send()) == [(0, 1)]
    assert rig.conn.recovery.phase == RECOVERY
    assert rig.conn.cc.cwnd == rig.conn.cc.ssthresh < 100 * EFF_MSS


def test_several_holes_are_retransmitted_in_order_and_nothing_else() -> None:
    rig = in_flight(20)
    sack(rig, (15, 16), (9, 12), (3, 5))
    assert segments(rig, rig.send()) == [(0, 3), (5, 4), (12, 3)]
    sack(rig, (15, 16), (9, 12), (3, 5))
    assert rig.silent(), "no hole is sent twice in a round trip"
    rig.now += 0.01
    sack(rig, (15, 16), (9, 12), (0, 5))
    assert segments(rig, rig.send()) == [(16, 4)], "a later copy came through: these did not"


def test_a_hole_inside_a_handle_keeps_the_handles_offset() -> None:
    rig = in_flight(10)
    sack(rig, (5, 9))
    sack(rig, (5, 9), ack=2)
    for out in rig.send():
        assert out.off == 256 + rig.rel(out.seq) - 1


def test_recovery_ends_when_all_that_was_outstanding_is_acknowledged() -> None:
    rig = in_flight(10)
    sack(rig, (1, 10))
    rig.send()
    rig.acknowledge_all()
    assert rig.conn.recovery.phase == OPEN
    assert not rig.conn.recovery.loss_suspected
    assert rig.conn.cc.cwnd == rig.conn.cc.ssthresh
    assert not rig.given


def test_the_window_is_reduced_once_for_many_losses_of_one_flight() -> None:
    rig = in_flight(30)
    sack(rig, (1, 6))
    reduced = rig.conn.cc.ssthresh
    rig.send()
    rig.now += 0.005
    sack(rig, (10, 30), (1, 6))
    rig.send()
    assert rig.conn.cc.ssthresh == reduced


def test_new_data_are_sent_while_sacked_bytes_make_room() -> None:
    rig = in_flight(100)
    rig.host_data(65536)
    sack(rig, (1, 90))
    sent = rig.send()
    assert segments(rig, sent[:1]) == [(0, 1)]
    assert sum(out.length for out in sent[1:]) > 10 * EFF_MSS
    assert rig.conn.recovery.pipe() <= rig.conn.cc.cwnd


def test_a_lost_retransmission_is_found_without_a_time_out() -> None:
    rig = in_flight(10)
    rig.host_data(50 * EFF_MSS)
    sack(rig, (1, 4))
    assert segments(rig, rig.send())[0] == (0, 1)
    rig.now += 0.005
    sack(rig, (1, 10))
    assert segments(rig, rig.send()) == [(10, 6)], "new data, behind the retransmission"
    rig.now += 0.01
    sack(rig, (1, 16))
    assert (0, 1) in segments(rig, rig.send())
    assert rig.conn.recovery.timeouts == 0


@pytest.mark.parametrize(
    "left, right",
    [(5, 5), (9, 4), (20, 30), (-9, -4), (1 << 20, 1 << 21)],
    ids=["empty", "reversed", "never sent", "acknowledged", "far"],
)
def test_senseless_blocks_change_nothing(left: int, right: int) -> None:
    rig = in_flight(10)
    before = [(r.start, r.end) for r in rig.conn.snd.board.ranges]
    sack(rig, (left, right))
    assert [(r.start, r.end) for r in rig.conn.snd.board.ranges] == before
    assert rig.conn.snd.board.sacked_bytes == 0
    assert rig.silent()


def test_a_block_over_the_acknowledged_front_counts_only_behind_it() -> None:
    rig = in_flight(10)
    sack(rig, (0, 5), ack=3)
    assert rig.conn.snd.board.sacked_bytes == 2 * EFF_MSS


# --- without SACK (NewReno) -----------------------------------------------------------------------


def duplicate(rig: Rig, times: int = 1) -> None:
    for _ in range(times):
        rig.guest()


def test_the_third_duplicate_ack_retransmits_one_segment() -> None:
    rig = in_flight(10, **NO_OPTIONS, mss=MSS)
    duplicate(rig, 2)
    assert rig.silent()
    duplicate(rig)
    assert segments(rig, rig.send()) == [(0, 1)]
    assert rig.conn.recovery.phase == RECOVERY


def test_a_partial_ack_retransmits_the_next_segment() -> None:
    rig = in_flight(10, **NO_OPTIONS, mss=MSS)
    duplicate(rig, 3)
    rig.send()
    rig.ack = (rig.ack + 4 * MSS) & MASK
    rig.guest()
    assert segments(rig, rig.send()) == [(4, 1)]
    rig.acknowledge_all()
    assert rig.conn.recovery.phase == OPEN


def test_duplicates_inflate_so_that_new_data_leave() -> None:
    rig = in_flight(20, **NO_OPTIONS, mss=MSS)
    rig.conn.cc.cwnd = 20 * MSS
    rig.host_data(20 * MSS)
    assert rig.silent()
    duplicate(rig, 3)
    rig.send()
    before = rig.conn.snd_nxt
    duplicate(rig, 15)
    rig.send()
    assert rig.conn.snd_nxt > before


@pytest.mark.parametrize("change", ["window", "data", "idle"])
def test_what_is_not_a_duplicate_ack_does_not_count(change: str) -> None:
    rig = in_flight(10, **NO_OPTIONS, mss=MSS)
    if change == "idle":
        rig.acknowledge_all()
    for i in range(6):
        if change == "window":
            rig.guest(wnd=60000 - i)
        elif change == "data":
            rig.guest(length=1)
        else:
            rig.guest()
    assert rig.conn.recovery.dup_acks == 0
    assert rig.conn.recovery.phase == OPEN


def test_duplicates_after_a_time_out_do_not_start_recovery_again() -> None:
    rig = in_flight(10, **NO_OPTIONS, mss=MSS)
    rig.run(0.25)
    assert rig.conn.recovery.phase == LOSS
    duplicate(rig, 5)
    assert rig.conn.recovery.phase == LOSS
    assert rig.conn.recovery.dup_acks == 0


# --- time-out --------------------------------------------------------------------------------------


def test_a_time_out_sends_one_segment_and_then_slow_starts() -> None:
    rig = in_flight(10, TcpConfig(sack=False))
    sent = rig.run(0.25)
    assert segments(rig, [out for _, out in sent]) == [(0, 1)]
    assert rig.conn.recovery.phase == LOSS
    assert rig.conn.cc.cwnd == EFF_MSS
    rig.ack = (rig.ack + EFF_MSS) & MASK
    rig.conn.recovery.cwnd_limited = True
    rig.guest()
    assert segments(rig, rig.send()) == [(1, 2)]


def test_time_outs_back_off_exponentially_and_give_up_after_the_limit() -> None:
    rig = established(TcpConfig(retries=4))
    rig.host_data(100)
    rto = rig.conn.rtt.rto
    sent = rig.run(rto * 15 + 0.001)
    assert [time for time, _ in sent] == pytest.approx([0, rto, 3 * rto, 7 * rto, 15 * rto])
    rig.run(rto * 40)
    assert rig.seen(HostReset)
    assert rig.gone()


def test_the_default_limit_is_fifteen_back_offs() -> None:
    rig = established()
    rig.host_data(100)
    sent = rig.run(4000)
    assert sum(out.length > 0 for _, out in sent) == 16
    assert 800 < sent[-1][0] < 1000, "Linux gives up after about 924 s"


def test_progress_resets_the_count() -> None:
    rig = established(TcpConfig(retries=2))
    rig.conn.cc.cwnd = 20 * EFF_MSS
    rig.host_data(10 * EFF_MSS)
    rig.send()
    for _ in range(8):
        rig.run(rig.conn.rtt.rto + 0.01)
        rig.ack = (rig.ack + EFF_MSS) & MASK
        rig.guest()
    assert rig.state == "ESTABLISHED"


def test_sacked_ranges_are_not_sent_again_after_a_time_out() -> None:
    rig = in_flight(10)
    sack(rig, (9, 10))
    rig.run(0.3)
    assert rig.conn.recovery.phase == LOSS
    for n in range(1, 9):
        sack(rig, (9, 10), ack=n)
        for first, count in segments(rig, rig.send()):
            assert first + count <= 9


def test_a_peer_that_reneged_gets_everything_again() -> None:
    rig = in_flight(4)
    sack(rig, (1, 4))
    rig.send()
    rig.ack = (rig.ack + EFF_MSS) & MASK
    rig.guest()
    assert rig.conn.snd.board.ranges[0].sacked, "the peer acknowledges less than it has SACKed"
    rig.run(0.5)
    assert rig.conn.snd.board.sacked_bytes == 0
    rig.acknowledge_all()
    assert not rig.given


# --- undo --------------------------------------------------------------------------------------------


def test_an_ack_of_the_original_undoes_a_time_out() -> None:
    rig = in_flight(10)
    cwnd, original = rig.conn.cc.cwnd, rig.ts_echo
    rig.run(0.25)
    assert rig.conn.recovery.phase == LOSS
    rig.ack = (rig.ack + 2 * EFF_MSS) & MASK
    rig.guest(ts_ecr=original)
    assert rig.conn.recovery.phase == OPEN
    assert rig.conn.cc.cwnd >= cwnd
    assert rig.conn.snd.board.lost_bytes == 0
    assert rig.conn.rtt.backoffs == 0
    assert rig.silent(), "nothing else is sent again"


def test_an_ack_of_the_retransmission_does_not() -> None:
    rig = in_flight(10)
    rig.run(0.25)
    rig.ack = (rig.ack + EFF_MSS) & MASK
    rig.guest()
    assert rig.conn.recovery.phase == LOSS


def test_an_ack_of_the_original_undoes_a_fast_retransmit() -> None:
    rig = in_flight(10)
    cwnd, original = rig.conn.cc.cwnd, rig.ts_echo
    rig.now += 0.01
    sack(rig, (1, 5))
    rig.send()
    rig.ack = (rig.ack + 7 * EFF_MSS) & MASK
    rig.guest(ts_ecr=original)
    assert rig.conn.recovery.phase == OPEN
    assert rig.conn.cc.cwnd >= cwnd
