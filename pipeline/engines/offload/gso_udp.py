"""Datagrams for guests, ready for one system call: the UDP half of pipeline.engines.gso.

Equal datagrams that lie in a slot at an equal stride are laid out whole in scratch memory, numpy
making all headers and checksums (RFC 768, RFC 791) in a few operations; one by itself costs
no copy of a long payload. Unlike TCP's, datagrams are never cut here: what does not fit the MTU
is fragmented by whoever knows the MTU.

The identification counts up and DF is not set. On a virtio-net link the checksum is left to the
guest's kernel: every frame has a header of its own that says so.
"""

from struct import Struct
from typing import Final

import numpy as np

from pipeline.engines.offload import checksum as inet
from pipeline.engines.offload.gso import Buffer, Segmenter
from pipeline.wire import ipv4, virtio_net

HEADERS_LEN: Final = 42

# Ethernet | version, TOS, length, ident, fragment, TTL and protocol, checksum, src, dst |
# ports, length, checksum
_HEADERS: Final = Struct("!14sHHHHHHIIHHHH")
_IDENT_OFF: Final = 18
_IPV4_CHECK_OFF: Final = 24
_ADDRESSES_OFF: Final = 26
_UDP_OFF: Final = 34
_UDP_CHECK_OFF: Final = 40
_VERSION: Final = 0x4500
_PROTO: Final = ipv4.PROTO_UDP
_TTL_UDP: Final = ipv4.DEFAULT_TTL << 8 | _PROTO
_MODULUS: Final = inet.MODULUS
# Not less than any sum of the words of a packet, and zero in ones' complement.
_ZERO: Final = _MODULUS << 16
_MIN_ROWS: Final = 4
"""From as many equal datagrams on numpy is faster than making them one by one."""
_MAX_ROWS: Final = 4096
_NUMBERS: Final = np.arange(_MAX_ROWS, dtype="u4")
_U1: Final = np.dtype("u1")
_BIG2: Final = np.dtype(">u2")

_ndarray = np.ndarray
_pack = _HEADERS.pack


class UdpSegmenter(Segmenter):
    """A Segmenter that makes datagrams as well. Its buffers are valid as long as any other's."""

    __slots__ = ()

    def datagrams(
        self,
        eth_header: bytes,
        src: int,
        dst: int,
        sport: int,
        dport: int,
        view: memoryview,
        off: int,
        stride: int,
        size: int,
        length: int,
        ident: int,
    ) -> list[Buffer]:
        """The buffers for length bytes in datagrams of size bytes, of which the last may be shorter.

        Datagram i begins at view[off + i * stride]. length not above size: one datagram. ident is the
        IPv4 identification of the first. ValueError if one does not fit the framing.
        """
        if min(size, length) + HEADERS_LEN > self._max_frame or (length > size and not size):
            raise ValueError(f"a datagram of {min(size, length)} bytes does not fit this framing")
        if length <= size:
            return [*self._one(eth_header, src, dst, sport, dport, view[off : off + length], ident)]
        buffers: list[Buffer] = []
        while (count := min(length // size, _MAX_ROWS)) >= _MIN_ROWS:
            buffers += self._datagram_rows(
                eth_header, src, dst, sport, dport, view, off, stride, size, count, ident
            )
            off += count * stride
            length -= count * size
            ident = ident + count & 0xFFFF
        while length > 0:
            part = view[off : off + min(size, length)]
            buffers += self._one(eth_header, src, dst, sport, dport, part, ident)
            off += stride
            length -= size
            ident = ident + 1 & 0xFFFF
        return buffers

    def _one(
        self, eth_header: bytes, src: int, dst: int, sport: int, dport: int, payload: memoryview, ident: int
    ) -> list[Buffer]:
        length = len(payload)
        udp_len = length + 8
        total = length + 28
        addresses = src + dst
        if self._vnet_len:
            check = (addresses + _PROTO + udp_len) % _MODULUS or _MODULUS
        else:
            check = addresses + _PROTO + udp_len + sport + dport + udp_len
            check = -(check + inet.word_sum(payload, 0, length) * inet.SWAP) % _MODULUS or _MODULUS
        head = _pack(
            eth_header, _VERSION, total, ident, 0, _TTL_UDP,
            -(_VERSION + total + ident + _TTL_UDP + addresses) % _MODULUS, src, dst,
            sport, dport, udp_len, check,
        )  # fmt: skip
        if self._vnet_len:
            head = _partial(self._vnet_len) + head
        return self._join(head, payload)

    def _datagram_rows(
        self, eth_header: bytes, src: int, dst: int, sport: int, dport: int, view: memoryview, off: int,
        stride: int, size: int, count: int, ident: int,
    ) -> list[Buffer]:  # fmt: skip
        """count datagrams of size bytes, as rows of one array in scratch memory."""
        vnet_len = self._vnet_len
        udp_len = size + 8
        total = size + 28
        frame_len = size + HEADERS_LEN
        head_len = self._prefix_len + vnet_len + HEADERS_LEN
        pitch = head_len + size
        scratch, at = self._room(count * pitch)
        addresses = src + dst
        check = ((addresses + _PROTO + udp_len) % _MODULUS or _MODULUS) if vnet_len else 0
        head = (
            self._prefix(vnet_len + frame_len)
            + (_partial(vnet_len) if vnet_len else b"")
            + _pack(eth_header, _VERSION, total, 0, 0, _TTL_UDP, 0, src, dst, sport, dport, udp_len, check)
        )
        rows = _ndarray((count, pitch), _U1, scratch, at)
        rows[:, :head_len] = _ndarray((head_len,), _U1, head)
        rows[:, head_len:] = _ndarray((count, size), _U1, view, off, (stride, 1))
        frame = at + head_len - HEADERS_LEN
        strides = (pitch,)
        column = _NUMBERS[:count] + ident
        column &= 0xFFFF
        _ndarray((count,), _BIG2, scratch, frame + _IDENT_OFF, strides)[:] = column
        covered = _VERSION + total + _TTL_UDP + addresses
        column = (_MODULUS + -covered % _MODULUS) - column
        column %= _MODULUS
        _ndarray((count,), _BIG2, scratch, frame + _IPV4_CHECK_OFF, strides)[:] = column
        if not vnet_len:
            # From the addresses to the end, plus protocol and length: header and pseudo-header.
            sums = inet.row_sums(scratch, frame + _ADDRESSES_OFF, pitch, count, frame_len - _ADDRESSES_OFF)
            sums = (_ZERO - (_PROTO + udp_len) * inet.SWAP % _MODULUS) - sums
            sums %= _MODULUS
            # Zero would say that there is no checksum.
            sums[sums == 0] = _MODULUS
            _ndarray((count,), inet.WORD, scratch, frame + _UDP_CHECK_OFF, strides)[:] = sums
        self.frame_count += count
        self.frame_bytes += count * frame_len
        if self._datagrams:
            return [scratch[begin : begin + pitch] for begin in range(at, at + count * pitch, pitch)]
        return [scratch[at : at + count * pitch]]


def _partial(vnet_len: int) -> bytes:
    """The virtio-net header of a datagram whose checksum the guest finishes."""
    return _PARTIAL[vnet_len]


_PARTIAL: Final = {
    vnet_len: virtio_net.build(
        virtio_net.Header(flags=virtio_net.NEEDS_CSUM, csum_start=_UDP_OFF, csum_offset=6), vnet_len
    )
    for vnet_len in (virtio_net.SHORT_LEN, virtio_net.LONG_LEN)
}
