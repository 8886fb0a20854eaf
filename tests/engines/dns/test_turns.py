"""Who may begin a question: bounds and turns, whatever clients do."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.engines.dns import turns as dns_turns
from pipeline.engines.dns.turns import Turns


def flood(turns: Turns[int], client: str, count: int) -> int:
    """How many questions a client begins; the others wait."""
    begun = 0
    for number in range(count):
        if turns.begin(client, 0.0):
            begun += 1
        else:
            turns.wait(client, number)
    return begun


def test_a_client_alone_has_all_that_anybody_may_have() -> None:
    turns: Turns[int] = Turns()
    assert flood(turns, "alone", 1000) == dns_turns.SHARED


def test_who_floods_leaves_room_to_eight_others() -> None:
    turns: Turns[int] = Turns()
    assert flood(turns, "greedy", 1000) == dns_turns.SHARED == 512
    assert [flood(turns, f"other{n}", 100) for n in range(9)] == [dns_turns.LEAST] * 8 + [0]


def test_where_sockets_are_few_one_client_leaves_a_fifth_to_others() -> None:
    turns: Turns[int] = Turns(100)
    assert flood(turns, "greedy", 1000) == 80
    assert [flood(turns, f"other{n}", 100) for n in range(2)] == [20, 0]


def test_the_client_that_left_the_queue_has_no_turn() -> None:
    turns: Turns[int] = Turns()
    flood(turns, "greedy", dns_turns.SHARED + 2)
    turns.leave("greedy", dns_turns.SHARED)
    turns.leave("greedy", 7)
    turns.leave("nobody", 7)
    turns.end("greedy")
    assert turns.next(0.0) == ("greedy", dns_turns.SHARED + 1)
    turns.end("greedy")
    assert turns.next(0.0) is None


@given(st.lists(st.tuples(st.sampled_from("abcd"), st.integers(0, 3)), max_size=300))
@settings(max_examples=100, deadline=None)
def test_bounds_hold_and_nobody_waits_who_may_begin(events: list[tuple[str, int]]) -> None:
    turns: Turns[int] = Turns()
    for client in "abcd":
        flood(turns, client, 400)
    begun = dict.fromkeys("abcd", 0)
    for client in "abcd":
        begun[client] = dns_turns.LEAST
    begun["a"] = 400
    begun["b"] = dns_turns.SHARED - 400
    for number, (client, what) in enumerate(events):
        if what and begun[client]:
            turns.end(client)
            begun[client] -= 1
        elif turns.begin(client, 0.0):
            begun[client] += 1
        else:
            turns.wait(client, 1000 + number)
        while (turn := turns.next(0.0)) is not None:
            begun[str(turn[0])] += 1
        assert turns.begun_count == sum(begun.values()) <= dns_turns.MAX_BEGUN
        assert all(count <= dns_turns.SHARED for count in begun.values())


# --- rates ----------------------------------------------------------------------------------


def started(turns: Turns[int], now: float, count: int = 100) -> int:
    """How many of these questions of a client begin at once and end at once; the others wait."""
    begun = 0
    for number in range(count):
        if turns.begin("busy", now):
            turns.end("busy")
            begun += 1
        else:
            turns.wait("busy", number)
    return begun


def test_a_client_has_no_rate_while_it_is_not_crowded() -> None:
    turns: Turns[int] = Turns(per_second=10)
    assert started(turns, 0.0) == 100
    turns.crowded_until = 1.0
    assert started(turns, 1.0) == 100
    # What it began meanwhile does not count afterwards.
    turns.crowded_until = 3.0
    assert started(turns, 2.0) == 5


def test_questions_beyond_the_rate_wait_and_begin_one_by_one() -> None:
    turns: Turns[int] = Turns(per_second=10)
    turns.crowded_until = 60.0
    assert started(turns, 0.0, 20) == 5
    assert turns.next(0.0) is None
    # Another client has a rate of its own.
    assert turns.begin("other", 0.0)
    times = []
    for _ in range(15):
        now = turns.deadline()
        assert turns.next(now - 0.01) is None
        assert turns.next(now + 1e-9) == ("busy", 5 + len(times))
        turns.end("busy")
        times.append(now)
    assert times == pytest.approx([0.1 * n for n in range(1, 16)], abs=1e-6)
    assert turns.deadline() == float("inf")


def test_all_questions_may_begin_when_it_is_not_crowded_any_more() -> None:
    turns: Turns[int] = Turns(per_second=2)
    turns.crowded_until = 0.3
    started(turns, 0.0, 20)
    assert turns.deadline() == 0.3
    found = 0
    while turns.next(0.3) is not None:
        found += 1
    assert found == 19


def test_a_client_that_waits_for_room_has_no_deadline() -> None:
    turns: Turns[int] = Turns(per_second=10)
    turns.crowded_until = 60.0
    for _ in range(dns_turns.SHARED // 64):
        for client in range(8):
            while turns.begin(client, 0.0):
                pass
    turns.crowded_until = 0.0
    flood(turns, "greedy", 1000)
    turns.crowded_until = 60.0
    assert turns.deadline() == float("inf")


def test_a_client_that_comes_back_at_once_has_no_more_than_before() -> None:
    turns: Turns[int] = Turns(per_second=10)
    turns.crowded_until = 60.0
    assert started(turns, 0.0, 5) == 5
    turns.on_client_gone(0.0)
    assert not turns.begin("busy", 0.0)
    turns.on_client_gone(10.0)
    assert started(turns, 10.0, 9) == 5
