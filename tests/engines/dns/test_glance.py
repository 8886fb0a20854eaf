"""The quick look at a reply agrees with the full one."""

import dns.message
import dns.rrset
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.engines.dns import answers, glance
from pipeline.wire import ip

NAMES = st.sampled_from(["www.example.com.", "a.b.c.example.net.", "x."])
ROWS = st.one_of(
    st.tuples(NAMES, st.just("A"), st.sampled_from(["203.0.113.9", "10.0.0.1"])),
    st.tuples(NAMES, st.just("AAAA"), st.just("2001:db8::1")),
    st.tuples(NAMES, st.just("CNAME"), NAMES),
    st.tuples(NAMES, st.just("TXT"), st.just('"four" "more"')),
)


def reply(*rows: tuple[str, str, str], name: str = "WWW.example.com") -> bytes:
    message = dns.message.make_response(dns.message.make_query(name, "A"))
    for owner, kind, text in rows:
        message.answer.append(dns.rrset.from_text(owner, 30, "IN", kind, text))
    return message.to_wire()


def test_the_name_that_was_asked_has_all_addresses_of_the_answer() -> None:
    wire = reply(("www.example.com.", "CNAME", "x."), ("x.", "A", "203.0.113.9"), ("x.", "A", "10.0.0.1"))
    assert glance.name_asked(wire) == "www.example.com"
    assert glance.addresses(wire) == [ip.parse_ipv4("203.0.113.9"), ip.parse_ipv4("10.0.0.1")]


def test_strange_bytes_of_a_name_are_escaped() -> None:
    assert glance.name_asked(reply(name=r"a\010b\.c.example")) == r"a\010b\.c.example"


@settings(deadline=None)
@given(st.lists(ROWS, max_size=6))
def test_both_find_the_same_addresses(rows: list[tuple[str, str, str]]) -> None:
    wire = reply(*rows)
    assert set(glance.addresses(wire)) == set(answers.given(wire).addresses)


@settings(deadline=None)
@given(st.binary(max_size=200))
def test_bytes_that_are_no_reply_do_no_harm(wire: bytes) -> None:
    glance.name_asked(wire)
    glance.addresses(wire)


@settings(deadline=None)
@given(st.lists(ROWS, min_size=1, max_size=3), st.data())
def test_a_reply_that_is_cut_gives_a_part(rows: list[tuple[str, str, str]], data: st.DataObject) -> None:
    wire = reply(*rows)
    cut = wire[: data.draw(st.integers(0, len(wire)))]
    whole = glance.addresses(wire)
    assert glance.addresses(cut) == whole[: len(glance.addresses(cut))]
