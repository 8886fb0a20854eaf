"""DNS over TCP in the resolver: pipelining, half-close, idle time and bounds."""

import socket
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from time import monotonic

import dns.message
import dns.rcode
import pytest

from pipeline.engines.dns import turns as dns_turns
from pipeline.records import kinds
from pipeline.records.guests import LinkNotice
from pipeline.stages.resolver import streams as resolver_streams
from tests.support.poller import LIMIT
from tests.support.resolver_rig import Rig, framed, is_closed, query, received, texts


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    made = Rig(tmp_path, [])
    yield made
    made.close()


def test_connection_is_answered_query_after_query(rig: Rig) -> None:
    with rig.connect() as sock:
        for name, address in (
            ("host.containers.internal", "192.168.127.254"),
            ("www.example.com", "10.1.2.3"),
        ):
            sock.send(framed(query(name, ident=99)))
            [answer] = received(rig, sock)
            assert (answer.id, texts(answer)) == (99, [address])


def test_queries_in_pieces_are_answered(rig: Rig) -> None:
    with rig.connect() as sock:
        data = framed(query("a.example", ident=1), query("host.containers.internal", ident=2))
        for at in range(0, len(data), 5):
            sock.send(data[at : at + 5])
            rig.breathe()
        assert {answer.id for answer in received(rig, sock, 2)} == {1, 2}


def test_pipelined_queries_are_answered_as_answers_come(rig: Rig) -> None:
    with rig.connect() as sock:
        names = ["a.example", "host.containers.internal", "b.example"]
        sock.send(framed(*(query(name, ident=n) for n, name in enumerate(names))))
        answers = received(rig, sock, 3)
        assert answers[0].id == 1
        assert {answer.id for answer in answers} == {0, 1, 2}


def test_answer_over_tcp_is_whole_whatever_edns_says(rig: Rig) -> None:
    rig.upstream.rows = 60
    with rig.connect() as sock:
        sock.send(framed(query("big.example", use_edns=0, payload=512)))
        [answer] = received(rig, sock)
        assert len(texts(answer)) == 60


def test_half_closed_connection_gets_its_answers_and_then_the_end(rig: Rig) -> None:
    with rig.connect() as sock:
        sock.send(framed(query("www.example.com")))
        sock.shutdown(socket.SHUT_WR)
        assert texts(received(rig, sock)[0]) == ["10.1.2.3"]
        assert is_closed(rig, sock)
    assert rig.count("dns_connections") == 0


def report(rig: Rig, kind: int, link: int, guest: int) -> None:
    """Demux reports a link of a guest."""
    rig.to_stage.push(LinkNotice.pack(kind, link, guest))
    rig.to_stage.publish()
    rig.breathe()


def flood(rig: Rig, count: int) -> tuple[int, float]:
    """Ask that many queries at once over TCP. Returns the number of answers, and seconds."""
    began = monotonic()
    with rig.connect() as sock:
        dropped = rig.count("dns_query_dropped_rate_limit")
        sock.send(framed(*(query("host.containers.internal", ident=n) for n in range(count))))
        sock.shutdown(socket.SHUT_WR)
        rig.breathe()
        dropped = rig.count("dns_query_dropped_rate_limit") - dropped
        assert len(received(rig, sock, count - dropped)) == count - dropped
        assert is_closed(rig, sock), "what was dropped keeps no connection open"
    return count - dropped, monotonic() - began


def test_beside_another_guest_queries_have_a_rate(tmp_path: Path) -> None:
    rig = Rig(tmp_path, ["-limit", "max-dns-queries-per-second=100"])
    report(rig, kinds.LINK_UP, 3, 1)
    report(rig, kinds.LINK_UP, 4, 1)
    assert flood(rig, 120)[0] == 120, "two links of one guest"
    report(rig, kinds.LINK_UP, 5, 2)
    answers, seconds = flood(rig, 120)
    assert 50 <= answers <= 51 + 100 * seconds
    report(rig, kinds.LINK_DOWN, 5, 2)
    assert flood(rig, 120)[0] == 120
    rig.close()


def test_a_guest_alone_has_a_rate_for_both_ways_if_there_is_one(tmp_path: Path) -> None:
    rig = Rig(tmp_path, ["-limit", "max-dns-queries-alone-per-second=100"])
    report(rig, kinds.LINK_UP, 3, 1)
    began = monotonic()
    for ident in range(40):
        rig.send(query("host.containers.internal", ident=ident), 53)
        rig.reply()
    answers, _ = flood(rig, 120)
    assert 10 <= answers <= 11 + 100 * (monotonic() - began)
    rig.close()


def test_queries_over_udp_leave_less_of_the_rate_to_tcp(tmp_path: Path) -> None:
    rig = Rig(tmp_path, ["-limit", "max-dns-queries-per-second=100"])
    report(rig, kinds.LINK_UP, 3, 1)
    report(rig, kinds.LINK_UP, 5, 2)
    began = monotonic()
    for ident in range(40):
        rig.send(query("host.containers.internal", ident=ident), 53, crowded=True)
        rig.reply()
    answers, _ = flood(rig, 120)
    assert 10 <= answers <= 11 + 100 * (monotonic() - began)
    rig.close()


def test_connection_ends_after_its_last_query(rig: Rig) -> None:
    with rig.connect() as sock:
        sock.send(framed(*(query("host.containers.internal", ident=n) for n in range(140))))
        assert [answer.id for answer in received(rig, sock, 128)] == list(range(128))
        assert is_closed(rig, sock)


def test_idle_connection_is_closed(rig: Rig) -> None:
    with rig.connect() as quiet, rig.connect() as busy:
        start = monotonic()
        busy.send(framed(query("host.containers.internal")))
        received(rig, busy)
        rig.breathe(start + 1.5)
        assert not is_closed(rig, quiet)
        assert rig.stage.deadline() <= start + 2.1
        rig.breathe(start + 2.5)
        assert is_closed(rig, quiet)
        assert not is_closed(rig, busy)
        rig.breathe(monotonic() + 8.1)
        assert is_closed(rig, busy)


def test_connection_that_is_gone_before_its_answer_does_no_harm(rig: Rig) -> None:
    rig.upstream.silent = True
    sock = rig.connect()
    sock.send(framed(query("www.example.com")))
    rig.breathe()
    sock.close()
    start = monotonic()
    for step in range(50):
        rig.breathe(start + step / 10)
    assert rig.count("dns_connections") == 0
    assert rig.count("dns_upstream_failed") == 1


def test_message_that_is_no_query_gets_no_answer_and_the_connection_goes_on(rig: Rig) -> None:
    with rig.connect() as sock:
        sock.send(framed(b"", b"short", query("host.containers.internal", ident=5)))
        assert [answer.id for answer in received(rig, sock)] == [5]


def test_guest_that_reads_nothing_is_cut_off(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resolver_streams, "MAX_UNSENT", 20000)
    rig.upstream.rows = 60
    sock = rig.connect()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
    connection = next(iter(rig.stage.dns.streams._connections.values()))
    connection.stream.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)
    end = monotonic() + LIMIT
    while not rig.count("dns_connection_closed_not_reading"):
        assert monotonic() < end
        with suppress(OSError):
            sock.send(framed(query("big.example")))
        rig.breathe()
    sock.close()


def test_too_many_connections_push_out_an_idle_one_but_none_that_waits(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resolver_streams, "MAX_CONNECTIONS", 2)
    rig.upstream.silent = True
    first, second = rig.connect(), rig.connect()
    second.send(framed(query("www.example.com")))
    rig.breathe()
    third = rig.connect()
    assert is_closed(rig, first)
    third.send(framed(query("www.example.org")))
    rig.breathe()
    fourth = rig.connect()
    assert is_closed(rig, fourth)
    assert not is_closed(rig, second)
    assert (rig.count("dns_connection_evicted"), rig.count("dns_connection_refused_too_many")) == (1, 1)
    for sock in (first, second, third, fourth):
        sock.close()
    rig.breathe()
    assert rig.count("dns_connections") == 0


def test_names_that_one_guest_asks_over_many_connections_leave_dns_to_the_others(rig: Rig) -> None:
    rig.upstream.silent = True
    hostile = [rig.connect() for _ in range(5)]
    for number, sock in enumerate(hostile):
        sock.send(framed(*(query(f"n{n}.of{number}.example", ident=n) for n in range(120))))
        rig.breathe()
    # Over UDP it is the same guest.
    rig.send(query("of.udp.example"), 53)
    rig.breathe()
    assert rig.stage.held()["dns_pending"] == dns_turns.SHARED
    queued = (rig.stage.held()["dns_queued"], rig.count("dns_queued"), rig.count("dns_query_queued"))
    assert queued == (89, 89, 89)
    rig.upstream.silent = False
    rig.send(query("www.example.com"), 53, link=4)
    record, payload = rig.reply()
    answer = dns.message.from_wire(payload)
    assert (record["link"], answer.rcode(), texts(answer)) == (4, dns.rcode.NOERROR, ["10.1.2.3"])
    with rig.connect(link=5) as sock:
        sock.send(framed(query("www.example.org")))
        assert texts(received(rig, sock)[0]) == ["10.1.2.3"]
    for sock in hostile:
        sock.close()
    rig.breathe()


@pytest.mark.parametrize(("links", "queued"), [((3,), 0), ((3, 4), 99)])
def test_names_over_connections_have_a_rate_where_there_are_other_guests(
    tmp_path: Path, links: tuple[int, ...], queued: int
) -> None:
    rig = Rig(tmp_path, ["-limit", "max-dns-questions-per-second=2"])
    rig.upstream.silent = True
    for link in links:
        rig.to_stage.push(LinkNotice.pack(kinds.LINK_UP, link, link))
    rig.to_stage.publish()
    rig.breathe()
    with rig.connect() as sock:
        sock.send(framed(*(query(f"n{n}.example", ident=n) for n in range(100))))
        rig.breathe()
        assert rig.count("dns_query_queued") == queued
    rig.breathe()
    rig.close()


def test_a_guest_alone_may_have_all_connections(rig: Rig) -> None:
    socks = [rig.connect() for _ in range(100)]
    for number, sock in enumerate(socks):
        sock.send(framed(query(f"n{number}.example", ident=number)))
    for number, sock in enumerate(socks):
        assert [answer.id for answer in received(rig, sock)] == [number]
        sock.close()
    assert rig.count("dns_connection_evicted") == rig.count("dns_connection_refused_too_many") == 0


def test_one_guests_connections_leave_some_to_the_others(rig: Rig) -> None:
    rig.upstream.silent = True
    hostile = [rig.connect() for _ in range(resolver_streams.MAX_CONNECTIONS)]
    for number, sock in enumerate(hostile):
        sock.send(framed(query(f"n{number}.example")))
    rig.breathe()
    assert rig.count("dns_connection_evicted") == 0
    # Its own next one finds no room; another guest's does, up to its part.
    with rig.connect() as refused:
        assert is_closed(rig, refused)
    others = [rig.connect(link=4) for _ in range(resolver_streams.LEAST_CONNECTIONS)]
    for other in others:
        other.send(framed(query("host.containers.internal")))
        assert texts(received(rig, other)[0]) == ["192.168.127.254"]
    assert rig.count("dns_connection_evicted") == len(others)
    assert sum(is_closed(rig, sock) for sock in hostile) == len(others)
    # Beyond that, it closes an idle one of its own.
    one_more = rig.connect(link=4)
    assert [is_closed(rig, other) for other in others] == [True] + [False] * (len(others) - 1)
    for sock in [*hostile, *others, one_more]:
        sock.close()
    rig.breathe()


def test_connections_that_just_came_are_not_closed_while_others_have_had_their_answer(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resolver_streams, "MAX_CONNECTIONS", 2)
    first, second = rig.connect(), rig.connect()
    second.send(framed(query("host.containers.internal")))
    received(rig, second)
    third = rig.connect()
    assert is_closed(rig, second)
    assert not is_closed(rig, first)
    for sock in (first, second, third):
        sock.close()
    rig.breathe()
