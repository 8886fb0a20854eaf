"""What HTTPS and SVCB records lose, and what stays."""

import dns.message
import dns.rrset
import pytest

from pipeline.engines.dns import services

ECH = "ech=AEX+DQBBpQAgACB/RU5hAC5mXe3uOZtNY58Bc8UU1dv4QBn5iG7ZWAv9EgAEAAEAAQASY2xvdWRmbGFyZS1lY2guY29tAAA="


def removed(text: str, *parts: str) -> list[str]:
    message = dns.message.make_response(dns.message.make_query("www.example.com", "HTTPS"))
    message.answer.append(dns.rrset.from_text("www.example.com.", 60, "IN", "HTTPS", text))
    message.answer.append(dns.rrset.from_text("www.example.com.", 60, "IN", "A", "203.0.113.9"))
    services.remove(message, set(parts))
    message = dns.message.from_wire(message.to_wire())
    return [record.to_text() for rrset in message.answer for record in rrset if rrset.rdtype == 65]


@pytest.mark.parametrize(
    ("text", "parts", "left"),
    [
        (f"1 . alpn=h2,h3 {ECH}", ("ech",), ['1 . alpn="h2,h3"']),
        (f"1 . alpn=h2,h3,h3-29 {ECH}", ("ech", "h3"), ['1 . alpn="h2"']),
        ("1 . alpn=h3 port=443", ("h3",), ['1 . port="443"']),
        ("1 . alpn=h3 no-default-alpn", ("h3",), []),
        (f"1 . mandatory=alpn,ech alpn=h2 {ECH}", ("ech",), ['1 . mandatory="alpn" alpn="h2"']),
        (f"1 . mandatory=ech alpn=h2 {ECH}", ("ech",), ['1 . alpn="h2"']),
        ("0 cdn.example.net.", ("ech", "h3"), ["0 cdn.example.net."]),
        ("1 . alpn=h2", ("ech", "h3"), ['1 . alpn="h2"']),
    ],
)
def test_parts_are_removed(text: str, parts: tuple[str, ...], left: list[str]) -> None:
    assert removed(text, *parts) == left
