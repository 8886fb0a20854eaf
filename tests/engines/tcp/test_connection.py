"""Entry points: keep-alive, calls in every state, and what the stage relies on."""

import gc

import pytest

from pipeline.engines.tcp.actions import Gone, HostReset, Release
from pipeline.engines.tcp.config import TcpConfig
from pipeline.engines.tcp.timers import NEVER
from pipeline.wire.tcp import ACK, FIN, RST
from tests.engines.tcp.builders import BUILDERS, MASK, close_wait, established, fin_wait_2, syn_sent

KEEPALIVE = TcpConfig(keepalive_idle=100, keepalive_interval=10, keepalive_probes=3)


@pytest.mark.parametrize("start", sorted(BUILDERS))
def test_every_call_is_harmless_in_every_state(start: str) -> None:
    for call in range(11):
        rig = BUILDERS[start]()
        c = rig.conn
        if call == 0:
            c.on_connected(rig.now)
        elif call == 1:
            c.on_connect_failed(rig.now)
        elif call == 2:
            rig.host_data(100)
        elif call == 3:
            c.on_host_eof(rig.now)
            c.on_host_eof(rig.now)
        elif call == 4:
            c.on_host_closed(rig.now)
        elif call == 5:
            c.on_taken(10, rig.now)
        elif call == 6:
            c.set_receive_capacity(5, rig.now)
        elif call == 7:
            rig.host_data(2000)
            rig.send()
            c.on_fragmentation_needed(c.snd_una & MASK, 600, rig.now)
        elif call == 8:
            c.on_fragmentation_needed(c.snd_una & MASK, 600, rig.now)
        elif call == 9:
            c.on_unreachable(c.snd_una & MASK, True, rig.now)
        rig.settle()
        rig.send()
        c.on_timer(rig.now)
        c.snapshot()
        c.on_host_reset(rig.now)
        rig.settle()
        rig.send()
        assert rig.gone()


@pytest.mark.parametrize("start", sorted(BUILDERS))
def test_every_state_ends_by_itself_when_the_guest_is_silent(start: str) -> None:
    """No connection waits for ever: retry limits, keep-alive, TIME-WAIT. (closed is over already.)"""
    rig = BUILDERS[start]()
    rig.run(20_000)
    assert rig.gone()
    assert rig.conn.deadline() == NEVER


# --- keep-alive ----------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [established, close_wait, fin_wait_2])
def test_a_vanished_guest_is_found_after_the_probes(make: object) -> None:
    rig = make(KEEPALIVE)  # type: ignore[operator]
    sent = rig.run(200)
    times = [time for time, out in sent if out.flags == ACK]
    assert times == [100, 110, 120]
    assert all(out.seq == (rig.conn.snd_una - 1) & MASK for _, out in sent if out.flags == ACK)
    assert rig.seen(HostReset) == [HostReset()]
    assert sent[-1][1].flags & RST
    assert rig.gone()


def test_an_answer_starts_the_idle_time_again() -> None:
    rig = established(KEEPALIVE)
    for _ in range(5):
        sent = rig.run(115)
        assert 1 <= len(sent) <= 2
        rig.guest()
    assert rig.state == "ESTABLISHED"


def test_an_answer_at_the_very_time_of_the_probe_counts() -> None:
    rig = established(KEEPALIVE)
    for _ in range(5):
        assert [time for time, _ in rig.run(100)] == [100]
        rig.guest()


def test_a_busy_connection_is_not_probed() -> None:
    rig = established(KEEPALIVE)
    for _ in range(10):
        rig.guest(length=10)
        rig.conn.on_taken(10, rig.now)
        rig.send()
        assert rig.run(90) == []


def test_keepalive_can_be_off() -> None:
    rig = established(TcpConfig(keepalive=False))
    assert rig.conn.deadline() == NEVER
    assert rig.run(1e6) == []


def test_the_default_is_two_hours_then_nine_probes() -> None:
    rig = established()
    times = [time for time, out in rig.run(9000) if out.flags == ACK]
    assert times == [7200 + 75 * n for n in range(9)]
    assert rig.gone()


def test_unacknowledged_data_have_their_own_limit() -> None:
    rig = established(KEEPALIVE)
    rig.host_data(10)
    rig.run(250)
    assert rig.state == "ESTABLISHED", "15 back-offs take longer"
    rig.run(1000)
    assert rig.gone()


# --- the stage's view ------------------------------------------------------------------------------


def test_actions_are_taken_once() -> None:
    rig = established()
    rig.conn.on_host_data("h", 0, 0, rig.now)
    (action,) = rig.conn.take_actions()
    assert isinstance(action, Release)
    assert action.buf == "h"
    assert rig.conn.take_actions() == []


def test_transmit_without_room_keeps_the_wish() -> None:
    rig = syn_sent()
    rig.conn.on_timer(rig.conn.deadline())
    assert rig.conn.transmit(rig.now, 0) == []
    assert rig.conn.wants_transmit
    assert len(rig.conn.transmit(rig.now, 1)) == 1
    assert not rig.conn.wants_transmit


def test_a_useless_transmit_is_empty_and_shows_nothing() -> None:
    rig = established()
    edge = rig.conn.rcv.rcv_adv
    assert rig.conn.transmit(rig.now, 5) == []
    assert rig.conn.rcv.rcv_adv == edge, "a window that nobody saw is not promised"


def test_a_reset_that_does_not_fit_the_ring_waits() -> None:
    rig = established()
    rig.conn.on_host_reset(rig.now)
    assert rig.conn.transmit(rig.now, 0) == []
    assert Gone() not in rig.conn.take_actions()
    assert rig.one().flags & RST
    assert rig.gone()


def test_a_capacity_for_one_connection_is_bounded_by_the_configuration() -> None:
    rig = established(TcpConfig(initial_receive_window=5000, max_receive_window=20_000))
    rig.conn.set_receive_capacity(1 << 30, rig.now)
    assert rig.conn.rcv.limit == 20_000
    rig.conn.set_receive_capacity(-5, rig.now)
    assert rig.conn.rcv.limit == 0


def test_eof_before_the_handshake_is_kept() -> None:
    rig = syn_sent()
    rig.host_data(10)
    rig.conn.on_host_eof(rig.now)
    assert rig.state == "SYN-SENT"
    rig.guest(0x12, mss=1460, sack_permitted=True, wscale=2)
    assert rig.state == "FIN-WAIT-1"
    out = rig.one()
    assert out.length == 10
    assert out.flags & FIN


def parts() -> int:
    """The objects of the engine's classes that are there."""
    modules = (str(vars(type(each)).get("__module__")) for each in gc.get_objects())
    return sum(module.startswith("pipeline.engines.tcp.") for module in modules)


def test_a_connection_that_is_over_is_freed_without_a_search_for_cycles() -> None:
    gc.collect()
    gc.disable()
    try:
        before = parts()
        rig = established()
        assert parts() > before
        del rig
        assert parts() == before
    finally:
        gc.enable()
