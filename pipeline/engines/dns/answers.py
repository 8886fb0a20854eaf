"""Reads the gateway's own DNS replies: the name that a guest asked for, its addresses, and their TTL.

The egress policy needs this: it allows an address for a name only if the gateway has told the guest that
address. A reply that cannot be parsed has no addresses.
"""

from typing import Final, NamedTuple

import dns.exception
import dns.message
import dns.rdatatype
from dns.rdtypes.IN.A import A

from pipeline.wire import ip

_HEADER_LEN: Final = 12
_MAX_LABEL: Final = 63


class Given(NamedTuple):
    """IPv4 addresses, and the seconds for which they belong to the name: the lowest TTL in the answer."""

    addresses: tuple[int, ...]
    ttl: int


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
    """The addresses in the answer section."""
    try:
        message = dns.message.from_wire(payload)
    except dns.exception.DNSException:
        return Given((), 0)
    found = [
        ip.parse_ipv4(record.address)
        for rrset in message.answer
        if rrset.rdtype == dns.rdatatype.A
        for record in rrset
        if isinstance(record, A)
    ]
    return Given(tuple(found), min((rrset.ttl for rrset in message.answer), default=0))
