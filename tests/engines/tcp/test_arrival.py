"""SEGMENT ARRIVES, step by step (RFC 9293 section 3.10.7.4)."""

import pytest

from pipeline.wire.tcp import ACK, FIN, PSH, RST, SYN, URG
from tests.engines.tcp.builders import (
    BUILDERS,
    EFF_MSS,
    MASK,
    SYNCHRONIZED,
    close_wait,
    closing,
    established,
    fin_wait_1,
    last_ack,
)


@pytest.mark.parametrize("start", SYNCHRONIZED)
def test_first_an_unacceptable_segment_is_answered_with_an_ack(start: str) -> None:
    rig = BUILDERS[start]()
    reason = rig.guest(length=10, seq=rig.seq - 5000)
    assert reason == "tcp_segment_dropped_duplicate"
    out = rig.one()
    assert (out.flags, out.ack, out.seq) == (ACK, rig.seq, rig.conn.snd_nxt & MASK)


@pytest.mark.parametrize("start", SYNCHRONIZED)
def test_beyond_the_window_too(start: str) -> None:
    rig = BUILDERS[start]()
    assert rig.guest(length=10, seq=rig.seq + (1 << 30)) == "tcp_segment_dropped_out_of_window"
    assert rig.one().flags == ACK


@pytest.mark.parametrize("start", SYNCHRONIZED)
def test_fifth_a_segment_without_ack_is_dropped(start: str) -> None:
    rig = BUILDERS[start]()
    assert rig.guest(PSH, 10) == "tcp_segment_dropped_no_ack"
    assert rig.silent()
    assert rig.delivered == 0


@pytest.mark.parametrize("start", SYNCHRONIZED)
def test_an_ack_of_unsent_data_is_answered_and_its_data_dropped(start: str) -> None:
    rig = BUILDERS[start]()
    assert rig.guest(length=10, ack=rig.conn.snd_nxt + 1) == "tcp_segment_dropped_bad_ack"
    assert rig.one().flags == ACK
    assert rig.delivered == 0


def test_an_old_ack_is_ignored_but_its_data_are_taken() -> None:
    rig = established()
    rig.conn.cc.cwnd = 100_000
    rig.host_data(20_000)
    rig.send()
    old = rig.ack
    rig.acknowledge_all()
    una = rig.conn.snd_una
    assert rig.guest(length=10, ack=old) is None
    assert rig.conn.snd_una == una
    assert rig.delivered == 10


def test_urgent_data_are_data() -> None:
    rig = established()
    assert rig.guest(ACK | URG, 10) is None
    assert rig.delivered == 10


@pytest.mark.parametrize("flags", [ACK | PSH, ACK | 0x40, ACK | 0x80, ACK | PSH | URG | 0xC0])
def test_other_flags_change_nothing(flags: int) -> None:
    rig = established()
    assert rig.guest(flags, 10) is None
    assert rig.delivered == 10


@pytest.mark.parametrize("start", ["close_wait", "closing", "last_ack", "time_wait"])
def test_data_behind_the_fin_are_dropped(start: str) -> None:
    rig = BUILDERS[start]()
    assert rig.guest(length=10) == "tcp_segment_dropped_after_fin"
    assert rig.one().flags == ACK
    assert rig.delivered == 0


@pytest.mark.parametrize("make", [close_wait, closing, last_ack])
def test_a_repeated_fin_keeps_the_state(make: object) -> None:
    rig = make()  # type: ignore[operator]
    before = rig.state
    rig.guest(FIN | ACK, seq=rig.seq - 1)
    assert rig.state == before
    assert rig.one().flags == ACK


# --- the send window -------------------------------------------------------------------------


def test_the_window_follows_newer_segments_only() -> None:
    rig = established()
    rig.guest(length=10)
    rig.guest(length=10, wnd=100)
    assert rig.conn.snd_wnd == 100 << 7
    rig.guest(seq=rig.seq - 20, length=21, wnd=7)
    assert rig.conn.snd_wnd == 100 << 7, "SND.WL1 is after it"
    rig.guest(seq=rig.seq + 1, wnd=8)
    assert rig.conn.snd_wnd == 8 << 7


def test_an_ack_that_moves_una_carries_a_valid_window_even_when_its_data_are_old() -> None:
    rig = established()
    rig.guest(length=10)
    rig.host_data(10)
    rig.send()
    rig.ack = rig.conn.snd_nxt & MASK
    rig.guest(seq=rig.seq - 10, length=11, wnd=5)
    assert rig.conn.snd_wnd == 5 << 7


def test_an_opening_window_sends_what_waited() -> None:
    rig = established()
    rig.guest(wnd=0)
    rig.host_data(100)
    assert rig.silent()
    rig.guest(wnd=1)
    assert rig.one().length == 100


# --- odd but legal ---------------------------------------------------------------------------


def test_a_keep_alive_probe_of_the_guest_is_answered() -> None:
    rig = established()
    rig.guest(seq=rig.seq - 1)
    assert rig.one().flags == ACK
    rig.now += 75
    rig.guest(length=1, seq=rig.seq - 1)
    assert rig.one().flags == ACK
    assert rig.delivered == 0


def test_a_window_probe_of_the_guest_is_answered_and_its_ack_counts() -> None:
    rig = established()
    rig.host_data(100)
    rig.send()
    rig.conn.set_receive_capacity(0, rig.now)
    rig.guest(length=rig.conn.rcv.rcv_adv - rig.conn.rcv_nxt)
    rig.send()
    rig.ack = rig.conn.snd_nxt & MASK
    assert rig.guest(length=1, seq=rig.conn.rcv_nxt & MASK) == "tcp_segment_dropped_out_of_window"
    assert rig.one().wnd == 0
    assert not rig.given, "the ACK field was used"


def test_segments_that_overlap_in_every_way_deliver_each_byte_once() -> None:
    rig = established()
    base = rig.seq
    for first, last in [(0, 10), (5, 15), (30, 40), (20, 45), (12, 22), (0, 60), (59, 61)]:
        rig.guest(length=last - first, seq=base + first)
    assert rig.delivered == 61
    assert not rig.arrived


def test_an_in_order_range_of_many_segments_is_one_delivery() -> None:
    rig = established()
    assert rig.guest(ACK | PSH, 44 * EFF_MSS, seg_count=44) is None
    assert rig.delivered == 44 * EFF_MSS
    assert rig.conn.rcv.rcv_mss == EFF_MSS


def test_rst_and_syn_together_are_a_reset() -> None:
    rig = established()
    rig.guest(RST | SYN)
    assert rig.gone()


def test_fin_wait_1_goes_on_retransmitting_data_and_fin() -> None:
    rig = fin_wait_1()
    rig.guest(length=10)
    assert rig.delivered == 10
    assert any(out.flags & FIN for _, out in rig.run(0.3))
