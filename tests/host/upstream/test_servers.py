"""Upstream servers that are unhelpful, or do not understand EDNS."""

import socket
from collections.abc import Iterator

import dns.flags
import dns.message
import dns.rcode
import dns.rrset
import pytest

from pipeline.host.upstream import resolver, servers
from tests.support.upstream_rig import Rig, address, code, response, run, truncated


@pytest.fixture
def rig() -> Iterator[Rig]:
    yield from run(1)


@pytest.fixture
def pair() -> Iterator[Rig]:
    yield from run(2)


UNHELPFUL = [dns.rcode.FORMERR, dns.rcode.SERVFAIL, dns.rcode.NOTIMP, dns.rcode.REFUSED]


def turn_down(rig: Rig, rcode: int, server: int = 0, first: int = 0) -> None:
    """The server has nothing better to say, with EDNS or without."""
    for number in (first, first + 1):
        query, client = rig.query(server, number)
        assert query.edns == (0 if number == first else -1)
        rig.fakes[server].answer(response(query, rcode=rcode), client)


@pytest.mark.parametrize("rcode", UNHELPFUL)
def test_unhelpful_server_is_followed_by_the_next_one_at_once(pair: Rig, rcode: int) -> None:
    pair.ask()
    turn_down(pair, rcode)
    query, client = pair.query(1)
    assert query.edns == 0
    pair.fakes[1].answer(response(query), client)
    assert address(pair.result()) == "1.2.3.4"


def test_code_of_the_first_unhelpful_server_is_the_result_when_all_are(pair: Rig) -> None:
    pair.ask()
    turn_down(pair, dns.rcode.REFUSED, 0)
    turn_down(pair, dns.rcode.SERVFAIL, 1)
    assert code(pair.result()) == dns.rcode.REFUSED


def test_code_of_an_unhelpful_server_is_the_result_when_the_others_are_silent(pair: Rig) -> None:
    pair.ask()
    turn_down(pair, dns.rcode.SERVFAIL)
    pair.query(1)
    for _ in range(46):
        pair.advance(0.1)
    assert code(pair.result()) == dns.rcode.SERVFAIL


@pytest.mark.parametrize("rcode", UNHELPFUL)
def test_server_that_helps_nobody_is_asked_twice_only(rig: Rig, rcode: int) -> None:
    rig.ask()
    turn_down(rig, rcode)
    assert code(rig.result()) == rcode
    assert len(rig.fakes[0].queries) == 2


# --- servers without EDNS -------------------------------------------------------------------------


def bad_version(query: dns.message.Message) -> dns.message.Message:
    message = response(query)
    message.answer.clear()
    message.use_edns(0)
    message.set_rcode(dns.rcode.BADVERS)
    return message


def refuse_edns(rig: Rig, rcode: int, number: int = 0, server: int = 0) -> None:
    """The server answers a question with EDNS with this code, and the one without helpfully."""
    query, client = rig.query(server, number)
    assert query.edns == 0
    refusal = bad_version(query) if rcode == dns.rcode.BADVERS else response(query, rcode=rcode)
    rig.fakes[server].answer(refusal, client)
    again, client = rig.query(server, number + 1)
    assert (again.edns, again.question) == (-1, query.question)
    rig.fakes[server].answer(response(again), client)


@pytest.mark.parametrize("rcode", [*UNHELPFUL, dns.rcode.BADVERS])
def test_server_that_refuses_edns_is_asked_without_at_once_and_from_then_on(rig: Rig, rcode: int) -> None:
    rig.ask()
    refuse_edns(rig, rcode)
    assert address(rig.result()) == "1.2.3.4"
    rig.ask("next")
    query, client = rig.query(number=2)
    assert query.edns == -1
    rig.fakes[0].answer(response(query), client)
    assert address(rig.result("next")) == "1.2.3.4"
    rig.advance(servers.PLAIN_SECONDS)
    rig.ask("later")
    assert rig.query(number=3)[0].edns == 0


@pytest.mark.parametrize("rcode", UNHELPFUL)
def test_refusal_without_a_question_in_it_counts_as_well(rig: Rig, rcode: int) -> None:
    rig.ask()
    query, client = rig.query()
    rig.fakes[0].answer(response(query, rcode=rcode).to_wire()[:4] + bytes(8), client)
    again, client = rig.query(number=1)
    assert again.edns == -1
    rig.fakes[0].answer(response(again), client)
    assert address(rig.result()) == "1.2.3.4"


DOUBTFUL = ["silence", dns.rcode.SERVFAIL, dns.rcode.REFUSED]


def fail_once(rig: Rig, how: object, number: int = 0) -> None:
    """A question with EDNS fails, and the plain one is answered."""
    rig.ask(f"failing {number}")
    if isinstance(how, int):
        refuse_edns(rig, how, number)
    else:
        assert rig.query(number=number)[0].edns == 0
        rig.advance(resolver.RETRY)
        again, client = rig.query(number=number + 1)
        assert again.edns == -1
        rig.fakes[0].answer(response(again), client)
    assert address(rig.result(f"failing {number}")) == "1.2.3.4"


def answer(rig: Rig, number: int, edns: int, *, dnssec: bool = False) -> None:
    """The next question, which is answered, has EDNS or not."""
    rig.ask(f"answered {number}", dnssec=dnssec)
    query, client = rig.query(number=number)
    assert query.edns == edns
    rig.fakes[0].answer(response(query), client)
    assert rig.result(f"answered {number}") is not None


@pytest.mark.parametrize("how", DOUBTFUL)
def test_one_failure_does_not_take_dnssec_from_all_guests(rig: Rig, how: object) -> None:
    fail_once(rig, how)
    answer(rig, 2, -1)
    answer(rig, 3, 0, dnssec=True)
    answer(rig, 4, 0)


@pytest.mark.parametrize("how", DOUBTFUL)
def test_one_failure_is_forgotten_soon(rig: Rig, how: object) -> None:
    fail_once(rig, how)
    answer(rig, 2, -1)
    rig.advance(servers.DOUBT_SECONDS)
    answer(rig, 3, 0)


@pytest.mark.parametrize("how", DOUBTFUL)
def test_server_that_fails_again_and_again_is_asked_with_edns_ever_more_seldom(rig: Rig, how: object) -> None:
    number, seconds = 0, servers.DOUBT_SECONDS
    for _ in range(7):
        fail_once(rig, how, number)
        rig.advance(seconds - 1.0)
        answer(rig, number + 2, -1)
        rig.advance(1.0)
        number += 3
        seconds = min(2 * seconds, servers.PLAIN_SECONDS)
    answer(rig, number, 0)
    rig.advance(servers.PROOF_SECONDS)
    fail_once(rig, how, number + 1)
    rig.advance(servers.DOUBT_SECONDS)
    answer(rig, number + 3, 0)


def test_failures_of_one_time_make_the_doubt_no_longer(rig: Rig) -> None:
    for n in range(5):
        rig.ask(str(n), dnssec=True)
    for n in range(5):
        query, client = rig.query(number=n)
        rig.fakes[0].answer(response(query, rcode=dns.rcode.SERVFAIL), client)
    for n in range(5, 10):
        query, client = rig.query(number=n)
        rig.fakes[0].answer(response(query), client)
    for n in range(5):
        assert rig.result(str(n)) is not None
    rig.advance(servers.DOUBT_SECONDS)
    answer(rig, 10, 0)


def test_server_that_says_it_knows_no_edns_is_asked_without_by_validating_guests_too(rig: Rig) -> None:
    fail_once(rig, int(dns.rcode.FORMERR))
    answer(rig, 2, -1, dnssec=True)
    rig.advance(servers.PLAIN_SECONDS - 1.0)
    answer(rig, 3, -1, dnssec=True)
    rig.advance(1.0)
    fail_once(rig, "silence", 4)
    rig.advance(servers.DOUBT_SECONDS)
    answer(rig, 6, 0)


def test_bad_version_without_a_question_in_it_is_no_silence(rig: Rig) -> None:
    rig.ask()
    query, client = rig.query()
    refusal = bad_version(query)
    refusal.question.clear()
    rig.fakes[0].answer(refusal, client)
    again, client = rig.query(number=1)
    assert again.edns == -1
    rig.fakes[0].answer(response(again), client)
    assert address(rig.result()) == "1.2.3.4"
    rig.ask("next")
    assert rig.query(number=2)[0].edns == -1


def test_answer_without_a_question_in_it_is_no_answer(rig: Rig) -> None:
    rig.ask()
    query, client = rig.query()
    forged = response(query)
    forged.question.clear()
    rig.fakes[0].answer(forged, client)
    rig.settle()
    assert rig.upstream.ignored == 1
    assert not rig.results


def test_server_that_drops_edns_is_asked_without_after_a_second_and_from_then_on(rig: Rig) -> None:
    rig.ask()
    assert rig.query()[0].edns == 0
    rig.advance(resolver.RETRY)
    query, client = rig.query(number=1)
    assert query.edns == -1
    rig.fakes[0].answer(response(query), client)
    assert address(rig.result()) == "1.2.3.4"
    rig.ask("next")
    query, client = rig.query(number=2)
    assert query.edns == -1
    rig.fakes[0].answer(response(query), client)
    assert address(rig.result("next")) == "1.2.3.4"


def test_two_servers_that_drop_edns_answer_within_two_seconds(pair: Rig) -> None:
    pair.ask()
    assert pair.query(0)[0].edns == 0
    pair.advance(resolver.RETRY)
    assert [pair.query(0, 1)[0].edns, pair.query(1)[0].edns] == [-1, 0]
    # The first one has no answer to that either.
    pair.advance(resolver.RETRY)
    query, client = pair.query(1, 1)
    assert query.edns == -1
    pair.fakes[1].answer(response(query), client)
    assert address(pair.result()) == "1.2.3.4"
    pair.ask("next")
    assert pair.query(1, 2)[0].edns == -1


def test_silence_with_and_without_edns_says_nothing_about_it(rig: Rig) -> None:
    rig.ask()
    for _ in range(50):
        rig.advance(0.1)
    assert rig.results == {"t": None}
    rig.settle()
    count = len(rig.fakes[0].queries)
    rig.ask("next")
    assert rig.query(number=count)[0].edns == 0


def test_genuine_failure_says_nothing_about_edns(rig: Rig) -> None:
    rig.ask()
    turn_down(rig, dns.rcode.SERVFAIL)
    assert code(rig.result()) == dns.rcode.SERVFAIL
    rig.ask("next")
    assert rig.query(number=2)[0].edns == 0


@pytest.mark.parametrize("rcode", [dns.rcode.SERVFAIL, dns.rcode.REFUSED])
def test_names_that_fail_once_do_not_take_edns_from_a_server_that_knows_it(rig: Rig, rcode: int) -> None:
    rig.ask("good")
    query, client = rig.query()
    rig.fakes[0].answer(response(query), client)
    assert address(rig.result("good")) == "1.2.3.4"
    for number in range(1, 9, 2):
        rig.ask(str(number))
        refuse_edns(rig, rcode, number)
        assert address(rig.result(str(number))) == "1.2.3.4"
    rig.ask("next")
    assert rig.query(number=9)[0].edns == 0


@pytest.mark.parametrize("rcode", [dns.rcode.FORMERR, dns.rcode.NOTIMP, dns.rcode.BADVERS])
def test_server_that_says_it_knows_no_edns_any_more_is_believed(rig: Rig, rcode: int) -> None:
    rig.ask("good")
    query, client = rig.query()
    rig.fakes[0].answer(response(query), client)
    assert rig.result("good") is not None
    rig.ask()
    refuse_edns(rig, rcode, 1)
    assert rig.result() is not None
    rig.ask("next")
    assert rig.query(number=3)[0].edns == -1


def test_lost_packet_costs_a_validating_guest_no_signatures(rig: Rig) -> None:
    rig.ask("good")
    query, client = rig.query()
    rig.fakes[0].answer(response(query), client)
    assert rig.result("good") is not None
    rig.ask(dnssec=True)
    assert rig.query(number=1)[0].edns == 0
    for number, edns in ((2, 0), (3, -1), (4, -1)):
        rig.advance(resolver.RETRY)
        assert rig.query(number=number)[0].edns == edns


def test_slow_answer_to_edns_is_an_answer(rig: Rig) -> None:
    rig.ask()
    query, client = rig.query()
    rig.advance(resolver.RETRY)
    rig.query(number=1)
    rig.fakes[0].answer(response(query), client)
    assert address(rig.result()) == "1.2.3.4"
    rig.ask("next")
    assert rig.query(number=2)[0].edns == 0


def test_after_a_change_of_servers_nothing_is_known_of_them(rig: Rig) -> None:
    rig.ask()
    refuse_edns(rig, dns.rcode.NOTIMP)
    assert rig.result() is not None
    rig.upstream.forget_servers()
    rig.ask("next")
    assert rig.query(number=2)[0].edns == 0


def test_truncated_answer_without_edns_is_asked_for_over_tcp_without(rig: Rig) -> None:
    rig.fakes[0].listen()
    rig.ask()
    query, client = rig.query()
    rig.fakes[0].answer(response(query, rcode=dns.rcode.FORMERR), client)
    query, client = rig.query(number=1)
    rig.fakes[0].answer(truncated(query), client)
    again, connection = rig.query(number=2)
    assert isinstance(connection, socket.socket)
    assert again.edns == -1
    rig.fakes[0].answer(response(again), connection)
    assert address(rig.result()) == "1.2.3.4"


@pytest.mark.parametrize("count", [1, 2])
def test_dead_and_confused_servers_cost_a_guest_less_than_five_seconds(count: int) -> None:
    for made in run(count):
        made.ask(waited=0.0)
        for _ in range(46):
            made.advance(0.1)
        assert made.results == {"t": None}
