"""DNS messages (RFC 1035, 2181, 6891): parses queries of guests, and renders replies to them.

Only the parts of a query that its answer needs are parsed. The question is kept byte for byte, because the
reply repeats it. Of an upstream answer only the records are kept (``Body``, made in responses.py). Each reply
has its own id, flags, question, age of the TTLs, EDNS and truncation. render() adds these to the records.

dnspython parses what is rare, such as records of any type. The first such message loads it: it needs 4 MB of
memory and OpenSSL, and many daemons never see one.

This module does not know zones, caches or guests. Hostile bytes cause no exception other than WireError.
"""

import struct
from collections.abc import Iterable
from struct import Struct
from typing import Final, NamedTuple

from pipeline.wire.errors import WireError

HEADER: Final = Struct("!HHHHHH")
TAIL: Final = Struct("!HH")
"""Type and class, after the name of a question."""
RECORD: Final = Struct("!HHIH")
"""Type, class, TTL and length of data, after the name of a record."""
_OPT: Final = Struct("!BHHBBHH")
_OPT_START: Final = b"\0\0\x29"
"""The empty name and the type of an OPT record."""
_OPTION: Final = Struct("!HH")
_TTL: Final = Struct("!I")

QR: Final = 0x8000
OPCODE: Final = 0x7800
TC: Final = 0x0200
RD: Final = 0x0100
RA: Final = 0x0080
AD: Final = 0x0020
CD: Final = 0x0010
DO: Final = 0x8000

NOERROR: Final = 0
FORMERR: Final = 1
SERVFAIL: Final = 2
NXDOMAIN: Final = 3
NOTIMP: Final = 4
REFUSED: Final = 5
BADVERS: Final = 16

CLASS_IN: Final = 1
TYPE_OPT: Final = 41

MIN_UDP: Final = 512
MAX_UDP: Final = 65507
MAX_TCP: Final = 65535
MAX_QUERY: Final = 4096
"""Bytes of the longest query. A longer one counts as malformed."""
EDNS_PAYLOAD: Final = 1232
"""UDP payload bytes that we accept from guests and upstream servers. It avoids fragments on common paths."""
MAX_NAME_BYTES: Final = 255
MAX_LABEL: Final = 63


class Query(NamedTuple):
    """One query. ``question``: its bytes as asked. ``labels``: those of its name, without the root.

    ``limit``: the most bytes of a reply. ``edns``: the query has an OPT record, so the reply gets one.
    ``dnssec``: the DO bit.
    """

    ident: int
    flags: int
    question: bytes
    labels: tuple[bytes, ...]
    rdtype: int
    rdclass: int
    limit: int
    edns: bool = False
    dnssec: bool = False


class Body(NamedTuple):
    """The records of a reply, as they follow a question of this name in a message.

    ``counts``: records of the answer, authority and additional sections (no OPT). ``ends``: where in
    ``records`` each of them ends. ``ttls``: where its TTL is. ``flags``: AD and TC. ``lifetime``: seconds for
    which the body may answer other queries; 0 if it may not. ``negative``: the lowest negative TTL of its SOA
    records; -1 without one. ``forbidden``: the egress policy has refused the records (filters.py).
    """

    rcode: int
    records: bytes = b""
    counts: tuple[int, int, int] = (0, 0, 0)
    ends: tuple[int, ...] = ()
    ttls: tuple[int, ...] = ()
    flags: int = 0
    lifetime: int = 0
    negative: int = -1
    forbidden: bool = False


class Malformed(NamedTuple):
    """Not a valid query. ``reply``: the error to send; empty for none. ``counter`` counts it."""

    reply: bytes
    counter: str


# --- queries ------------------------------------------------------------------------------


def parse_query(wire: bytes, *, tcp: bool) -> Query | Malformed:
    """Parse a guest's message."""
    if len(wire) < HEADER.size:
        return Malformed(b"", "dns_query_ignored_truncated")
    ident, flags, questions, answers, authorities, additionals = HEADER.unpack_from(wire)
    if flags & QR:
        return Malformed(b"", "dns_query_ignored_response")
    if flags & OPCODE:
        return Malformed(_header_only(ident, flags, NOTIMP), "dns_query_refused_opcode")
    malformed = Malformed(_header_only(ident, flags, FORMERR), "dns_query_refused_malformed")
    if questions != 1 or answers > 1 or authorities > 1 or additionals > 2 or len(wire) > MAX_QUERY:
        return malformed
    try:
        labels, end = read_name(wire, HEADER.size)
        rdtype, rdclass = TAIL.unpack_from(wire, end)
    except (WireError, struct.error):
        return malformed
    question = wire[HEADER.size : end + TAIL.size]
    limit = MAX_TCP if tcp else MIN_UDP
    query = Query(ident, flags, question, labels, rdtype, rdclass, limit)
    if not answers and not authorities and not additionals:
        return query
    try:
        if answers or authorities or additionals > 1:
            edns = _read_records(wire)
        else:
            edns = _read_opt(wire, end + TAIL.size)
    except WireError:
        return malformed
    if edns is None:
        return query
    if not tcp:
        limit = min(max(limit, edns.payload), MAX_UDP)
    query = query._replace(limit=limit, edns=True, dnssec=bool(edns.flags & DO))
    if edns.version:
        return Malformed(render(query, Body(BADVERS)), "dns_query_refused_edns_version")
    return query


class _Edns(NamedTuple):
    """The fields of a query's OPT record (RFC 6891 section 6.1)."""

    payload: int
    version: int
    flags: int


def _read_opt(wire: bytes, at: int) -> _Edns | None:
    """Read the only record of a query, at ``at``, which is almost always an OPT record. Raises WireError.

    The gateway uses no options, so only their lengths are checked. Bytes after the record are ignored.
    """
    if wire[at : at + len(_OPT_START)] != _OPT_START:
        return _read_records(wire)
    if len(wire) < at + _OPT.size:
        raise WireError("dns_query_refused_malformed")
    _, _, payload, _, version, flags, length = _OPT.unpack_from(wire, at)
    at += _OPT.size
    end = at + length
    while at + _OPTION.size <= end <= len(wire):
        at += _OPTION.size + _OPTION.unpack_from(wire, at)[1]
    if at != end or end > len(wire):
        raise WireError("dns_query_refused_malformed")
    return _Edns(payload, version, flags)


def _read_records(wire: bytes) -> _Edns | None:
    """Read the records after the question, whatever their types are. Raises WireError."""
    import dns.exception  # noqa: PLC0415  see above
    import dns.message  # noqa: PLC0415

    try:
        message = dns.message.from_wire(wire, ignore_trailing=True)
    except (dns.exception.DNSException, ValueError, struct.error):
        raise WireError("dns_query_refused_malformed") from None
    if message.edns < 0:
        return None
    return _Edns(message.payload, message.edns, message.ednsflags)


def _header_only(ident: int, flags: int, rcode: int) -> bytes:
    return HEADER.pack(ident, QR | flags & (OPCODE | RD) | rcode, 0, 0, 0, 0)


def read_name(wire: bytes, at: int) -> tuple[tuple[bytes, ...], int]:
    """The labels of the uncompressed name at ``at``, and where it ends. Raises WireError."""
    labels: list[bytes] = []
    start = at
    while at < len(wire):
        length = wire[at]
        at += 1
        if not length:
            return tuple(labels), at
        if length > MAX_LABEL or at + length > len(wire) or at + length - start >= MAX_NAME_BYTES:
            break
        labels.append(wire[at : at + length])
        at += length
    raise WireError("dns_query_refused_malformed")


def text_wire(name: str) -> bytes:
    """The uncompressed wire form of a name without final dot; empty if DNS cannot carry the name."""
    labels = name.split(".")
    if not name.isascii() or len(name) + 2 > MAX_NAME_BYTES:
        return b""
    if not all(0 < len(label) <= MAX_LABEL for label in labels):
        return b""
    return b"".join(bytes((len(label),)) + label.encode("ascii") for label in labels) + b"\0"


def about(query: Query, labels: tuple[bytes, ...], rdtype: int) -> Query:
    """The same query about another name, whose labels are short enough, and another type."""
    name = b"".join(bytes((len(label),)) + label for label in labels) + b"\0"
    question = name + TAIL.pack(rdtype, query.rdclass)
    return query._replace(question=question, labels=labels, rdtype=rdtype)


def upstream_query(query: Query) -> bytes:
    """The query to send upstream, with id 0. Its name is in lower case, so all spellings are one question.

    AD asks whether the answer's data is authentic (RFC 6840 section 5.7).
    """
    question = query.question[: -TAIL.size].lower() + query.question[-TAIL.size :]
    header = HEADER.pack(0, RD | query.flags & (AD | CD), 1, 0, 0, 1)
    return header + question + _opt(NOERROR, query.dnssec)


def _opt(rcode: int, dnssec: bool) -> bytes:
    """An OPT record without options (RFC 6891 section 6.1)."""
    return _OPT.pack(0, TYPE_OPT, EDNS_PAYLOAD, rcode >> 4, 0, DO if dnssec else 0, 0)


# --- replies ------------------------------------------------------------------------------


def render(query: Query, body: Body, age: int = 0) -> bytes:
    """The reply to a guest. ``age``: seconds since the body came from upstream. They are taken off its TTLs.

    Records that do not fit query.limit are left out, from the last on. TC is set then, except when only
    additional data is missing (RFC 2181 section 9).
    """
    rcode = body.rcode
    if rcode > 15 and not query.edns:
        rcode = SERVFAIL
    opt = _opt(rcode, query.dnssec) if query.edns else b""
    records = body.records
    answers, authorities, additionals = body.counts
    flags = QR | RA | query.flags & (RD | CD) | body.flags & TC | rcode & 15
    if query.dnssec or query.flags & AD:
        flags |= body.flags & AD
    room = query.limit - HEADER.size - len(query.question) - len(opt)
    if len(records) > room:
        kept = sum(end <= room for end in body.ends)
        records = records[: body.ends[kept - 1] if kept else 0]
        if kept < answers + authorities:
            flags |= TC
        answers, authorities, additionals = (
            min(answers, kept),
            min(authorities, max(0, kept - answers)),
            max(0, kept - answers - authorities),
        )
    if age and records:
        records = _aged(records, body.ttls, age)
    header = HEADER.pack(query.ident, flags, 1, answers, authorities, additionals + bool(opt))
    return b"".join((header, query.question, records, opt))


def _aged(records: bytes, ttls: tuple[int, ...], age: int) -> bytes:
    aged = bytearray(records)
    for at in ttls:
        if at >= len(aged):
            break
        _TTL.pack_into(aged, at, max(0, _TTL.unpack_from(aged, at)[0] - age))
    return bytes(aged)


def own_body(query: Query, rcode: int, records: Iterable[tuple[int, bytes]] = (), ttl: int = 0) -> Body:
    """The gateway's own answer. records: (type, data); each gets the name as asked."""
    name = query.question[: -TAIL.size]
    parts: list[bytes] = []
    ends: list[int] = []
    for rdtype, data in records:
        parts.append(name + RECORD.pack(rdtype, CLASS_IN, ttl, len(data)) + data)
        ends.append(len(parts[-1]) + (ends[-1] if ends else 0))
    return Body(rcode, b"".join(parts), (len(parts), 0, 0), tuple(ends))
