"""Opening in both directions, and what the options agree on."""

import pytest

from pipeline.engines.tcp.actions import Connect, Discard, Established, Gone, HostReset
from pipeline.engines.tcp.config import TcpConfig
from pipeline.engines.tcp.connection import opens
from pipeline.wire.tcp import ACK, CWR, ECE, FIN, RST, SYN
from tests.engines.tcp.builders import (
    EFF_MSS,
    MASK,
    MSS,
    NO_OPTIONS,
    connecting,
    established,
    opened,
    syn_fields,
    syn_received,
    syn_sent,
)


@pytest.mark.parametrize(
    "flags, expected",
    [
        (SYN, True),
        (SYN | ECE | CWR, True),
        (SYN | ACK, False),
        (SYN | RST, False),
        (SYN | FIN, False),
        (ACK, False),
    ],
)
def test_only_a_syn_alone_opens(flags: int, expected: bool) -> None:
    assert opens(flags) is expected


# --- opened by the guest ---------------------------------------------------------------------


def test_the_syn_is_answered_only_when_the_host_is_connected() -> None:
    rig = connecting()
    assert rig.seen(Connect)
    assert rig.run(10) == []
    rig.conn.on_connected(rig.now)
    out = rig.one()
    assert out.flags == SYN | ACK
    assert out.ack == (rig.guest_isn + 1) & MASK


def test_the_syn_ack_offers_what_the_guest_offered() -> None:
    rig = connecting()
    rig.conn.on_connected(rig.now)
    out = rig.one()
    assert (out.mss, out.syn_wscale, out.syn_sack, out.has_ts) == (MSS, rig.cfg.window_shift, True, True)
    assert out.ts_ecr == rig.guest_clock()
    assert out.wnd == 65535, "never scaled"


def test_the_syn_ack_offers_nothing_more() -> None:
    rig = connecting(**NO_OPTIONS)
    rig.conn.on_connected(rig.now)
    out = rig.one()
    assert (out.syn_wscale, out.syn_sack, out.has_ts) == (-1, False, False)
    assert out.mss == MSS


@pytest.mark.parametrize("option", ["window_scaling", "timestamps", "sack"])
def test_a_configured_off_option_is_not_agreed_on(option: str) -> None:
    rig = connecting(TcpConfig(**{option: False}))
    rig.conn.on_connected(rig.now)
    out = rig.one()
    assert (out.syn_wscale >= 0) == (option != "window_scaling")
    assert out.has_ts == (option != "timestamps")
    assert out.syn_sack == (option != "sack")


@pytest.mark.parametrize(
    "option, mtu, timestamps, effective",
    [
        (1460, 1500, True, 1448),
        (1460, 1500, False, 1460),
        (0, 1500, False, 536),
        (9000, 1500, False, 1460),
        (1, 1500, False, 88),
        (65495, 65520, True, 65468),
    ],
)
def test_the_effective_mss(option: int, mtu: int, timestamps: bool, effective: int) -> None:
    rig = established(TcpConfig(mtu=mtu), mss=option, has_ts=timestamps)
    assert rig.conn.snd_mss == effective


def test_a_window_scale_beyond_14_is_14() -> None:
    assert established(wscale=15).conn.snd.snd_wind_shift == 14


def test_data_in_the_syn_are_given_back_and_not_acknowledged() -> None:
    rig = connecting(length=100)
    assert rig.seen(Discard)
    rig.conn.on_connected(rig.now)
    assert rig.one().ack == (rig.guest_isn + 1) & MASK


def test_a_repeated_syn_before_the_host_is_connected_is_ignored() -> None:
    rig = connecting()
    assert rig.guest(SYN, seq=rig.guest_isn, ack=0, **syn_fields()) == "tcp_segment_dropped_duplicate"
    assert rig.silent()


def test_a_repeated_syn_later_gets_the_syn_ack_again() -> None:
    rig = syn_received()
    rig.guest(SYN, seq=rig.guest_isn, ack=0, **syn_fields())
    assert rig.one().flags == SYN | ACK


def test_the_syn_ack_is_repeated_with_back_off_and_given_up() -> None:
    rig = syn_received()
    sent = rig.run(200)
    assert [time for time, _ in sent] == [1, 3, 7, 15, 31]
    assert all(out.flags == SYN | ACK for _, out in sent)
    assert rig.seen(HostReset) == [HostReset()]
    assert rig.gone()


def test_the_guests_ack_establishes() -> None:
    rig = syn_received()
    rig.guest()
    assert rig.state == "ESTABLISHED"
    assert rig.seen(Established) == [Established(False)]


def test_data_may_ride_on_the_ack_that_establishes() -> None:
    rig = syn_received()
    rig.guest(length=100)
    assert rig.state == "ESTABLISHED"
    assert rig.delivered == 100


def test_fin_may_ride_on_it_too() -> None:
    rig = syn_received()
    rig.guest(FIN | ACK)
    assert rig.state == "CLOSE-WAIT"


@pytest.mark.parametrize("wrong", [-1, 1, 1 << 30])
def test_an_ack_of_something_else_is_reset_and_the_state_stays(wrong: int) -> None:
    rig = syn_received()
    assert rig.guest(ack=rig.ack + wrong) == "tcp_segment_dropped_bad_ack"
    out = rig.one()
    assert (out.flags, out.seq) == (RST, (rig.ack + wrong) & MASK)
    assert rig.state == "SYN-RECEIVED"


def test_a_refused_host_connection_resets_the_guest() -> None:
    rig = connecting()
    rig.conn.on_connect_failed(rig.now)
    out = rig.one()
    assert (out.flags, out.seq, out.ack) == (RST | ACK, 0, (rig.guest_isn + 1) & MASK)
    assert rig.gone()
    assert not rig.seen(HostReset)


def test_an_unreachable_one_can_be_left_to_icmp() -> None:
    rig = connecting()
    rig.conn.on_connect_failed(rig.now, reset=False)
    assert rig.silent()
    assert rig.seen(Gone)


def test_a_result_after_the_end_changes_nothing() -> None:
    rig = connecting()
    rig.conn.on_connect_failed(rig.now)
    rig.send()
    rig.conn.on_connected(rig.now)
    rig.conn.on_connect_failed(rig.now)
    assert rig.silent()
    assert rig.gone()


def test_a_host_connection_that_never_answers_is_given_up() -> None:
    rig = connecting()
    rig.run(200)
    assert rig.seen(HostReset) == [HostReset()]
    assert rig.gone()


def test_a_reset_from_the_guest_while_the_host_connects() -> None:
    rig = connecting()
    rig.guest(RST, ack=0)
    assert rig.seen(HostReset)
    assert rig.gone()


def test_data_before_our_syn_ack_are_dropped() -> None:
    rig = connecting()
    assert rig.guest(length=100, ack=12345) == "tcp_segment_dropped_bad_ack"
    assert rig.one().flags == RST, "as for any ACK of something never sent"
    assert rig.guest(length=100, seq=rig.seq + 500, ack=0) == "tcp_segment_dropped_out_of_window"
    assert rig.silent()
    assert rig.delivered == 0
    assert not rig.arrived
    assert rig.state == "SYN-RECEIVED"


def test_a_host_that_greets_and_closes_before_the_guest_acknowledges() -> None:
    rig = syn_received()
    rig.host_data(50)
    rig.conn.on_host_eof(rig.now)
    assert rig.silent()
    rig.guest()
    assert rig.state == "FIN-WAIT-1"
    assert rig.one().flags & FIN


def test_after_a_lost_syn_ack_the_timestamps_still_give_a_round_trip() -> None:
    rig = syn_received()
    rig.run(1.5)
    rig.now += 0.02
    rig.guest()
    assert rig.conn.rtt.srtt == pytest.approx(0.52, abs=0.002)


def test_without_timestamps_the_rto_starts_at_three_seconds_then() -> None:
    rig = syn_received(**NO_OPTIONS)
    rig.run(1.5)
    rig.guest()
    assert rig.conn.rtt.rto == 3.0
    rig = syn_received(**NO_OPTIONS)
    rig.run(4)
    rig.guest()
    assert rig.conn.cc.cwnd == rig.conn.snd_mss, "two lost: start with one segment"


# --- opened by us ----------------------------------------------------------------------------


def test_our_syn_offers_everything() -> None:
    rig = syn_sent()
    out = rig.wire[0]
    assert (out.flags, out.mss, out.syn_wscale, out.syn_sack, out.has_ts) == (SYN, MSS, 7, True, True)
    assert (out.ack, out.wnd, out.ts_ecr) == (0, 65535, 0)


def test_the_guests_syn_ack_establishes_and_is_acknowledged() -> None:
    rig = opened()
    assert rig.seen(Established) == [Established(True)]
    assert rig.conn.snd_mss == EFF_MSS
    assert rig.conn.snd_wnd == 65535, "the window of a SYN is not scaled"


def test_data_queued_before_leave_with_the_handshakes_ack() -> None:
    rig = syn_sent()
    rig.host_data(100)
    assert rig.silent()
    rig.guest(SYN | ACK, **syn_fields())
    out = rig.one()
    assert (out.length, out.ack) == (100, rig.seq)


def test_a_refused_syn() -> None:
    rig = syn_sent()
    rig.host_data(100)
    rig.guest(RST | ACK)
    assert rig.seen(HostReset) == [HostReset()]
    assert rig.gone()
    assert rig.silent()


def test_our_syn_is_repeated_and_given_up() -> None:
    rig = syn_sent()
    sent = rig.run(300)
    assert [time for time, _ in sent] == [1, 3, 7, 15, 31, 63]
    assert rig.seen(HostReset) == [HostReset()]
    assert rig.gone()


@pytest.mark.parametrize("flags", [ACK, SYN | ACK, FIN | ACK])
@pytest.mark.parametrize("wrong", [-1, 1])
def test_a_wrong_ack_is_reset(flags: int, wrong: int) -> None:
    rig = syn_sent()
    assert rig.guest(flags, ack=rig.ack + wrong) == "tcp_segment_dropped_bad_ack"
    assert (rig.wire[-1].flags, rig.one().flags) == (SYN, RST)
    assert rig.state == "SYN-SENT"


def test_a_reset_that_acknowledges_nothing_of_ours_is_ignored() -> None:
    rig = syn_sent()
    assert rig.guest(RST) == "tcp_segment_dropped_bad_reset"
    assert rig.guest(RST | ACK, ack=rig.ack + 7) == "tcp_segment_dropped_bad_ack"
    assert rig.state == "SYN-SENT"
    assert rig.silent()


def test_neither_syn_nor_reset_is_ignored() -> None:
    rig = syn_sent()
    assert rig.guest(ACK) == "tcp_segment_dropped_no_ack"
    assert rig.guest(FIN) == "tcp_segment_dropped_no_ack"
    assert rig.state == "SYN-SENT"


def test_simultaneous_open() -> None:
    rig = syn_sent()
    rig.guest(SYN, ack=0, **syn_fields())
    assert rig.state == "SYN-RECEIVED"
    out = rig.one()
    assert (out.flags, out.seq, out.syn_sack, out.syn_wscale) == (SYN | ACK, rig.iss, True, 7)
    rig.guest(SYN | ACK, seq=rig.guest_isn, **syn_fields())
    assert rig.state == "ESTABLISHED"
    assert rig.conn.snd_wnd == 65535
    assert rig.seen(Established) == [Established(True)]


def test_simultaneous_open_finished_by_a_plain_ack() -> None:
    rig = syn_sent()
    rig.guest(SYN, ack=0, **syn_fields())
    rig.send()
    rig.guest(ACK, 10)
    assert rig.state == "ESTABLISHED"
    assert rig.delivered == 10


def test_a_reset_during_simultaneous_open() -> None:
    rig = syn_sent()
    rig.guest(SYN, ack=0, **syn_fields())
    rig.send()
    rig.guest(RST)
    assert rig.seen(HostReset)
    assert rig.gone()


def test_the_host_gives_up_while_our_syn_is_under_way() -> None:
    rig = syn_sent()
    rig.host_data(10)
    rig.conn.on_host_reset(rig.now)
    rig.settle()
    assert rig.silent(), "RFC 9293 3.10.5: no reset in SYN-SENT"
    assert rig.gone()


def test_the_syn_ack_again_after_the_handshake_is_acknowledged() -> None:
    rig = opened()
    rig.guest(SYN | ACK, seq=rig.guest_isn, **syn_fields())
    assert rig.one().flags == ACK
    assert rig.state == "ESTABLISHED"
