"""The sender's scoreboard against a model that keeps one entry a byte."""

from hypothesis import given
from hypothesis import strategies as st

from pipeline.engines.tcp.sack import Scoreboard, SentRange

BASE = 0xFFFFFFFF - 40


def board(*spans: tuple[int, int], max_ranges: int = 100) -> Scoreboard:
    """Ranges sent at times 0, 1, 2, ..."""
    b = Scoreboard(BASE, max_ranges)
    for time, (start, end) in enumerate(spans):
        b.sent(BASE + start, BASE + end, float(time))
    return b


def shape(b: Scoreboard) -> list[tuple[int, int, str]]:
    return [
        (
            r.start - BASE,
            r.end - BASE,
            ("S" if r.sacked else "") + ("L" if r.lost else "") + ("R" if r.retransmitted else ""),
        )
        for r in b.ranges
    ]


def sack(b: Scoreboard, left: int, right: int) -> int:
    newly: list[SentRange] = []
    return b.sack(BASE + left, BASE + right, newly)


def test_one_call_of_transmit_is_one_range() -> None:
    b = Scoreboard(BASE, 10)
    b.sent(BASE, BASE + 10, 1.0)
    b.sent(BASE + 10, BASE + 20, 1.0)
    b.sent(BASE + 20, BASE + 30, 2.0)
    assert shape(b) == [(0, 20, ""), (20, 30, "")]


def test_an_ack_in_the_middle_cuts_the_front_and_returns_it() -> None:
    b = board((0, 10), (10, 20))
    newly = b.acknowledge(BASE + 15)
    assert [(r.start - BASE, r.end - BASE, r.xmit_ts) for r in newly] == [(0, 10, 0.0), (10, 15, 1.0)]
    assert shape(b) == [(15, 20, "")]


def test_a_sack_in_the_middle_cuts_twice_and_leaves_holes() -> None:
    b = board((0, 30))
    assert sack(b, 10, 20) == 10
    assert shape(b) == [(0, 10, ""), (10, 20, "S"), (20, 30, "")]
    assert b.sacked_bytes == 10
    assert b.high_sacked == BASE + 20


def test_sacked_neighbours_are_joined() -> None:
    b = board((0, 10), (10, 20), (20, 30), (30, 40))
    sack(b, 10, 20)
    sack(b, 30, 40)
    assert sack(b, 15, 35) == 10
    assert shape(b) == [(0, 10, ""), (10, 40, "S")]


def test_the_same_block_again_is_no_news() -> None:
    b = board((0, 30))
    sack(b, 10, 20)
    assert sack(b, 10, 20) == 0
    assert sack(b, 12, 18) == 0


def test_only_holes_are_marked_lost_and_only_they_are_sent_again() -> None:
    b = board((0, 30))
    sack(b, 10, 20)
    b.mark_all_lost(reneged=False)
    assert shape(b) == [(0, 10, "L"), (10, 20, "S"), (20, 30, "L")]
    assert b.lost_bytes == 20
    b.retransmitted(0, BASE + 4, 5.0)
    assert shape(b) == [(0, 4, "R"), (4, 10, "L"), (10, 20, "S"), (20, 30, "L")]
    assert (b.lost_bytes, b.retransmitted_out) == (16, 1)


def test_a_peer_that_reneged_loses_its_marks() -> None:
    b = board((0, 30))
    sack(b, 0, 20)
    b.mark_all_lost(reneged=True)
    assert b.sacked_bytes == 0
    assert b.lost_bytes == 30


def test_the_front_alone_can_be_marked_for_peers_without_sack() -> None:
    b = board((0, 30))
    b.mark_front_lost(10)
    b.mark_front_lost(10)
    assert shape(b) == [(0, 10, "L"), (10, 30, "")]


def test_too_many_cuts_are_refused() -> None:
    b = board((0, 40), max_ranges=3)
    assert sack(b, 5, 10) == 5
    assert sack(b, 15, 20) == 0
    assert len(b.ranges) == 3
    assert sack(b, 10, 40) == 30, "no cut needed"


def test_undo_puts_lost_ranges_back_in_flight() -> None:
    b = board((0, 10), (10, 20))
    b.mark_all_lost(reneged=False)
    b.unmark_lost()
    assert b.lost_bytes == 0
    assert shape(b) == [(0, 10, ""), (10, 20, "")]


def test_a_tail_probe_cuts_the_last_range() -> None:
    b = board((0, 10), (10, 30))
    b.tail_retransmitted(BASE + 25, 9.0)
    assert shape(b) == [(0, 10, ""), (10, 25, ""), (25, 30, "R")]
    assert b.ranges[-1].xmit_ts == 9.0
    b.clear()
    assert (b.ranges, b.retransmitted_out) == ([], 0)


operations = st.one_of(
    st.tuples(st.just("send"), st.integers(1, 15), st.just(0)),
    st.tuples(st.just("ack"), st.integers(0, 30), st.just(0)),
    st.tuples(st.just("sack"), st.integers(0, 50), st.integers(1, 20)),
    st.tuples(st.just("lost"), st.integers(0, 10), st.just(0)),
    st.tuples(st.just("resend"), st.integers(0, 10), st.integers(1, 10)),
    st.tuples(st.just("front"), st.integers(1, 10), st.just(0)),
    st.tuples(st.just("all lost"), st.booleans(), st.just(0)),
    st.tuples(st.just("undo"), st.just(0), st.just(0)),
)


@given(st.lists(operations, max_size=40))
def test_against_a_model_of_single_bytes(script: list[tuple[str, int, int]]) -> None:
    b = Scoreboard(BASE, 1000)
    una = nxt = BASE
    status: dict[int, str] = {}
    for time, (kind, x, y) in enumerate(script):
        now = float(time)
        if kind == "send":
            b.sent(nxt, nxt + x, now)
            status |= dict.fromkeys(range(nxt, nxt + x), "")
            nxt += x
        elif kind == "ack":
            una = min(una + x, nxt)
            newly = b.acknowledge(una)
            known = [p for p in status if p < una and status[p] != "S"]
            assert sum(r.end - r.start for r in newly) == len(known)
            status = {p: s for p, s in status.items() if p >= una}
        elif kind == "sack":
            left, right = una + x, min(una + x + y, nxt)
            if left < right:
                before = sum(status[p] != "S" for p in range(left, right))
                newly = []
                assert b.sack(left, right, newly) == before
                status |= dict.fromkeys(range(left, right), "S")
        elif kind == "lost" and b.ranges:
            r = b.ranges[x % len(b.ranges)]
            b.mark_lost(r)
            for p in range(r.start, r.end):
                if status[p] != "S":
                    status[p] = "L"
        elif kind == "resend" and b.ranges:
            index = x % len(b.ranges)
            r = b.ranges[index]
            if r.lost:
                end = min(r.start + y, r.end)
                start = r.start
                b.retransmitted(index, end, now)
                status |= dict.fromkeys(range(start, end), "")
        elif kind == "front" and b.ranges:
            start = b.ranges[0].start
            b.mark_front_lost(x)
            r = b.ranges[0]
            assert r.start == start
            if status[start] != "S":
                assert r.lost
                status |= dict.fromkeys(range(r.start, r.end), "L")
        elif kind == "all lost":
            b.mark_all_lost(bool(x))
            status = {p: "S" if s == "S" and not x else "L" for p, s in status.items()}
        elif kind == "undo":
            b.unmark_lost()
            status = {p: "" if s == "L" else s for p, s in status.items()}
        got = {p: "S" if r.sacked else "L" if r.lost else "" for r in b.ranges for p in range(r.start, r.end)}
        assert got == status
        assert b.sacked_bytes == sum(s == "S" for s in status.values())
        assert b.lost_bytes == sum(s == "L" for s in status.values())
        assert b.retransmitted_out == sum(r.retransmitted and not r.sacked for r in b.ranges)
