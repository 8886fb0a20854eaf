"""Responses of upstream servers: what counts as an answer, how long it is kept, what hostile ones do."""

import dns.flags
import dns.message
import dns.rcode
import dns.rrset
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.counters import INDEX
from pipeline.engines.dns import message as m
from pipeline.engines.dns import responses
from pipeline.wire.errors import WireError
from tests.engines.dns.test_message import asked, body, query, response

SOA = "example.com. {ttl} IN SOA ns. root. 1 2 3 4 {minimum}"


@pytest.mark.parametrize(
    "records, rcode, authority, lifetime",
    [
        (("www.example.com. 5000 IN A 1.2.3.4",), 0, (), 1000),
        (("www.example.com. 0 IN A 1.2.3.4",), 0, (), 0),
        (("www.example.com. 50 IN A 1.2.3.4",), 0, (SOA.format(ttl=30, minimum=1),), 30),
        ((), 3, (SOA.format(ttl=60, minimum=20),), 20),
        ((), 3, (SOA.format(ttl=10, minimum=20),), 10),
        ((), 0, (SOA.format(ttl=5000, minimum=5000),), 100),
        (("www.example.com. 7 IN CNAME x.",), 0, (SOA.format(ttl=60, minimum=20),), 7),
        ((), 3, (), 0),
        ((), 0, ("example.com. 60 IN NS ns.",), 0),
        ((), 2, (SOA.format(ttl=60, minimum=20),), 0),
        ((), 5, (), 0),
    ],
)
def test_lifetime_is_the_shortest_ttl_or_the_zones_negative_one(
    records: tuple[str, ...], rcode: int, authority: tuple[str, ...], lifetime: int
) -> None:
    wire = asked()
    assert (
        body(wire, response(wire, *records, rcode=rcode, authority=authority).to_wire()).lifetime == lifetime
    )


def test_truncated_response_is_passed_on_and_not_kept() -> None:
    wire = asked()
    upstream = response(wire, "www.example.com. 60 IN A 1.2.3.4")
    upstream.flags |= dns.flags.TC
    kept = body(wire, upstream.to_wire())
    assert kept.lifetime == 0
    assert m.render(query(wire), kept)[2] & 0x02


@pytest.mark.parametrize(
    "change",
    [
        lambda wire: wire[:-1],
        lambda wire: wire[:11],
        lambda wire: b"",
        lambda wire: wire[:2] + b"\x01" + wire[3:],
        lambda wire: wire[:2] + b"\xa9" + wire[3:],
        lambda wire: wire.replace(b"\x03www", b"\x03ftp"),
        lambda wire: wire.replace(b"com\0\0\1\0\1", b"com\0\0\2\0\1"),
        lambda wire: wire[:4] + b"\0\0" + wire[6:],
    ],
)  # fmt: skip
def test_response_to_something_else_is_refused(change: object) -> None:
    wire = asked()
    good = response(wire, "www.example.com. 60 IN A 1.2.3.4").to_wire()
    with pytest.raises(WireError) as caught:
        body(wire, change(good))  # type: ignore[operator]
    assert caught.value.reason == "dns_upstream_response_malformed"
    assert caught.value.reason in INDEX


def test_every_type_is_passed_through_as_it_came() -> None:
    rows = {
        "AAAA": "fd00::1",
        "MX": "10 mail.example.com.",
        "TXT": '"' + "a" * 255 + '" "b"',
        "SRV": "0 1 993 mail.example.com.",
        "CAA": '0 issue "ca.example"',
        "HTTPS": "1 . alpn=h2,h3",
        "TYPE65400": "\\# 3 010203",
    }
    for rdtype, data in rows.items():
        wire = asked(rdtype=rdtype)
        upstream = response(wire, f"www.example.com. 60 IN {rdtype} {data}")
        reply = dns.message.from_wire(m.render(query(wire, tcp=True), body(wire, upstream.to_wire())))
        assert reply.answer == upstream.answer


def test_answer_without_signatures_of_a_server_that_missed_do_is_not_kept_for_long() -> None:
    plain, dnssec = asked(), asked(want_dnssec=True)
    row = "www.example.com. 900 IN A 1.2.3.4"
    assert body(dnssec, response(dnssec, row).to_wire()).lifetime == 900
    assert body(dnssec, response(plain, row).to_wire()).lifetime == responses.DEAF_TTL
    assert body(plain, response(plain, row).to_wire()).lifetime == 900


# --- two readers ----------------------------------------------------------------------------


ROWS = (
    "www.example.com. {ttl} IN A 1.2.3.{n}",
    "www.example.com. {ttl} IN AAAA fd00::{n}",
    "www.example.com. {ttl} IN CNAME a{n}.cdn.example.com.",
    "a{n}.cdn.example.com. {ttl} IN CNAME b.other.",
    "b.other. {ttl} IN A 1.2.3.4",
    "example.com. {ttl} IN SOA ns{n}.example.com. root.example.com. 1 2 3 4 {n}",
    "example.com. {ttl} IN MX 10 mail{n}.example.com.",
)
"""The last type is not one of the common ones."""


@given(
    st.sampled_from(["A", "AAAA", "CNAME", "ANY", "MX"]),
    st.lists(st.tuples(st.sampled_from(ROWS), st.integers(0, 3000), st.integers(0, 250)), max_size=5),
    st.lists(st.tuples(st.sampled_from(ROWS[4:]), st.integers(0, 3000), st.integers(0, 250)), max_size=2),
    st.sampled_from([0, 2, 3, 5, 16]),
    st.booleans(),
    st.booleans(),
)
@settings(max_examples=200, deadline=None)
def test_common_records_are_kept_as_dnspython_reads_them(
    rdtype: str,
    answers: list[tuple[str, int, int]],
    authorities: list[tuple[str, int, int]],
    rcode: int,
    edns: bool,
    truncated: bool,
) -> None:
    wire = asked(rdtype=rdtype, **({"use_edns": 0} if edns else {}))
    rows = [row.format(ttl=ttl, n=n) for row, ttl, n in answers]
    upstream = response(
        wire,
        *rows,
        rcode=rcode if edns else rcode & 15,
        authority=tuple(row.format(ttl=ttl, n=n) for row, ttl, n in authorities),
    )
    upstream.flags |= dns.flags.TC if truncated else 0
    data = upstream.to_wire(max_size=65535)
    asker = query(wire)
    theirs = responses._read_any(asker, data)
    ours = responses._read_common(asker, data)
    common = not any(" MX " in row for row in rows) and not any(" MX " in row for row, _, _ in authorities)
    assert (ours is not None) == common
    if ours is None:
        return
    # Bytes may differ where names are compressed in another way.
    assert ours._replace(records=b"", ends=(), ttls=()) == theirs._replace(records=b"", ends=(), ttls=())
    kept = body(wire, data)
    other = m.Body(theirs.rcode, theirs.records, theirs.counts, theirs.ends, theirs.ttls)
    mine = dns.message.from_wire(m.render(asker, kept, 7))
    assert mine.sections[1:] == dns.message.from_wire(m.render(asker, other, 7)).sections[1:]


@pytest.mark.parametrize(
    "records",
    [
        "c00c 0001 0001 0000003c 0003 010203",  # an address of three bytes
        "c00c 001c 0001 0000003c 0004 01020304",
        "c00c 0001 0001 0000003c 0005 0102030405",
        "c00c 0001 0003 0000003c 0004 01020304",  # class CH
        "c00c 0001 0001 8000003c 0004 01020304",  # a negative TTL
        "c021 0001 0001 0000003c 0004 01020304",  # a name that points to itself
        "c0ff 0001 0001 0000003c 0004 01020304",  # to what comes after
        "c000 0001 0001 0000003c 0004 01020304",  # into the header
        "40 0001 0001 0000003c 0004 01020304",
        "c00c 0005 0001 0000003c 0003 c00c00",  # data after the name
        "c00c 0005 0001 0000003c 0002 c02d",  # data that points to itself
        "c00c 0006 0001 0000003c 0004 c00cc00c",  # SOA without numbers
        "c00c 0001 0001 0000003c 00ff 01020304",
        "c00c 0001 0001 0000003c",
        "c00c",
        "",
    ],
)
def test_records_that_are_not_sound_are_left_to_dnspython(records: str) -> None:
    wire = asked()
    header = m.HEADER.pack(0, m.QR | m.RD | m.RA, 1, 1, 0, 0)
    data = header + wire[12:] + bytes.fromhex(records)
    assert responses._read_common(query(wire), data) is None


def test_names_in_circles_end() -> None:
    wire = asked()
    circle = bytes.fromhex("0161 c023 0005 0001 0000003c 0002 c021")
    header = m.HEADER.pack(0, m.QR | m.RD | m.RA, 1, 1, 0, 0)
    with pytest.raises(WireError):
        body(wire, header + wire[12:] + circle)


# --- hostile ------------------------------------------------------------------------------


@given(st.data())
@settings(max_examples=300, deadline=None)
def test_any_bytes_from_upstream_become_a_reply_within_the_limit_or_are_refused(data: st.DataObject) -> None:
    wire = asked()
    good = response(
        wire,
        "www.example.com. 60 IN CNAME a.b.",
        "a.b. 60 IN A 1.2.3.4",
        authority=(SOA.format(ttl=1, minimum=2),),
    ).to_wire()
    at = data.draw(st.integers(12, len(good)))
    spoiled = good[:at] + data.draw(st.binary(max_size=40)) + good[at + data.draw(st.integers(0, 40)) :]
    try:
        kept = body(wire, spoiled)
    except WireError:
        return
    assert len(kept.ends) == len(kept.ttls) == sum(kept.counts)
    reply = m.render(query(wire), kept, 1)
    assert len(reply) <= 512
    dns.message.from_wire(reply)
