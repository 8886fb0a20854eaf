"""Which response counts: forged, late and senseless ones do not."""

import socket
from collections.abc import Iterator

import dns.message
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.host.name_files import Server
from pipeline.host.upstream.question import MISMATCH, Attempt, Question
from tests.support.upstream_rig import Rig, address, response, run


@pytest.fixture
def rig() -> Iterator[Rig]:
    yield from run(1)


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
    rig.upstream.ask("t", query.to_wire(), rig.now, rig.now)
    got, client = rig.query()
    wire = dns.message.make_response(got).to_wire()
    rig.fakes[0].answer(wire.replace(b"\0A\0\1", b"\0a\0\1"), client)
    rig.settle()
    assert not rig.results
    rig.fakes[0].answer(wire, client)
    assert rig.result() is not None


def asked() -> bytes:
    query = dns.message.make_query("www.example.com", "A", use_edns=0, payload=1232)
    query.id = 0
    return query.to_wire()


SERVER = Server(int(socket.AF_INET), ("127.0.0.1", 53))


@given(st.one_of(st.binary(max_size=80), st.binary(max_size=40).map(lambda tail: b"ab\x80\0\0\1" + tail)))
def test_any_bytes_have_a_code_or_do_not_fit(data: bytes) -> None:
    with socket.socket() as sock:
        attempt = Attempt(SERVER, b"ab", sock, edns=True, over_tcp=False)
        code = Question("t", asked(), [SERVER], 1.0).rcode_of(attempt, data)
    assert code == MISMATCH or 0 <= code < 4096


def test_a_question_without_edns_is_the_same_without_its_opt_record() -> None:
    question = Question("t", asked(), [SERVER], 1.0)
    with_opt = dns.message.from_wire(question.wire(b"ab", edns=True))
    without = dns.message.from_wire(question.wire(b"ab", edns=False))
    assert (with_opt.id, with_opt.edns, without.id, without.edns) == (0x6162, 0, 0x6162, -1)
    assert with_opt.question == without.question


def test_servers_are_asked_in_turn_without_those_that_do_not_help() -> None:
    other = Server(int(socket.AF_INET), ("127.0.0.2", 53))
    question = Question("t", asked(), [SERVER, other], 1.0)
    assert question.take_server() == SERVER
    assert not question.give_up(SERVER)
    assert [question.take_server() for _ in range(3)] == [other, other, None]
    assert question.give_up(other)
