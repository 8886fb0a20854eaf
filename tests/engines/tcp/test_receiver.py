"""Acceptability, text, the window, and when ACKs leave."""

import pytest

from pipeline.engines.tcp.actions import Deliver, Discard
from pipeline.engines.tcp.config import TcpConfig
from pipeline.engines.tcp.receiver import acceptable
from pipeline.wire.tcp import ACK, FIN, PSH
from tests.engines.tcp.builders import NO_OPTIONS, Rig, established, fin_wait_2

BASES = [1000, 0xFFFFFFFF - 50, 0x1_0000_0000 - 1]


@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize(
    "first, length, window, accepted",
    [
        # RFC 9293 table 6, rows by (segment length, window).
        (0, 0, 0, True),
        (1, 0, 0, False),
        (-1, 0, 0, False),
        (0, 0, 100, True),
        (99, 0, 100, True),
        (101, 0, 100, False),
        (-1, 0, 100, False),
        (0, 10, 100, True),
        (99, 10, 100, True),
        (101, 10, 100, False),
        (-10, 10, 100, False),
        (-10, 11, 100, True),
        # Wider than the RFC: both ends outside, and at the right edge.
        (-10, 200, 100, True),
        (100, 0, 100, True),
        (100, 10, 100, True),
        (0, 1, 0, True),
    ],
)
def test_acceptability(base: int, first: int, length: int, window: int, accepted: bool) -> None:
    assert acceptable(base + first, base + first + length, base, base + window) is accepted


def delivered(rig: Rig) -> list[tuple[int, int]]:
    return [(a.skip, a.length) for a in rig.log if isinstance(a, Deliver)]


def warm(cfg: TcpConfig | None = None) -> Rig:
    """Established, and the guest has seen the full window (a SYN cannot show more than 64 KiB)."""
    rig = established(cfg)
    rig.guest(length=1448)
    rig.conn.on_taken(1448, rig.now)
    assert rig.one().wnd << rig.conn.rcv.rcv_wind_shift == rig.conn.rcv.capacity
    return rig


def test_in_order_data_are_delivered_whole() -> None:
    rig = established()
    assert rig.guest(ACK | PSH, 500) is None
    assert delivered(rig) == [(0, 500)]


def test_the_old_front_of_a_range_is_skipped() -> None:
    rig = established()
    rig.guest(length=500)
    start = rig.seq - 200
    rig.guest(length=1000, seq=start)
    assert delivered(rig) == [(0, 500), (200, 800)]


def test_a_range_beyond_the_window_is_cut_at_its_edge() -> None:
    rig = established(TcpConfig(initial_receive_window=1000, max_receive_window=1000))
    rig.guest(length=1500)
    assert delivered(rig) == [(0, 1000)]
    assert rig.one().wnd == 0
    assert rig.guest(length=10, seq=rig.guest_isn + 1 + 1000) == "tcp_segment_dropped_out_of_window"
    assert rig.seen(Discard)


def test_a_duplicate_is_discarded_and_acknowledged_at_once() -> None:
    rig = established()
    rig.guest(length=500)
    rig.send()
    assert rig.guest(length=500, seq=rig.seq - 500) == "tcp_segment_dropped_duplicate"
    assert rig.one().ack == rig.seq


def test_one_byte_segments_are_delivered_one_by_one() -> None:
    rig = established()
    for _ in range(50):
        rig.guest(length=1)
    assert delivered(rig) == [(0, 1)] * 50


def test_out_of_order_data_wait_for_the_hole_and_then_come_in_order() -> None:
    rig = established()
    base = rig.seq
    rig.guest(length=100, seq=base + 200)
    rig.guest(length=100, seq=base + 100)
    assert delivered(rig) == []
    rig.guest(length=100, seq=base)
    assert delivered(rig) == [(0, 100)] * 3
    assert [a.buf for a in rig.log if isinstance(a, Deliver)] == ["in3", "in2", "in1"]


def test_a_fin_before_its_data_waits_for_them() -> None:
    rig = established()
    base = rig.seq
    rig.guest(FIN | ACK, 100, seq=base + 100)
    assert rig.state == "ESTABLISHED"
    rig.guest(length=100, seq=base)
    assert rig.state == "CLOSE-WAIT"
    assert rig.one().ack == (base + 201) & 0xFFFFFFFF


def test_a_fin_is_accepted_at_a_closed_window() -> None:
    rig = established(TcpConfig(initial_receive_window=1000, max_receive_window=1000))
    rig.guest(length=1000)
    rig.guest(FIN | ACK)
    assert rig.state == "CLOSE-WAIT"


def test_data_held_from_behind_the_fin_are_thrown_away() -> None:
    rig = established()
    base = rig.seq
    rig.guest(length=100, seq=base + 500)
    rig.guest(FIN | ACK, 50, seq=base)
    assert rig.state == "CLOSE-WAIT"
    assert not rig.arrived


def test_reassembly_is_bounded_and_says_so() -> None:
    rig = established(TcpConfig(max_reassembly_ranges=2))
    base = rig.seq
    assert rig.guest(length=10, seq=base + 100) is None
    assert rig.guest(length=10, seq=base + 200) is None
    assert rig.guest(length=10, seq=base + 300) == "tcp_segment_dropped_reassembly_full"
    assert rig.guest(length=100, seq=base) is None, "the hole itself always has room"


# --- the window ------------------------------------------------------------------------------


def test_the_window_is_capacity_less_what_the_host_has_not_taken() -> None:
    rig = established(TcpConfig(initial_receive_window=64000, max_receive_window=64000))
    rig.guest(length=14000)
    rig.advance(0.05)
    assert rig.one().wnd == 50000
    rig.conn.on_taken(14000, rig.now)
    assert rig.one().wnd == 64000


def test_the_right_edge_never_moves_left() -> None:
    rig = established(TcpConfig(initial_receive_window=64000, max_receive_window=64000))
    edge = rig.conn.rcv.rcv_adv
    rig.conn.set_receive_capacity(1000, rig.now)
    rig.guest(length=10000)
    rig.advance(0.05)
    out = rig.one()
    assert (out.ack + out.wnd) & 0xFFFFFFFF == edge & 0xFFFFFFFF
    rig.guest(length=54000)
    rig.advance(0.05)
    assert rig.one().wnd == 0
    rig.conn.on_taken(64000, rig.now)
    assert rig.one().wnd == 1000


def test_with_a_scale_the_field_is_rounded_so_that_the_edge_stays() -> None:
    rig = established(TcpConfig(initial_receive_window=100_000, max_receive_window=4 << 20))
    shift = rig.conn.rcv.rcv_wind_shift
    assert shift == 7
    rig.guest(length=100)
    rig.advance(0.05)
    rig.send()
    for _ in range(300):
        edge = rig.conn.rcv.rcv_adv
        rig.guest(length=101)
        rig.advance(0.05)
        out = rig.one()
        shown = rig.conn.rcv_nxt + (out.wnd << shift)
        assert shown > edge - 128, "took back more than rounding explains"
        assert shown >= rig.conn.rcv_nxt + rig.conn.rcv.capacity - rig.conn.rcv_untaken
        assert rig.conn.rcv.rcv_adv >= edge
        assert shown <= edge + 128
    held = rig.conn.rcv_untaken + rig.conn.rcv.rcv_adv - rig.conn.rcv_nxt
    assert held <= rig.conn.rcv.capacity + 128, "rounding may not add up"


def test_a_host_that_stops_taking_closes_the_window_for_good() -> None:
    rig = established(TcpConfig(initial_receive_window=10_000, max_receive_window=4 << 20))
    sent = 0
    while rig.conn.rcv.rcv_adv > rig.conn.rcv_nxt:
        rig.guest(length=1)
        sent += 1
        rig.advance(0.05)
        rig.send()
    assert sent <= 10_000 + (1 << rig.conn.rcv.rcv_wind_shift)


def test_the_window_opens_in_steps_a_sender_can_use() -> None:
    rig = established(TcpConfig(initial_receive_window=20_000, max_receive_window=20_000))
    rig.guest(length=20_000, seg_count=14)
    rig.advance(0.05)
    assert rig.one().wnd == 0
    rig.conn.on_taken(100, rig.now)
    assert rig.silent(), "a silly window"
    rig.conn.on_taken(2 * 1460, rig.now)
    assert rig.one().wnd == 2 * 1460 + 100


def test_a_tiny_capacity_opens_by_halves() -> None:
    rig = established(TcpConfig(initial_receive_window=100, max_receive_window=100))
    rig.guest(length=100)
    rig.advance(0.05)
    assert rig.one().wnd == 0
    rig.conn.on_taken(49, rig.now)
    assert rig.silent()
    rig.conn.on_taken(1, rig.now)
    assert rig.one().wnd == 50


def test_a_zero_capacity_that_is_raised_again_reopens_the_window() -> None:
    rig = established(TcpConfig(initial_receive_window=20_000, max_receive_window=20_000))
    rig.conn.set_receive_capacity(0, rig.now)
    rig.guest(length=20_000)
    rig.conn.on_taken(20_000, rig.now)
    assert rig.one().wnd == 0
    rig.conn.set_receive_capacity(50_000, rig.now)
    assert rig.one().wnd == 20_000


TUNING = TcpConfig(initial_receive_window=20_000, max_receive_window=1_280_000)


def fill_window(rig: Rig, round_trip: float, rate: float = 1e12) -> None:
    """The guest fills the window it is shown, a round trip later or as fast as the path lets it."""
    rig.send()
    window = rig.conn.rcv.rcv_adv - rig.conn.rcv_nxt
    rig.now += max(round_trip, window / rate)
    rig.guest(length=window, seg_count=100)
    rig.conn.on_taken(rig.conn.rcv_untaken, rig.now)


def test_capacity_doubles_when_the_window_was_filled_and_the_host_emptied_it() -> None:
    rig = established(TcpConfig(initial_receive_window=100_000, max_receive_window=400_000))
    for expected in (100_000, 200_000, 400_000, 400_000):
        assert rig.conn.rcv.capacity == expected
        fill_window(rig, 0.0)


def test_capacity_grows_while_the_window_comes_in_about_a_round_trip() -> None:
    rig = established(TUNING)
    for _ in range(8):
        fill_window(rig, 0.02)
    assert rig.conn.rcv.capacity == 1_280_000


def test_capacity_grows_no_more_when_the_window_waits_in_queues() -> None:
    rig = established(TUNING)
    for _ in range(20):
        fill_window(rig, 0.0002, rate=1e8)
    assert TUNING.short_receive_window < rig.conn.rcv.capacity / 1e8 <= 2 * TUNING.short_receive_window


def test_capacity_shrinks_when_the_path_became_slower_but_never_under_the_initial_one() -> None:
    rig = established(TUNING)
    for _ in range(8):
        fill_window(rig, 0.0002)
    assert rig.conn.rcv.capacity == 1_280_000
    for _ in range(20):
        fill_window(rig, 0.0002, rate=1e8)
    assert TUNING.short_receive_window < rig.conn.rcv.capacity / 1e8 <= 2 * TUNING.short_receive_window
    for _ in range(20):
        fill_window(rig, 0.0002, rate=1e7)
    assert rig.conn.rcv.capacity == 20_000


def test_a_pause_of_the_guest_does_not_shrink_the_window() -> None:
    rig = established(TUNING)
    for _ in range(8):
        fill_window(rig, 0.0002)
    for _ in range(3):
        fill_window(rig, 5.0)
    assert rig.conn.rcv.capacity == 1_280_000


def test_capacity_stays_when_the_host_is_what_is_slow() -> None:
    rig = established(TcpConfig(initial_receive_window=100_000, max_receive_window=400_000))
    for _ in range(20):
        rig.send()
        rig.guest(length=rig.conn.rcv.rcv_adv - rig.conn.rcv_nxt or 1, seg_count=50)
        rig.conn.on_taken(20_000, rig.now)
    assert rig.conn.rcv.capacity == 100_000


def test_without_scaling_the_window_stays_under_64_kib() -> None:
    rig = established(TcpConfig(), **NO_OPTIONS)
    assert rig.conn.rcv.capacity == 65535
    rig.guest(length=10_000)
    rig.conn.on_taken(10_000, rig.now)
    assert rig.one().wnd == 65535


# --- when ACKs leave ---------------------------------------------------------------------------


def test_bytes_the_host_has_not_taken_are_acknowledged_by_the_timer() -> None:
    rig = established()
    rig.guest(length=5000, seg_count=4)
    assert rig.silent()
    sent = rig.run(0.1)
    assert [(time, out.ack) for time, out in sent] == [(0.04, rig.seq)]


def test_taking_two_segments_sends_the_ack_at_once() -> None:
    rig = warm()
    rig.conn.rcv.interactive = True
    rig.guest(length=1448)
    rig.conn.on_taken(1448, rig.now)
    rig.guest(length=1448)
    assert rig.silent()
    rig.conn.on_taken(1448, rig.now)
    assert rig.one().ack == rig.seq


def test_a_burst_is_covered_by_one_ack() -> None:
    rig = established()
    for _ in range(20):
        rig.guest(length=1448)
        rig.conn.on_taken(1448, rig.now)
    assert rig.one().ack == rig.seq


def test_a_small_request_is_acknowledged_when_taken_unless_answers_are_expected() -> None:
    rig = established()
    rig.guest(length=10)
    rig.conn.on_taken(10, rig.now)
    assert rig.one().length == 0
    rig.host_data(20)
    rig.send()
    assert rig.conn.rcv.interactive
    rig.acknowledge_all()
    rig.guest(length=10)
    rig.conn.on_taken(10, rig.now)
    assert rig.silent(), "the answer will carry it"
    rig.host_data(20)
    answer = rig.one()
    assert answer.length == 20
    assert answer.ack == rig.seq


def test_the_ack_of_a_first_request_waits_a_moment_for_the_answer() -> None:
    rig = established(cfg=TcpConfig(first_delayed_ack=0.001))
    rig.guest(length=10)
    rig.conn.on_taken(10, rig.now)
    assert rig.silent(), "the answer will carry it"
    assert rig.conn.deadline() == rig.now + 0.001
    rig.host_data(20)
    answer = rig.one()
    assert (answer.length, answer.ack) == (20, rig.seq)
    rig.acknowledge_all()
    # From then on the usual time is right.
    rig.guest(length=10)
    assert rig.conn.deadline() == rig.now + rig.cfg.delayed_ack


def test_the_ack_of_a_first_request_without_an_answer_is_late_once() -> None:
    rig = established(cfg=TcpConfig(first_delayed_ack=0.001))
    rig.guest(length=10)
    rig.conn.on_taken(10, rig.now)
    assert rig.silent()
    assert [(at, sent.ack) for at, sent in rig.run(0.002)] == [(0.001, rig.seq)]
    rig.guest(length=10)
    rig.conn.on_taken(10, rig.now)
    assert rig.one().ack == rig.seq


def test_the_ack_of_a_first_flight_is_not_late() -> None:
    rig = established(cfg=TcpConfig(first_delayed_ack=0.001))
    for _ in range(2):
        rig.guest(length=1448)
        rig.conn.on_taken(1448, rig.now)
    assert rig.one().ack == rig.seq


def test_an_expired_delay_ends_the_expectation() -> None:
    rig = warm()
    rig.conn.rcv.interactive = True
    rig.guest(length=10)
    rig.conn.on_taken(10, rig.now)
    assert len(rig.run(0.1)) == 1
    assert not rig.conn.rcv.interactive


@pytest.mark.parametrize("offset", [500, 5000])
def test_out_of_order_data_are_acknowledged_at_once(offset: int) -> None:
    rig = established()
    expected = rig.seq
    rig.guest(length=100, seq=rig.seq + offset)
    assert rig.one().ack == expected


def test_filling_a_hole_is_acknowledged_at_once() -> None:
    rig = established()
    base = rig.seq
    rig.guest(length=100, seq=base + 100)
    rig.send()
    rig.guest(length=100, seq=base)
    assert rig.one().ack == (base + 200) & 0xFFFFFFFF


def test_without_sack_each_out_of_order_segment_gets_its_duplicate_ack() -> None:
    rig = established(**NO_OPTIONS)
    expected = rig.seq
    for offset in (1000, 2000, 3000, 4000, 5000):
        rig.guest(length=1000, seq=expected + offset)
    sent = rig.send()
    assert [(out.ack, out.wnd) for out in sent] == [(expected, sent[0].wnd)] * 3


def test_after_the_fin_no_window_updates_are_sent() -> None:
    rig = fin_wait_2()
    rig.guest(FIN | ACK, 5000)
    rig.send()
    rig.conn.on_taken(5000, rig.now)
    assert rig.silent()
