"""Who may begin a question: bounds and turns, whatever clients do."""

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
