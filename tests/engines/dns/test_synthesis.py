"""DNS64: the answers to questions about AAAA, section by section of RFC 6147."""

import ipaddress
from types import SimpleNamespace
from typing import Any

import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.reversename
import dns.rrset
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.engines.dns import answers, server
from pipeline.engines.dns.dns64 import Dns64
from pipeline.engines.dns.server import Answer, Dns, Forward, Ignored, Joined, Queued
from pipeline.engines.dns.zones import Zones, parse_zone
from pipeline.wire import ip
from tests.engines.dns.test_server import asked, reply, upstream

SUBNET = ipaddress.IPv4Network("192.168.127.0/24")
GATEWAY, HOST = ip.parse_ipv4("192.168.127.1"), ip.parse_ipv4("192.168.127.254")
GATEWAY6 = ip.parse("fd00::1")
NAME = "www.example.com"
OWNER = f"{NAME}."
A_ROW = (OWNER, 300, "IN", "A", "192.0.2.33")
SYNTHETIC = "64:ff9b::c000:221"  # RFC 6052 section 2.4
CDN = "cdn.example.net."
CHAIN = (OWNER, 50, "IN", "CNAME", CDN)


def rules(*, always: bool = False) -> Dns64:
    config = SimpleNamespace(subnet=SUBNET, gateway_ip=GATEWAY, reserved=frozenset({HOST}))
    return Dns64(config, GATEWAY6, always=always)


def engine(*, always: bool = False, **options: Any) -> Dns[Any]:
    records = [
        {"Name": "gateway", "IP": "192.168.127.1"},
        {"Name": "host", "IP": "192.168.127.254"},
        {"Name": "guest", "IP": "192.168.127.9"},
        {"Name": "both", "IP": "10.0.0.1"},
        {"Name": "both", "IP": "2001:db8::5"},
    ]
    zone = parse_zone({"Name": "containers.internal.", "Records": records})
    zones = Zones([zone], (ip.parse_ipv4("192.168.127.0"), 0xFFFFFF00))
    return Dns(zones, dns64=rules(always=always), **options)


def ask(
    dnsd: Dns[Any],
    name: str = NAME,
    rdtype: str = "AAAA",
    waiter: Any = "w",
    now: float = 0.0,
    *,
    over_ipv6: bool = True,
    client: Any = "c",
    **options: Any,
) -> Any:
    return dnsd.on_query(asked(name, rdtype, **options), waiter, client, now, over_ipv6=over_ipv6)


def question_of(forward: Any) -> str:
    assert isinstance(forward, Forward), forward
    return dns.message.from_wire(forward.payload).question[0].to_text()


def respond(
    dnsd: Dns[Any], forward: Forward, *rows: tuple[Any, ...], now: float = 0.0, **options: Any
) -> tuple[list[tuple[Any, dns.message.Message]], list[Forward]]:
    """The response to a question: replies to guests, and the next questions."""
    replies, _ = dnsd.on_upstream(forward.key, upstream(forward, *rows, **options), now)
    return [(waiter, dns.message.from_wire(wire)) for waiter, wire in replies], dnsd.next_forwards(now)


def synthesized(dnsd: Dns[Any], *rows: tuple[Any, ...], authority: bool = True, **options: Any) -> Any:
    """The answer to a query for AAAA, whose name only has the records ``rows``."""
    replies, [second] = respond(dnsd, ask(dnsd, **options), authority=authority)
    assert replies == []
    [(_, answer)], [] = respond(dnsd, second, *rows)
    return answer


def reverse(text: str) -> str:
    return dns.reversename.from_address(text).to_text().rstrip(".")


def texts(message: dns.message.Message) -> list[str]:
    return [rrset.to_text() for rrset in message.answer]


# --- which questions (section 5.1, 5.5) -----------------------------------------------------------


def test_a_name_with_a_alone_gets_a_synthetic_address() -> None:
    dnsd = engine()
    first = ask(dnsd, "WWW.example.com", ident=0x1234)
    assert question_of(first) == f"{OWNER} IN AAAA"
    replies, [second] = respond(dnsd, first, authority=True)
    assert (replies, question_of(second)) == ([], f"{OWNER} IN A")
    [(waiter, answer)], more = respond(dnsd, second, A_ROW)
    assert (waiter, answer.id, more) == ("w", 0x1234, [])
    assert answer.question[0].to_text() == "WWW.example.com. IN AAAA"
    assert texts(answer) == [f"WWW.example.com. 20 IN AAAA {SYNTHETIC}"]
    assert (dnsd.pending_count, dnsd.waiting_count, dnsd.made_count) == (0, 0, 1)


def test_only_questions_over_ipv6_get_one_unless_all_do() -> None:
    dnsd = engine()
    [(_, answer)], [] = respond(dnsd, ask(dnsd, over_ipv6=False), authority=True)
    assert texts(answer) == []
    # The answer to the other guest is kept in bytes, and does not count over IPv6.
    assert texts(reply(ask(dnsd, over_ipv6=False))) == []
    assert question_of(ask(dnsd)) == f"{OWNER} IN A"
    always = engine(always=True)
    assert texts(synthesized(always, A_ROW, over_ipv6=False)) == [f"{OWNER} 20 IN AAAA {SYNTHETIC}"]


def test_without_dns64_nothing_is_synthesized() -> None:
    dnsd: Dns[Any] = Dns(Zones())
    [(_, answer)], [] = respond(dnsd, ask(dnsd), authority=True)
    assert texts(answer) == []
    assert isinstance(ask(dnsd, "ipv4only.arpa"), Forward)


def test_other_classes_are_answered_as_without_it() -> None:
    dnsd = engine()
    [(_, answer)], [] = respond(dnsd, ask(dnsd, rdclass="CH"))
    assert answer.rcode() == dns.rcode.NOERROR


@pytest.mark.parametrize(
    ("flags", "synthesizes"), [(0, True), (dns.flags.CD, False)], ids=["DO", "DO and CD"]
)
def test_who_validates_gets_no_synthesis(flags: int, synthesizes: bool) -> None:
    dnsd = engine()
    query = dns.message.make_query(NAME, "AAAA", want_dnssec=True)
    query.flags |= flags
    forward = dnsd.on_query(query.to_wire(), "w", "c", 0.0, over_ipv6=True)
    replies, more = respond(dnsd, forward, authority=True)
    assert (len(replies), len(more)) == ((0, 1) if synthesizes else (1, 0))


def test_cd_alone_does_not_mean_a_validator() -> None:
    dnsd = engine()
    query = dns.message.make_query(NAME, "AAAA")
    query.flags |= dns.flags.CD
    forward = dnsd.on_query(query.to_wire(), "w", "c", 0.0, over_ipv6=True)
    assert len(respond(dnsd, forward, authority=True)[1]) == 1


def test_a_synthetic_answer_is_never_called_authentic() -> None:
    dnsd = engine()
    query = dns.message.make_query(NAME, "AAAA", want_dnssec=True)
    first = dnsd.on_query(query.to_wire(), "w", "c", 0.0, over_ipv6=True)
    _, [second] = respond(dnsd, first, authority=True)
    wire = bytearray(upstream(second, A_ROW))
    wire[3] |= dns.flags.AD
    [(_, payload)], _ = dnsd.on_upstream(second.key, bytes(wire), 0.0)
    answer = dns.message.from_wire(payload)
    assert texts(answer) == [f"{OWNER} 20 IN AAAA {SYNTHETIC}"]
    assert not answer.flags & dns.flags.AD


def test_answers_to_a_are_unchanged() -> None:
    """Section 5.3.3."""
    dnsd = engine()
    [(_, answer)], [] = respond(dnsd, ask(dnsd, rdtype="A"), A_ROW)
    assert texts(answer) == [f"{OWNER} 300 IN A 192.0.2.33"]


# --- the answer about AAAA (sections 5.1.1 to 5.1.4) ----------------------------------------------


def test_real_addresses_win() -> None:
    dnsd = engine()
    [(_, answer)], [] = respond(dnsd, ask(dnsd), (OWNER, 60, "IN", "AAAA", "2001:db8::7"))
    assert texts(answer) == [f"{OWNER} 60 IN AAAA 2001:db8::7"]


def test_a_name_that_does_not_exist_is_not_looked_for_again() -> None:
    dnsd = engine()
    [(_, answer)], [] = respond(dnsd, ask(dnsd), rcode=dns.rcode.NXDOMAIN, authority=True)
    assert answer.rcode() == dns.rcode.NXDOMAIN


@pytest.mark.parametrize("rcode", [dns.rcode.SERVFAIL, dns.rcode.REFUSED, dns.rcode.NOTIMP])
def test_any_other_error_counts_as_no_address(rcode: int) -> None:
    dnsd = engine()
    replies, [second] = respond(dnsd, ask(dnsd), rcode=rcode)
    [(_, answer)], [] = respond(dnsd, second, A_ROW)
    assert (replies, texts(answer)) == ([], [f"{OWNER} 300 IN AAAA {SYNTHETIC}"])


def test_a_time_out_counts_as_a_server_failure() -> None:
    dnsd = engine()
    replies, counter = dnsd.on_upstream(ask(dnsd).key, None, 4.5)
    [second] = dnsd.next_forwards(4.5)
    assert (replies, counter) == ([], "dns_upstream_failed")
    assert second.since == 0.0, "the guest has waited since then"
    [(_, answer)], [] = respond(dnsd, second, A_ROW)
    assert texts(answer) == [f"{OWNER} 300 IN AAAA {SYNTHETIC}"]


def test_mapped_addresses_count_as_none_and_are_never_returned() -> None:
    mapped = (OWNER, 60, "IN", "AAAA", "::ffff:192.0.2.1")
    dnsd = engine()
    replies, [second] = respond(dnsd, ask(dnsd), mapped)
    assert (replies, question_of(second)) == ([], f"{OWNER} IN A")
    [(_, answer)], [] = respond(dnsd, second, A_ROW)
    assert texts(answer) == [f"{OWNER} 300 IN AAAA {SYNTHETIC}"]
    dnsd = engine()
    _, [second] = respond(dnsd, ask(dnsd), CHAIN, (CDN, 60, "IN", "AAAA", "::ffff:192.0.2.1"))
    [(_, answer)], [] = respond(dnsd, second, authority=True)
    assert texts(answer) == [f"{OWNER} 50 IN CNAME {CDN}"]


def test_the_other_addresses_of_a_name_with_a_mapped_one_are_returned() -> None:
    dnsd = engine()
    rows = (OWNER, 60, "IN", "AAAA", "::ffff:192.0.2.1", "2001:db8::7")
    [(_, answer)], [] = respond(dnsd, ask(dnsd), rows)
    assert texts(answer) == [f"{OWNER} 60 IN AAAA 2001:db8::7"]
    assert texts(reply(ask(dnsd, now=10.0))) == [f"{OWNER} 50 IN AAAA 2001:db8::7"]


def test_a_truncated_answer_without_addresses_says_nothing_about_them() -> None:
    dnsd = engine()
    forward = ask(dnsd)
    wire = bytearray(upstream(forward))
    wire[2] |= 0x02
    replies, _ = dnsd.on_upstream(forward.key, bytes(wire), 0.0)
    assert (len(replies), dnsd.next_forwards(0.0)) == (1, [])


# --- the answer about A (sections 5.1.5 to 5.1.7, 5.4) --------------------------------------------


def test_a_chain_of_names_is_part_of_the_answer() -> None:
    dnsd = engine()
    _, [second] = respond(dnsd, ask(dnsd), CHAIN, authority=True)
    [(_, answer)], [] = respond(dnsd, second, CHAIN, (CDN, 300, "IN", "A", "192.0.2.33", "192.0.2.34"))
    chain, addresses = texts(answer)
    assert chain == f"{OWNER} 50 IN CNAME {CDN}"
    assert set(addresses.split("\n")) == {
        f"{CDN} 20 IN AAAA {SYNTHETIC}",
        f"{CDN} 20 IN AAAA 64:ff9b::c000:222",
    }


def test_a_dname_is_part_of_the_answer() -> None:
    rows = [
        ("example.com.", 40, "IN", "DNAME", "example.net."),
        (OWNER, 40, "IN", "CNAME", "www.example.net."),
        ("www.example.net.", 10, "IN", "A", "192.0.2.33"),
    ]
    assert texts(synthesized(engine(), *rows)) == [
        "example.com. 40 IN DNAME example.net.",
        f"{OWNER} 40 IN CNAME www.example.net.",
        f"www.example.net. 10 IN AAAA {SYNTHETIC}",
    ]


def test_signatures_of_what_is_not_there_any_more_are_left_out() -> None:
    signature = "{} 8 3 300 20300101000000 20200101000000 1 example.com. c2lnbmF0dXJl"
    rows = [(OWNER, 300, "IN", "RRSIG", signature.format("A")), A_ROW]
    assert texts(synthesized(engine(), *rows)) == [f"{OWNER} 20 IN AAAA {SYNTHETIC}"]


def test_without_addresses_of_either_family_the_first_answer_counts() -> None:
    dnsd = engine()
    _, [second] = respond(dnsd, ask(dnsd), CHAIN, authority=True)
    [(_, answer)], [] = respond(dnsd, second, now=3.0)
    assert (answer.rcode(), texts(answer)) == (dns.rcode.NOERROR, [f"{OWNER} 50 IN CNAME {CDN}"])
    assert answer.authority


def test_an_error_about_a_is_the_answer() -> None:
    """Section 5.1.6: a guest must not believe that the name has no address."""
    dnsd = engine()
    _, [second] = respond(dnsd, ask(dnsd), authority=True)
    replies, _ = dnsd.on_upstream(second.key, None, 1.0)
    assert [dns.message.from_wire(wire).rcode() for _, wire in replies] == [dns.rcode.SERVFAIL]


@pytest.mark.parametrize(
    ("ttl", "authority", "expected"),
    [(300, True, 20), (7, True, 7), (300, False, 300), (3600, False, 600)],
    ids=["of the SOA record", "of A", "of A without SOA", "600 without SOA"],
)
def test_the_ttl_is_the_shorter_one(ttl: int, authority: bool, expected: int) -> None:
    """Section 5.1.7. The SOA record of the response has TTL 60 and a negative TTL of 20."""
    row = (OWNER, ttl, "IN", "A", "192.0.2.33")
    assert synthesized(engine(), row, authority=authority).answer[0].ttl == expected


def test_the_ttls_of_answers_from_the_cache_have_aged() -> None:
    dnsd = engine()
    respond(dnsd, ask(dnsd, rdtype="A"), A_ROW, now=0.0)
    respond(dnsd, ask(dnsd, over_ipv6=False, now=5.0), now=5.0, authority=True)
    assert reply(ask(dnsd, now=15.0)).answer[0].ttl == 10, "what is left of the negative answer"
    assert reply(ask(dnsd, now=24.9)).answer[0].ttl == 1
    assert question_of(ask(dnsd, now=25.0)) == f"{OWNER} IN AAAA"


def test_authority_and_additional_sections_are_those_of_the_last_response() -> None:
    """Sections 5.3.2 and 5.4: nothing is synthesized there."""
    dnsd = engine()
    _, [second] = respond(dnsd, ask(dnsd), authority=True)
    message = dns.message.from_wire(upstream(second, A_ROW))
    message.authority.append(dns.rrset.from_text("example.com.", 60, "IN", "NS", "ns.example.com."))
    message.additional.append(dns.rrset.from_text("ns.example.com.", 60, "IN", "A", "192.0.2.1"))
    [(_, payload)], _ = dnsd.on_upstream(second.key, message.to_wire(), 0.0)
    answer = dns.message.from_wire(payload)
    assert [rrset.to_text() for rrset in answer.authority] == ["example.com. 60 IN NS ns.example.com."]
    assert [rrset.to_text() for rrset in answer.additional] == ["ns.example.com. 60 IN A 192.0.2.1"]


def test_a_synthetic_answer_is_cut_to_what_the_guest_takes() -> None:
    rows = (OWNER, 300, "IN", "A", *(f"192.0.2.{n}" for n in range(1, 30)))
    answer = synthesized(engine(), rows)
    assert answer.flags & dns.flags.TC
    assert len(answer.to_wire()) <= 512
    assert len(synthesized(engine(), rows, use_edns=0, payload=4096).answer[0]) == 29


def test_more_addresses_than_a_message_has_room_for_are_none() -> None:
    dnsd = engine()
    _, [second] = respond(dnsd, ask(dnsd), authority=True)
    message = dns.message.make_response(dns.message.from_wire(second.payload))
    message.answer.append(
        dns.rrset.from_text(OWNER, 300, "IN", "A", *(f"9.9.{n >> 8}.{n & 255}" for n in range(3000)))
    )
    [(_, wire)], _ = dnsd.on_upstream(second.key, message.to_wire(max_size=65535), 0.0)
    answer = dns.message.from_wire(wire)
    assert (answer.rcode(), answer.answer, len(answer.authority)) == (dns.rcode.NOERROR, [], 1)


# --- questions and waiters ------------------------------------------------------------------------


def test_what_both_answers_say_is_in_the_cache() -> None:
    dnsd = engine()
    synthesized(dnsd, A_ROW)
    assert texts(reply(ask(dnsd, now=1.0))) == [f"{OWNER} 19 IN AAAA {SYNTHETIC}"]
    assert texts(reply(ask(dnsd, rdtype="A", now=1.0))) == [f"{OWNER} 299 IN A 192.0.2.33"]
    assert texts(reply(ask(dnsd, over_ipv6=False, now=1.0))) == []
    assert dnsd.made_count == 1


def test_a_guest_that_asks_for_both_at_once_costs_two_questions() -> None:
    dnsd = engine()
    of_aaaa, of_a = ask(dnsd, ident=1), ask(dnsd, rdtype="A", ident=1)
    replies, more = respond(dnsd, of_aaaa, authority=True)
    assert (replies, more, dnsd.waiting_count) == ([], [], 2)
    replies, more = respond(dnsd, of_a, A_ROW)
    assert more == []
    assert sorted(texts(answer)[0].split()[3] for _, answer in replies) == ["A", "AAAA"]
    assert dnsd.waiting_count == 0


def test_guests_with_and_without_ipv4_wait_for_the_same_question() -> None:
    dnsd = engine()
    first = ask(dnsd, waiter="six", ident=1)
    assert isinstance(ask(dnsd, waiter="four", over_ipv6=False, ident=2), Joined)
    assert isinstance(ask(dnsd, "WWW.EXAMPLE.com", waiter="six too", ident=3), Joined)
    [(waiter, answer)], [second] = respond(dnsd, first, authority=True)
    assert (waiter, texts(answer)) == ("four", [])
    replies, _ = respond(dnsd, second, A_ROW)
    assert [(waiter, answer.id, texts(answer)) for waiter, answer in replies] == [
        ("six", 1, [f"{OWNER} 20 IN AAAA {SYNTHETIC}"]),
        ("six too", 3, [f"WWW.EXAMPLE.com. 20 IN AAAA {SYNTHETIC}"]),
    ]
    assert dnsd.made_count == 1


def test_a_repeated_query_waits_once_for_the_second_question_too() -> None:
    dnsd = engine()
    _, [second] = respond(dnsd, ask(dnsd), authority=True)
    assert isinstance(ask(dnsd), Ignored)
    # Without a SOA record the first answer is not kept.
    other = engine()
    _, [second] = respond(other, ask(other))
    again = ask(other)
    assert question_of(again) == f"{OWNER} IN AAAA"
    assert respond(other, again) == ([], [])
    [(_, answer)], [] = respond(other, second, A_ROW)
    assert (texts(answer), other.waiting_count) == ([f"{OWNER} 300 IN AAAA {SYNTHETIC}"], 0)


def test_the_second_question_waits_for_its_turn() -> None:
    dnsd = engine(max_begun=1)
    first = ask(dnsd, client="one")
    assert isinstance(ask(dnsd, "other.example.com", client="two", waiter="v"), Queued)
    replies, _ = dnsd.on_upstream(first.key, upstream(first, authority=True), 0.0)
    assert (replies, dnsd.pending_count, dnsd.queued_count) == ([], 0, 2)
    [one] = dnsd.next_forwards(0.0)
    assert question_of(one) == "other.example.com. IN AAAA"
    _, [other] = respond(dnsd, one, ("other.example.com.", 9, "IN", "AAAA", "2001:db8::1"))
    [(_, answer)], [] = respond(dnsd, other, A_ROW)
    assert texts(answer) == [f"{OWNER} 20 IN AAAA {SYNTHETIC}"]


def test_a_second_question_whose_turn_does_not_come_is_given_up() -> None:
    dnsd = engine(max_begun=1)
    first = ask(dnsd, client="one")
    ask(dnsd, "other.example.com", client="two", waiter="v")
    dnsd.on_upstream(first.key, upstream(first, authority=True), 0.0)
    dnsd.next_forwards(0.0)
    [(waiter, wire)] = dnsd.expire(server.QUEUE_SECONDS)
    assert (waiter, dns.message.from_wire(wire).rcode()) == ("w", dns.rcode.SERVFAIL)
    assert dns.message.from_wire(wire).question[0].to_text() == f"{OWNER} IN AAAA"
    assert (dnsd.waiting_count, dnsd.queued_count) == (1, 0)


def test_too_many_alike_get_an_error_and_are_not_lost() -> None:
    dnsd = engine()
    first = ask(dnsd, waiter=0)
    for number in range(1, server.MAX_ALIKE):
        ask(dnsd, waiter=number)
    of_a = ask(dnsd, rdtype="A", waiter="a")
    replies, more = respond(dnsd, first, authority=True)
    assert (len(replies), more) == (1, [])
    assert replies[0][1].rcode() == dns.rcode.SERVFAIL
    replies, _ = respond(dnsd, of_a, A_ROW)
    assert (len(replies), dnsd.waiting_count) == (server.MAX_ALIKE, 0)


# --- hostile responses ----------------------------------------------------------------------------

ROWS = st.lists(
    st.sampled_from(
        [
            A_ROW,
            CHAIN,
            (CDN, 300, "IN", "A", "192.0.2.1", "10.0.0.1", "127.0.0.1"),
            (CDN, 0, "IN", "CNAME", OWNER),  # a loop
            (OWNER, 5, "IN", "AAAA", "::ffff:1.2.3.4"),
            (OWNER, 5, "IN", "AAAA", "2001:db8::7", "::ffff:1.2.3.4"),
            (OWNER, 5, "IN", "TXT", "x"),
            ("33.2.0.192.in-addr.arpa.", 5, "IN", "PTR", "host.example."),
        ]
    ),
    max_size=5,
)


def test_an_error_about_a_gives_no_mapped_address_either() -> None:
    dnsd = engine()
    forward = ask(dnsd, NAME, "AAAA")
    dnsd.on_upstream(forward.key, upstream(forward), 0.0)
    [second] = dnsd.next_forwards(0.0)
    wire = bytearray(upstream(second, (OWNER, 5, "IN", "AAAA", "::ffff:1.2.3.4")))
    wire[3] |= 1  # FORMERR
    replies, _ = dnsd.on_upstream(second.key, bytes(wire), 0.0)
    [(_, payload)] = replies
    assert not answers.summary(payload, 9).addresses


@settings(max_examples=300, deadline=None)
@given(ROWS, ROWS, st.sampled_from(["AAAA", "PTR"]), st.data())
def test_any_responses_lead_to_one_reply_without_mapped_addresses(
    first_rows: list[Any], second_rows: list[Any], rdtype: str, data: st.DataObject
) -> None:
    dnsd = engine()
    forward = ask(dnsd, NAME if rdtype == "AAAA" else reverse(SYNTHETIC), rdtype)
    payloads: list[bytes] = []
    for rows in (first_rows, second_rows):
        wire = bytearray(upstream(forward, *rows, authority=data.draw(st.booleans())))
        for _ in range(data.draw(st.integers(0, 2))):
            wire[data.draw(st.integers(0, len(wire) - 1))] ^= data.draw(st.integers(1, 255))
        replies, _ = dnsd.on_upstream(forward.key, bytes(wire), 0.0)
        payloads += [payload for _, payload in replies]
        more = dnsd.next_forwards(0.0)
        if not more:
            break
        [forward] = more
    [payload] = payloads
    assert payload[:2] == b"\0\7"
    assert dnsd.waiting_count == dnsd.pending_count == 0
    if rdtype == "AAAA":
        found = answers.summary(payload, 99).addresses
        assert not any(address.startswith("::ffff:") for address in found)


def test_the_reply_comes_from_the_cache_with_the_same_bytes() -> None:
    dnsd = engine()
    synthesized(dnsd, A_ROW)
    one, two = ask(dnsd, now=0.2, ident=8), ask(dnsd, now=0.4, ident=9)
    assert isinstance(one, Answer)
    assert one.payload[2:] == two.payload[2:]
    assert dnsd.made_count == 1
