"""The Internet checksum (RFC 1071), in plain Python.

Sums are ones' complement sums of big-endian 16-bit words, folded to 0..0xffff. For tens of kilobytes numpy is
twenty times as fast: see engines/offload/checksum.py.

2**16 is 1 modulo 0xffff. So the ones' complement sum of the words of a buffer is the whole buffer, read as
one integer, modulo 0xffff. Ones' complement has two zeros, 0 and 0xffff. A sum here is 0 only if every byte
is zero; any other sum of zero is 0xffff.
"""

from typing import Final

_MASK: Final = 0xFFFF


def word_sum(data: memoryview | bytes | bytearray, initial: int = 0) -> int:
    """Folded sum of the words of data plus initial. An odd last byte is padded with a zero byte."""
    total = int.from_bytes(data, "big")
    if len(data) & 1:
        total <<= 8
    total += initial
    return total % _MASK or (_MASK if total else 0)


def fold(total: int) -> int:
    """Fold a sum of 16-bit words (not negative) to 0..0xffff."""
    return total % _MASK or (_MASK if total else 0)


def finish(total: int) -> int:
    """The checksum field for a sum (folded or not) of everything that it covers."""
    return _MASK - fold(total)


def checksum(data: memoryview | bytes | bytearray, initial: int = 0) -> int:
    """The checksum field for data whose own field is zero. initial: the sum of the pseudo-header."""
    return _MASK - word_sum(data, initial)


def verify(data: memoryview | bytes | bytearray, initial: int = 0) -> bool:
    """Whether data, its checksum field included, sums to zero in ones' complement."""
    total = int.from_bytes(data, "big")
    if len(data) & 1:
        total <<= 8
    return (total + initial) % _MASK == 0


def is_partial(field: int, pseudo: int) -> bool:
    """Whether a checksum field holds the pseudo-header's sum (folded or not), not complemented.

    A kernel writes this when it leaves the checksum to its network card. The sum is never zero, because the
    protocol is part of it; a multiple of 0xffff becomes 0xffff.
    """
    return field == fold(pseudo)


def pseudo_header(src: int, dst: int, proto: int, length: int) -> int:
    """Sum (not folded) of the IPv4 pseudo-header of TCP and UDP (RFC 9293 section 3.1, RFC 768).

    length: bytes of the transport protocol's header and payload.
    """
    return (src >> 16) + (src & _MASK) + (dst >> 16) + (dst & _MASK) + proto + length
