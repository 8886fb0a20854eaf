"""IPv6 headers, extension headers, and addresses."""

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.wire import ip, ipv6
from pipeline.wire.errors import HeaderError, WireError
from tests.support.fuzz import macs, mutations, parsed, u8, u16, u32, windows


def number(text: str) -> int:
    return int(ipaddress.IPv6Address(text))


SRC, DST = number("fe80::1"), number("fd00::2")
GOLDEN = bytes.fromhex("60000000 0004 11 40".replace(" ", "")) + SRC.to_bytes(16) + DST.to_bytes(16) + b"data"
hosts = st.integers(0, (1 << 128) - 1).filter(
    lambda a: not ip.is_ipv4(a) and not ip.is_multicast(a) and not ip.is_loopback(a)
)
UDP = 17
HOP_BY_HOP, ROUTING, AUTHENTICATION, DESTINATION = 0, 43, 51, 60


def walk(chain: bytes, proto: int) -> ipv6.Upper:
    return ipv6.walk(memoryview(b"?" + chain + b"upper header"), 1, 1 + len(chain), proto)


def test_a_header_byte_for_byte() -> None:
    assert ipv6.build(4, UDP, 64, SRC, DST) + b"data" == GOLDEN


@given(st.binary(max_size=40), u8, u8, hosts, hosts, st.binary(max_size=18))
def test_parse_gives_back_what_was_built(
    payload: bytes, proto: int, hops: int, src: int, dst: int, padding: bytes
) -> None:
    built = ipv6.build(len(payload), proto, hops, src, dst)
    packet = b"??" + built + payload + padding
    header = ipv6.parse(memoryview(packet), 2, len(packet))
    assert header == (0, 0, len(payload), proto, hops, src, dst)


@given(u8, st.integers(0, 0xFFFFF))
def test_the_first_word_has_the_traffic_class_and_the_flow_label(traffic_class: int, label: int) -> None:
    first = (6 << 28 | traffic_class << 20 | label).to_bytes(4, "big")
    header = ipv6.parse(first + GOLDEN[4:], 0, len(GOLDEN))
    assert (header.traffic_class, header.flow_label) == (traffic_class, label)


@given(windows(120))
def test_any_bytes_are_a_header_or_refused_by_name(window: tuple[memoryview, int, int]) -> None:
    parsed(ipv6.parse, *window)


@given(mutations(GOLDEN))
def test_damaged_headers_are_read_or_refused_by_name(data: bytes) -> None:
    header = parsed(ipv6.parse, data, 0, len(data))
    if header is not None:
        assert ipv6.HEADER_LEN + header.payload_len <= len(data)


@pytest.mark.parametrize(
    ("src", "dst"),
    [
        ("::ffff:1.2.3.4", "fd00::2"),
        ("fd00::2", "::ffff:1.2.3.4"),
        ("ff02::1", "fd00::2"),
        ("::1", "fd00::2"),
        ("fd00::2", "::1"),
    ],
)
def test_addresses_that_no_packet_on_a_link_has_are_refused(src: str, dst: str) -> None:
    packet = ipv6.build(0, UDP, 64, number(src), number(dst))
    with pytest.raises(WireError, match="ipv6_packet_dropped_bad_address"):
        ipv6.parse(packet, 0, len(packet))


def test_a_packet_longer_than_its_frame_is_truncated() -> None:
    with pytest.raises(WireError, match="ipv6_packet_dropped_truncated"):
        ipv6.parse(GOLDEN, 0, len(GOLDEN) - 1)


def test_another_version_is_refused() -> None:
    with pytest.raises(WireError, match="ipv6_packet_dropped_bad_version"):
        ipv6.parse(b"\x45" + GOLDEN[1:], 0, len(GOLDEN))


# --- extension headers ------------------------------------------------------------------------


def plain(proto: int, units: int = 0, fourth: int = 0) -> bytes:
    return bytes((proto, units, 0, fourth)) + bytes(4 + 8 * units)


def test_a_chain_of_all_forms_is_skipped() -> None:
    chain = (
        plain(DESTINATION)
        + plain(AUTHENTICATION, 2)
        + bytes((ROUTING, 4)) + bytes(22)
        + plain(44)
        + ipv6.build_fragment(UDP, 0, True, 7)
    )  # fmt: skip
    last = 1 + len(chain) - 8
    found = walk(chain, HOP_BY_HOP)
    assert found == (UDP, 1 + len(chain), True, 0, True, False, last, 7, last, last - 8)


@pytest.mark.parametrize("headers", range(3))
def test_the_fields_that_name_the_upper_header_and_the_fragment_header_are_found(headers: int) -> None:
    chain = plain(DESTINATION) * headers + ipv6.build_fragment(DESTINATION, 0, True, 7) + plain(UDP)
    if headers:
        chain = plain(DESTINATION) * (headers - 1) + plain(44) + chain[8 * headers :]
    packet = ipv6.build(len(chain), DESTINATION if headers else 44, 64, SRC, DST) + chain
    found = ipv6.walk(packet, 40, len(packet), packet[6])
    assert (found.proto, packet[found.named_at], found.named_at) == (UDP, UDP, len(packet) - 8)
    assert packet[found.fragment_named_at] == 44
    assert found.fragment_named_at == (6 if not headers else 32 + 8 * headers)
    assert found.fragment_at == 40 + 8 * headers


@given(u16.map(lambda n: n // 8 * 8), st.booleans(), u32)
def test_a_fragment_header_is_read_as_it_was_built(off: int, more: bool, ident: int) -> None:
    found = walk(ipv6.build_fragment(UDP, off, more, ident), 44)
    assert found == (UDP, 9, True, off, more, False, 1, ident, 1, 1 - 40 + 6)


def test_what_follows_the_header_of_a_later_fragment_is_not_a_header() -> None:
    found = walk(ipv6.build_fragment(DESTINATION, 8, False, 1), 44)
    assert (found.proto, found.off) == (DESTINATION, 9)


@pytest.mark.parametrize("rest", [b"", bytes(7), bytes((UDP, 1)) + bytes(6)])
@pytest.mark.parametrize("more", [False, True])
def test_rfc_7112_section_5_a_first_fragment_has_all_headers(rest: bytes, more: bool) -> None:
    with pytest.raises(WireError) as caught:
        walk(ipv6.build_fragment(DESTINATION, 0, more, 1) + rest, 44)
    if more:
        assert caught.value.reason == "ipv6_fragment_dropped_incomplete_headers"
        assert isinstance(caught.value, HeaderError)
        assert (caught.value.code, caught.value.pointer) == (3, 0)
    else:
        assert caught.value.reason == "ipv6_packet_dropped_truncated"


def test_a_fragment_may_be_in_an_atomic_fragment_but_not_in_a_first_one() -> None:
    inner = ipv6.build_fragment(UDP, 8, True, 9)
    found = walk(ipv6.build_fragment(44, 0, False, 1) + inner, 44)
    assert (found.frag_off, found.more, found.ident, found.fragment_at) == (8, True, 9, 9)
    with pytest.raises(HeaderError, match="ipv6_fragment_dropped_incomplete_headers"):
        walk(ipv6.build_fragment(44, 0, True, 1) + inner, 44)


@pytest.mark.parametrize("left", [0, 1])
def test_a_routing_header_with_hops_left_is_seen(left: int) -> None:
    assert walk(plain(UDP, fourth=left), ROUTING).is_routed is bool(left)


@pytest.mark.parametrize("count", [ipv6.MAX_EXTENSIONS, ipv6.MAX_EXTENSIONS + 1])
def test_the_number_of_headers_is_bounded(count: int) -> None:
    chain = plain(DESTINATION) * (count - 1) + plain(UDP)
    if count == ipv6.MAX_EXTENSIONS:
        assert walk(chain, DESTINATION).proto == UDP
    else:
        with pytest.raises(WireError, match="ipv6_packet_dropped_too_many_headers"):
            walk(chain, DESTINATION)


def refused(*headers: tuple[int, bytes], to_group: bool = False) -> WireError | None:
    """What check_extensions() raises for a packet with these headers. Each has a type and its bytes after the
    first one.
    """
    types = [proto for proto, _ in headers] + [UDP]
    chain = b"".join(
        bytes((next_type,)) + rest for (_, rest), next_type in zip(headers, types[1:], strict=True)
    )
    packet = ipv6.build(len(chain), types[0], 64, SRC, DST) + chain
    upper = ipv6.walk(packet, 40, len(packet), types[0])
    try:
        ipv6.check_extensions(packet, 40, upper.off, types[0], to_group=to_group)
    except WireError as error:
        return error
    return None


def options(*rows: bytes, units: int = 0) -> bytes:
    """An options header without its first byte: 6 bytes of options, and 8 more for each unit."""
    text = bytes((units,)) + b"".join(rows)
    assert len(text) == 7 + 8 * units
    return text


PAD4 = bytes((1, 2, 0, 0))


@pytest.mark.parametrize("proto", [HOP_BY_HOP, DESTINATION])
@pytest.mark.parametrize("kind", [0x3E, 0x7E, 0xBE, 0xFE])
@pytest.mark.parametrize("to_group", [False, True])
def test_rfc_8200_4_2_the_highest_bits_say_what_an_unknown_option_leads_to(
    proto: int, kind: int, to_group: bool
) -> None:
    error = refused((proto, options(PAD4, bytes((kind, 0)))), to_group=to_group)
    if kind == 0x3E:
        assert error is None
        return
    assert error is not None
    assert error.reason == "ipv6_packet_dropped_unknown_option"
    if kind == 0x7E or (kind == 0xFE and to_group):
        assert not isinstance(error, HeaderError)
    else:
        assert isinstance(error, HeaderError)
        assert (error.code, error.pointer) == (2, 40 + 2 + 4)


def test_the_pointer_of_an_unknown_option_counts_earlier_headers() -> None:
    error = refused(
        (HOP_BY_HOP, options(bytes((5, 2, 0, 0, 1, 0)))),
        (44, bytes(7)),
        (DESTINATION, options(bytes(5), bytes((1, 0)), bytes((0xC9, 5)), bytes(5), units=1)),
    )
    assert isinstance(error, HeaderError)
    assert (error.code, error.pointer) == (2, 40 + 8 + 8 + 2 + 7)


@pytest.mark.parametrize("text", [bytes((1, 5)) + bytes(4), bytes(5) + b"\x05", bytes((5, 255)) + bytes(4)])
def test_an_option_that_does_not_end_in_its_header_is_refused(text: bytes) -> None:
    error = refused((DESTINATION, options(text)))
    assert error is not None
    assert error.reason == "ipv6_packet_dropped_bad_option"


@pytest.mark.parametrize("count", [ipv6.MAX_OPTIONS, ipv6.MAX_OPTIONS + 1])
def test_the_number_of_options_is_bounded_over_all_headers(count: int) -> None:
    rest = count - 15
    first = options(bytes(14), bytes((1, 6)), bytes(6), units=2)
    last = options(bytes(rest - 1), bytes((1, 37 - rest)), bytes(37 - rest), units=4)
    error = refused((HOP_BY_HOP, first), (DESTINATION, last))
    if count == ipv6.MAX_OPTIONS:
        assert error is None
    else:
        assert error is not None
        assert error.reason == "ipv6_packet_dropped_too_many_options"


def test_a_hop_by_hop_header_is_the_first_one() -> None:
    pads = options(PAD4, bytes((1, 0)))
    assert refused((HOP_BY_HOP, pads), (DESTINATION, pads)) is None
    error = refused((DESTINATION, pads), (HOP_BY_HOP, pads))
    assert isinstance(error, HeaderError)
    assert (error.reason, error.code, error.pointer) == ("ipv6_packet_dropped_misplaced_header", 1, 40)


@pytest.mark.parametrize("left", [0, 1])
def test_rfc_8200_4_4_a_source_route_is_answered_with_where_its_type_stands(left: int) -> None:
    error = refused((ROUTING, bytes((0, 0, left)) + bytes(4)))
    if left:
        assert isinstance(error, HeaderError)
        assert (error.reason, error.code, error.pointer) == ("ipv6_packet_dropped_source_route", 0, 42)
    else:
        assert error is None


@given(windows(300), st.sampled_from([HOP_BY_HOP, DESTINATION, ROUTING, 44, 51]), st.booleans())
def test_any_extension_headers_pass_or_are_refused_by_name(
    window: tuple[memoryview, int, int], proto: int, to_group: bool
) -> None:
    view, off, end = window
    end = min(end, len(view))
    upper = parsed(ipv6.walk, view, off, end, proto) if off <= end else None
    if upper is not None:
        parsed(lambda: ipv6.check_extensions(view, off, upper.off, proto, to_group=to_group))


@pytest.mark.parametrize("chain", [b"", bytes(7), bytes((UDP, 1)) + bytes(6)])
def test_a_header_that_does_not_end_in_the_packet_is_truncated(chain: bytes) -> None:
    with pytest.raises(WireError, match="ipv6_packet_dropped_truncated"):
        walk(chain, DESTINATION)


@given(windows(120), u8)
def test_any_chain_ends_in_the_packet_or_is_refused(window: tuple[memoryview, int, int], proto: int) -> None:
    view, off, end = window
    end = min(end, len(view))
    if off <= end:
        found = parsed(ipv6.walk, view, off, end, proto)
        assert found is None or off <= found.off <= end


# --- addresses -----------------------------------------------------------------------------------


@given(macs)
def test_a_link_local_address_is_made_as_kernels_make_it(mac: bytes) -> None:
    found = ipaddress.IPv6Address(ipv6.link_local(mac))
    assert found.is_link_local
    assert found.packed[8:] == bytes((mac[0] ^ 2,)) + mac[1:3] + b"\xff\xfe" + mac[3:]


def test_groups_of_addresses_and_their_macs() -> None:
    group = ipv6.solicited_node(number("fd00::12:3456"))
    assert group == number("ff02::1:ff12:3456")
    assert ipv6.group_mac(group) == bytes.fromhex("3333ff123456")
    assert ipv6.is_group_mac(ipv6.group_mac(ipv6.ALL_NODES))
    assert not ipv6.is_group_mac(bytes.fromhex("01005e000001"))
