"""The Internet checksum (RFC 1071) over long buffers and over many frames at once, with numpy.

Sums are plain sums of 16-bit words, read in *little-endian* order, so that numpy adds them without swapping
bytes. Ones' complement arithmetic allows any byte order (RFC 1071 section 2 B): modulo 0xffff, to swap the
two bytes of a word is to multiply it by 256. So a number n in network order is added as ``n * SWAP``. The
checksum of such a sum is stored in little-endian order.

Below about 512 bytes plain Python is faster (pipeline.wire.checksum). Callers add the pseudo-header, and know
where a field lies.
"""

from struct import Struct
from typing import Final

import numpy as np
from numpy.typing import NDArray

WORD: Final[np.dtype[np.uint16]] = np.dtype("<u2")
SWAP: Final = 256
"""A network-order number is multiplied by this before it is added to a little-endian sum."""
MODULUS: Final = 0xFFFF
SMALL_BYTES: Final = 512
"""Up to this length int.from_bytes sums faster than numpy."""

_LITTLE: Final = Struct("<H")
_U1: Final = np.dtype("u1")
_U4: Final = np.dtype("u4")

_add = np.add.reduce
_ndarray = np.ndarray


def word_sum(view: memoryview | bytes | bytearray, off: int, length: int) -> int:
    """Sum of the little-endian words of view[off:off+length], modulo 0xffff; zero only if all sum up to that.

    An odd last byte is padded with a zero byte. length: at most 131072, because the sum has 32 bits. Compiled
    code has the function gvtap_word_sum of native/access.h instead.
    """
    if length <= SMALL_BYTES:
        return int.from_bytes(view[off : off + length], "little") % MODULUS
    words = np.frombuffer(view, WORD, length >> 1, off)
    total = int(_add(words, dtype=_U4))
    return total + view[off + length - 1] if length & 1 else total


def verify(view: memoryview | bytes | bytearray, off: int, length: int, initial: int = 0) -> bool:
    """Whether view[off:off+length], its checksum field included, sums to zero in ones' complement.

    initial: the sum of everything else that the checksum covers (the pseudo-header), in network order.
    """
    return (word_sum(view, off, length) + initial * SWAP) % MODULUS == 0


def checksum(view: memoryview | bytes | bytearray, off: int, length: int, initial: int = 0) -> int:
    """The checksum field, as a number in network order, for bytes whose own field is zero.

    initial: as in verify(). If all bytes are zero, the result is 0xffff.
    """
    total = word_sum(view, off, length)
    if not total and not initial and not any(view[off : off + length]):
        return MODULUS
    return -(total * SWAP + initial) % MODULUS


def complete_partial(
    view: memoryview | bytearray, off: int, length: int, pseudo: int, field: int, zero: int = 0
) -> bool:
    """Write the checksum of view[off:off+length], if its field holds only the pseudo-header's sum.

    field: where the field lies in view, an even number of bytes after off. pseudo: the pseudo-header's sum in
    network order, not folded. zero: the value to write for a checksum of zero. Returns False, and writes
    nothing, if the field holds something else.
    """
    (held,) = _LITTLE.unpack_from(view, field)
    expected = pseudo * SWAP % MODULUS or MODULUS
    if held != expected:
        return False
    # The sum should leave out the field and include the pseudo-header. The field holds the pseudo-header's
    # sum, so these cancel out.
    total = word_sum(view, off, length)
    _LITTLE.pack_into(view, field, -total % MODULUS or zero)
    return True


def row_sums(view: memoryview, off: int, stride: int, count: int, length: int) -> NDArray[np.uint32]:
    """word_sum() of count pieces of equal length at off, off + stride, ...: shape (count,), not folded.

    stride may be odd. Raises ValueError or TypeError when a piece is not inside the view.
    """
    sums: NDArray[np.uint32] = _add(_ndarray((count, length >> 1), WORD, view, off, (stride, 2)), 1, _U4)
    if length & 1:
        sums += _ndarray((count,), _U1, view, off + length - 1, (stride,))
    return sums
