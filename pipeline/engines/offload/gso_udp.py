"""Makes UDP datagrams for guests, ready for one system call: the UDP half of pipeline.engines.offload.gso.

Equal datagrams at an equal stride in a slot are copied to scratch memory with their headers. There numpy
makes all headers and checksums (RFC 768, 791, 8200) in a few operations. The long payload of a single
datagram is not copied. This module does not cut datagrams. The caller fragments those that are longer than
the MTU.

Of IPv4, the identification counts up and DF is not set. On a virtio-net link the guest's kernel completes the
checksum: every frame has a virtio-net header that says so.
"""

from struct import Struct
from typing import Final

import numpy as np

from pipeline.engines.offload import checksum as inet
from pipeline.engines.offload.gso import MIN_ROWS, ZERO, Buffer, Segmenter
from pipeline.engines.offload.gso_headers import MAX_ROWS, number_rows
from pipeline.engines.offload.headers import (
    ADDRESSES6_OFF,
    ADDRESSES_OFF,
    L4_OFF,
    L4_OFF6,
    UDP_CHECK,
    UDP_HEADERS_LEN,
    UDP_HEADERS_LEN6,
    UDP_LEN,
    VERSION,
    VERSION6,
)
from pipeline.records.flows import Ends
from pipeline.records.run import Run
from pipeline.wire import ip, ipv4, offload, virtio_net
from pipeline.wire.ipv4 import PROTO_UDP

# Ethernet | version, TOS, length, ident, fragment, TTL and protocol, checksum, src, dst |
# ports, length, checksum
_HEADERS: Final = Struct("!14sHHHHHHIIHHHH")
# Ethernet | version, traffic class and flow label, payload length, next header and hop limit, addresses | UDP
_HEADERS6: Final = Struct("!14sIHH32sHHHH")
_IPV4_UDP_LEN: Final = 28
_TTL_UDP: Final = ipv4.DEFAULT_TTL << 8 | PROTO_UDP
_UDP_HOPS: Final = PROTO_UDP << 8 | ipv4.DEFAULT_TTL
_MODULUS: Final = inet.MODULUS
_U1: Final = np.dtype("u1")

_ndarray = np.ndarray


class UdpSegmenter(Segmenter):
    """A Segmenter that also makes datagrams."""

    __slots__ = ()

    def datagrams(
        self, eth_header: bytes, ends: Ends, view: memoryview, run: Run, ident: int
    ) -> list[Buffer]:
        """The buffers for the datagrams of a run in the slot ``view``, from the remote end to the guest.

        The run has no skip. ident: the IPv4 identification of the first. Raises ValueError if a datagram is
        too long for the framing.
        """
        off, length, size = run.off, run.length, run.piece_size
        headers_len = UDP_HEADERS_LEN if ip.is_ipv4(ends.guest_addr) else UDP_HEADERS_LEN6
        if min(size, length) + headers_len > self._max_frame or (length > size and not size):
            raise ValueError(f"a datagram of {min(size, length)} bytes does not fit this framing")
        if length <= size:
            return self._datagram(eth_header, ends, view[off : off + length], ident)
        buffers: list[Buffer] = []
        first = 0
        while (count := min((length - first * size) // size, MAX_ROWS)) >= MIN_ROWS:
            buffers += self._datagram_rows(eth_header, ends, view, run, first, count, ident)
            first += count
            ident = ident + count & 0xFFFF
        begin = off + first * run.stride
        left = length - first * size
        while left > 0:
            buffers += self._datagram(eth_header, ends, view[begin : begin + min(size, left)], ident)
            begin += run.stride
            left -= size
            ident = ident + 1 & 0xFFFF
        return buffers

    def _datagram(self, eth_header: bytes, ends: Ends, payload: memoryview, ident: int) -> list[Buffer]:
        """One datagram."""
        length = len(payload)
        udp_len = length + UDP_LEN
        check = ends.address_sum() + PROTO_UDP + udp_len
        partial = self._features & offload.CSUM
        if partial:
            check = check % _MODULUS or _MODULUS
        else:
            check += ends.remote_port + ends.guest_port + udp_len
            check = -(check + inet.word_sum(payload, 0, length) * inet.SWAP) % _MODULUS or _MODULUS
        head = _headers(eth_header, ends, length, ident, True, check)
        if partial:
            head = _partial(self._vnet_len, len(head)) + head
        elif self._vnet_len:
            head = bytes(self._vnet_len) + head
        return self._join(head, payload)

    def _datagram_rows(
        self, eth_header: bytes, ends: Ends, view: memoryview, run: Run, first: int, count: int, ident: int
    ) -> list[Buffer]:
        """count datagrams of equal size, from number ``first`` of the run on, as rows in scratch memory."""
        vnet_len = self._vnet_len
        partial = self._features & offload.CSUM
        size = run.piece_size
        udp_len = size + UDP_LEN
        addresses = ends.address_sum()
        check = ((addresses + PROTO_UDP + udp_len) % _MODULUS or _MODULUS) if partial else 0
        headers = _headers(eth_header, ends, size, 0, False, check)
        headers_len = len(headers)
        frame_len = headers_len + size
        head = self._prefix(vnet_len + frame_len)
        if partial:
            head += _partial(vnet_len, headers_len)
        else:
            head += bytes(vnet_len)
        head += headers
        head_len = len(head)
        pitch = head_len + size
        scratch, at = self._room(count * pitch)
        rows = _ndarray((count, pitch), _U1, scratch, at)
        rows[:, :head_len] = _ndarray((head_len,), _U1, head)
        rows[:, head_len:] = _ndarray((count, size), _U1, view, run.off + first * run.stride, (run.stride, 1))
        frame = at + head_len - headers_len
        summed = ADDRESSES6_OFF
        if headers_len == UDP_HEADERS_LEN:
            summed = ADDRESSES_OFF
            covered = VERSION + size + _IPV4_UDP_LEN + _TTL_UDP + addresses
            number_rows(scratch, frame, pitch, count, ident, covered)
        if not partial:
            # The sum of the addresses, the UDP header and the payload. Protocol and length complete it.
            sums = inet.row_sums(scratch, frame + summed, pitch, count, frame_len - summed)
            sums = (ZERO - (PROTO_UDP + udp_len) * inet.SWAP % _MODULUS) - sums
            sums %= _MODULUS
            # A field of zero means that there is no checksum.
            sums[sums == 0] = _MODULUS
            field = frame + headers_len - UDP_LEN + UDP_CHECK
            _ndarray((count,), inet.WORD, scratch, field, (pitch,))[:] = sums
        return self._of_rows(scratch, at, pitch, count, frame_len)


def frame6(eth_header: bytes, ends: Ends, payload: memoryview) -> bytes:
    """A whole frame with one IPv6 datagram, of any length."""
    length = len(payload)
    udp_len = length + UDP_LEN
    check = ends.address_sum() + PROTO_UDP + udp_len
    check += ends.remote_port + ends.guest_port + udp_len
    check = -(check + inet.word_sum(payload, 0, length) * inet.SWAP) % _MODULUS or _MODULUS
    return _headers(eth_header, ends, length, 0, False, check) + payload


def _headers(eth_header: bytes, ends: Ends, length: int, ident: int, summed: bool, check: int) -> bytes:
    """The headers of a datagram of length bytes. summed: compute the IPv4 checksum, else leave it zero."""
    if not ip.is_ipv4(ends.guest_addr):
        udp_len = length + UDP_LEN
        made: bytes = _HEADERS6.pack(
            eth_header,
            VERSION6,
            udp_len,
            _UDP_HOPS,
            ends.addresses6(),
            ends.remote_port,
            ends.guest_port,
            udp_len,
            check,
        )
        return made
    total = length + _IPV4_UDP_LEN
    ipv4_check = -(VERSION + total + ident + _TTL_UDP + ends.address_sum()) % _MODULUS if summed else 0
    packed: bytes = _HEADERS.pack(
        eth_header,
        VERSION,
        total,
        ident,
        0,
        _TTL_UDP,
        ipv4_check,
        ip.to_ipv4(ends.remote_addr),
        ip.to_ipv4(ends.guest_addr),
        ends.remote_port,
        ends.guest_port,
        length + UDP_LEN,
        check,
    )
    return packed


_PARTIAL: Final = {
    vnet_len << 8 | l4_off + UDP_LEN: virtio_net.build(
        virtio_net.Header(flags=virtio_net.NEEDS_CSUM, csum_start=l4_off, csum_offset=UDP_CHECK), vnet_len
    )
    for vnet_len in (virtio_net.SHORT_LEN, virtio_net.LONG_LEN)
    for l4_off in (L4_OFF, L4_OFF6)
}


def _partial(vnet_len: int, headers_len: int) -> bytes:
    """The virtio-net header, of vnet_len bytes, of a datagram whose checksum the guest completes."""
    return _PARTIAL[vnet_len << 8 | headers_len]
