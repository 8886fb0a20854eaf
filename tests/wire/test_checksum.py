"""The Internet checksum against the definition of RFC 1071, word by word."""

from hypothesis import example, given
from hypothesis import strategies as st

from pipeline.wire import checksum, ip
from tests.support.fuzz import addrs, u16


def by_definition(data: bytes, initial: int = 0) -> int:
    total = initial
    for index in range(0, len(data), 2):
        total += int.from_bytes(data[index : index + 2].ljust(2, b"\0"), "big")
    while total > 0xFFFF:
        total = (total & 0xFFFF) + (total >> 16)
    return total


def test_the_example_of_rfc_1071() -> None:
    data = bytes.fromhex("0001f203f4f5f6f7")
    assert checksum.word_sum(data) == 0xDDF2
    assert checksum.checksum(data) == 0x220D


@given(st.binary(max_size=100), st.integers(0, 0xFFFFFF))
@example(b"", 0)
@example(bytes(20), 0)
@example(b"\xff\xff", 0)
@example(b"\xff\xff\xff\xff\xff", 0xFFFF)
@example(b"\x00\x01", 0xFFFE)
def test_word_sum_is_the_ones_complement_sum(data: bytes, initial: int) -> None:
    assert checksum.word_sum(data, initial) == by_definition(data, initial)
    assert checksum.word_sum(memoryview(data), initial) == by_definition(data, initial)
    assert checksum.checksum(data, initial) == 0xFFFF - by_definition(data, initial)
    assert checksum.fold(initial) == by_definition(b"", initial)


@given(st.binary(min_size=2, max_size=80), st.integers(0, 0xFFFFF))
def test_data_with_its_own_checksum_verifies(data: bytes, initial: int) -> None:
    data = b"\0\0" + data
    whole = checksum.checksum(data, initial).to_bytes(2, "big") + data[2:]
    assert checksum.verify(whole, initial)


@given(st.binary(min_size=4, max_size=60), st.integers(0, 1000), st.integers(1, 255))
def test_a_changed_byte_does_not_verify(data: bytes, where: int, change: int) -> None:
    whole = bytearray(checksum.checksum(b"\0\0" + data).to_bytes(2, "big") + data)
    whole[where % len(whole)] ^= change
    assert not checksum.verify(whole)


@given(addrs, addrs, st.integers(0, 255), u16)
def test_the_pseudo_header_sums_as_the_twelve_bytes_of_rfc_768(
    src: int, dst: int, proto: int, length: int
) -> None:
    header = ip.ipv4_bytes(src) + ip.ipv4_bytes(dst) + bytes((0, proto)) + length.to_bytes(2, "big")
    assert checksum.fold(checksum.pseudo_header(src, dst, proto, length)) == by_definition(header)
