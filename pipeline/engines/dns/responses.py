"""Checks responses of upstream servers: does one answer the question, and which of its records are kept?

The records are kept as bytes that follow a question of the same length (``Body``). Most responses have only
A, AAAA, CNAME and SOA records. For these, each name and length is checked here, and the bytes stay as they
are: their compressed names point to the question or to earlier records. dnspython reads and rewrites all
other responses, which takes ten times as long.
"""

import struct
from collections.abc import Set
from typing import Final, NamedTuple

from pipeline.engines.dns import message as m
from pipeline.engines.dns import services
from pipeline.engines.dns.message import HEADER, RECORD, TAIL, Body, Query
from pipeline.wire.errors import WireError

DEAF_TTL: Final = 60
"""Seconds for which an answer without OPT to a query with DO is kept, since the server ignored DO."""

_A: Final = 1
_CNAME: Final = 5
_SOA: Final = 6
_AAAA: Final = 28
_ANY: Final = 255
_POINTER: Final = 0xC0
_SOA_NUMBERS: Final = 20
"""Bytes after the two names of SOA data: five numbers, of which the last is the zone's negative TTL."""
_MINIMUM: Final = struct.Struct("!I")
_MAX_TTL: Final = 0x7FFFFFFF
"""RFC 2181 section 8."""
_FOREVER: Final = 0xFFFFFFFF


class _Found(NamedTuple):
    """The records of a response, as in Body, and the values that decide how long they may be kept.

    ``lowest``: the lowest TTL. ``answers``: the answer section has a record of the wanted type.
    ``negative``: the lowest negative TTL of a SOA record in the authority section, -1 without one. ``edns``:
    the response has an OPT record.
    """

    rcode: int
    flags: int
    records: bytes
    counts: tuple[int, int, int]
    ends: tuple[int, ...]
    ttls: tuple[int, ...]
    lowest: int
    answers: bool
    negative: int
    edns: bool


def upstream_body(
    query: Query, wire: bytes, *, max_ttl: int, max_negative_ttl: int, removed: Set[str] = frozenset()
) -> Body:
    """Check an upstream server's response to upstream_query(), and return its records.

    A positive answer may be cached for its shortest TTL. A negative one may be cached for the time in its SOA
    record (RFC 2308 section 5). max_ttl and max_negative_ttl bound these times. No other response may be
    cached. removed: what HTTPS and SVCB records lose (services.py). Raises WireError.
    """
    found = _read_common(query, wire) or _read_any(query, wire, removed)
    lifetime = 0
    if not found.flags & m.TC:
        if found.rcode == m.NOERROR and found.answers:
            lifetime = min(found.lowest, max_ttl)
        elif found.rcode in (m.NOERROR, m.NXDOMAIN) and found.negative >= 0:
            lifetime = min(found.lowest, max_negative_ttl, found.negative)
    if query.dnssec and not found.edns:
        lifetime = min(lifetime, DEAF_TTL)
    flags = found.flags & (m.AD | m.TC)
    records = found.records
    return Body(found.rcode, records, found.counts, found.ends, found.ttls, flags, lifetime, found.negative)


# --- common types ---------------------------------------------------------------------------


def _read_common(query: Query, wire: bytes) -> _Found | None:
    """The records of a response that has only common types; None if dnspython must read it."""
    begin = HEADER.size + len(query.question)
    if len(wire) < begin:
        return None
    _, flags, questions, answers, authorities, additionals = HEADER.unpack_from(wire)
    asked = wire[HEADER.size : begin]
    same = asked[: -TAIL.size].lower() == query.question[: -TAIL.size].lower()
    if flags & (m.QR | m.OPCODE) != m.QR or questions != 1 or not same:
        return None
    if asked[-TAIL.size :] != query.question[-TAIL.size :]:
        return None
    rcode = flags & 15
    at = begin
    ends: list[int] = []
    ttls: list[int] = []
    lowest, negative = _FOREVER, -1
    wanted = edns = False
    total = answers + authorities + additionals
    for index in range(total):
        data = _name_end(wire, at)
        if not data or data + RECORD.size > len(wire):
            return None
        rdtype, rdclass, ttl, length = RECORD.unpack_from(wire, data)
        data += RECORD.size
        end = data + length
        if end > len(wire):
            return None
        if rdtype == m.TYPE_OPT:
            # OPT is not kept, so it must be the last record: pointers of later records would be wrong.
            if index != total - 1 or index < answers + authorities or wire[at]:
                return None
            rcode |= ttl >> 24 << 4
            edns = True
            additionals -= 1
            break
        if rdclass != m.CLASS_IN or ttl > _MAX_TTL or not _is_sound(wire, rdtype, data, end):
            return None
        wanted = wanted or (index < answers and query.rdtype in (rdtype, _ANY))
        if rdtype == _SOA and answers <= index < answers + authorities:
            least = min(ttl, _MINIMUM.unpack_from(wire, end - _MINIMUM.size)[0])
            negative = least if negative < 0 else min(negative, least)
        lowest = min(lowest, ttl)
        ttls.append(data - RECORD.size + TAIL.size - begin)
        ends.append(end - begin)
        at = end
    counts = (answers, authorities, additionals)
    return _Found(
        rcode, flags, wire[begin:at], counts, tuple(ends), tuple(ttls), lowest, wanted, negative, edns
    )


def _is_sound(wire: bytes, rdtype: int, data: int, end: int) -> bool:
    """Whether the data of a record, wire[data:end], is valid for its type. False for other types."""
    if rdtype == _A:
        return end - data == 4
    if rdtype == _AAAA:
        return end - data == 16
    if rdtype == _CNAME:
        return _name_end(wire, data) == end
    if rdtype == _SOA:
        second = _name_end(wire, data)
        return second != 0 and (after := _name_end(wire, second)) != 0 and after + _SOA_NUMBERS == end
    return False


def _name_end(wire: bytes, at: int) -> int:
    """Where the name at ``at``, perhaps compressed, ends; 0 if it is not sound.

    Each pointer must point before the piece of the name that it ends (RFC 1035 section 4.1.4). So no name is
    followed in a circle.
    """
    end = 0
    begin = at
    size = 0
    while at < len(wire):
        length = wire[at]
        if length >= _POINTER:
            if at + 1 >= len(wire):
                return 0
            target = (length & ~_POINTER) << 8 | wire[at + 1]
            end = end or at + 2
            if not HEADER.size <= target < begin:
                return 0
            at = begin = target
            continue
        size += 1 + length
        if length > m.MAX_LABEL or size > m.MAX_NAME_BYTES:
            return 0
        at += 1 + length
        if not length:
            return end or at
    return 0


# --- any types ------------------------------------------------------------------------------


def _read_any(query: Query, wire: bytes, removed: Set[str] = frozenset()) -> _Found:
    """The records of a response as dnspython rewrites them. Raises WireError."""
    import dns.exception  # noqa: PLC0415  see message.py
    import dns.message  # noqa: PLC0415  see message.py
    import dns.rdatatype  # noqa: PLC0415  see message.py

    malformed = WireError("dns_upstream_response_malformed")
    try:
        message = dns.message.from_wire(wire, one_rr_per_rrset=True, ignore_trailing=True)
        rcode = int(message.rcode())
        if int(message.flags) & (m.QR | m.OPCODE) != m.QR or len(message.question) != 1:
            raise malformed
        asked = message.question[0]
        if (int(asked.rdtype), int(asked.rdclass)) != (query.rdtype, query.rdclass):
            raise malformed
        if [label.lower() for label in asked.name.labels[:-1]] != [label.lower() for label in query.labels]:
            raise malformed
        edns = message.edns >= 0
        if removed:
            services.remove(message, removed)
        message.id = 0
        message.use_edns(False)
        rendered = message.to_wire(max_size=m.MAX_TCP, want_shuffle=False)
    except (dns.exception.DNSException, ValueError, struct.error):
        raise malformed from None
    begin = HEADER.size + len(query.question)
    counts, ends, ttls, lowest = _walk(rendered, begin)
    minima = [
        min(rrset.ttl, rrset[0].minimum) for rrset in message.authority if rrset.rdtype == dns.rdatatype.SOA
    ]
    wanted = any(query.rdtype in (int(rrset.rdtype), _ANY) for rrset in message.answer)
    return _Found(
        rcode,
        int(message.flags),
        rendered[begin:],
        counts,
        ends,
        ttls,
        lowest,
        wanted,
        min(minima, default=-1),
        edns,
    )


def _walk(wire: bytes, begin: int) -> tuple[tuple[int, int, int], tuple[int, ...], tuple[int, ...], int]:
    """The counts of a message's records, their ends and the places of their TTLs, and the lowest TTL.

    Offsets count from begin. The message must be written by dnspython, since lengths are not checked.
    """
    _, _, _, answers, authorities, additionals = HEADER.unpack_from(wire)
    ends = []
    ttls = []
    lowest = _FOREVER
    at = begin
    for _ in range(answers + authorities + additionals):
        while wire[at] and wire[at] < _POINTER:
            at += 1 + wire[at]
        at += 2 if wire[at] else 1
        _, _, ttl, length = RECORD.unpack_from(wire, at)
        lowest = min(lowest, ttl)
        ttls.append(at + TAIL.size - begin)
        at += RECORD.size + length
        ends.append(at - begin)
    return (answers, authorities, additionals), tuple(ends), tuple(ttls), lowest
