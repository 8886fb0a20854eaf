"""ICMP messages."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.wire import icmp, ip, ipv4
from pipeline.wire.errors import WireError
from tests.support.fuzz import mutations, parsed, u8, u16, u32, windows


@given(u8, u8, u32, st.binary(max_size=60))
def test_parse_gives_back_what_was_built(kind: int, code: int, rest: int, data: bytes) -> None:
    message = b"-" + icmp.build(kind, code, rest, data)
    got = icmp.parse(memoryview(message), 1, len(message))
    assert (got.type, got.code, got.rest) == (kind, code, rest)
    assert message[9:] == data


@given(u16, u16, st.binary(max_size=40))
def test_echo_keeps_identifier_and_sequence_number_in_rest(ident: int, seq: int, data: bytes) -> None:
    message = icmp.build_echo(icmp.ECHO_REQUEST, ident, seq, data)
    got = icmp.parse(message, 0, len(message))
    assert (got.type, got.rest >> 16, got.rest & 0xFFFF) == (icmp.ECHO_REQUEST, ident, seq)


def test_errors_quote_what_they_are_about() -> None:
    quoted = bytes(range(28))
    message = icmp.build_error(icmp.Says(icmp.UNREACHABLE, icmp.FRAGMENTATION_NEEDED, 1400), quoted)
    got = icmp.parse(message, 0, len(message))
    assert (got.type, got.code, got.rest, message[8:]) == (3, 4, 1400, quoted)
    message = icmp.build_error(icmp.Says(icmp.TIME_EXCEEDED, icmp.REASSEMBLY_EXCEEDED, 0), quoted)
    got = icmp.parse(message, 0, len(message))
    assert (got.type, got.code, got.rest, message[8:]) == (11, 1, 0, quoted)
    assert got.type in icmp.ERRORS


GATEWAY, GUEST = ip.parse_ipv4("192.168.127.1"), ip.parse_ipv4("192.168.127.2")
TOO_BIG = icmp.Says(icmp.UNREACHABLE, icmp.FRAGMENTATION_NEEDED, 1400)
EXCEEDED = icmp.Says(icmp.TIME_EXCEEDED, icmp.TTL_EXCEEDED, 0)
QUOTE = ipv4.build(1500, 7, 63, ipv4.PROTO_TCP, GATEWAY, GUEST) + bytes.fromhex("1f40 9c40 89abcdef")


def test_an_error_tells_the_segment_that_it_is_about() -> None:
    message = b"-" + icmp.build_error(TOO_BIG, QUOTE + b"more")
    quoted = icmp.parse_quoted(memoryview(message), 1, len(message))
    assert quoted == icmp.Quoted(1500, ipv4.PROTO_TCP, GATEWAY, GUEST, 8000, 40000, 0x89ABCDEF)
    options = bytes((0x46,)) + QUOTE[1:20] + b"\1\1\1\0" + QUOTE[20:]
    message = icmp.build_error(EXCEEDED, options)
    assert icmp.parse_quoted(message, 0, len(message)) == quoted


@pytest.mark.parametrize(
    "quote",
    [QUOTE[:-1], b"", b"\x65" + QUOTE[1:], b"\x44" + QUOTE[1:], b"\x46" + QUOTE[1:],
     QUOTE[:6] + b"\x20\x01" + QUOTE[8:]],
    ids=["short", "empty", "version", "header", "options", "fragment"],
)  # fmt: skip
def test_an_error_that_does_not_tell_has_its_reason(quote: bytes) -> None:
    message = icmp.build_error(EXCEEDED, quote)
    with pytest.raises(WireError, match="icmp_error_dropped_bad_quote"):
        icmp.parse_quoted(message, 0, len(message))


@given(mutations(icmp.build_error(EXCEEDED, QUOTE)))
def test_damaged_quotes_are_read_or_refused_by_name(data: bytes) -> None:
    parsed(icmp.parse_quoted, data, 0, len(data))


@given(windows(60))
def test_any_bytes_are_a_message_or_refused_by_name(window: tuple[memoryview, int, int]) -> None:
    parsed(icmp.parse, *window)


@given(mutations(icmp.build_echo(icmp.ECHO_REQUEST, 1, 2, b"payload")))
def test_damaged_messages_are_read_or_refused_by_name(data: bytes) -> None:
    parsed(icmp.parse, data, 0, len(data))


def test_a_wrong_checksum_has_its_reason() -> None:
    message = bytearray(icmp.build_echo(icmp.ECHO_REQUEST, 1, 2, b"payload"))
    message[-1] ^= 1
    with pytest.raises(WireError, match="icmp_message_dropped_bad_checksum"):
        icmp.parse(bytes(message), 0, len(message))
    with pytest.raises(WireError, match="icmp_message_dropped_truncated"):
        icmp.parse(bytes(message), 0, 7)
