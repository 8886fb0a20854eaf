"""DNS messages: what is a query, replies byte for byte, truncation, TTLs, and what upstream may send."""

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

NAME = b"\x04HoSt\x0aContainers\x08internal\0"
QUESTION = NAME + b"\0\1\0\1"


def asked(name: str = "www.example.com", rdtype: str = "A", **options: object) -> bytes:
    message = dns.message.make_query(name, rdtype, **options)  # type: ignore[arg-type]
    message.id = 0x1234
    return message.to_wire()


def query(wire: bytes, *, tcp: bool = False) -> m.Query:
    parsed = m.parse_query(wire, tcp=tcp)
    assert isinstance(parsed, m.Query), parsed
    return parsed


def response(
    wire: bytes, *records: str, rcode: int = 0, authority: tuple[str, ...] = ()
) -> dns.message.Message:
    """A response to a query of ours; records are "name ttl class type data"."""
    message = dns.message.make_response(dns.message.from_wire(wire))
    message.set_rcode(rcode)
    for section, rows in ((message.answer, records), (message.authority, authority)):
        for row in rows:
            name, ttl, rdclass, rdtype, data = row.split(" ", 4)
            section.append(dns.rrset.from_text(name, int(ttl), rdclass, rdtype, data))
    return message


def body(wire: bytes, upstream: bytes) -> m.Body:
    return responses.upstream_body(query(wire), upstream, max_ttl=1000, max_negative_ttl=100)


# --- queries ------------------------------------------------------------------------------


def test_question_is_kept_as_asked() -> None:
    wire = bytes.fromhex("abcd 0110 0001 0000 0000 0000") + QUESTION
    assert m.parse_query(wire, tcp=False) == m.Query(
        0xABCD, 0x0110, QUESTION, (b"HoSt", b"Containers", b"internal"), 1, 1, 512
    )


@pytest.mark.parametrize("payload, limit", [(0, 512), (100, 512), (1232, 1232), (65535, 65507)])
def test_edns_size_bounds_the_reply_over_udp(payload: int, limit: int) -> None:
    parsed = query(asked(use_edns=0, payload=payload, want_dnssec=True))
    assert (parsed.limit, parsed.edns, parsed.dnssec) == (limit, True, True)


def test_edns_size_does_not_bound_the_reply_over_tcp() -> None:
    assert query(asked(use_edns=0, payload=600), tcp=True).limit == 65535
    assert query(asked(), tcp=True).limit == 65535


def header(flags: int, *counts: int) -> bytes:
    return m.HEADER.pack(0xABCD, flags, *counts)


FORMERR = ("abcd 8101 0000 0000 0000 0000", "dns_query_refused_malformed")


@pytest.mark.parametrize(
    "wire, reply, counter",
    [
        (b"", "", "dns_query_ignored_truncated"),
        (bytes(11), "", "dns_query_ignored_truncated"),
        (header(0x8100, 1, 0, 0, 0) + QUESTION, "", "dns_query_ignored_response"),
        (header(0x2900, 1, 0, 0, 0) + QUESTION, "abcd a904 0000 0000 0000 0000", "dns_query_refused_opcode"),
        (header(0x0100, 0, 0, 0, 0), *FORMERR),
        (header(0x0000, 2, 0, 0, 0) + QUESTION, "abcd 8001 0000 0000 0000 0000", FORMERR[1]),
        (header(0x0100, 1, 2, 0, 0) + QUESTION, *FORMERR),
        (header(0x0100, 1, 0, 2, 0) + QUESTION, *FORMERR),
        (header(0x0100, 1, 0, 0, 3) + QUESTION, *FORMERR),
        (header(0x0100, 1, 0, 0, 1) + QUESTION, *FORMERR),
        (header(0x0100, 1, 0, 0, 0) + QUESTION[:-1], *FORMERR),
        (header(0x0100, 1, 0, 0, 0) + b"\xc0\x0c\0\1\0\1", *FORMERR),
        (header(0x0100, 1, 0, 0, 0) + b"\x40" + bytes(70), *FORMERR),
        (header(0x0100, 1, 0, 0, 0) + b"\x01a" * 200, *FORMERR),
        (header(0x0100, 1, 0, 0, 0) + QUESTION + bytes(5000), *FORMERR),
    ],
)  # fmt: skip
def test_what_is_not_a_query_gets_the_error_or_nothing(wire: bytes, reply: str, counter: str) -> None:
    assert m.parse_query(wire, tcp=False) == m.Malformed(bytes.fromhex(reply), counter)
    assert counter in INDEX


def test_two_opt_records_are_malformed() -> None:
    wire = asked(use_edns=0)
    doubled = wire[:10] + b"\0\2" + wire[12:] + wire[-11:]
    parsed = m.parse_query(doubled, tcp=False)
    assert isinstance(parsed, m.Malformed)
    assert parsed.counter == "dns_query_refused_malformed"


OPT = "00 0029 04d0 00 00 8000"


@pytest.mark.parametrize(
    "record, good",
    [
        (OPT + "0000", True),
        (OPT + "0004 000a 0000", True),
        (OPT + "000c 000a 0008 0102030405060708", True),
        (OPT + "0009 000a 0000 0008 0001 ff", True),
        (OPT + "0000 ffff", True),
        (OPT + "0001 00", False),
        (OPT + "0003 000a 00", False),
        (OPT + "0004 000a 0001 00", False),
        (OPT + "0008 000a 0005 00000000", False),
        (OPT + "ffff 000a 0000", False),
        (OPT + "00", False),
        (OPT[:12], False),
    ],
)
def test_options_of_an_opt_record_keep_its_length(record: str, good: bool) -> None:
    parsed = m.parse_query(header(0x0100, 1, 0, 0, 1) + QUESTION + bytes.fromhex(record), tcp=False)
    if good:
        assert isinstance(parsed, m.Query)
        assert (parsed.limit, parsed.edns, parsed.dnssec) == (1232, True, True)
    else:
        assert parsed == m.Malformed(bytes.fromhex(FORMERR[0]), FORMERR[1])


def test_another_record_in_place_of_opt_is_no_edns() -> None:
    record = NAME + bytes.fromhex("0001 0001 00000000 0004 01020304")
    parsed = query(header(0x0100, 1, 0, 0, 1) + QUESTION + record)
    assert (parsed.limit, parsed.edns) == (512, False)


@given(
    st.integers(0, 65535),
    st.integers(0, 255),
    st.integers(0, 255),
    st.integers(0, 65535),
    st.lists(st.tuples(st.integers(65001, 65534), st.binary(max_size=20)), max_size=4),
)
@settings(max_examples=200, deadline=None)
def test_an_opt_record_says_what_dnspython_reads_in_it(
    payload: int, rcode: int, version: int, flags: int, options: list[tuple[int, bytes]]
) -> None:
    data = b"".join(code.to_bytes(2, "big") + len(each).to_bytes(2, "big") + each for code, each in options)
    fields = (payload.to_bytes(2, "big"), bytes((rcode, version)), flags.to_bytes(2, "big"))
    record = b"\0\0\x29" + b"".join(fields) + len(data).to_bytes(2, "big") + data
    wire = header(0x0100, 1, 0, 0, 1) + QUESTION + record
    theirs = dns.message.from_wire(wire)
    ours = m.parse_query(wire, tcp=False)
    if version:
        assert isinstance(ours, m.Malformed)
        assert dns.message.from_wire(ours.reply).rcode() == dns.rcode.BADVERS
    else:
        assert isinstance(ours, m.Query)
        limit = min(max(512, theirs.payload), 65507)
        assert (ours.limit, ours.dnssec) == (limit, bool(theirs.ednsflags & m.DO))


def test_unknown_edns_version_is_answered_with_badvers() -> None:
    parsed = m.parse_query(asked(use_edns=7), tcp=False)
    assert isinstance(parsed, m.Malformed)
    reply = dns.message.from_wire(parsed.reply)
    assert (reply.rcode(), reply.edns) == (dns.rcode.BADVERS, 0)


def test_query_upstream_is_in_lower_case_with_edns_and_id_0() -> None:
    wire = m.upstream_query(query(bytes.fromhex("abcd 0110 0001 0000 0000 0000") + QUESTION))
    expected = "0000 0110 0001 0000 0000 0001" + QUESTION.lower().hex() + "00 0029 04d0 00 00 0000 0000"
    assert wire == bytes.fromhex(expected)
    assert dns.message.from_wire(m.upstream_query(query(asked(want_dnssec=True)))).ednsflags & m.DO


@pytest.mark.parametrize("flags", [0, m.AD, m.CD, m.AD | m.CD])
def test_ad_and_cd_bits_of_a_question_go_upstream(flags: int) -> None:
    wire = bytearray(asked())
    wire[3] |= flags
    assert m.upstream_query(query(bytes(wire)))[2:4] == bytes((m.RD >> 8, flags))


# --- replies ------------------------------------------------------------------------------


def test_own_answer_has_the_golden_bytes() -> None:
    parsed = query(bytes.fromhex("abcd 0120 0001 0000 0000 0000") + QUESTION)
    reply = m.render(parsed, m.own_body(parsed, 0, [(1, bytes((192, 168, 127, 254)))]))
    expected = (
        "abcd 8180 0001 0001 0000 0000" + QUESTION.hex() + NAME.hex() + "0001 0001 00000000 0004 c0a87ffe"
    )
    assert reply == bytes.fromhex(expected)


def test_name_error_has_the_golden_bytes() -> None:
    parsed = query(bytes.fromhex("abcd 0000 0001 0000 0000 0000") + QUESTION)
    assert (
        m.render(parsed, m.own_body(parsed, 3)) == bytes.fromhex("abcd 8083 0001 0000 0000 0000") + QUESTION
    )


def test_reply_to_edns_has_an_opt_record_with_the_do_bit_as_asked() -> None:
    parsed = query(asked(use_edns=0, want_dnssec=True))
    reply = m.render(parsed, m.own_body(parsed, 0))
    assert reply.endswith(bytes.fromhex("00 0029 04d0 00 00 8000 0000"))
    assert dns.message.from_wire(reply).edns == 0


def test_answer_comes_under_the_spelling_of_each_asker() -> None:
    first, second = asked("www.example.com"), asked("WWW.eXample.com")
    kept = body(first, response(first, "www.example.com. 300 IN A 1.2.3.4").to_wire())
    for wire in (first, second):
        reply = dns.message.from_wire(m.render(query(wire), kept))
        assert reply.answer[0].name.to_text() == dns.message.from_wire(wire).question[0].name.to_text()


def test_ttl_and_code_are_kept_and_the_age_taken_off() -> None:
    wire = asked()
    kept = body(wire, response(wire, "www.example.com. 300 IN CNAME x.", "x. 70 IN A 1.2.3.4").to_wire())
    assert kept.lifetime == 70
    reply = dns.message.from_wire(m.render(query(wire), kept, 65))
    assert [rrset.ttl for rrset in reply.answer] == [235, 5]
    assert [rrset.ttl for rrset in dns.message.from_wire(m.render(query(wire), kept, 200)).answer] == [100, 0]
    assert (
        dns.message.from_wire(m.render(query(wire), body(wire, response(wire, rcode=5).to_wire()))).rcode()
        == 5
    )


def test_authenticated_data_is_passed_on_only_to_who_asked_for_it() -> None:
    plain, dnssec = asked(), asked(want_dnssec=True)
    upstream = response(dnssec, "www.example.com. 60 IN A 1.2.3.4")
    upstream.flags |= dns.flags.AD
    kept = body(dnssec, upstream.to_wire())
    assert dns.message.from_wire(m.render(query(dnssec), kept)).flags & dns.flags.AD
    assert not dns.message.from_wire(m.render(query(plain), kept)).flags & dns.flags.AD


def test_extended_code_becomes_servfail_without_edns() -> None:
    edns, plain = asked(use_edns=0), asked()
    kept = body(edns, response(edns, rcode=23).to_wire())
    assert dns.message.from_wire(m.render(query(edns), kept)).rcode() == 23
    assert dns.message.from_wire(m.render(query(plain), kept)).rcode() == dns.rcode.SERVFAIL


@pytest.mark.parametrize("limit", range(512, 900, 37))
def test_what_does_not_fit_is_cut_at_a_record_and_tc_set(limit: int) -> None:
    wire = asked(use_edns=0, payload=limit)
    kept = body(
        wire,
        response(wire, *(f"www.example.com. 60 IN A 10.0.0.{n}" for n in range(60))).to_wire(max_size=65535),
    )
    reply = m.render(query(wire), kept)
    assert limit - 16 < len(reply) <= limit
    assert reply[2] & 0x02
    parsed = dns.message.from_wire(reply)
    assert len(parsed.answer[0]) == (limit - 12 - 21 - 11) // 16
    assert parsed.edns == 0


def test_additional_data_is_left_out_without_tc() -> None:
    wire = asked(rdtype="MX")
    upstream = response(wire, *(f"www.example.com. 60 IN MX {n} m{n}.example.com." for n in range(10)))
    for n in range(10):
        for address in range(4):
            upstream.additional.append(
                dns.rrset.from_text(f"m{n}.example.com.", 60, "IN", "A", f"10.0.{n}.{address}")
            )
    reply = m.render(query(wire), body(wire, upstream.to_wire()))
    assert len(reply) <= 512
    assert not reply[2] & 0x02
    parsed = dns.message.from_wire(reply)
    assert len(parsed.answer[0]) == 10
    assert parsed.additional


# --- hostile ------------------------------------------------------------------------------


@given(st.binary(max_size=300), st.booleans())
@settings(max_examples=300, deadline=None)
def test_any_bytes_are_a_query_or_counted(data: bytes, tcp: bool) -> None:
    for wire in (data, m.HEADER.pack(7, 0x0100, 1, 0, 0, 1) + data, asked(use_edns=0)[:-2] + data):
        parsed = m.parse_query(wire, tcp=tcp)
        if isinstance(parsed, m.Malformed):
            assert parsed.counter in INDEX
        else:
            assert wire.startswith(parsed.question, 12)
            assert len(m.render(parsed, m.own_body(parsed, 0, [(1, bytes(4))]))) <= parsed.limit
