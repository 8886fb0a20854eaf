"""What a reply gives: name, addresses, time."""

import dns.message
import dns.rrset
from hypothesis import given
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
    assert answers.given(wire) == ((ip.parse("203.0.113.9"), ip.parse("2001:db8::1")), 30)


def test_an_empty_answer_gives_nothing() -> None:
    assert answers.given(reply()) == ((), 0)


@given(st.binary(max_size=200))
def test_bytes_that_are_no_reply_give_nothing_and_do_no_harm(wire: bytes) -> None:
    answers.asked(wire)
    answers.given(wire)
