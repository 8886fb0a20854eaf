"""A connection in TIME-WAIT as one object: it does what the Connection would do, and holds little."""

import copy
import gc
from dataclasses import replace
from random import Random

import pytest

from pipeline.engines.tcp.actions import Gone, Outgoing
from pipeline.engines.tcp.config import TcpConfig
from pipeline.engines.tcp.connection import Connection
from pipeline.engines.tcp.segment import Segment
from pipeline.engines.tcp.state import CLOSED, TIME_WAIT
from pipeline.engines.tcp.time_wait import TimeWait
from pipeline.wire.tcp import ACK, FIN, PSH, RST, SYN
from tests.engines.tcp.builders import MASK, NO_OPTIONS, SYNS_IN_TIME_WAIT, Rig, fin_wait_2, time_wait

NO_TIMESTAMPS: dict[str, object] = {"has_ts": False}
NO_SACK: dict[str, object] = {"sack_permitted": False}
MSL2 = 60.0


def resting(cfg: TcpConfig | None = None, **fields: object) -> tuple[Rig, TimeWait]:
    """A connection whose last ACK has left, and what is left of it."""
    rig = time_wait(cfg, **fields)
    return rig, TimeWait(rig.conn)


def fields_of(out: Outgoing) -> dict[str, object]:
    """Everything about a segment without data that the guest will see."""
    return {name: getattr(out, name) for name in Outgoing.__slots__ if name != "mss"}


def test_a_repeated_fin_is_acknowledged_and_restarts_the_wait() -> None:
    rig, left = resting()
    assert left.state == TIME_WAIT
    assert left.deadline() == rig.now + MSL2
    assert not left.wants_transmit
    rig.now += 50
    assert (
        left.on_segment(rig.segment(FIN | ACK, seq=rig.seq - 1), rig.now) == "tcp_segment_dropped_duplicate"
    )
    assert left.deadline() == rig.now + MSL2
    (ack,) = left.transmit(rig.now, 1)
    assert (ack.flags, ack.seq, ack.ack) == (ACK, rig.ack, rig.seq)
    assert (ack.ts_val, ack.ts_ecr) == (rig.guest_clock(), rig.guest_clock() - 50_000)
    assert left.transmit(rig.now, 1) == []


def test_the_ack_waits_for_room() -> None:
    rig, left = resting()
    left.on_segment(rig.segment(FIN | ACK, seq=rig.seq - 1), rig.now)
    assert left.transmit(rig.now, 0) == []
    assert left.wants_transmit
    assert len(left.transmit(rig.now, 1)) == 1


def test_an_ack_that_was_due_before_is_not_lost() -> None:
    rig = fin_wait_2()
    rig.guest(FIN | ACK)
    left = TimeWait(rig.conn)
    (ack,) = left.transmit(rig.now, 1)
    assert (ack.flags, ack.ack) == (ACK, rig.seq)


@pytest.mark.parametrize("before", [0, 1])
def test_a_reset_ends_the_wait(before: int) -> None:
    """The exact number, or that of the FIN."""
    rig, left = resting()
    assert left.on_segment(rig.segment(RST, seq=rig.seq - before), rig.now) is None
    assert left.over
    assert left.state == CLOSED
    assert left.on_segment(rig.segment(FIN | ACK, seq=rig.seq - 1), rig.now) == "tcp_segment_dropped_closed"
    assert not left.wants_transmit
    assert left.accepts_reuse(rig.segment(SYN, seq=rig.seq - 5000, ack=0)), "RFC 9293 section 3.10.7.1"


def test_a_reset_with_a_guessed_number_is_challenged() -> None:
    rig, left = resting()
    reason = left.on_segment(rig.segment(RST, seq=rig.seq + 1000), rig.now)
    assert reason == "tcp_segment_dropped_bad_reset"
    assert left.wants_transmit
    left.transmit(rig.now, 1)
    reasons = [left.on_segment(rig.segment(RST, seq=rig.seq + 1000), rig.now) for _ in range(10)]
    assert reasons[-2:] == ["tcp_segment_dropped_bad_reset", "tcp_segment_dropped_challenge_limit"]
    assert not left.over


def test_data_after_the_fin_are_not_used() -> None:
    rig, left = resting()
    assert left.on_segment(rig.segment(ACK, 10), rig.now) == "tcp_segment_dropped_after_fin"
    assert left.transmit(rig.now, 1)[0].ack == rig.seq


def test_data_that_come_again_are_reported_as_duplicates() -> None:
    rig, left = resting()
    assert left.on_segment(rig.segment(ACK, 10, seq=rig.seq - 11), rig.now) == "tcp_segment_dropped_duplicate"
    (ack,) = left.transmit(rig.now, 1)
    assert ack.sack == (((rig.seq - 11) & MASK, (rig.seq - 1) & MASK),), "RFC 2883"
    left.on_segment(rig.segment(FIN | ACK, seq=rig.seq - 1), rig.now)
    assert left.transmit(rig.now, 1)[0].sack == ()


@pytest.mark.parametrize("options, seq_ahead, ts_ahead, accepted", SYNS_IN_TIME_WAIT)
def test_a_newer_syn_may_reuse_the_pair(
    options: dict[str, object], seq_ahead: int, ts_ahead: int, accepted: bool
) -> None:
    rig, left = resting(**options)
    fields: dict[str, object] = {"ts_val": rig.guest_clock() + ts_ahead} if rig.use_ts else {}
    syn = rig.segment(SYN, seq=rig.seq + seq_ahead, ack=0, **fields)
    assert left.accepts_reuse(syn) is accepted
    for flags in (ACK, FIN | ACK, SYN | ACK, RST, SYN | FIN):
        assert not left.accepts_reuse(rig.segment(flags, seq=rig.seq + seq_ahead, **fields))


def test_bytes_that_the_host_has_not_taken_stay_counted() -> None:
    rig = fin_wait_2()
    rig.guest(FIN | ACK, 100)
    rig.send()
    left = TimeWait(rig.conn)
    assert left.rcv_untaken == left.bytes_from_guest == 100
    left.on_taken(60, rig.now)
    assert left.rcv_untaken == 40
    left.on_taken(60, rig.now)
    assert left.rcv_untaken == 0
    assert not left.holds_bytes()


def test_little_is_left() -> None:
    """One object of its own, and the limit on challenge ACKs. The settings are those of all connections."""
    rig, left = resting()
    del rig.conn
    kept = [part for part in gc.get_referents(left) if gc.is_tracked(part) and not isinstance(part, type)]
    assert [type(part).__name__ for part in kept] == ["Challenges"]


# --- the same as a Connection ---------------------------------------------------------------------------


class Twins:
    """A Connection in TIME-WAIT, and a TimeWait of the same connection, which get the same segments."""

    def __init__(self, random: Random, cfg: TcpConfig, options: dict[str, object]) -> None:
        self.random = random
        self.rig = fin_wait_2(cfg, **options)
        self.rig.guest(FIN | ACK, random.choice([0, 500]))
        if random.random() < 0.7:
            self.rig.send()
        self.conn: Connection = self.rig.conn
        self.left = TimeWait(copy.deepcopy(self.conn))
        self.gone = False

    def segment(self) -> Segment:
        """One that is plausible, or nearly."""
        random, rig = self.random, self.rig
        near = random.choice([0, 0, 0, -1, -1, -1, 1, -500, -501, -2000, 1000, 65535 << 7, 1 << 24])
        flags = random.choice([ACK, ACK, ACK | PSH, FIN | ACK, FIN | ACK, FIN, SYN, SYN | ACK, RST, 0])
        if flags == RST and random.random() < 0.6:
            near = random.choice([5, 1000, -500])
        fields: dict[str, object] = {"has_ts": random.random() < (0.9 if rig.use_ts else 0.1)}
        if fields["has_ts"]:
            fields["ts_val"] = (rig.guest_clock() + random.choice([0, 0, 1, -1, -90_000])) & MASK
        if flags & SYN:
            fields["mss"] = 1460
        ack = rig.ack + random.choice([0, 0, 0, 1, -1, -(1 << 20), -(1 << 25), 1 << 24])
        return rig.segment(flags, random.choice([0, 0, 1, 500, 3000]), rig.seq + near, ack, 1000, **fields)

    def compare(self) -> None:
        conn, left = self.conn, self.left
        assert left.state == conn.state
        assert left.wants_transmit is conn.wants_transmit
        assert left.deadline() == (conn.deadline() if conn.state == TIME_WAIT else left.ends_at)
        assert left.last_received_at == conn.last_received_at
        assert left.last_active_at == conn.last_active_at
        assert left.rcv_untaken == conn.rcv_untaken
        assert (left.rcv_nxt, left.snd_nxt) == (conn.rcv_nxt, conn.snd_nxt)
        assert left.bytes_from_guest == conn.bytes_from_guest
        assert left.bytes_to_guest == conn.bytes_to_guest
        assert left.end == conn.end

    def step(self) -> None:
        conn, left, rig, random = self.conn, self.left, self.rig, self.random
        rig.now += random.choice([0.0, 0.001, 0.3, 7.0])
        if random.random() < 0.2:
            left.on_taken(100, rig.now)
            conn.on_taken(100, rig.now)
        seg = self.segment()
        assert left.accepts_reuse(seg) is conn.accepts_reuse(seg)
        assert left.on_segment(seg, rig.now) == conn.on_segment(seg, rig.now)
        rig.settle()
        self.compare()
        if random.random() < 0.8:
            theirs = [fields_of(out) for out in conn.transmit(rig.now, 4)]
            assert [fields_of(out) for out in left.transmit(rig.now, 4)] == theirs
            rig.settle()
        self.compare()
        assert left.over is bool(rig.seen(Gone))


@pytest.mark.parametrize(
    "options", [{}, NO_OPTIONS, NO_TIMESTAMPS, NO_SACK], ids=["all", "none", "sack", "ts"]
)
def test_it_does_what_the_connection_would_do(options: dict[str, object]) -> None:
    ends = 0
    for seed in range(150):
        random = Random(seed)
        cfg = replace(
            TcpConfig(), challenge_acks=random.choice([2, 10]), time_wait=random.choice([60.0, 1e6])
        )
        twins = Twins(random, cfg, options)
        for _ in range(40):
            twins.step()
            if twins.left.over:
                ends += 1
                break
    assert ends > 20
