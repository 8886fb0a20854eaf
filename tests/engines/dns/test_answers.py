"""What a reply gives: name, addresses, time."""

import dns.message
import dns.rrset
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.engines.dns import answers
from pipeline.wire import ip


def reply(*rows: tuple[str, int, str, str]) -> bytes:
    message = dns.message.make_response(dns.message.make_query("www.example.com", "A"))
    for name, ttl, kind, text in rows:
        message.answer.append(dns.rrset.from_text(name, ttl, "IN", kind, text))
    return message.to_wire()


def test_the_addresses_are_the_names_for_the_least_ttl_on_the_way() -> None:
    wire = reply(
        ("www.example.com.", 30, "CNAME", "cdn.example.net."),
        ("cdn.example.net.", 300, "A", "203.0.113.9"),
        ("cdn.example.net.", 300, "AAAA", "2001:db8::1"),
    )
    assert answers.asked(wire) == [b"www", b"example", b"com"]
    assert answers.given(wire) == (
        (ip.parse("203.0.113.9"), ip.parse("2001:db8::1")),
        30,
        ("cdn.example.net",),
    )


def test_an_empty_answer_gives_nothing() -> None:
    assert answers.given(reply())[:2] == ((), 0)


def test_hints_of_https_records_are_addresses_of_the_name() -> None:
    row = (
        "www.example.com.",
        30,
        "HTTPS",
        "1 . alpn=h2 ipv4hint=203.0.113.9,203.0.113.8 ipv6hint=2001:db8::1",
    )
    found = tuple(map(ip.parse, ("203.0.113.9", "203.0.113.8", "2001:db8::1")))
    assert answers.given(reply(row))[:2] == (found, 30)
    assert answers.given(reply(("www.example.com.", 30, "HTTPS", "0 cdn.example.net."))) == (
        (),
        30,
        ("cdn.example.net",),
    )


@settings(deadline=None)  # the first one imports dnspython
@given(st.binary(max_size=200))
def test_bytes_that_are_no_reply_give_nothing_and_do_no_harm(wire: bytes) -> None:
    answers.asked(wire)
    answers.given(wire)
