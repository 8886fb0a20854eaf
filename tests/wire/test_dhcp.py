"""DHCP messages and their options."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.wire import dhcp, ip
from pipeline.wire.errors import WireError
from tests.support.fuzz import addrs, mutations, parsed, u8, u16, u32, windows

codes = st.integers(1, 254).filter(lambda code: code != dhcp.OVERLOAD)

messages = st.builds(
    dhcp.Message,
    st.sampled_from([dhcp.BOOT_REQUEST, dhcp.BOOT_REPLY]),
    u32,
    st.binary(max_size=16),
    st.dictionaries(codes, st.binary(max_size=300), max_size=6),
    u8,
    u8,
    u16,
    u16,
    addrs,
    addrs,
    addrs,
    addrs,
    st.binary(max_size=64).map(lambda name: name.rstrip(b"\0")),
)

OFFER = dhcp.Message(
    dhcp.BOOT_REPLY,
    0x12345678,
    bytes.fromhex("5a94efe40cee"),
    {dhcp.SUBNET_MASK: b"\xff\xff\xff\0", dhcp.MESSAGE_TYPE: b"\x02", dhcp.SERVER_ID: b"\xc0\xa8\x7f\x01"},
    yiaddr=ip.from_ipv4(0xC0A87F02),
)


@given(messages)
def test_parse_gives_back_what_was_built(message: dhcp.Message) -> None:
    data = dhcp.build(message)
    assert len(data) >= dhcp.MIN_LEN
    got = dhcp.parse(memoryview(b"-" + data), 1, 1 + len(data))
    assert got == message
    assert list(got.options) == list(message.options)


def test_the_fixed_fields_lie_where_rfc_2131_has_them() -> None:
    data = dhcp.build(OFFER)
    assert len(data) == 300
    assert data[:8].hex() == "0201060012345678"
    assert data[16:20].hex() == "c0a87f02"
    assert data[28:34].hex() == "5a94efe40cee"
    assert data[236:260].hex() == "638253630104ffffff003501023604c0a87f01ff00000000"[:48]


def test_kind_and_addresses_of_options() -> None:
    assert OFFER.kind == dhcp.OFFER
    assert OFFER.option_addr(dhcp.SERVER_ID) == ip.from_ipv4(0xC0A87F01)
    assert OFFER.option_addr(dhcp.REQUESTED_ADDRESS) == 0
    odd = OFFER._replace(options={dhcp.MESSAGE_TYPE: b"\x02\x03", dhcp.SERVER_ID: b"\x01"})
    assert (odd.kind, odd.option_addr(dhcp.SERVER_ID)) == (0, 0)


def raw(options: bytes, sname: bytes = b"", file: bytes = b"", **changes: int) -> bytes:
    fields = {"op": 1, "hlen": 6, "cookie": dhcp.COOKIE} | changes
    head = dhcp.FIXED.pack(
        fields["op"], 1, fields["hlen"], 0, 1, 0, 0, 0, 0, 0, 0, b"\2" * 6, sname, file, fields["cookie"]
    )
    return head + options


def test_pieces_of_one_option_are_one_value() -> None:
    data = raw(b"\x0c\x03abc\x35\x01\x01\x0c\x02de\xff")
    assert dhcp.parse(data, 0, len(data)).options == {12: b"abcde", 53: b"\x01"}


def test_a_long_option_is_sent_in_pieces() -> None:
    data = dhcp.build(OFFER._replace(options={119: bytes(256)}))
    assert data[240:242] == b"\x77\xff"
    assert data[240 + 257 : 240 + 259] == b"\x77\x01"


def test_overload_reads_file_then_sname_and_vanishes() -> None:
    data = raw(b"\x34\x01\x03\x0c\x01a\xff", sname=b"\x0c\x01c\xff", file=b"\x0c\x01b\x35\x01\x01\xff")
    assert dhcp.parse(data, 0, len(data)).options == {12: b"abc", 53: b"\x01"}


@pytest.mark.parametrize("overload, want", [(0, b"a"), (1, b"ab"), (2, b"ac"), (4, b"a")])
def test_overload_names_the_fields_it_means(overload: int, want: bytes) -> None:
    data = raw(bytes((52, 1, overload)) + b"\x0c\x01a\xff", sname=b"\x0c\x01c\xff", file=b"\x0c\x01b\xff")
    assert dhcp.parse(data, 0, len(data)).options == {12: want}


@pytest.mark.parametrize("options", [b"", b"\0\0\0", b"\xff", b"\xff\x0c", b"\x0c\x00\xff", b"\x34\x00\xff"])
def test_pads_ends_and_empty_options_are_fine(options: bytes) -> None:
    data = raw(options)
    assert not any(dhcp.parse(data, 0, len(data)).options.values())


@pytest.mark.parametrize("options", [b"\x0c", b"\x0c\x01", b"\x0c\x05abcd", b"\x35\x01\x01\x0c\xff"])
def test_options_that_leave_their_bounds_have_their_reason(options: bytes) -> None:
    data = raw(options)
    with pytest.raises(WireError, match="dhcp_message_dropped_bad_options"):
        dhcp.parse(data, 0, len(data))


@pytest.mark.parametrize("changes", [{"op": 0}, {"op": 3}, {"hlen": 17}, {"op": 2, "cookie": 0}])
def test_other_headers_have_their_reason(changes: dict[str, int]) -> None:
    data = raw(b"\xff", b"", b"", **changes)
    with pytest.raises(WireError, match="dhcp_message_dropped_bad_header"):
        dhcp.parse(data, 0, len(data))


@pytest.mark.parametrize("cookie", [0, 0x434D5500])
def test_a_bootp_request_need_not_have_options(cookie: int) -> None:
    data = raw(b"\x35\xff\xff", b"", b"", op=1, cookie=cookie)
    message = dhcp.parse(data, 0, len(data))
    assert (message.options, message.is_bootp, message.sname) == ({}, True, b"")


def test_the_field_for_a_servers_name_is_empty_when_it_holds_options() -> None:
    name = b"boot.example"
    data = raw(b"\xff", sname=name)
    assert dhcp.parse(data, 0, len(data)).sname == name
    data = raw(b"\x34\x01\x02\xff", sname=b"\x0c\x01a\xff")
    message = dhcp.parse(data, 0, len(data))
    assert (message.sname, message.options[12]) == (b"", b"a")


@pytest.mark.parametrize(
    "value, size",
    [
        (None, 576),
        (b"\x05\xdc", 1500),
        (b"\x02\x3f", 576),
        (b"\0\0", 576),
        (b"\x05", 576),
        (b"\x05\xdc\0", 576),
    ],
)
def test_the_longest_datagram_is_never_under_576_bytes(value: bytes | None, size: int) -> None:
    options = {} if value is None else {dhcp.MAX_MESSAGE_SIZE: value}
    assert OFFER._replace(options=options).max_datagram == size


@pytest.mark.parametrize("length", [0, 1, 255, 256, 510, 511])
def test_the_length_of_an_option_is_what_it_takes_in_a_message(length: int) -> None:
    value = bytes(length)
    data = dhcp.build(OFFER._replace(options={12: value}), min_len=0)
    assert len(data) == dhcp.HEADER_LEN + dhcp.option_len(value) + 1


def test_a_message_cut_short_is_truncated() -> None:
    with pytest.raises(WireError, match="dhcp_message_dropped_truncated"):
        dhcp.parse(dhcp.build(OFFER), 0, 239)


@given(windows(320))
def test_any_bytes_are_a_message_or_refused_by_name(window: tuple[memoryview, int, int]) -> None:
    parsed(dhcp.parse, *window)


@given(mutations(dhcp.build(OFFER)), st.binary(max_size=60))
def test_damaged_messages_are_read_or_refused_by_name(data: bytes, options: bytes) -> None:
    for attempt in (data, raw(options), raw(b"\x34\x01\x03", sname=options, file=options)):
        message = parsed(dhcp.parse, attempt, 0, len(attempt))
        if message is not None:
            assert message.kind <= 255
            assert dhcp.OVERLOAD not in message.options


def test_the_search_list_has_plain_labels() -> None:
    assert dhcp.build_search_list(["example.com", "a."]) == b"\x07example\x03com\0\x01a\0"
    assert dhcp.build_search_list([]) == b""


@pytest.mark.parametrize("name", ["", ".", "a..b", "x" * 64, "b\u00fccher.example"])
def test_names_that_dns_cannot_carry_are_left_out(name: str) -> None:
    assert dhcp.build_search_list([name, "ok"]) == b"\x02ok\0"
