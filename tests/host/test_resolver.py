"""Asking upstream servers: real sockets to fake servers on 127.0.0.1, time by hand."""

import os
import socket
from collections.abc import Iterator

import dns.flags
import dns.message
import dns.rcode
import dns.rrset
import pytest

from pipeline.host import resolver
from pipeline.host.name_files import Server
from pipeline.host.resolver import Upstream
from tests.support.fake_name_server import FakeServer
from tests.support.poller import Poller


class Rig:
    """An Upstream, its servers, and a clock that only the test moves."""

    def __init__(self, count: int = 1) -> None:
        self.poller = Poller()
        self.now = 1000.0
        self.fakes = [FakeServer(self.poller) for _ in range(count)]
        self.servers = [fake.server for fake in self.fakes]
        self.upstream: Upstream[str] = Upstream(
            self.poller, lambda: self.servers, lambda: self.now, os.urandom
        )
        self.results: dict[str, bytes | None] = {}

    def ask(self, token: str = "t", name: str = "www.example.com") -> None:
        query = dns.message.make_query(name, "A", use_edns=0, payload=1232)
        query.id = 0
        self.upstream.ask(token, query.to_wire(), self.now)
        self._collect()

    def advance(self, seconds: float) -> None:
        self.now += seconds
        if self.upstream.deadline() <= self.now:
            self.upstream.on_timer(self.now)
        self._collect()

    def query(self, server: int = 0, number: int = 0) -> tuple[dns.message.Message, object]:
        """The number-th query that a server got."""
        fake = self.fakes[server]
        self.poller.run_until(lambda: len(fake.queries) > number)
        return fake.queries[number]

    def result(self, token: str = "t") -> dns.message.Message | None:
        self.poller.run_until(lambda: self._collect() or token in self.results)
        wire = self.results[token]
        return None if wire is None else dns.message.from_wire(wire)

    def settle(self) -> None:
        while self.poller.run(0.05):
            pass
        self._collect()

    def _collect(self) -> None:
        for token, wire in self.upstream.take_results():
            assert token not in self.results
            self.results[token] = wire


@pytest.fixture
def rig() -> Iterator[Rig]:
    yield from _rig(1)


@pytest.fixture
def pair() -> Iterator[Rig]:
    yield from _rig(2)


def _rig(count: int) -> Iterator[Rig]:
    made = Rig(count)
    yield made
    made.upstream.close()
    left = len(made.poller.callbacks)
    for fake in made.fakes:
        fake.close()
    made.poller.close()
    # Only the sockets of the fake servers may be left.
    assert left <= sum(2 + len(fake.connections) for fake in made.fakes)


def response(query: dns.message.Message, address: str = "1.2.3.4", rcode: int = 0) -> dns.message.Message:
    message = dns.message.make_response(query)
    message.set_rcode(rcode)
    if not rcode:
        message.answer.append(dns.rrset.from_text(query.question[0].name, 60, "IN", "A", address))
    return message


def address(message: dns.message.Message | None) -> str:
    assert message is not None
    return str(message.answer[0][0].to_text())


def code(message: dns.message.Message | None) -> int:
    assert message is not None
    return int(message.rcode())


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
    assert len(rig.fakes[0].queries) == resolver.MAX_TRIES


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
    assert len(pair.fakes[0].queries) == 1
    pair.advance(resolver.AVOID_SECONDS)
    pair.ask("much later")
    pair.query(0, 1)


def test_slow_answer_makes_the_server_a_good_one_again(pair: Rig) -> None:
    pair.ask()
    query, client = pair.query(0)
    pair.advance(resolver.RETRY)
    pair.query(1)
    pair.fakes[0].answer(response(query), client)
    assert pair.result() is not None
    pair.ask("next")
    pair.query(0, 1)


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
    for _ in range(1, resolver.MAX_TRIES):
        for _ in ("b", "c"):
            due = rig.upstream.deadline()
            rig.advance(due - rig.now)
            assert rig.upstream.deadline() > due
    assert rig.upstream.deadline() == began + 0.25 + resolver.BUDGET
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


@pytest.mark.parametrize("rcode", [dns.rcode.SERVFAIL, dns.rcode.REFUSED])
def test_unhelpful_server_is_followed_by_the_next_one_at_once(pair: Rig, rcode: int) -> None:
    pair.ask()
    query, client = pair.query(0)
    pair.fakes[0].answer(response(query, rcode=rcode), client)
    query, client = pair.query(1)
    pair.fakes[1].answer(response(query), client)
    assert address(pair.result()) == "1.2.3.4"


def test_code_of_the_first_unhelpful_server_is_the_result_when_all_are(pair: Rig) -> None:
    pair.ask()
    for server, rcode in ((0, dns.rcode.REFUSED), (1, dns.rcode.SERVFAIL)):
        query, client = pair.query(server)
        pair.fakes[server].answer(response(query, rcode=rcode), client)
    assert code(pair.result()) == dns.rcode.REFUSED


def test_code_of_an_unhelpful_server_is_the_result_when_the_others_are_silent(pair: Rig) -> None:
    pair.ask()
    query, client = pair.query(0)
    pair.fakes[0].answer(response(query, rcode=dns.rcode.SERVFAIL), client)
    pair.query(1)
    for _ in range(46):
        pair.advance(0.1)
    assert code(pair.result()) == dns.rcode.SERVFAIL


@pytest.mark.parametrize("rcode", [dns.rcode.FORMERR, dns.rcode.NOTIMP])
@pytest.mark.parametrize("question", [True, False])
def test_server_without_edns_is_asked_without(rig: Rig, rcode: int, question: bool) -> None:
    rig.ask()
    query, client = rig.query()
    assert query.edns == 0
    wire = response(query, rcode=rcode).to_wire()
    if not question:
        wire = wire[:4] + bytes(8)
    rig.fakes[0].answer(wire, client)
    again, client = rig.query(number=1)
    assert again.edns == -1
    assert again.question == query.question
    rig.fakes[0].answer(response(again), client)
    assert address(rig.result()) == "1.2.3.4"


def test_server_that_understands_nothing_is_asked_twice_only(rig: Rig) -> None:
    rig.ask()
    for number in range(2):
        query, client = rig.query(number=number)
        rig.fakes[0].answer(response(query, rcode=dns.rcode.FORMERR), client)
    assert code(rig.result()) == dns.rcode.FORMERR
    assert len(rig.fakes[0].queries) == 2


# --- forged and senseless responses -------------------------------------------------------------


def test_responses_that_do_not_fit_are_ignored_until_the_right_one_comes(rig: Rig) -> None:
    rig.ask()
    query, client = rig.query()
    right = response(query).to_wire()
    other_id = bytes((right[0] ^ 1,)) + right[1:]
    for wire in (
        b"",
        right[:11],
        other_id,
        right[:2] + b"\x01" + right[3:],
        right[:2] + b"\xa9" + right[3:],
        right.replace(b"\x03www", b"\x03wwx"),
        right.replace(b"com\0\0\1\0\1", b"com\0\0\2\0\1"),
        right[:4] + b"\0\2" + right[6:],
        right[:4] + bytes(8),
    ):
        rig.fakes[0].answer(wire, client)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger:
        stranger.bind(("127.0.0.1", 0))
        stranger.sendto(response(query, "6.6.6.6").to_wire(), client)  # type: ignore[arg-type]
    rig.settle()
    assert not rig.results
    assert rig.upstream.ignored == 9
    rig.fakes[0].answer(right.replace(b"\x03www", b"\x03WwW"), client)
    assert address(rig.result()) == "1.2.3.4"


def test_type_that_differs_in_the_bit_of_case_is_another_type(rig: Rig) -> None:
    query = dns.message.make_query("a.example", 65, use_edns=0)
    query.id = 0
    rig.upstream.ask("t", query.to_wire(), rig.now)
    got, client = rig.query()
    wire = dns.message.make_response(got).to_wire()
    rig.fakes[0].answer(wire.replace(b"\0A\0\1", b"\0a\0\1"), client)
    rig.settle()
    assert not rig.results
    rig.fakes[0].answer(wire, client)
    assert rig.result() is not None


# --- TCP ----------------------------------------------------------------------------------------


def truncated(query: dns.message.Message) -> dns.message.Message:
    message = response(query, "5.5.5.5")
    message.flags |= dns.flags.TC
    return message


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


# --- bounds ---------------------------------------------------------------------------------------


def test_asks_under_way_are_bounded(rig: Rig) -> None:
    for n in range(resolver.MAX_ASKS):
        rig.ask(str(n))
    assert not rig.results
    rig.ask("one more")
    assert rig.results == {"one more": None}
    rig.settle()
    rig.upstream.close()
    assert len(rig.upstream) == 0
    assert list(rig.poller.callbacks) == [rig.fakes[0].udp.fileno()]


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
