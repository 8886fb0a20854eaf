"""The name server's decisions: what is answered, asked upstream, joined or refused, and who gets replies."""

from typing import Any

import dns.flags
import dns.message
import dns.rcode
import dns.rrset
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.counters import INDEX
from pipeline.engines.dns import server, turns
from pipeline.engines.dns.server import Answer, Dns, Forward, Ignored, Joined, Queued
from pipeline.engines.dns.zones import Zones, parse_zone
from pipeline.wire import ip

SOA = ("example.com.", 60, "IN", "SOA", "ns. root. 1 2 3 4 20")


def engine() -> Dns[Any]:
    records = [{"Name": "gateway", "IP": "192.168.127.1"}, {"Name": "host", "IP": "192.168.127.254"}]
    zone = parse_zone({"Name": "containers.internal.", "Records": records})
    return Dns(Zones([zone], (ip.parse_ipv4("192.168.127.0"), 0xFFFFFF00)))


def with_hosts() -> Dns[Any]:
    dnsd = engine()
    dnsd.set_hosts(
        {
            "nas.home": (bytes((10, 0, 0, 5)), bytes(15) + b"\2"),
            "printer": (bytes((10, 0, 0, 6)),),
            "mypc": (bytes((127, 0, 1, 1)),),
            "dev.local.test": (bytes((127, 0, 0, 1)),),
            "localhost": (bytes((9, 9, 9, 9)),),
            "a..b": (bytes((10, 0, 0, 7)),),
        }
    )
    return dnsd


def asked(name: str = "www.example.com", rdtype: str = "A", ident: int = 7, **options: Any) -> bytes:
    message = dns.message.make_query(name, rdtype, **options)
    message.id = ident
    return message.to_wire()


def decide(dnsd: Dns[Any], wire: bytes, waiter: Any = "w", now: float = 0.0, client: Any = "c") -> Any:
    decision = dnsd.on_query(wire, waiter, client, now)
    assert decision.counter in INDEX
    return decision


def reply(decision: Any) -> dns.message.Message:
    assert isinstance(decision, Answer), decision
    return dns.message.from_wire(decision.payload)


def upstream(forward: Forward, *rows: tuple[Any, ...], rcode: int = 0, authority: bool = False) -> bytes:
    message = dns.message.make_response(dns.message.from_wire(forward.payload))
    message.set_rcode(rcode)
    message.answer += [dns.rrset.from_text(*row) for row in rows]
    if authority:
        message.authority.append(dns.rrset.from_text(*SOA))
    return message.to_wire()


A_ROW = ("www.example.com.", 60, "IN", "A", "1.2.3.4")


def test_local_names_are_answered_at_once() -> None:
    answer = reply(decide(engine(), asked("Host.Containers.Internal")))
    assert answer.answer[0].to_text() == "Host.Containers.Internal. 0 IN A 192.168.127.254"
    pointer = reply(decide(engine(), asked("1.127.168.192.in-addr.arpa", "PTR")))
    assert pointer.answer[0][0].to_text() == "gateway.containers.internal."
    assert reply(decide(engine(), asked("nobody.containers.internal"))).rcode() == dns.rcode.NXDOMAIN


@pytest.mark.parametrize(
    "rdtype", ["AAAA", "TXT", "MX", "CNAME", "NS", "SRV", "SOA", "CAA", "HTTPS", "TYPE65400"]
)
def test_no_type_leaks_a_local_name(rdtype: str) -> None:
    answer = reply(decide(engine(), asked("host.containers.internal", rdtype)))
    assert (answer.rcode(), answer.answer) == (dns.rcode.NOERROR, [])


@pytest.mark.parametrize("rdclass", ["CH", "ANY"])
def test_no_class_leaks_a_local_name(rdclass: str) -> None:
    answer = reply(decide(engine(), asked("host.containers.internal", "A", rdclass=rdclass)))
    assert answer.rcode() == dns.rcode.NOERROR


@pytest.mark.parametrize("rdtype", ["OPT", "TSIG", "TKEY", "AXFR", "IXFR"])
def test_types_that_are_no_questions_are_refused(rdtype: str) -> None:
    wire = bytearray(asked())
    wire[-4:-2] = int(dns.rdatatype.from_text(rdtype)).to_bytes(2, "big")
    assert reply(decide(engine(), bytes(wire))).rcode() == dns.rcode.REFUSED


def test_other_names_are_asked_upstream_and_the_answer_kept() -> None:
    dnsd = engine()
    forward = decide(dnsd, asked("WWW.example.com", ident=0x1111), "first")
    assert isinstance(forward, Forward)
    assert forward.payload[:2] == b"\0\0"
    assert dns.message.from_wire(forward.payload).question[0].to_text() == "www.example.com. IN A"
    replies, counter = dnsd.on_upstream(forward.key, upstream(forward, A_ROW), 0.0)
    assert counter == "dns_upstream_answered"
    [(waiter, payload)] = replies
    answer = dns.message.from_wire(payload)
    assert (waiter, answer.id, answer.answer[0].to_text()) == (
        "first",
        0x1111,
        "WWW.example.com. 60 IN A 1.2.3.4",
    )
    later = reply(decide(dnsd, asked("www.EXAMPLE.com"), now=50.5))
    assert later.answer[0].to_text() == "www.EXAMPLE.com. 10 IN A 1.2.3.4"
    assert isinstance(decide(dnsd, asked(), now=60.0), Forward)


def test_same_question_under_way_is_asked_once_and_answered_to_all() -> None:
    dnsd = engine()
    forward = decide(dnsd, asked(ident=1), "one")
    assert isinstance(decide(dnsd, asked("www.EXAMPLE.com", ident=2), "two"), Joined)
    assert isinstance(decide(dnsd, asked(ident=3, use_edns=0), "three"), Joined)
    assert isinstance(decide(dnsd, asked(ident=4, want_dnssec=True), "four"), Forward)
    assert isinstance(decide(dnsd, asked(rdtype="AAAA"), "five"), Forward)
    assert (dnsd.pending_count, dnsd.waiting_count) == (3, 5)
    replies, _ = dnsd.on_upstream(forward.key, upstream(forward, A_ROW), 0.0)
    assert [(waiter, payload[1]) for waiter, payload in replies] == [("one", 1), ("two", 2), ("three", 3)]
    assert [dns.message.from_wire(payload).edns for _, payload in replies] == [-1, -1, 0]
    assert (dnsd.pending_count, dnsd.waiting_count) == (2, 2)


def test_repeated_query_of_the_same_asker_waits_once() -> None:
    dnsd = engine()
    decide(dnsd, asked())
    assert isinstance(decide(dnsd, asked()), Ignored)
    assert dnsd.waiting_count == 1


def test_negative_answer_is_kept_as_its_zone_says() -> None:
    dnsd = engine()
    forward = decide(dnsd, asked())
    dnsd.on_upstream(forward.key, upstream(forward, rcode=3, authority=True), 0.0)
    assert reply(decide(dnsd, asked(), now=19.0)).rcode() == dns.rcode.NXDOMAIN
    assert isinstance(decide(dnsd, asked(), now=20.0), Forward)


def test_dead_upstream_is_servfail_and_not_asked_again_for_a_second() -> None:
    dnsd = engine()
    forward = decide(dnsd, asked())
    replies, counter = dnsd.on_upstream(forward.key, None, 5.0)
    assert counter == "dns_upstream_failed"
    assert dns.message.from_wire(replies[0][1]).rcode() == dns.rcode.SERVFAIL
    assert reply(decide(dnsd, asked(), now=5.9)).rcode() == dns.rcode.SERVFAIL
    assert isinstance(decide(dnsd, asked(), now=6.0), Forward)


def test_senseless_response_is_servfail() -> None:
    dnsd = engine()
    forward = decide(dnsd, asked())
    replies, counter = dnsd.on_upstream(forward.key, b"\0" * 40, 0.0)
    assert counter == "dns_upstream_response_malformed"
    assert dns.message.from_wire(replies[0][1]).rcode() == dns.rcode.SERVFAIL
    assert dnsd.on_upstream(forward.key, b"", 0.0) == ([], "dns_upstream_response_unasked")


# --- bounds and hostile guests ------------------------------------------------------------------


def ask_names(dnsd: Dns[Any], client: Any, count: int, now: float = 0.0) -> list[Any]:
    """Decisions on that many names of one client."""
    return [decide(dnsd, asked(f"n{n}.of.{client}.example"), (client, n), now, client) for n in range(count)]


def begun(decisions: list[Any]) -> list[Forward]:
    return [each for each in decisions if isinstance(each, Forward)]


def test_a_hundred_names_of_one_guest_are_all_asked_at_once() -> None:
    assert len(begun(ask_names(engine(), "alone", 100))) == 100


def test_six_hundred_names_of_one_guest_are_all_answered() -> None:
    dnsd = engine()
    decisions = ask_names(dnsd, "alone", 600)
    forwards = begun(decisions)
    assert len(forwards) == turns.SHARED
    assert all(each.counter == "dns_query_queued" for each in decisions[turns.SHARED :])
    assert (dnsd.pending_count, dnsd.queued_count, dnsd.waiting_count) == (512, 88, 600)
    answered = 0
    for forward in forwards:
        replies, _ = dnsd.on_upstream(forward.key, upstream(forward, A_ROW), 0.5)
        answered += sum(not dns.message.from_wire(payload).rcode() for _, payload in replies)
        later = dnsd.next_forwards(0.0)
        assert all(each.since == 0.0 for each in later)
        forwards += later
    assert answered == 600
    assert (dnsd.pending_count, dnsd.queued_count, dnsd.waiting_count) == (0, 0, 0)
    assert dnsd.deadline() == float("inf")


def test_one_guests_names_of_a_silent_server_leave_room_for_others_names() -> None:
    dnsd = engine()
    forwards = begun(ask_names(dnsd, "greedy", 2000))
    assert len(forwards) == turns.SHARED
    others = [ask_names(dnsd, f"other{n}", turns.LEAST) for n in range(8)]
    assert [len(begun(each)) for each in others] == [turns.LEAST] * 8
    assert dnsd.pending_count == turns.MAX_BEGUN
    assert isinstance(decide(dnsd, asked(), "ninth", client="ninth"), Queued)
    # The next place is the ninth guest's, though the greedy one waited before.
    dnsd.on_upstream(forwards[0].key, None, 0.0)
    [forward] = dnsd.next_forwards(0.0)
    assert forward.key.name == b"\x03www\x07example\x03com\0"


def test_guests_that_wait_take_turns() -> None:
    dnsd = engine()
    forwards = begun(ask_names(dnsd, "a", 1000))
    for client in "bc":
        assert len(begun(ask_names(dnsd, client, 300))) == turns.LEAST
    order = b""
    for forward in forwards[:158]:
        dnsd.on_upstream(forward.key, None, 0.0)
        for each in dnsd.next_forwards(0.0):
            order += each.key.name.split(b"\x02of\x01")[1][:1]
    # While more than the shared ones are under way, they have all that is theirs.
    assert order == b"abc" * 10
    assert dnsd.pending_count == turns.SHARED


def test_another_guests_question_does_not_wait_behind_a_queue_for_the_same_name() -> None:
    dnsd = engine()
    ask_names(dnsd, "greedy", turns.SHARED + 44)
    assert isinstance(decide(dnsd, asked(), "greedy's", client="greedy"), Queued)
    forward = decide(dnsd, asked(), "other's", 3.9, client="modest")
    assert isinstance(forward, Forward)
    assert forward.since == 3.9
    replies, _ = dnsd.on_upstream(forward.key, upstream(forward, A_ROW), 4.0)
    assert [waiter for waiter, _ in replies] == ["greedy's", "other's"]
    assert dnsd.queued_count == 44


def test_question_whose_turn_does_not_come_is_servfail_in_time_and_not_kept() -> None:
    dnsd = engine()
    forwards = begun(ask_names(dnsd, "greedy", 556))
    assert isinstance(decide(dnsd, asked(), "late", 1.0, "greedy"), Queued)
    assert dnsd.deadline() == server.QUEUE_SECONDS
    assert dnsd.expire(3.9) == []
    replies = dnsd.expire(4.0)
    assert len(replies) == 44
    assert {dns.message.from_wire(payload).rcode() for _, payload in replies} == {dns.rcode.SERVFAIL}
    assert (dnsd.deadline(), dnsd.queued_count, dnsd.waiting_count) == (5.0, 1, 513)
    dnsd.on_upstream(forwards[0].key, None, 4.5)
    [forward] = dnsd.next_forwards(0.0)
    assert (forward.since, dnsd.deadline()) == (1.0, float("inf"))
    assert isinstance(decide(dnsd, asked("n555.of.greedy.example"), "again", 4.5, "greedy"), Queued)


def test_of_queries_that_wait_for_one_turn_each_has_its_own_time() -> None:
    dnsd = engine()
    ask_names(dnsd, "greedy", turns.SHARED)
    for n, now in enumerate((0.0, 1.0, 2.0)):
        assert isinstance(decide(dnsd, asked(), n, now, "greedy"), Queued)
    assert [waiter for waiter, _ in dnsd.expire(5.0)] == [0, 1]
    assert (dnsd.deadline(), dnsd.queued_count) == (6.0, 1)
    assert [waiter for waiter, _ in dnsd.expire(6.0)] == [2]
    assert (dnsd.deadline(), dnsd.queued_count) == (float("inf"), 0)


def test_queries_are_given_up_in_portions() -> None:
    dnsd = engine()
    ask_names(dnsd, "greedy", 1000)
    assert len(dnsd.expire(10.0)) == server.MAX_EXPIRED
    assert dnsd.deadline() <= 10.0


def test_one_guest_cannot_take_all_waiting_places() -> None:
    dnsd = engine()
    decisions = ask_names(dnsd, "greedy", server.SHARED_WAITERS + 10)
    refused = decisions[server.SHARED_WAITERS :]
    assert {(reply(each).rcode(), each.counter) for each in refused} == {
        (dns.rcode.SERVFAIL, "dns_query_refused_busy")
    }
    assert not any(isinstance(each, Answer) for each in ask_names(dnsd, "modest", server.LEAST_WAITERS))
    assert isinstance(ask_names(dnsd, "modest", 300)[-1], Answer)


def test_one_guest_cannot_ask_the_same_without_end() -> None:
    dnsd = engine()
    for n in range(server.MAX_ALIKE):
        decide(dnsd, asked(), n, client="greedy")
    assert decide(dnsd, asked(), "one more", client="greedy").counter == "dns_query_refused_busy"
    assert isinstance(decide(dnsd, asked(), "other", client="modest"), Joined)


def test_number_of_questions_under_way_is_bounded_but_local_ones_are_answered() -> None:
    dnsd = engine()
    forwards = [decide(dnsd, asked(f"n{n}.example"), n, client=n) for n in range(turns.MAX_BEGUN)]
    assert len(begun(forwards)) == turns.MAX_BEGUN
    assert isinstance(decide(dnsd, asked(), "x", client="x"), Queued)
    assert reply(decide(dnsd, asked("host.containers.internal"))).answer
    assert isinstance(decide(dnsd, asked("n7.example"), "joins"), Joined)
    dnsd.on_upstream(forwards[0].key, None, 0.0)
    assert len(dnsd.next_forwards(0.0)) == 1


def test_number_of_waiting_queries_is_bounded() -> None:
    dnsd = engine()
    for n in range(server.MAX_WAITERS):
        decide(dnsd, asked(), n, client=n)
    assert reply(decide(dnsd, asked(), "x", client="x")).rcode() == dns.rcode.SERVFAIL


# --- authentic data -------------------------------------------------------------------------------


def with_flags(flags: int, **options: Any) -> bytes:
    wire = bytearray(asked(**options))
    wire[3] |= flags
    return bytes(wire)


def authentic(forward: Forward) -> bytes:
    """A validating server's answer: AD for those who asked for it (RFC 6840 section 5.8)."""
    query = dns.message.from_wire(forward.payload)
    wire = bytearray(upstream(forward, A_ROW))
    if query.flags & dns.flags.AD or query.ednsflags & dns.flags.DO:
        wire[3] |= int(dns.flags.AD)
    return bytes(wire)


def test_client_that_trusts_ad_sees_it_in_the_answer() -> None:
    dnsd = engine()
    forward = decide(dnsd, with_flags(dns.flags.AD), "trusting")
    assert dns.message.from_wire(forward.payload).flags & dns.flags.AD
    [(_, payload)], _ = dnsd.on_upstream(forward.key, authentic(forward), 0.0)
    assert dns.message.from_wire(payload).flags & dns.flags.AD
    assert reply(decide(dnsd, with_flags(dns.flags.AD))).flags & dns.flags.AD


def test_question_without_ad_is_asked_without_and_says_nothing_to_one_with() -> None:
    dnsd = engine()
    forward = decide(dnsd, asked(), "plain")
    assert not dns.message.from_wire(forward.payload).flags & dns.flags.AD
    other = decide(dnsd, with_flags(dns.flags.AD), "trusting")
    assert isinstance(other, Forward)
    [(_, payload)], _ = dnsd.on_upstream(forward.key, authentic(forward), 0.0)
    assert not dns.message.from_wire(payload).flags & dns.flags.AD
    [(_, payload)], _ = dnsd.on_upstream(other.key, authentic(other), 0.0)
    assert dns.message.from_wire(payload).flags & dns.flags.AD
    assert not reply(decide(dnsd, asked())).flags & dns.flags.AD
    assert reply(decide(dnsd, with_flags(dns.flags.AD))).flags & dns.flags.AD


@pytest.mark.parametrize("flags", [dns.flags.CD, dns.flags.AD, dns.flags.AD | dns.flags.CD])
@pytest.mark.parametrize("dnssec", [True, False])
def test_answers_to_other_bits_are_kept_apart(flags: int, dnssec: bool) -> None:
    dnsd = engine()
    forward = decide(dnsd, asked(), "plain")
    dnsd.on_upstream(forward.key, upstream(forward, A_ROW), 0.0)
    assert isinstance(decide(dnsd, asked()), Answer)
    other = decide(dnsd, with_flags(flags, want_dnssec=dnssec), "other")
    assert isinstance(other, Forward)
    sent = dns.message.from_wire(other.payload)
    assert int(sent.flags) & 0x30 == flags
    assert bool(sent.ednsflags & dns.flags.DO) == dnssec


@given(
    st.lists(
        st.tuples(st.integers(0, 3), st.integers(0, 5), st.sampled_from(["up", "dead", "ask"])), max_size=40
    )
)
@settings(max_examples=100, deadline=None)
def test_each_asker_gets_one_reply_and_nothing_is_left_behind(events: list[tuple[int, int, str]]) -> None:
    dnsd = engine()
    waiting: dict[Any, Forward] = {}
    expected: dict[Any, int] = {}
    for number, (name, client, what) in enumerate(events):
        wire = asked(f"n{name}.example")
        if what == "ask":
            decision = decide(dnsd, wire, number, client=client, now=float(number) * 100)
            assert not isinstance(decision, Queued)
            if isinstance(decision, Forward | Joined):
                expected[number] = name
                if isinstance(decision, Forward):
                    waiting[name] = decision
        elif (forward := waiting.pop(name, None)) is not None:
            response = upstream(forward) if what == "up" else None
            replies, _ = dnsd.on_upstream(forward.key, response, float(number) * 100)
            for waiter, payload in replies:
                assert expected.pop(waiter) == name
                assert dns.message.from_wire(payload).question[0].name.to_text() == f"n{name}.example."
    assert dnsd.waiting_count == len(expected)
    assert dnsd.pending_count == len(waiting)


@given(st.binary(max_size=200))
@settings(max_examples=200, deadline=None)
def test_any_bytes_lead_to_a_decision(data: bytes) -> None:
    for wire in (data, asked()[:12] + data, asked(use_edns=0)[:29] + data):
        decide(engine(), wire)


@given(st.lists(st.binary(min_size=1, max_size=63), max_size=3), st.integers(0, 65535), st.integers(0, 65535))
@settings(max_examples=200, deadline=None)
def test_any_name_type_and_class_lead_to_a_decision(labels: list[bytes], rdtype: int, rdclass: int) -> None:
    tails = (
        [b"containers", b"internal"],
        [b"1", b"127", b"168", b"192", b"in-addr", b"arpa"],
        [b"localhost"],
        [],
    )
    for tail in tails:
        name = b"".join(bytes((len(label),)) + label for label in [*labels, *tail]) + b"\0"
        wire = asked()[:12] + name + rdtype.to_bytes(2, "big") + rdclass.to_bytes(2, "big")
        decision = decide(with_hosts(), wire)
        if isinstance(decision, Answer):
            assert wire[12:] in decision.payload or decision.payload[3] & 15 == 1
