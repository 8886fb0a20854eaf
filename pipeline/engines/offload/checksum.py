"""The Internet checksum (RFC 1071) over long buffers and over many frames at once, with numpy.

Sums are plain sums of 16-bit words read in *little-endian* order: numpy adds them without a
byte swap, and ones' complement arithmetic does not care (RFC 1071 section 2 B): modulo
0xffff, swapping the two bytes of a word is multiplying it by 256. So a network-order number n
enters such a sum as ``n * SWAP``, and a checksum field that is computed from such a sum is
stored in little-endian order.

Below about 512 bytes plain Python is faster (pipeline.wire.checksum). This module knows neither
pseudo-headers nor where a field lies.
"""

from struct import Struct
from typing import Final

import numpy as np
from numpy.typing import NDArray

WORD: Final[np.dtype[np.uint16]] = np.dtype("<u2")
SWAP: Final = 256
"""Network-order numbers enter a little-endian sum multiplied by this."""
MODULUS: Final = 0xFFFF
SMALL_BYTES: Final = 512
"""Up to this length a sum by int.from_bytes is faster than by numpy."""

_LITTLE: Final = Struct("<H")
_U1: Final = np.dtype("u1")
_U4: Final = np.dtype("u4")

_add = np.add.reduce
_ndarray = np.ndarray


def word_sum(view: memoryview | bytes | bytearray, off: int, length: int) -> int:
    """Sum of the little-endian words of view[off:off+length], not folded, an odd last byte zero-padded.

    length is at most 131072 bytes: the sum is kept in 32 bits.
    """
    if length <= SMALL_BYTES:
        return int.from_bytes(view[off : off + length], "little") % MODULUS
    words = np.frombuffer(view, WORD, length >> 1, off)
    total = int(_add(words, dtype=_U4))
    return total + view[off + length - 1] if length & 1 else total


def verify(view: memoryview | bytes | bytearray, off: int, length: int, initial: int = 0) -> bool:
    """Whether view[off:off+length], its checksum field included, sums to ones' complement zero.

    initial: the sum of what else is covered (the pseudo-header), in network order.
    """
    return (word_sum(view, off, length) + initial * SWAP) % MODULUS == 0


def checksum(view: memoryview | bytes | bytearray, off: int, length: int, initial: int = 0) -> int:
    """The checksum field, as a number in network order, for bytes whose own field is zero.

    initial as in verify(). A sum of zero (nothing but zero bytes) gives 0xffff.
    """
    total = word_sum(view, off, length)
    if not total and not initial and not any(view[off : off + length]):
        return MODULUS
    return -(total * SWAP + initial) % MODULUS


def complete_partial(
    view: memoryview | bytearray, off: int, length: int, pseudo: int, field: int, zero: int = 0
) -> bool:
    """Put the checksum of view[off:off+length] where a sender left only the pseudo-header's sum.

    The field of 16 bits lies at view[field], an even number of bytes after off. pseudo is that sum in network
    order, not folded. False, and nothing is written, when the field holds something else. zero: the value
    that stands for a checksum of zero.
    """
    (held,) = _LITTLE.unpack_from(view, field)
    expected = pseudo * SWAP % MODULUS or MODULUS
    if held != expected:
        return False
    # Without what the field holds now, and with the pseudo-header: the two are the same number.
    total = word_sum(view, off, length)
    _LITTLE.pack_into(view, field, -total % MODULUS or zero)
    return True


def row_sums(view: memoryview, off: int, stride: int, count: int, length: int) -> NDArray[np.uint32]:
    """word_sum() of count pieces of equal length at off, off + stride, ...: shape (count,), not folded.

    stride may be odd. Raises ValueError or TypeError when the pieces leave the view.
    """
    sums: NDArray[np.uint32] = _add(_ndarray((count, length >> 1), WORD, view, off, (stride, 2)), 1, _U4)
    if length & 1:
        sums += _ndarray((count,), _U1, view, off + length - 1, (stride,))
    return sums
