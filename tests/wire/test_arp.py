"""ARP messages."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.wire import arp, ip
from pipeline.wire.errors import WireError
from tests.support.fuzz import addrs, macs, mutations, parsed, windows

GOLDEN = bytes.fromhex("0001080006040002 5a94efe40cdd c0a87f01 5a94efe40cee c0a87f02".replace(" ", ""))


def test_the_reply_for_the_gateway_byte_for_byte() -> None:
    gateway, guest = bytes.fromhex("5a94efe40cdd"), bytes.fromhex("5a94efe40cee")
    assert arp.build(arp.REPLY, gateway, ip.from_ipv4(0xC0A87F01), guest, ip.from_ipv4(0xC0A87F02)) == GOLDEN


@given(st.sampled_from([arp.REQUEST, arp.REPLY]), macs, addrs, macs, addrs, st.binary(max_size=18))
def test_parse_gives_back_what_was_built(
    op: int, sha: bytes, spa: int, tha: bytes, tpa: int, padding: bytes
) -> None:
    frame = b"??" + arp.build(op, sha, spa, tha, tpa) + padding
    assert arp.parse(memoryview(frame), 2, len(frame)) == (op, sha, spa, tha, tpa)


@given(windows(60))
def test_any_bytes_are_a_message_or_refused_by_name(window: tuple[memoryview, int, int]) -> None:
    parsed(arp.parse, *window)


@given(mutations(GOLDEN))
def test_damaged_messages_are_read_or_refused_by_name(data: bytes) -> None:
    message = parsed(arp.parse, data, 0, len(data))
    if message is not None:
        assert arp.build(*message) == data


@pytest.mark.parametrize("where, value", [(1, 6), (2, 9), (4, 8), (5, 16), (7, 0), (7, 3), (6, 1)])
def test_other_hardware_protocols_lengths_and_operations_are_unsupported(where: int, value: int) -> None:
    data = bytearray(GOLDEN)
    data[where] = value
    with pytest.raises(WireError, match="arp_message_dropped_unsupported"):
        arp.parse(bytes(data), 0, len(data))


def test_a_message_cut_short_is_truncated() -> None:
    with pytest.raises(WireError, match="arp_message_dropped_truncated"):
        arp.parse(GOLDEN, 0, 27)
