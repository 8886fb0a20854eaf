"""Any segment in any state: a legal state, bounded memory, and every handle comes back.

The drawn events are near what is legal (numbers around the edges of both windows), because
uniform ones would die in the first check.
"""

import random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.engines.tcp import state
from pipeline.engines.tcp.actions import Gone
from pipeline.engines.tcp.config import TcpConfig
from pipeline.engines.tcp.timers import NEVER
from pipeline.wire.tcp import ACK, FIN, PSH, RST, SYN, URG
from tests.engines.tcp.builders import BUILDERS, MASK, Rig

CONFIGS = (
    TcpConfig(),
    TcpConfig(initial_receive_window=3000, max_receive_window=9000, max_reassembly_ranges=4),
    TcpConfig(mtu=200, sack=False, timestamps=False, window_scaling=False, congestion="newreno"),
    TcpConfig(nagle=True, max_reassembly_bytes=4000, max_sent_ranges=6),
)
GUESTS: tuple[dict[str, object], ...] = (
    {},
    {"has_ts": False, "sack_permitted": False, "wscale": -1},
    {"mss": 90, "wscale": 0},
)


def legal(rig: Rig, adv_before: int) -> None:
    """Invariants of every state, after every event."""
    c = rig.conn
    assert state.CLOSED <= c.state <= state.TIME_WAIT
    assert c.state != state.LISTEN
    assert c.snd.iss <= c.snd_una <= c.snd_nxt <= c.snd.send_end
    if c.state >= state.SYN_RECEIVED:
        assert c.rcv.rcv_adv >= adv_before, "the window shrank"
        assert c.rcv_nxt <= c.rcv.rcv_adv
    assert c.rcv_untaken >= 0
    slack = 1 << c.rcv.rcv_wind_shift
    largest = max(rig.cfg.initial_receive_window, rig.cfg.max_receive_window)
    assert c.rcv_untaken + (c.rcv.rcv_adv - c.rcv_nxt) <= largest + slack + 65535
    assert c.reassembly.held_bytes <= rig.cfg.max_reassembly_bytes
    assert len(c.reassembly.ranges) <= rig.cfg.max_reassembly_ranges
    assert c.reassembly.held_bytes == sum(held[1] - held[0] for held in c.reassembly.ranges)
    assert all(held[0] > c.rcv_nxt for held in c.reassembly.ranges)
    board = c.snd.board
    if board.ranges:
        assert board.ranges[0].start == c.snd_una
        assert board.ranges[-1].end == c.snd_nxt
        assert all(a.end == b.start for a, b in zip(board.ranges, board.ranges[1:], strict=False))
    elif c.state in (state.ESTABLISHED, state.FIN_WAIT_1, state.CLOSE_WAIT):
        assert c.snd_una == c.snd_nxt
    assert board.sacked_bytes == sum(r.end - r.start for r in board.ranges if r.sacked)
    assert board.lost_bytes == sum(r.end - r.start for r in board.ranges if r.lost)
    assert board.retransmitted_out == sum(r.retransmitted for r in board.ranges if not r.sacked)
    assert not any(r.sacked and r.lost for r in board.ranges)
    assert c.cc.cwnd >= c.cc.mss
    if c.snd_una < c.snd_nxt and state.ESTABLISHED <= c.state < state.TIME_WAIT:
        assert c.agenda.timers[0] != NEVER, "data in flight and no timer"
    if c.state == state.CLOSED:
        assert c.deadline() == NEVER
        assert not c.snd.chunks
    c.snapshot()


def end(rig: Rig) -> None:
    """Reset from the host: everything comes back, whatever happened before."""
    rig.conn.on_host_reset(rig.now)
    rig.settle()
    rig.send()
    assert len(rig.seen(Gone)) == 1
    assert not rig.arrived
    assert not rig.given


numbers = st.integers(-3, 3)
events = st.one_of(
    st.tuples(
        st.just("segment"),
        st.sampled_from(
            [
                ACK,
                ACK,
                ACK,
                ACK | PSH,
                ACK | FIN,
                RST,
                RST | ACK,
                SYN,
                SYN | ACK,
                0,
                FIN,
                ACK | URG,
                SYN | FIN,
            ]
        ),
        st.sampled_from([0, 0, 1, 100, 1448, 5000, 64000]),
        st.sampled_from(["next", "next", "next", "before", "ooo", "edge", "far"]),
        numbers,
        st.sampled_from(["una", "nxt", "mid", "above", "far"]),
        numbers,
        st.sampled_from([0, 1, 80, 1000, 65535]),
        st.sampled_from(["none", "none", "mid", "dsack", "wild"]),
        st.sampled_from([0, 0, 1, -5, -(1 << 31)]),
    ),
    st.tuples(st.just("data"), st.sampled_from([1, 88, 1448, 10000, 65536])),
    st.tuples(st.just("eof")),
    st.tuples(st.just("closed")),
    st.tuples(st.just("connected")),
    st.tuples(st.just("taken"), st.sampled_from([1, 1000, 64000])),
    st.tuples(st.just("capacity"), st.sampled_from([0, 1000, 1 << 20])),
    st.tuples(st.just("timer")),
    st.tuples(
        st.just("too big"),
        st.sampled_from(["una", "mid", "nxt"]),
        st.sampled_from([68, 128, 500, 1000, 1499]),
    ),
    st.tuples(st.just("not there"), st.booleans()),
    st.tuples(st.just("wait"), st.sampled_from([0.001, 0.05, 1.0, 130.0])),
    st.tuples(st.just("transmit"), st.integers(0, 3)),
)


def apply(rig: Rig, event: tuple[object, ...]) -> None:
    c = rig.conn
    match event:
        case (
            "segment",
            int(flags),
            int(length),
            str(place),
            int(dseq),
            str(ackplace),
            int(dack),
            int(wnd),
            str(sack),
            int(dts),
        ):
            seq = {
                "next": c.rcv_nxt,
                "before": c.rcv_nxt - 1500,
                "ooo": c.rcv_nxt + 3000,
                "edge": c.rcv.rcv_adv,
                "far": c.rcv_nxt + (1 << 30),
            }[place]
            ack = {
                "una": c.snd_una,
                "nxt": c.snd_nxt,
                "mid": (c.snd_una + c.snd_nxt) // 2,
                "above": c.snd_nxt + 1,
                "far": c.snd_una - (1 << 30),
            }[ackplace]
            middle = (c.snd_una + c.snd_nxt) // 2
            blocks: tuple[tuple[int, int], ...] = ()
            if sack == "mid":
                blocks = ((middle & MASK, c.snd_nxt & MASK), ((c.snd_una + 1) & MASK, (c.snd_una + 3) & MASK))
            elif sack == "dsack":
                blocks = (((c.snd_una - 100) & MASK, c.snd_una & MASK), (middle & MASK, (middle + 50) & MASK))
            elif sack == "wild":
                blocks = (
                    (5, 1),
                    (c.snd_nxt & MASK, (c.snd_nxt + 100) & MASK),
                    (0, MASK),
                    (middle & MASK, middle & MASK),
                )
            fields: dict[str, object] = {"sack": blocks, "seg_count": max(1, length // 1448)}
            if c.options.ts_ok:
                fields |= {"has_ts": True, "ts_val": (rig.guest_clock() + dts) & MASK, "ts_ecr": rig.ts_echo}
            else:
                fields["has_ts"] = False
            if flags & SYN:
                fields |= {"mss": 1000, "wscale": 3}
            rig.guest(flags, length, seq=(seq + dseq) & MASK, ack=(ack + dack) & MASK, wnd=wnd, **fields)
        case ("data", int(n)):
            if len(rig.given) < 20:
                rig.host_data(n)
        case ("eof",):
            c.on_host_eof(rig.now)
        case ("closed",):
            c.on_host_closed(rig.now)
        case ("connected",):
            c.on_connected(rig.now)
        case ("taken", int(n)):
            c.on_taken(min(n, c.rcv_untaken), rig.now)
        case ("capacity", int(n)):
            c.set_receive_capacity(n, rig.now)
        case ("too big", str(place), int(mtu)):
            at = {"una": c.snd_una, "mid": (c.snd_una + c.snd_nxt) // 2, "nxt": c.snd_nxt}[place]
            c.on_fragmentation_needed(at & MASK, mtu, rig.now)
        case ("not there", bool(hard)):
            c.on_unreachable(c.snd_una & MASK, hard, rig.now)
        case ("timer",):
            if c.deadline() != NEVER:
                rig.now = max(rig.now, c.deadline())
                c.on_timer(rig.now)
        case ("wait", float(seconds)):
            rig.now += seconds
            c.on_timer(rig.now)
        case ("transmit", int(n)):
            for out in c.transmit(rig.now, n):
                assert out.length <= rig.cfg.max_range_bytes
                assert 0 <= out.wnd <= 65535
                assert 0 <= out.seq <= MASK
                assert out.buf is None or out.buf in rig.given
        case _:
            raise AssertionError(event)
    rig.settle()


@pytest.mark.parametrize("start", sorted(BUILDERS))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    cfg=st.sampled_from(CONFIGS),
    guest=st.sampled_from(GUESTS),
    script=st.lists(events, max_size=40),
)
def test_any_events_in_any_state_leave_a_legal_state_and_conserve_handles(
    start: str, cfg: TcpConfig, guest: dict[str, object], script: list[tuple[object, ...]]
) -> None:
    rig = BUILDERS[start](cfg) if start == "syn_sent" else BUILDERS[start](cfg, **guest)
    for event in script:
        adv = rig.conn.rcv.rcv_adv
        apply(rig, event)
        legal(rig, adv)
        if rig.seen(Gone):
            break
    if rig.seen(Gone):
        assert not rig.arrived
        assert not rig.given
    else:
        end(rig)


@pytest.mark.parametrize("start", sorted(BUILDERS))
def test_long_random_runs_conserve_handles(start: str) -> None:
    """Deeper than hypothesis goes: hundreds of plausible events in a row, with fixed seeds."""
    for seed in range(12):
        rng = random.Random(f"{start}{seed}")
        cfg = rng.choice(CONFIGS)
        rig = BUILDERS[start](cfg) if start == "syn_sent" else BUILDERS[start](cfg, **rng.choice(GUESTS))
        for _ in range(300):
            adv = rig.conn.rcv.rcv_adv
            kind = rng.random()
            event: tuple[object, ...]
            if kind < 0.55:
                flags = rng.choices([ACK, ACK | PSH, ACK | FIN, RST, SYN], [50, 30, 1, 0.1, 1])[0]
                event = (
                    "segment",
                    flags,
                    rng.choice([0, 1, 100, 1448, 20000]),
                    rng.choice(["next", "next", "before", "ooo", "edge"]),
                    rng.choice([0, 0, 0, 1, -1, 700]),
                    rng.choice(["una", "nxt", "mid"]),
                    0,
                    rng.choice([0, 10, 3000, 65535]),
                    rng.choice(["none", "mid", "dsack", "wild"]),
                    0,
                )
            elif kind < 0.7:
                event = ("data", rng.choice([1, 500, 30000]))
            elif kind < 0.85:
                event = ("transmit", rng.randrange(4))
            elif kind < 0.95:
                event = ("taken", rng.randrange(1, 30000))
            elif kind < 0.99:
                event = ("timer",)
            else:
                event = ("connected",)
            apply(rig, event)
            legal(rig, adv)
            if rig.seen(Gone):
                break
        if not rig.seen(Gone):
            end(rig)
