"""What RFC 8200 section 4.5 says about fragments of IPv6 packets. Rules of both families: test_reassembly."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.counters import INDEX
from pipeline.engines.reassembly import FRAGMENT_OVERHEAD, Reassembler
from pipeline.wire import icmpv6, ip, ipv4, ipv6, tcp
from pipeline.wire.errors import HeaderError, WireError
from tests.support.fragments import ENDS, LINK, UDP, V4, V6, fragment_of, ipv6_fragment, payload_of, put

DESTINATION, ROUTING, NO_NEXT_HEADER = 60, 43, 59
A, B, C = b"A" * 8, b"B" * 8, b"C" * 8
SRC, DST = ENDS[V6]
PAD = bytes((1, 4, 0, 0, 0, 0))
"""The options of a Destination Options header of 8 bytes: PadN."""


def options(next_header: int) -> bytes:
    return bytes((next_header, 0)) + PAD


def problem(data: bytes) -> HeaderError:
    with pytest.raises(HeaderError) as caught:
        put(Reassembler(), data)
    assert caught.value.reason in INDEX
    return caught.value


def test_rfc_8200_4_5_the_packet_has_the_unfragmentable_part_of_the_first_fragment() -> None:
    target = Reassembler()
    chain = options(DESTINATION) + options(44)
    assert put(target, ipv6_fragment(B, 8, False, chain=options(44))) is None
    whole = put(target, ipv6_fragment(A, 0, True, chain=chain))
    expected = ipv6.build(16 + 16, DESTINATION, 64, SRC, DST) + options(DESTINATION) + options(UDP) + A + B
    assert whole == expected


def test_rfc_8200_4_5_the_last_header_kept_names_what_the_first_fragment_header_named() -> None:
    target = Reassembler()
    # The Next Header of another fragment may differ. It is ignored.
    assert put(target, ipv6_fragment(B, 8, False, proto=99)) is None
    assert put(target, ipv6_fragment(A, 0, True)) == ipv6.build(16, UDP, 64, SRC, DST) + A + B


def test_rfc_8200_4_5_traffic_class_and_flow_label_are_those_of_the_first_fragment() -> None:
    target = Reassembler()
    first = b"\x6a\xbc\xde\xf0" + ipv6_fragment(A, 0, True)[4:]
    put(target, ipv6_fragment(B, 8, False))
    whole = put(target, first)
    assert whole is not None
    assert whole[:4] == first[:4]


def test_extension_headers_in_the_fragmentable_part_stay_where_they_are() -> None:
    target = Reassembler()
    part = options(ROUTING) + bytes((UDP, 0, 0, 0)) + bytes(4) + A
    assert put(target, ipv6_fragment(part, 0, True, proto=DESTINATION)) is None
    whole = put(target, ipv6_fragment(B, 24, False))
    assert whole == ipv6.build(32, DESTINATION, 64, SRC, DST) + part + B


@pytest.mark.parametrize("field", ["source", "src", "dst", "ident"])
def test_rfc_8200_4_5_fragments_of_other_packets_do_not_mix(field: str) -> None:
    target = Reassembler()
    put(target, ipv6_fragment(A, 0, True, ident=0x8000_0007))
    other = bytearray(ipv6_fragment(B, 8, False, ident=7 if field == "ident" else 0x8000_0007))
    other[23 if field == "src" else 39] ^= field in ("src", "dst")
    assert put(target, bytes(other), source=1 if field == "source" else LINK) is None
    assert len(target) == 2
    assert put(target, ipv6_fragment(C, 8, False, ident=0x8000_0007)) is not None


def test_rfc_8200_4_5_the_protocol_does_not_name_the_packet_as_in_ipv4() -> None:
    target = Reassembler()
    put(target, ipv6_fragment(A, 0, True, proto=UDP))
    assert put(target, ipv6_fragment(B, 8, False, proto=99)) is not None
    put(target, fragment_of(V4, A, 0, True))
    other = bytearray(fragment_of(V4, B, 8, False))
    other[9:12] = bytes((UDP + 1,)) + (int.from_bytes(other[10:12], "big") - 1).to_bytes(2, "big")
    assert put(target, bytes(other)) is None


@pytest.mark.parametrize("length", [1, 7, 9, 1231])
def test_rfc_8200_4_5_a_length_that_is_no_multiple_of_8_points_to_the_payload_length(length: int) -> None:
    for frag_off in (0, 8):
        found = problem(ipv6_fragment(bytes(length), frag_off, True))
        assert (found.reason, found.code, found.pointer) == ("ipv6_fragment_dropped_bad_length", 0, 4)


@pytest.mark.parametrize(
    ("frag_off", "length", "headers"), [(65528, 8, 0), (64312, 1224, 0), (65520, 9, 1), (65512, 8, 2)]
)
def test_rfc_8200_4_5_a_packet_over_65535_bytes_points_to_the_fragment_offset(
    frag_off: int, length: int, headers: int
) -> None:
    chain = options(DESTINATION) * (headers - 1) + options(44) if headers else b"\x2c"
    data = ipv6_fragment(bytes(length), frag_off, False, chain=chain)
    found = problem(data)
    at = 40 + 8 * headers + 2
    assert (found.reason, found.code, found.pointer) == ("ipv6_fragment_dropped_too_long", 0, at)
    assert data[at : at + 2] == frag_off.to_bytes(2, "big")


@pytest.mark.parametrize("headers", [0, 1, 2])
def test_the_last_byte_that_a_packet_may_have(headers: int) -> None:
    chain = options(DESTINATION) * (headers - 1) + options(44) if headers else b"\x2c"
    assert put(Reassembler(), ipv6_fragment(bytes(7), 65528 - 8 * headers, False, chain=chain)) is None


@pytest.mark.parametrize(
    ("proto", "least"), [(ipv4.PROTO_TCP, 20), (UDP, 8), (ipv6.PROTO_ICMPV6, 8), (132, 0)]
)
def test_rfc_7112_section_5_the_first_fragment_has_the_upper_layer_header(proto: int, least: int) -> None:
    enough = max(8, -(-least // 8) * 8)
    assert put(Reassembler(), ipv6_fragment(bytes(enough), 0, True, proto=proto)) is None
    # Two options headers before the upper one, and 8 bytes less than that needs.
    if least:
        part = options(proto) + bytes(enough - 8)
        found = problem(ipv6_fragment(part, 0, True, proto=DESTINATION))
        assert (found.reason, found.code, found.pointer) == ("ipv6_fragment_dropped_incomplete_headers", 3, 0)


def test_rfc_7112_a_packet_without_an_upper_layer_header_needs_none() -> None:
    assert put(Reassembler(), ipv6_fragment(A, 0, True, proto=NO_NEXT_HEADER)) is None


def test_rfc_6946_section_4_an_atomic_fragment_waits_for_nobody_and_disturbs_nobody() -> None:
    target = Reassembler()
    put(target, ipv6_fragment(A, 0, True))
    for payload in (C, A + B, b"odd"):
        whole = put(target, ipv6_fragment(payload, 0, False, chain=options(44)))
        assert whole == ipv6.build(8 + len(payload), DESTINATION, 64, SRC, DST) + options(UDP) + payload
    assert len(target) == 1
    whole = put(target, ipv6_fragment(B, 8, False))
    assert whole is not None
    assert payload_of(whole) == A + B


def test_rfc_6946_an_atomic_fragment_passes_while_its_key_is_condemned() -> None:
    target = Reassembler()
    put(target, ipv6_fragment(A, 0, True))
    with pytest.raises(WireError, match="ipv6_fragment_dropped_overlap"):
        put(target, ipv6_fragment(B, 0, True))
    assert put(target, ipv6_fragment(C, 0, False)) is not None


def test_an_atomic_fragment_without_payload_is_a_packet() -> None:
    whole = put(Reassembler(), ipv6_fragment(b"", 0, False, proto=NO_NEXT_HEADER))
    assert whole == ipv6.build(0, NO_NEXT_HEADER, 64, SRC, DST)


def test_long_extension_headers_of_a_first_fragment_count_as_held_bytes() -> None:
    target = Reassembler()
    long = bytes((44, 63)) + b"\x01\xff" + bytes(255) + b"\x01\xf7" + bytes(249)
    assert len(long) == 510
    put(target, ipv6_fragment(A, 0, True, chain=long + bytes(2)))
    assert target.held_bytes == 40 + 512 + 8 + 8
    put(target, ipv6_fragment(B, 8, True))
    assert target.held_bytes == 40 + 512 + 8 + 8 + 8 + FRAGMENT_OVERHEAD


@given(st.lists(st.tuples(st.integers(0, 6), st.booleans()), max_size=6), st.binary(min_size=8, max_size=40))
def test_any_chain_before_the_fragment_header_is_kept_but_for_one_byte(
    headers: list[tuple[int, bool]], tail: bytes
) -> None:
    protos = [43 if routing else DESTINATION for _, routing in headers] + [44]
    chain = b"".join(
        bytes((protos[n + 1], units, 0, 0)) + bytes(4 + 8 * units) for n, (units, _) in enumerate(headers)
    )
    head = ipv6.build(len(chain) + 16, protos[0], 64, SRC, DST) + chain
    target = Reassembler()
    last = ipv6.build(8 + len(tail), 44, 64, SRC, DST) + ipv6.build_fragment(0, 8, False, 5) + tail
    put(target, last)
    whole = put(target, head + ipv6.build_fragment(UDP, 0, True, 5) + A)
    assert whole is not None
    found = ipv6.parse(whole, 0, len(whole))
    upper = ipv6.walk(whole, 40, len(whole), found.next_header)
    assert (upper.proto, upper.has_fragment, whole[upper.off :]) == (UDP, False, A + tail)
    changed = [n for n in range(len(head)) if whole[n] != head[n] and n not in (4, 5)]
    assert changed == [upper.named_at]


def test_the_addresses_of_a_mapped_packet_do_not_meet_those_of_ipv4() -> None:
    mapped = ipv6.build(16, 44, 64, ip.parse_ipv4("192.168.127.2"), DST) + bytes(16)
    with pytest.raises(WireError, match="ipv6_packet_dropped_bad_address"):
        put(Reassembler(), mapped)


def test_the_least_headers_are_those_of_the_protocols() -> None:
    assert (tcp.HEADER_LEN, icmpv6.HEADER_LEN) == (20, 8)
