"""Half-closed connections in virtual time: the other direction goes on without a limit."""

import pytest

from pipeline.engines.tcp import actions, state
from pipeline.engines.tcp.config import TcpConfig
from pipeline.engines.tcp.connection import Connection
from pipeline.engines.tcp.segment import Segment
from pipeline.wire.tcp import ACK, FIN, SYN

HOUR = 3600.0
ISS = 500
IRS = 100


def opened() -> Connection:
    syn = Segment(IRS, 0, SYN, 65535, 0, None, 0, 0, False, (), 1460, 7, True)
    conn = Connection.passive(TcpConfig(), syn, ISS, 0.0)
    conn.on_connected(0.0)
    conn.transmit(0.0, 1)
    conn.on_segment(Segment(IRS + 1, ISS + 1, ACK, 65535, 0, None, 0, 0, False), 0.0)
    settle(conn, 0.0)
    return conn


def settle(conn: Connection, now: float) -> list[actions.Outgoing]:
    """What leaves now, without the actions."""
    out: list[actions.Outgoing] = []
    while conn.wants_transmit:
        out += conn.transmit(now, 16)
    return out


def wait(conn: Connection, begin: float, seconds: float, answer: Segment) -> float:
    """Let time pass; the guest answers what the connection sends by itself (keep-alive probes)."""
    end = begin + seconds
    while (at := conn.deadline()) <= end:
        conn.on_timer(at)
        if settle(conn, at):
            conn.on_segment(answer, at + 0.001)
            settle(conn, at + 0.001)
    return end


def ends(conn: Connection) -> list[actions.Action]:
    return [a for a in conn.take_actions() if isinstance(a, (actions.HostReset, actions.Gone))]


@pytest.mark.parametrize("pause", [0.5 * HOUR, 5 * HOUR])
def test_the_host_may_send_for_days_after_the_guests_fin(pause: float) -> None:
    conn = opened()
    conn.on_segment(Segment(IRS + 1, ISS + 1, ACK | FIN, 65535, 0, None, 0, 0, False), 0.0)
    settle(conn, 0.0)
    now = 0.0
    sent = 0
    for number in range(12):
        here = Segment(IRS + 2, (ISS + 1 + sent) & 0xFFFFFFFF, ACK, 65535, 0, None, 0, 0, False)
        now = wait(conn, now, pause, here)
        conn.on_host_data(number, 0, 1000, now)
        assert sum(out.length for out in settle(conn, now)) == 1000
        sent += 1000
        ack = Segment(IRS + 2, ISS + 1 + sent, ACK, 65535, 0, None, 0, 0, False)
        conn.on_segment(ack, now + 0.001)
        settle(conn, now + 0.001)
    assert conn.state == state.CLOSE_WAIT
    assert ends(conn) == []
    assert not conn.snd.chunks


@pytest.mark.parametrize("pause", [0.5 * HOUR, 5 * HOUR])
def test_the_guest_may_send_for_days_after_the_hosts_end(pause: float) -> None:
    conn = opened()
    conn.on_host_eof(0.0)
    assert settle(conn, 0.0)[-1].flags & FIN
    conn.on_segment(Segment(IRS + 1, ISS + 2, ACK, 65535, 0, None, 0, 0, False), 0.001)
    settle(conn, 0.001)
    now = 0.001
    received = 0
    for number in range(12):
        here = Segment(IRS + 1 + received, ISS + 2, ACK, 65535, 0, None, 0, 0, False)
        now = wait(conn, now, pause, here)
        data = Segment(IRS + 1 + received, ISS + 2, ACK, 65535, 1000, (number, 0, 0, 1000), 0, 0, False)
        conn.on_segment(data, now)
        received += 1000
        conn.on_taken(1000, now)
        settle(conn, now)
    assert conn.state == state.FIN_WAIT_2
    delivered = [a.length for a in conn.take_actions() if isinstance(a, actions.Deliver)]
    assert sum(delivered) == received
    assert ends(conn) == []


def test_a_guest_that_vanished_while_half_closed_is_noticed_in_the_end() -> None:
    conn = opened()
    conn.on_segment(Segment(IRS + 1, ISS + 1, ACK | FIN, 65535, 0, None, 0, 0, False), 0.0)
    settle(conn, 0.0)
    while conn.state and conn.deadline() < 10 * HOUR:
        now = conn.deadline()
        conn.on_timer(now)
        settle(conn, now)
    assert conn.state == state.CLOSED
    assert any(isinstance(a, actions.HostReset) for a in ends(conn))
