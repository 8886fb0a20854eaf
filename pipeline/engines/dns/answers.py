"""Reads the gateway's own DNS replies: the name that a guest asked for, its addresses, and their TTL.

The egress policy needs this: it allows an address for a name only if the gateway has told the guest that
address. A reply that cannot be parsed has no addresses.
"""

import struct
from typing import Final, NamedTuple

from pipeline.wire import ip

_HEADER_LEN: Final = 12
_MAX_LABEL: Final = 63


class Summary(NamedTuple):
    """A reply for people: name and type of its question, response code, and what the answer section has."""

    name: str
    rdtype: str
    rcode: str
    records: int
    addresses: list[str]


class Given(NamedTuple):
    """Addresses, and the seconds for which they belong to the name: the lowest TTL in the answer.

    ``aliases``: the names to which CNAME and DNAME records lead, in lower case, without the last dot.
    """

    addresses: tuple[int, ...]
    ttl: int
    aliases: tuple[str, ...] = ()


def asked(payload: bytes) -> list[bytes]:
    """The labels of the first question's name; empty if no question can be parsed."""
    labels = []
    at = _HEADER_LEN
    while at < len(payload) and payload[at]:
        length = payload[at]
        if length > _MAX_LABEL:
            return []
        labels.append(payload[at + 1 : at + 1 + length])
        at += 1 + length
    return labels


def given(payload: bytes) -> Given:
    """The addresses in the answer section, and those that HTTPS and SVCB records hint at."""
    import dns.exception  # noqa: PLC0415  see message.py
    import dns.message  # noqa: PLC0415  see message.py
    from dns.rdtypes.ANY.CNAME import CNAME  # noqa: PLC0415  see message.py
    from dns.rdtypes.ANY.DNAME import DNAME  # noqa: PLC0415  see message.py
    from dns.rdtypes.IN.A import A  # noqa: PLC0415  see message.py
    from dns.rdtypes.IN.AAAA import AAAA  # noqa: PLC0415  see message.py
    from dns.rdtypes.svcbbase import ParamKey, SVCBBase  # noqa: PLC0415  see message.py

    try:
        message = dns.message.from_wire(payload)
    except dns.exception.DNSException:
        return Given((), 0)
    found: list[int] = []
    aliases: list[str] = []
    for record in (record for rrset in message.answer for record in rrset):
        if isinstance(record, (A, AAAA)):
            found.append(ip.parse(record.address))
        elif isinstance(record, (CNAME, DNAME)):
            aliases.append(record.target.to_text(omit_final_dot=True).lower())
        elif isinstance(record, SVCBBase):
            # Without parameters, such a record is an alias too.
            aliases.append(record.target.to_text(omit_final_dot=True).lower())
            # Clients connect to the hints before they ask for the addresses (RFC 9460 section 7.3).
            hints = [record.params.get(key) for key in (ParamKey.IPV4HINT, ParamKey.IPV6HINT)]
            found += (ip.parse(text) for hint in hints if hint is not None for text in hint.addresses)
    ttl = min((rrset.ttl for rrset in message.answer), default=0)
    return Given(tuple(found), ttl, tuple(aliases))


def summary(payload: bytes, most: int) -> Summary:
    """What a reply says. most: addresses. A name has the final dot; "" if no question can be parsed."""
    import dns.exception  # noqa: PLC0415  see message.py
    import dns.message  # noqa: PLC0415  see message.py
    import dns.rcode  # noqa: PLC0415  see message.py
    import dns.rdatatype  # noqa: PLC0415  see message.py
    from dns.rdtypes.IN.A import A  # noqa: PLC0415  see message.py
    from dns.rdtypes.IN.AAAA import AAAA  # noqa: PLC0415  see message.py

    try:
        message = dns.message.from_wire(payload)
    except (dns.exception.DNSException, ValueError, struct.error):
        rcode = dns.rcode.to_text(payload[3] & 15) if len(payload) >= _HEADER_LEN else ""  # type: ignore[arg-type]
        return Summary("", "", rcode, 0, [])
    question = message.question[0] if message.question else None
    addresses = [
        record.address for rrset in message.answer for record in rrset if isinstance(record, (A, AAAA))
    ]
    return Summary(
        question.name.to_text() if question is not None else "",
        dns.rdatatype.to_text(question.rdtype) if question is not None else "",
        dns.rcode.to_text(message.rcode()),
        sum(len(rrset) for rrset in message.answer),
        addresses[:most],
    )
