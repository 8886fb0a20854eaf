"""ICMP errors about segments of ours: the path MTU, and what ends no connection (RFC 1191, 5461, 5927)."""

import pytest

from pipeline.engines.tcp.actions import HostReset, Outgoing
from pipeline.engines.tcp.config import TcpConfig
from pipeline.engines.tcp.state import LOSS, OPEN, RECOVERY
from tests.engines.tcp.builders import (
    BUILDERS,
    EFF_MSS,
    MASK,
    NO_OPTIONS,
    SYNCHRONIZED,
    Rig,
    established,
    syn_received,
    syn_sent,
)

MTU = 1000
SMALL = MTU - 52
NEWRENO = TcpConfig(sack=False, timestamps=False, congestion="newreno")


def in_flight(segments: int, cfg: TcpConfig | None = None, **fields: object) -> Rig:
    """N full segments were sent in one call, 10 ms ago."""
    rig = established(cfg, **fields)
    rig.conn.cc.cwnd = 100 * rig.conn.snd_mss
    rig.host_data(segments * rig.conn.snd_mss)
    rig.send()
    rig.now += 0.01
    return rig


def too_big(rig: Rig, mtu: int = MTU, at: int = 0) -> str | None:
    """A router complains about the segment that begins ``at`` bytes after snd_una."""
    return rig.conn.on_fragmentation_needed((rig.conn.snd_una + at) & MASK, mtu, rig.now)


def ranges(rig: Rig, sent: list[Outgoing]) -> list[tuple[int, int, int]]:
    """(first byte, length, mss) of each run of adjacent ranges."""
    found: list[tuple[int, int, int]] = []
    for out in sent:
        begin = rig.rel(out.seq) - 1
        if found and (sum(found[-1][:2]), found[-1][2]) == (begin, out.mss):
            found[-1] = (found[-1][0], found[-1][1] + out.length, out.mss)
        else:
            found.append((begin, out.length, out.mss))
    return found


def test_all_in_flight_leaves_again_at_once_in_smaller_segments_and_no_slower() -> None:
    rig = in_flight(10)
    before = rig.conn.cc.cwnd, rig.conn.cc.ssthresh
    assert too_big(rig) is None
    assert ranges(rig, rig.send()) == [(0, 10 * EFF_MSS, SMALL)]
    assert (rig.conn.cc.cwnd, rig.conn.cc.ssthresh) == before
    rig.acknowledge_all()
    assert rig.conn.recovery.phase == OPEN
    assert not rig.given
    assert (rig.conn.cc.cwnd, rig.conn.cc.ssthresh) >= before


def test_without_sack_and_timestamps_too() -> None:
    rig = in_flight(10, NEWRENO, **NO_OPTIONS)
    assert too_big(rig) is None
    assert ranges(rig, rig.send()) == [(0, 14600, MTU - 40)]
    for _ in range(5):
        rig.guest()
    assert rig.silent(), "duplicate ACKs of the copies start no recovery"
    rig.acknowledge_all()
    assert rig.conn.recovery.phase == OPEN


def test_what_arrived_or_was_small_enough_is_not_sent_again() -> None:
    rig = in_flight(10)
    rig.host_data(SMALL)
    rig.send()
    first = rig.iss + 1
    rig.guest(sack=(((first + 5 * EFF_MSS) & MASK, (first + 7 * EFF_MSS) & MASK),))
    rig.send()
    rig.conn.cc.cwnd = 100 * EFF_MSS
    assert too_big(rig) is None
    assert ranges(rig, rig.send()) == [(0, 5 * EFF_MSS, SMALL), (7 * EFF_MSS, 3 * EFF_MSS, SMALL)]


def test_in_recovery_the_window_is_reduced_once() -> None:
    rig = in_flight(20)
    first = rig.iss + 1
    rig.guest(sack=(((first + 10 * EFF_MSS) & MASK, (first + 14 * EFF_MSS) & MASK),))
    rig.send()
    assert rig.conn.recovery.phase == RECOVERY
    reduced = rig.conn.cc.cwnd
    assert too_big(rig) is None
    rig.send()
    assert rig.conn.recovery.phase == RECOVERY
    rig.acknowledge_all()
    assert rig.conn.recovery.phase == OPEN
    assert rig.conn.cc.cwnd == reduced


def test_small_segments_that_fill_the_window_do_not_keep_it_back() -> None:
    rig = in_flight(1)
    for _ in range(5):
        rig.host_data(900)
        rig.send()
        rig.now += 0.001
    rig.conn.cc.cwnd = EFF_MSS
    assert too_big(rig) is None
    assert ranges(rig, rig.send()) == [(0, SMALL, SMALL)]


def test_duplicate_acks_from_before_count_no_longer() -> None:
    rig = in_flight(10, NEWRENO, **NO_OPTIONS)
    rig.guest()
    rig.guest()
    assert too_big(rig) is None
    rig.send()
    assert rig.conn.recovery.pipe() == 14600


def test_late_acks_do_not_undo_what_was_lost_for_its_size() -> None:
    rig = in_flight(10)
    rig.advance(1.0)
    echo = rig.ts_echo
    rig.send()
    assert rig.conn.recovery.phase == LOSS
    assert too_big(rig) is None
    rig.send()
    # Eifel would take this for the answer to the originals and all of them for arrived.
    rig.ack = (rig.ack + SMALL) & MASK
    rig.guest(ts_ecr=echo)
    assert rig.conn.recovery.phase == LOSS


@pytest.mark.parametrize("sent", [False, True])
def test_a_tail_loss_probe_is_forgotten(sent: bool) -> None:
    rig = in_flight(10)
    rig.advance(0.05)
    assert rig.conn.rack.tlp_due
    if sent:
        rig.send()
    before = rig.conn.cc.cwnd
    assert too_big(rig) is None
    assert ranges(rig, rig.send()) == [(0, 10 * EFF_MSS, SMALL)]
    rig.host_data(100)
    rig.send()
    rig.acknowledge_all()
    # Had the probe repaired a loss, that would have been congestion.
    assert rig.conn.cc.cwnd >= before


def test_only_numbers_in_flight_are_believed() -> None:
    rig = in_flight(10)
    for at in (-1, 10 * EFF_MSS, 1 << 20, 1 << 31):
        assert too_big(rig, at=at) == "tcp_error_dropped_bad_sequence"
    assert rig.silent()
    rig.acknowledge_all()
    assert too_big(rig) == "tcp_error_dropped_bad_sequence", "nothing is in flight"
    assert rig.conn.snd_mss == EFF_MSS


@pytest.mark.parametrize("mtu", [1500, 1501, 65535])
def test_nothing_widens_the_path(mtu: int) -> None:
    rig = in_flight(10)
    assert too_big(rig, mtu) == "tcp_path_mtu_ignored"
    assert too_big(rig, MTU) is None
    rig.send()
    rig.acknowledge_all()
    rig.host_data(5000)
    rig.send()
    assert too_big(rig, mtu) == "tcp_path_mtu_ignored"
    assert rig.conn.snd_mss == SMALL


def test_ever_smaller_sizes_cost_one_window_a_window() -> None:
    rig = in_flight(10)
    sent = 0
    for mtu in range(1499, 68, -1):
        if too_big(rig, mtu) is None:
            sent += sum(out.length for out in rig.send())
    assert sent == 10 * EFF_MSS
    rig.acknowledge_all()
    rig.host_data(5000)
    rig.send()
    assert too_big(rig, 600) is None


def test_the_segments_never_become_smaller_than_a_peer_may_ask_for() -> None:
    rig = in_flight(10)
    assert too_big(rig, 68) is None
    assert rig.conn.snd_mss == 88 - 12
    rig.send()
    rig.acknowledge_all()
    rig.host_data(5000)
    rig.send()
    assert too_big(rig, 68) == "tcp_path_mtu_ignored"


# --- unreachable -----------------------------------------------------------------------------------


@pytest.mark.parametrize("start", SYNCHRONIZED)
@pytest.mark.parametrize("hard", [False, True])
def test_no_error_ends_a_connection_that_is_open(start: str, hard: bool) -> None:
    rig = BUILDERS[start]()
    rig.host_data(1000)
    rig.send()
    before = rig.state
    assert rig.conn.on_unreachable(rig.conn.snd_una & MASK, hard, rig.now) is not None
    rig.settle()
    assert rig.state == before
    assert not rig.seen(HostReset)


def test_nor_one_whose_syn_ack_is_under_way() -> None:
    rig = syn_received()
    assert rig.conn.on_unreachable(rig.iss, True, rig.now) == "tcp_error_ignored"
    assert rig.state == "SYN-RECEIVED"


def test_a_hard_error_about_our_syn_is_told_to_the_host() -> None:
    rig = syn_sent()
    assert rig.conn.on_unreachable(rig.iss, False, rig.now) == "tcp_error_ignored"
    assert rig.conn.on_unreachable(rig.iss + 1, True, rig.now) is not None
    assert rig.state == "SYN-SENT"
    assert rig.conn.on_unreachable(rig.iss, True, rig.now) is None
    rig.settle()
    assert rig.seen(HostReset) == [HostReset()]
    assert rig.gone()
