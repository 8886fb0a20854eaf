"""Answers that lead inside: by an address, a hint, or an alias, wherever it stands in the answer."""

import dns.message
import dns.rrset
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.engines.dns import message as m
from pipeline.engines.dns.filters import KEPT_S, AnswerFilter, Labels
from pipeline.engines.dns.message import Body, Query
from pipeline.engines.dns.responses import upstream_body
from pipeline.engines.groups import Groups

NAME = "www.example.com"


def made() -> AnswerFilter:
    def is_inner_name(labels: Labels) -> bool:
        return bytes(labels[-1]).lower() == b"internal"

    answers = AnswerFilter(Groups().is_inner, is_inner_name)
    answers.denies = True
    return answers


def asked(kind: str) -> Query:
    found = m.parse_query(dns.message.make_query(NAME, kind).to_wire(), tcp=False)
    assert isinstance(found, Query)
    return found


def body_of(kind: str, *rows: tuple[str, str, str], section: str = "answer") -> Body:
    response = dns.message.make_response(dns.message.make_query(NAME, kind))
    response.flags |= 0x80
    for name, rdtype, text in rows:
        getattr(response, section).append(dns.rrset.from_text(name, 60, "IN", rdtype, text))
    return upstream_body(asked(kind), response.to_wire(), max_ttl=100, max_negative_ttl=100)


GOOD = (f"{NAME}.", "A", "203.0.113.9")
SOA = ("example.com.", "SOA", "ns.example.com. root.example.com. 1 2 3 4 5")


@pytest.mark.parametrize(
    ("kind", "rows", "refused"),
    [
        ("A", [GOOD], False),
        ("A", [GOOD, (f"{NAME}.", "A", "10.0.0.1")], True),
        ("A", [(f"{NAME}.", "A", "127.0.0.1")], True),
        ("A", [(f"{NAME}.", "A", "0.0.0.0")], True),
        ("AAAA", [(f"{NAME}.", "AAAA", "::ffff:10.0.0.1")], True),
        ("AAAA", [(f"{NAME}.", "AAAA", "64:ff9b::a00:1")], True),
        ("AAAA", [(f"{NAME}.", "AAAA", "::a00:1")], True),
        ("AAAA", [(f"{NAME}.", "AAAA", "2606:4700::1")], False),
        ("A", [(f"{NAME}.", "CNAME", "a.example.net."), ("a.example.net.", "A", "10.0.0.1")], True),
        ("A", [(f"{NAME}.", "CNAME", "a.example.com."), ("a.example.com.", "A", "203.0.113.9")], False),
        ("A", [(f"{NAME}.", "CNAME", "host.containers.internal.")], True),
        ("HTTPS", [(f"{NAME}.", "HTTPS", "1 . alpn=h2 ipv4hint=203.0.113.9,10.0.0.1")], True),
        ("HTTPS", [(f"{NAME}.", "HTTPS", "1 . alpn=h2 ipv6hint=fd00::1")], True),
        ("HTTPS", [(f"{NAME}.", "HTTPS", "1 . alpn=h2 ipv4hint=203.0.113.9")], False),
        ("TXT", [(f"{NAME}.", "TXT", '"10.0.0.1"')], False),
    ],
)
def test_an_answer_that_leads_inside_is_refused_as_a_whole(
    kind: str, rows: list[tuple[str, str, str]], refused: bool
) -> None:
    body = body_of(kind, *rows)
    found = made().judge(asked(kind), body)
    if not refused:
        assert found is body
        return
    assert found == Body(m.REFUSED, lifetime=KEPT_S, forbidden=True)


def test_an_address_that_stands_beside_the_answer_counts_too() -> None:
    body = body_of("MX", (f"{NAME}.", "A", "10.0.0.1"), section="additional")
    assert made().judge(asked("MX"), body).forbidden


def test_a_negative_answer_stays() -> None:
    body = body_of("A", SOA, section="authority")
    assert made().judge(asked("A"), body) is body


def test_names_may_be_excepted_and_the_code_may_be_another_one() -> None:
    body = body_of("A", (f"{NAME}.", "A", "10.0.0.1"))
    answers = made()
    answers.rcode = m.NXDOMAIN
    assert answers.judge(asked("A"), body).rcode == m.NXDOMAIN
    answers.may_be_inner = lambda labels: list(labels) == [b"www", b"example", b"com"]
    assert answers.judge(asked("A"), body) is body


def test_without_the_setting_nothing_is_looked_at() -> None:
    body = body_of("A", (f"{NAME}.", "A", "10.0.0.1"))
    assert AnswerFilter(Groups().is_inner).judge(asked("A"), body) is body


@given(st.binary(max_size=60), st.integers(0, 80))
def test_no_record_is_too_odd(data: bytes, end: int) -> None:
    made().judge(asked("A"), Body(0, data, (1, 0, 0), (end,)))
