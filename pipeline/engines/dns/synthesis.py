"""Makes the records of DNS64 (RFC 6147): AAAA records from A records, and PTR records of embedded addresses.

Functions on bodies (message.py), which know no cache and no guest. They are needed only for names without
usable AAAA records. dnspython reads and writes the messages, since names may be compressed: a longer record
moves what other names point to.
"""

import struct
from collections.abc import Callable, Iterator
from typing import Final

import dns.exception
import dns.message
import dns.name
import dns.rdata
import dns.rdataclass
import dns.rdatatype
import dns.rrset

from pipeline.engines.dns import message as m
from pipeline.engines.dns.cache import Cached
from pipeline.engines.dns.message import RECORD, TAIL, Body, Query
from pipeline.engines.dns.responses import upstream_body
from pipeline.engines.dns.zones import AAAA
from pipeline.wire.errors import WireError

UNKNOWN_TTL: Final = 600
"""The longest TTL of a synthetic record if the answer about AAAA has no SOA record (section 5.1.7)."""

_MAX_TTL: Final = 86400
_EXCLUDED: Final = bytes(10) + b"\xff\xff"
"""::ffff:0:0/96. These addresses are of no use to a guest without IPv4 (section 5.1.4)."""
_CHAIN: Final = frozenset({dns.rdatatype.CNAME, dns.rdatatype.DNAME})

RRsets = list[dns.rrset.RRset]
Address = Callable[[bytes], bytes]


def lacks_addresses(body: Body) -> bool:
    """Whether an answer about AAAA counts as empty, so that A records are to be asked for.

    So do errors other than NXDOMAIN, time-outs, and excluded addresses (sections 5.1.2 to 5.1.4). If a
    response was truncated, nobody knows what it lacks.
    """
    if body.rcode != m.NOERROR:
        return body.rcode != m.NXDOMAIN
    return not body.flags & m.TC and all(map(_is_excluded, _addresses(body)))


def has_excluded(body: Body) -> bool:
    """Whether an answer about AAAA has addresses that no guest may get."""
    return any(map(_is_excluded, _addresses(body)))


def without_excluded(query: Query, found: Cached) -> Body:
    """An answer about AAAA without its excluded addresses, as it is now (section 5.1.4)."""

    def usable(answer: RRsets) -> RRsets:
        kept: RRsets = []
        for rrset in answer:
            if rrset.rdtype == dns.rdatatype.AAAA:
                kept += _made(
                    rrset.name, rrset.ttl, [each for each in _wires(rrset) if not _is_excluded(each)]
                )
            else:
                kept.append(rrset)
        return kept

    return _rewritten(query, query, found, usable) or Body(m.SERVFAIL)


def addresses_body(query: Query, asked: Query, found: Cached, first: Cached, address: Address) -> Body | None:
    """The answer to ``query`` about AAAA, made of the one about A to ``asked`` (sections 5.1.5 to 5.4).

    first: the answer about AAAA, which lacks addresses. address: the 16 bytes for 4 bytes, or empty. Returns
    None if there is no address.
    """
    negative = first.body.negative
    ceiling = max(0, negative - first.age) if negative >= 0 else UNKNOWN_TTL

    def synthetic(answer: RRsets) -> RRsets:
        made: RRsets = []
        for rrset in answer:
            if rrset.rdtype == dns.rdatatype.A:
                wires = [wire for each in _wires(rrset) if (wire := address(each))]
                made += _made(rrset.name, min(rrset.ttl, ceiling), wires)
            elif rrset.rdtype in _CHAIN or rrset.covers in _CHAIN:
                made.append(rrset)
        return made

    body = _rewritten(query, asked, found, synthetic)
    return body if body is not None and any(True for _ in _addresses(body)) else None


def pointer_body(query: Query, asked: Query, found: Cached) -> Body:
    """The answer to ``query`` about PTR of an embedded address, made of the one to ``asked`` (section 5.3.1).

    The records get the name that was asked for. A negative answer has no SOA record, since it would be that
    of another zone.
    """
    if found.body.rcode != m.NOERROR:
        return Body(found.body.rcode)

    def renamed(answer: RRsets) -> RRsets:
        pointers = [rrset for rrset in answer if rrset.rdtype == dns.rdatatype.PTR]
        if not pointers:
            return []
        rdatas = [rdata for rrset in pointers for rdata in rrset]
        ttl = min(rrset.ttl for rrset in answer)
        return [dns.rrset.from_rdata_list(dns.name.Name((*query.labels, b"")), ttl, rdatas)]

    body = _rewritten(query, asked, found, renamed)
    return body if body is not None and body.counts[0] else Body(m.NOERROR)


def _addresses(body: Body) -> Iterator[bytes]:
    """The data of the AAAA records of the answer section."""
    for ttl_at in body.ttls[: body.counts[0]]:
        at = ttl_at - TAIL.size
        rdtype, rdclass, _, length = RECORD.unpack_from(body.records, at)
        if rdtype == AAAA and rdclass == m.CLASS_IN:
            at += RECORD.size
            yield body.records[at : at + length]


def _is_excluded(address: bytes) -> bool:
    return address.startswith(_EXCLUDED)


def _wires(rrset: dns.rrset.RRset) -> list[bytes]:
    """The data of addresses, as on the wire."""
    return [each.to_wire() or b"" for each in rrset]


def _made(name: dns.name.Name, ttl: int, wires: list[bytes]) -> RRsets:
    """The AAAA records of a name; empty without an address."""
    if not wires:
        return []
    rdatas = [
        dns.rdata.from_wire(dns.rdataclass.IN, dns.rdatatype.AAAA, wire, 0, len(wire)) for wire in wires
    ]
    return [dns.rrset.from_rdata_list(name, ttl, rdatas)]


def _rewritten(query: Query, asked: Query, found: Cached, change: Callable[[RRsets], RRsets]) -> Body | None:
    """The answer to ``asked`` as one to ``query``, with another answer section and without AD.

    Returns None if it cannot be read, or if it becomes longer than a message can be.
    """
    plain = asked._replace(edns=False, limit=m.MAX_TCP)
    try:
        message = dns.message.from_wire(m.render(plain, found.body, found.age))
        name = dns.name.Name((*query.labels, b""))
        message.question = [
            dns.rrset.RRset(name, dns.rdataclass.IN, dns.rdatatype.RdataType.make(query.rdtype))
        ]
        message.answer = change(message.answer)
        message.flags &= ~m.AD
        wire = message.to_wire(max_size=m.MAX_TCP, want_shuffle=False)
        return upstream_body(query, wire, max_ttl=_MAX_TTL, max_negative_ttl=_MAX_TTL)
    except (dns.exception.DNSException, ValueError, struct.error, WireError):
        return None
