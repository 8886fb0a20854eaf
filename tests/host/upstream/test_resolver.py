"""Asking upstream servers: tries, time, what counts as a response, TCP, bounds."""

import socket
from collections.abc import Iterator

import dns.flags
import dns.message
import dns.rcode
import dns.rrset
import pytest

from pipeline.host.name_files import Server
from pipeline.host.upstream import question, resolver, servers
from tests.support.upstream_rig import Rig, address, code, response, run, truncated


@pytest.fixture
def rig() -> Iterator[Rig]:
    yield from run(1)


@pytest.fixture
def pair() -> Iterator[Rig]:
    yield from run(2)


@pytest.fixture
def few() -> Iterator[Rig]:
    yield from run(1, max_sockets=12)


def test_answer_of_the_server_is_the_result(rig: Rig) -> None:
    rig.ask()
    query, client = rig.query()
    assert query.question[0].to_text() == "www.example.com. IN A"
    rig.fakes[0].answer(response(query), client)
    assert address(rig.result()) == "1.2.3.4"
    assert len(rig.upstream) == 0
    assert rig.upstream.deadline() == float("inf")


def test_several_questions_are_under_way_at_once_and_answered_in_any_order(rig: Rig) -> None:
    names = [f"n{n}.example" for n in range(20)]
    for name in names:
        rig.ask(name, name)
    queries = [rig.query(number=n) for n in range(20)]
    for n in reversed(range(20)):
        query, client = queries[n]
        rig.fakes[0].answer(
            response(query, f"10.0.0.{query.question[0].name.labels[0][1:].decode()}"), client
        )
    assert [address(rig.result(name)) for name in names] == [f"10.0.0.{n}" for n in range(20)]


def test_every_question_has_its_own_port_and_a_random_id(rig: Rig) -> None:
    for n in range(20):
        rig.ask(str(n))
    queries = [rig.query(number=n) for n in range(20)]
    assert len({client for _, client in queries}) == 20
    assert len({query.id for query, _ in queries}) > 15


@pytest.mark.parametrize("rcode", [dns.rcode.NXDOMAIN, dns.rcode.YXDOMAIN, dns.rcode.NOTAUTH])
def test_code_is_passed_on(rig: Rig, rcode: int) -> None:
    rig.ask()
    query, client = rig.query()
    rig.fakes[0].answer(response(query, rcode=rcode), client)
    assert code(rig.result()) == rcode


# --- silence --------------------------------------------------------------------------------


def test_silent_server_is_asked_again_with_another_id_and_an_answer_to_either_counts(rig: Rig) -> None:
    rig.ask()
    first, client = rig.query(number=0)
    rig.advance(resolver.RETRY)
    second, other = rig.query(number=1)
    assert client != other
    rig.fakes[0].answer(response(first, "9.9.9.9"), client)
    assert address(rig.result()) == "9.9.9.9"
    assert second.question == first.question


def test_dead_server_gives_no_result_within_five_seconds(rig: Rig) -> None:
    rig.ask()
    for _ in range(44):
        rig.advance(0.1)
        assert not rig.results
    rig.advance(0.11)
    assert rig.results == {"t": None}
    rig.settle()
    assert len(rig.fakes[0].queries) == question.MAX_TRIES


def test_second_server_is_asked_when_the_first_is_silent_and_first_from_then_on(pair: Rig) -> None:
    pair.ask()
    pair.query(0)
    pair.advance(resolver.RETRY)
    query, client = pair.query(1)
    pair.fakes[1].answer(response(query), client)
    assert address(pair.result()) == "1.2.3.4"
    pair.ask("later")
    query, client = pair.query(1, 1)
    pair.fakes[1].answer(response(query), client)
    assert pair.result("later") is not None
    # The first one was asked without EDNS as well, and no more since then.
    assert [query.edns for query, _ in pair.fakes[0].queries] == [0, -1]
    pair.advance(servers.AVOID_SECONDS)
    pair.ask("much later")
    pair.query(0, 2)


def test_slow_answer_makes_the_server_a_good_one_again(pair: Rig) -> None:
    pair.ask()
    query, client = pair.query(0)
    pair.advance(resolver.RETRY)
    pair.query(1)
    pair.fakes[0].answer(response(query), client)
    assert pair.result() is not None
    pair.ask("next")
    pair.query(0, 2)


def test_deadline_is_that_of_the_next_try_or_end_of_any_ask(rig: Rig) -> None:
    began = rig.now
    assert rig.upstream.deadline() == float("inf")
    for token in ("a", "b", "c"):
        rig.ask(token)
        rig.advance(0.25)
    assert rig.upstream.deadline() == began + resolver.RETRY
    query, client = rig.query(number=0)
    rig.fakes[0].answer(response(query), client)
    assert rig.result("a") is not None
    assert rig.upstream.deadline() == began + 0.25 + resolver.RETRY
    # "b" is asked again before "c", and so on, until both have no try left.
    for _ in range(1, question.MAX_TRIES):
        for _ in ("b", "c"):
            due = rig.upstream.deadline()
            rig.advance(due - rig.now)
            assert rig.upstream.deadline() > due
    # The one that "a" had comes once more, early for the others.
    assert rig.upstream.deadline() == began + resolver.BUDGET
    rig.advance(rig.upstream.deadline() - rig.now)
    assert rig.upstream.deadline() == began + 0.25 + resolver.BUDGET
    assert not {"b", "c"} & set(rig.results)
    rig.advance(resolver.BUDGET)
    assert rig.result("b") is rig.result("c") is None
    assert rig.upstream.deadline() == float("inf")


# --- errors -----------------------------------------------------------------------------------


def test_refused_port_gives_no_result_at_once(rig: Rig) -> None:
    rig.fakes[0].stop()
    rig.ask()
    assert rig.result() is None


def test_second_server_is_asked_at_once_when_the_first_port_is_refused(pair: Rig) -> None:
    pair.fakes[0].stop()
    pair.ask()
    query, client = pair.query(1)
    pair.fakes[1].answer(response(query), client)
    assert address(pair.result()) == "1.2.3.4"


def test_unreachable_server_and_no_server_give_no_result(rig: Rig) -> None:
    rig.servers = [Server(socket.AF_INET, ("255.255.255.255", 53))]
    rig.ask()
    assert rig.results == {"t": None}
    rig.servers = []
    rig.ask("none")
    assert rig.results["none"] is None


# --- TCP ----------------------------------------------------------------------------------------


def test_truncated_answer_is_asked_for_over_tcp(rig: Rig) -> None:
    rig.fakes[0].listen()
    rig.ask()
    query, client = rig.query()
    rig.fakes[0].answer(truncated(query), client)
    again, connection = rig.query(number=1)
    assert isinstance(connection, socket.socket)
    assert again.question == query.question
    big = response(again)
    big.answer = [
        dns.rrset.from_text("www.example.com.", 60, "IN", "A", *(f"10.0.{n}.1" for n in range(250)))
    ]
    rig.fakes[0].answer(big, connection)
    result = rig.result()
    assert result is not None
    assert len(result.answer[0]) == 250
    assert rig.upstream.over_tcp == 1


def test_answer_over_tcp_in_pieces_with_another_id_first(rig: Rig) -> None:
    rig.fakes[0].listen()
    rig.ask()
    query, client = rig.query()
    rig.fakes[0].answer(truncated(query), client)
    again, connection = rig.query(number=1)
    assert isinstance(connection, socket.socket)
    right = response(again).to_wire()
    rig.fakes[0].answer(bytes((right[0] ^ 1,)) + right[1:], connection)
    data = len(right).to_bytes(2, "big") + right
    for at in range(0, len(data), 7):
        connection.sendall(data[at : at + 7])
        rig.poller.run(0.01)
    rig.poller.unregister(connection.fileno())
    connection.close()
    rig.fakes[0].connections.clear()
    assert address(rig.result()) == "1.2.3.4"


def test_truncated_answer_is_the_result_when_tcp_is_refused(rig: Rig) -> None:
    rig.ask()
    query, client = rig.query()
    rig.fakes[0].answer(truncated(query), client)
    assert address(rig.result()) == "5.5.5.5"


@pytest.mark.parametrize("close", [True, False])
def test_truncated_answer_is_the_result_when_tcp_gives_nothing(rig: Rig, close: bool) -> None:
    rig.fakes[0].listen()
    rig.ask()
    query, client = rig.query()
    rig.fakes[0].answer(truncated(query), client)
    _, connection = rig.query(number=1)
    assert isinstance(connection, socket.socket)
    if close:
        rig.poller.unregister(connection.fileno())
        connection.close()
        rig.fakes[0].connections.clear()
    else:
        rig.advance(4.4)
        assert not rig.results
        rig.advance(0.2)
    assert address(rig.result()) == "5.5.5.5"


# --- time -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("waited, seconds", [(0.0, 4.5), (2.0, 2.5), (3.9, 1.0)])
def test_what_a_guest_waited_before_is_taken_off_the_budget(rig: Rig, waited: float, seconds: float) -> None:
    rig.ask(waited=waited)
    rig.advance(seconds - 0.01)
    assert not rig.results
    rig.advance(0.02)
    assert rig.results == {"t": None}


def test_ask_that_began_later_may_end_earlier(rig: Rig) -> None:
    rig.ask("first")
    rig.ask("waited", waited=3.0)
    rig.advance(1.51)
    assert rig.results == {"waited": None}
    rig.advance(3.0)
    assert rig.results == {"waited": None, "first": None}


# --- bounds ---------------------------------------------------------------------------------------


def test_asks_under_way_are_bounded(rig: Rig) -> None:
    for n in range(resolver.MAX_QUESTIONS):
        rig.ask(str(n))
    assert not rig.results
    rig.ask("one more")
    assert rig.results == {"one more": None}
    rig.settle()
    rig.upstream.close()
    assert len(rig.upstream) == 0
    assert list(rig.poller.callbacks) == [rig.fakes[0].udp.fileno()]


def test_sockets_are_bounded_while_no_server_answers(few: Rig) -> None:
    rig = few
    for n in range(10):
        rig.ask(str(n))
    for _ in range(3):
        rig.advance(resolver.RETRY)
    assert len(rig.poller.callbacks) - 1 == 12
    rig.advance(resolver.BUDGET)
    assert len(rig.results) == 10


def test_where_sockets_are_few_so_are_asks(few: Rig) -> None:
    for n in range(12):
        few.ask(str(n))
    assert not few.results
    few.ask("one more")
    assert few.results == {"one more": None}


def test_flood_of_forged_responses_is_read_in_portions(rig: Rig) -> None:
    rig.ask()
    query, client = rig.query()
    wire = response(query).to_wire()
    for _ in range(3 * resolver.READS):
        rig.fakes[0].answer(bytes((wire[0] ^ 1,)) + wire[1:], client)
    rig.poller.run(0.05)
    assert rig.upstream.ignored == resolver.READS
    rig.fakes[0].answer(wire, client)
    assert rig.result() is not None
