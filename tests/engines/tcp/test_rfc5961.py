"""Blind attacks (RFC 5961): only exact numbers act, the rest gets a few challenge ACKs."""

import pytest

from pipeline.engines.tcp.actions import HostReset
from pipeline.engines.tcp.config import TcpConfig
from pipeline.wire.tcp import ACK, RST, SYN
from tests.engines.tcp.builders import BUILDERS, MASK, SYNCHRONIZED, Rig, established, syn_fields


def challenged(rig: Rig) -> bool:
    out = rig.one()
    return (out.flags, out.length, out.ack) == (ACK, 0, rig.conn.rcv_nxt & MASK)


@pytest.mark.parametrize("start", SYNCHRONIZED)
def test_a_reset_with_the_exact_number_resets(start: str) -> None:
    rig = BUILDERS[start]()
    rig.guest(RST, ack=0)
    assert rig.state == "CLOSED"


@pytest.mark.parametrize("start", SYNCHRONIZED)
def test_a_reset_elsewhere_in_the_window_is_challenged(start: str) -> None:
    rig = BUILDERS[start]()
    assert rig.guest(RST, seq=rig.seq + 1, ack=0) == "tcp_segment_dropped_bad_reset"
    assert rig.state != "CLOSED"
    assert challenged(rig)


@pytest.mark.parametrize("ahead", [-2, -1000, 1 << 30])
def test_a_reset_outside_the_window_is_dropped_in_silence(ahead: int) -> None:
    rig = established()
    assert rig.guest(RST, seq=rig.seq + ahead, ack=0) == "tcp_segment_dropped_bad_reset"
    assert rig.silent()
    assert rig.state == "ESTABLISHED"


@pytest.mark.parametrize("start", SYNCHRONIZED)
@pytest.mark.parametrize("ahead", [0, 1, 500, -1, -10_000, 1 << 30])
def test_a_syn_is_challenged_wherever_it_lies(start: str, ahead: int) -> None:
    rig = BUILDERS[start]()
    assert rig.guest(SYN, seq=rig.seq + ahead, ack=0, **syn_fields()) is not None
    assert challenged(rig)
    assert rig.state != "CLOSED"


def test_a_guest_that_rebooted_gets_rid_of_its_old_connection() -> None:
    """Half-open: its SYN is challenged, its reset carries the number we named."""
    rig = established()
    rig.host_data(100)
    rig.send()
    rig.guest(SYN, seq=12345, ack=0, has_ts=False, mss=1460)
    challenge = rig.one()
    rig.guest(RST, seq=challenge.ack, ack=0, has_ts=False)
    assert rig.seen(HostReset)
    assert rig.gone()


def test_an_ack_too_far_back_is_challenged() -> None:
    rig = established()
    window = rig.conn.snd.max_snd_wnd
    assert rig.guest(ACK, 10, ack=rig.conn.snd_una - window - 1) == "tcp_segment_dropped_bad_ack"
    assert challenged(rig)
    assert rig.delivered == 0
    assert rig.guest(ACK, 10, seq=rig.conn.rcv_nxt, ack=rig.conn.snd_una - window) is None
    assert rig.delivered == 10


def test_challenges_are_limited_in_number() -> None:
    rig = established(TcpConfig(challenge_acks=3, challenge_interval=5))
    answers = 0
    reasons = []
    for _ in range(20):
        reasons.append(rig.guest(RST, seq=rig.seq + 5, ack=0))
        answers += len(rig.send())
    assert answers == 3
    assert reasons[3:] == ["tcp_segment_dropped_challenge_limit"] * 17
    rig.now += 5
    rig.guest(RST, seq=rig.seq + 5, ack=0)
    assert challenged(rig)


def test_a_flood_in_one_burst_costs_one_answer() -> None:
    rig = established()
    for _ in range(1000):
        rig.guest(RST, seq=rig.seq + 5, ack=0)
    assert len(rig.send()) == 1


def test_two_stacks_cannot_be_made_to_acknowledge_each_other_for_ever() -> None:
    """Out-of-window segments without data are answered twice a second at most."""
    rig = established()
    answers = 0
    for _ in range(100):
        rig.guest(seq=rig.seq - 100)
        answers += len(rig.send())
        rig.now += 0.01
    assert answers <= 3
