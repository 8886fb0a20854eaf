"""The ends of a connection: FIN both ways, resets, TIME-WAIT, and no handle is left."""

import pytest

from pipeline.engines.tcp.actions import Deliver, Gone, HostReset, HostShutdown
from pipeline.engines.tcp.config import TcpConfig
from pipeline.engines.tcp.connection import reset_for
from pipeline.engines.tcp.segment import Segment
from pipeline.wire.tcp import ACK, FIN, PSH, RST, SYN
from tests.engines.tcp.builders import (
    BUILDERS,
    MASK,
    SYNS_IN_TIME_WAIT,
    close_wait,
    closing,
    established,
    fin_wait_1,
    fin_wait_2,
    last_ack,
    opened,
    syn_fields,
    time_wait,
)


def test_the_guest_closes_first() -> None:
    rig = established()
    rig.guest(FIN | ACK, 10)
    assert [type(a) for a in rig.log[-2:]] == [Deliver, HostShutdown], "after all its data"
    assert rig.state == "CLOSE-WAIT"
    rig.send()
    rig.conn.on_host_eof(rig.now)
    assert rig.state == "LAST-ACK"
    rig.send()
    rig.acknowledge_all()
    assert rig.state == "CLOSED"
    assert rig.gone()
    assert not rig.seen(HostReset)


def test_the_host_closes_first() -> None:
    rig = fin_wait_2()
    rig.guest(length=5000)
    assert rig.delivered == 5000, "half-closed: the guest goes on"
    rig.guest(FIN | ACK)
    assert rig.state == "TIME-WAIT"
    assert rig.seen(HostShutdown)
    rig.send()
    rig.run(59.9)
    assert not rig.seen(Gone)
    rig.run(0.2)
    assert rig.gone()


def test_both_close_at_once() -> None:
    rig = closing()
    rig.acknowledge_all()
    assert rig.state == "TIME-WAIT"


def test_fin_with_the_ack_of_ours_skips_closing() -> None:
    rig = fin_wait_1()
    rig.ack = rig.conn.snd_nxt & MASK
    rig.guest(FIN | ACK)
    assert rig.state == "TIME-WAIT"


def test_data_flow_half_closed_for_hours() -> None:
    rig = fin_wait_2()
    for _ in range(10):
        rig.run(3600)
        rig.guest(length=100)
        rig.conn.on_taken(100, rig.now)
        rig.send()
    assert rig.state == "FIN-WAIT-2"
    assert rig.delivered == 1000


def test_our_fin_is_retransmitted_until_acknowledged() -> None:
    rig = fin_wait_1()
    sent = rig.run(1.0)
    assert sent
    assert all(out.flags == FIN | ACK and out.length == 0 for _, out in sent)
    rig.acknowledge_all()
    assert rig.state == "FIN-WAIT-2"


def test_fin_wait_2_is_limited_only_when_the_host_is_gone_entirely() -> None:
    rig = fin_wait_2()
    rig.conn.on_host_closed(rig.now)
    rig.run(61)
    assert rig.gone()


def test_the_limit_also_holds_when_the_host_went_before_the_guest_acknowledged() -> None:
    rig = established()
    rig.conn.on_host_closed(rig.now)
    assert rig.one().flags & FIN
    rig.acknowledge_all()
    assert rig.state == "FIN-WAIT-2"
    rig.run(61)
    assert rig.gone()


def test_data_for_a_host_that_is_gone_are_reset() -> None:
    rig = fin_wait_2()
    rig.conn.on_host_closed(rig.now)
    assert rig.guest(length=10) == "tcp_segment_dropped_host_closed"
    assert rig.one().flags & RST
    assert rig.gone()


# --- TIME-WAIT -------------------------------------------------------------------------------


def test_a_repeated_fin_is_acknowledged_and_restarts_the_wait() -> None:
    rig = time_wait()
    rig.run(50)
    rig.guest(FIN | ACK, seq=rig.seq - 1)
    assert rig.one().flags == ACK
    rig.run(50)
    assert not rig.seen(Gone)
    rig.run(11)
    assert rig.gone()


def test_the_time_of_time_wait_is_configurable() -> None:
    rig = time_wait(TcpConfig(time_wait=1.5))
    rig.run(1.6)
    assert rig.gone()


@pytest.mark.parametrize("options, seq_ahead, ts_ahead, accepted", SYNS_IN_TIME_WAIT)
def test_a_newer_syn_may_reuse_the_pair(
    options: dict[str, object], seq_ahead: int, ts_ahead: int, accepted: bool
) -> None:
    rig = time_wait(**options)
    fields: dict[str, object] = {}
    if rig.use_ts:
        fields["ts_val"] = rig.guest_clock() + ts_ahead
    seg = rig.segment(SYN, seq=rig.seq + seq_ahead, ack=0, **fields)
    assert rig.conn.accepts_reuse(seg) is accepted


@pytest.mark.parametrize("flags", [ACK, FIN | ACK, SYN | ACK, RST, SYN | FIN])
def test_nothing_but_a_syn_may(flags: int) -> None:
    rig = time_wait()
    rig.now += 1
    assert not rig.conn.accepts_reuse(rig.segment(flags, seq=rig.seq + 1))


def test_a_live_connection_is_never_reused() -> None:
    rig = established()
    assert not rig.conn.accepts_reuse(rig.segment(SYN, seq=rig.seq + 1000, ack=0))


def test_an_old_syn_in_time_wait_is_answered_with_an_ack() -> None:
    rig = time_wait()
    rig.guest(SYN, seq=rig.seq - 5000, ack=0, **syn_fields())
    assert rig.one().flags == ACK
    assert rig.state == "TIME-WAIT"


def test_time_wait_holds_no_handle() -> None:
    rig = fin_wait_2()
    rig.guest(length=10, seq=rig.seq + 1000)
    assert rig.arrived
    rig.guest(FIN | ACK, 5)
    assert rig.state == "TIME-WAIT"
    assert not rig.arrived


# --- resets ----------------------------------------------------------------------------------


@pytest.mark.parametrize("start", ["syn_received", "established", "fin_wait_1", "fin_wait_2", "close_wait"])
def test_a_reset_from_the_guest_resets_the_host(start: str) -> None:
    rig = BUILDERS[start]()
    if start in ("established", "fin_wait_2"):
        rig.guest(length=10, seq=rig.seq + 100)
        rig.send()
    if start in ("established", "close_wait"):
        rig.host_data(5000)
    rig.guest(RST, ack=0)
    assert rig.seen(HostReset) == [HostReset()]
    assert rig.gone()
    assert rig.silent()


@pytest.mark.parametrize("start", ["closing", "last_ack", "time_wait"])
def test_a_reset_after_both_ends_have_closed_only_forgets(start: str) -> None:
    rig = BUILDERS[start]()
    rig.guest(RST, ack=0)
    assert not rig.seen(HostReset)
    assert rig.gone()


@pytest.mark.parametrize("start", ["syn_received", "established", "fin_wait_1", "fin_wait_2", "close_wait"])
def test_a_reset_from_the_host_resets_the_guest(start: str) -> None:
    rig = BUILDERS[start]()
    if start in ("established", "close_wait"):
        rig.host_data(5000)
        rig.send()
    rig.conn.on_host_reset(rig.now)
    rig.settle()
    assert not rig.seen(Gone), "not before the reset has left"
    out = rig.one()
    assert out.flags == RST | ACK
    assert out.seq == rig.conn.snd_nxt & MASK
    assert out.ack == rig.seq
    assert rig.gone()
    assert not rig.seen(HostReset)


@pytest.mark.parametrize("start", ["closing", "last_ack", "time_wait"])
def test_a_host_reset_after_both_have_closed_sends_nothing(start: str) -> None:
    rig = BUILDERS[start]()
    rig.conn.on_host_reset(rig.now)
    rig.settle()
    assert rig.silent()
    assert rig.gone()


def test_everything_after_the_end_is_given_back_and_ignored() -> None:
    rig = established()
    rig.conn.on_host_reset(rig.now)
    rig.host_data(10)
    assert rig.guest(length=10) == "tcp_segment_dropped_closed"
    rig.conn.on_host_eof(rig.now)
    rig.conn.on_taken(10, rig.now)
    rig.conn.on_host_reset(rig.now)
    rig.conn.on_timer(rig.now + 1000)
    assert rig.one().flags & RST
    assert rig.gone()


def test_a_reset_one_before_the_end_of_the_fin_counts() -> None:
    rig = close_wait()
    rig.guest(RST, seq=rig.seq - 1)
    assert rig.seen(HostReset)


def test_the_opener_may_be_reset_too() -> None:
    rig = opened()
    rig.guest(RST | ACK)
    assert rig.gone()


# --- without a connection (RFC 9293 3.10.7.1) ------------------------------------------------


@pytest.mark.parametrize(
    "flags, length, expected",
    [
        (SYN, 0, (0, 101, RST | ACK)),
        (SYN, 10, (0, 111, RST | ACK)),
        (ACK, 10, (5000, 0, RST)),
        (SYN | ACK, 0, (5000, 0, RST)),
        (FIN, 0, (0, 101, RST | ACK)),
        (0, 7, (0, 107, RST | ACK)),
        (PSH | ACK, 7, (5000, 0, RST)),
    ],
)
def test_a_segment_without_a_connection_is_reset(
    flags: int, length: int, expected: tuple[int, int, int]
) -> None:
    out = reset_for(Segment(100, 5000, flags, 10, length))
    assert out is not None
    assert (out.seq, out.ack, out.flags) == expected
    assert (out.wnd, out.length, out.buf) == (0, 0, None)


def test_the_answer_wraps() -> None:
    out = reset_for(Segment(MASK, 0, SYN, 10, 5))
    assert out is not None
    assert out.ack == 5


@pytest.mark.parametrize("flags", [RST, RST | ACK, RST | SYN])
def test_a_reset_is_never_answered(flags: int) -> None:
    assert reset_for(Segment(1, 2, flags, 0)) is None


def test_last_ack_ends_with_the_retry_limit() -> None:
    rig = last_ack(TcpConfig(retries=3))
    rig.run(100)
    assert rig.gone()
    assert not rig.seen(HostReset), "the host has lost nothing"
