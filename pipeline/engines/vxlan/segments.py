"""Cuts a super-segment of TCP into the datagrams that carry its segments, as one piece of memory.

A guest with offload sends up to 64 KiB of TCP payload as one frame with a virtio-net header. The frames that
it stands for each need a header of the tunnel, their own numbers and their own checksums. All but the last
are equally long, so they are the rows of an array, and numpy makes the fields of all rows at once. The kernel
sends equally long datagrams with one system call (UDP_SEGMENT)::

    tunnel | Ethernet | IP | TCP | payload      first row
    tunnel | Ethernet | IP | TCP | payload
    ...
    tunnel | Ethernet | IP | TCP | rest         may be shorter

The frames are those of pipeline.engines.offload.tso, which cuts one by one. The caller has checked the frame
with pipeline.engines.offload.vnet.
"""

from struct import Struct
from typing import Final

import numpy as np

from pipeline.engines.offload import checksum as inet
from pipeline.engines.offload import tso
from pipeline.engines.offload.headers import (
    ETHERNET_LEN,
    IDENT_OFF,
    IPV4_CHECK_OFF,
    IPV6_LEN,
    TOTAL_OFF,
    TYPE_OFF,
)
from pipeline.wire import ethernet, tcp, virtio_net

SCRATCH_BYTES: Final = 128 * 1024
"""Room for 64 KiB of payload in segments of usual length. Memory is allocated for what does not fit."""

_TCP_SEQ: Final = 4
_TCP_OFFSET: Final = 12
_TCP_FLAGS: Final = 13
_LAST_ONLY: Final = tcp.PSH | tcp.FIN
_FIRST_ONLY: Final = tcp.CWR
_MASK: Final = 0xFFFFFFFF
_MODULUS: Final = inet.MODULUS
_ZERO: Final = _MODULUS << 16
"""A zero in ones' complement that is at least as large as any sum of a segment."""
_IPV6_PAYLOAD_OFF: Final = ETHERNET_LEN + 4
_NO_CHECK: Final = b"\0\0"

_U2: Final = Struct("!H")
_U4: Final = Struct("!I")
_U1: Final = np.dtype("u1")
_BIG2: Final = np.dtype(">u2")
_BIG4: Final = np.dtype(">u4")
_NUMBERS: Final = np.arange(0, 2048, dtype="u4")
"""More than the segments of 48 bytes in 64 KiB."""

_ndarray = np.ndarray


class Cutter:
    """Makes the datagrams. The memory that it returns is valid until the next call."""

    def __init__(self, tunnel: bytes) -> None:
        """tunnel: what stands before each frame."""
        self._tunnel = tunnel
        self._scratch = memoryview(bytearray(SCRATCH_BYTES))

    def cut(self, frame: memoryview | bytes, header: virtio_net.Header) -> tuple[memoryview, int]:
        """The datagrams of a super-segment of TCP, one after another, and the length of all but the last."""
        start, size = header.csum_start, header.gso_size
        begin = start + (frame[start + _TCP_OFFSET] >> 4) * 4
        payload = len(frame) - begin
        full = payload // size
        rest = payload - full * size
        rows = _Rows(self._tunnel, bytes(frame[:begin]), start, header.csum_offset, len(frame))
        pitch = rows.head_len + size
        total = full * pitch + (rows.head_len + rest if rest else 0)
        made = self._scratch[:total] if total <= SCRATCH_BYTES else memoryview(bytearray(total))
        if full:
            rows.write(made, 0, full, frame, begin, size)
        if rest:
            rows.write(made, full * pitch, 1, frame, begin + full * size, rest)
        rows.set_flags(made, made.nbytes - (rows.head_len + (rest or size)))
        if full:
            rows.sum_up(made, 0, full, size)
        if rest:
            rows.sum_up(made, full * pitch, 1, rest)
        return made, pitch


class _Rows:
    """Segments of one super-segment. Each has the headers, with its own length, numbers and checksums."""

    def __init__(self, tunnel: bytes, headers: bytes, start: int, csum_offset: int, length: int) -> None:
        """headers: of the super-segment, which has length bytes in all. start: of its TCP header."""
        before = len(tunnel)
        self._head = bytearray(tunnel + headers)
        self.head_len = len(self._head)
        self._frame = before
        self._tcp = before + start
        self._check = before + start + csum_offset
        self._tcp_header_len = len(headers) - start
        self._is_ipv4 = _U2.unpack_from(headers, TYPE_OFF)[0] == ethernet.TYPE_IPV4
        self._seq: int = _U4.unpack_from(headers, start + _TCP_SEQ)[0]
        self._ident: int = _U2.unpack_from(headers, IDENT_OFF)[0]
        self._flags: int = headers[start + _TCP_FLAGS]
        # The field has the pseudo-header's sum with the length of the whole super-segment.
        held: int = _U2.unpack_from(headers, start + csum_offset)[0]
        self._pseudo = held - (length - start)
        self._head[self._tcp + _TCP_FLAGS] = self._flags & ~(_LAST_ONLY | _FIRST_ONLY)
        self._head[self._check : self._check + 2] = _NO_CHECK
        self._first = 0
        """The number of segments so far, and of the first row of the next write()."""
        self._sent = 0
        """Bytes of payload in them."""

    def write(
        self, made: memoryview, at: int, count: int, frame: memoryview | bytes, begin: int, size: int
    ) -> None:
        """Write count rows at ``at``, with size bytes of payload each. The payload lies in frame[begin:]."""
        head, head_len = self._head, self.head_len
        length = head_len - self._frame + size
        base = 0
        if self._is_ipv4:
            check = self._frame + IPV4_CHECK_OFF
            ident = self._frame + IDENT_OFF
            _U2.pack_into(head, self._frame + TOTAL_OFF, length - ETHERNET_LEN)
            head[check : check + 2] = head[ident : ident + 2] = _NO_CHECK
            base = int.from_bytes(head[self._frame + ETHERNET_LEN : self._tcp], "big") % _MODULUS
        else:
            _U2.pack_into(head, self._frame + _IPV6_PAYLOAD_OFF, length - ETHERNET_LEN - IPV6_LEN)
        pitch = head_len + size
        rows = _ndarray((count, pitch), _U1, made, at)
        rows[:, :head_len] = _ndarray((head_len,), _U1, head)
        rows[:, head_len:] = _ndarray((count, size), _U1, frame, begin)
        numbers = _NUMBERS[:count] if count <= len(_NUMBERS) else np.arange(0, count, dtype="u4")
        column = numbers * size
        column += self._seq + self._sent & _MASK
        _ndarray((count,), _BIG4, made, at + self._tcp + _TCP_SEQ, (pitch,))[:] = column
        if self._is_ipv4:
            idents = (numbers + (self._ident + self._first)) & 0xFFFF
            _ndarray((count,), _BIG2, made, at + self._frame + IDENT_OFF, (pitch,))[:] = idents
            checks = (_ZERO - base - idents) % _MODULUS
            _ndarray((count,), _BIG2, made, at + self._frame + IPV4_CHECK_OFF, (pitch,))[:] = checks
        self._first += count
        self._sent += count * size

    def set_flags(self, made: memoryview, last: int) -> None:
        """Give the first row, at 0, and the last one, at ``last``, the flags that only they have."""
        at = self._tcp + _TCP_FLAGS
        made[at] = made[at] | self._flags & _FIRST_ONLY
        made[last + at] = made[last + at] | self._flags & _LAST_ONLY

    def sum_up(self, made: memoryview, at: int, count: int, size: int) -> None:
        """Write the checksums of count rows at ``at``, which are whole otherwise."""
        pitch = self.head_len + size
        length = self._tcp_header_len + size
        sums = inet.row_sums(made, at + self._tcp, pitch, count, length)
        checks = (_ZERO - (self._pseudo + length) * inet.SWAP % _MODULUS) - sums
        checks %= _MODULUS
        _ndarray((count,), inet.WORD, made, at + self._check, (pitch,))[:] = checks


def completed(frame: memoryview | bytes, header: virtio_net.Header) -> bytes:
    """A copy of a frame whose checksum was left to a card, with its checksum."""
    whole = bytearray(frame)
    tso.complete(whole, header.csum_start, header.csum_offset)
    return bytes(whole)
