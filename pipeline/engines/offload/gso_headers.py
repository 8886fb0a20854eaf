"""The headers of the segments that GSO (pipeline.engines.offload.gso) makes: IPv4 or IPv6, and TCP.

A range has one object of this module. It knows the fields that all segments share, and counts up the others.
Only this module knows the IP header. The segmenter finds its way with ``l4_off``.
"""

from struct import Struct
from typing import Final

import numpy as np

from pipeline.engines.offload import checksum as inet
from pipeline.engines.offload.headers import (
    ADDRESSES6_OFF,
    ADDRESSES_OFF,
    DF,
    ETHERNET_LEN,
    IDENT_OFF,
    IPV4_CHECK_OFF,
    IPV4_LEN,
    IPV6_LEN,
    L4_OFF,
    L4_OFF6,
    TCP_HEADERS_LEN,
    VERSION,
    VERSION6,
)
from pipeline.records.flows import Ends
from pipeline.records.tcp import TcpOut
from pipeline.wire import ip, ipv4, tcp, virtio_net
from pipeline.wire.ipv4 import PROTO_TCP

MAX_ROWS: Final = 4096
"""The most frames that are made in one operation."""
BY_PEER: Final = -1
"""Stands for a payload sum: the guest completes the TCP checksum. Write only the pseudo-header's sum."""
LATER: Final = -2
"""Stands for a payload sum: the TCP checksum is computed later. Write zero."""

# Ethernet | version, TOS, length, ident, fragment, TTL and protocol, checksum, src, dst |
# ports, seq, ack, offset and flags, window, checksum, urgent
_HEADERS: Final = Struct("!14sHHHHHHIIHHIIHHHH")
# Ethernet | version, traffic class and flow label, payload length, next header and hop limit, addresses | TCP
_HEADERS6: Final = Struct("!14sIHH32sHHIIHHHH")
_IPV4_TCP_LEN: Final = TCP_HEADERS_LEN - ETHERNET_LEN
_TTL_TCP: Final = ipv4.DEFAULT_TTL << 8 | PROTO_TCP
_TCP_HOPS: Final = PROTO_TCP << 8 | ipv4.DEFAULT_TTL
_MODULUS: Final = inet.MODULUS
_MASK: Final = 0xFFFFFFFF
_MAX_LEN: Final = 0xFFFF
"""Bytes of the longest packet. IPv6 would allow 40 more, but Linux limits a super-segment to 64 KiB."""

_BIG2: Final = np.dtype(">u2")
NUMBERS: Final = np.arange(MAX_ROWS, dtype="u4")

_ndarray = np.ndarray


class TcpHeaders:
    """The fields that all segments of a range share, and those of the next segment. For IPv4."""

    __slots__ = (
        "ack",
        "addresses_off",
        "dst",
        "dst_port",
        "eth_header",
        "gso_type",
        "header_len",
        "ident",
        "l4_off",
        "options",
        "room",
        "seq",
        "src",
        "src_port",
        "window",
    )

    def __init__(self, eth_header: bytes, ends: Ends, out: TcpOut, options: bytes, ident: int) -> None:
        self.eth_header = eth_header
        self.src = ends.remote_addr
        self.dst = ends.guest_addr
        self.src_port = ends.remote_port
        self.dst_port = ends.guest_port
        self.ack = out.ack
        self.window = out.window
        self.options = options
        self.seq = out.seq
        self.ident = ident
        self.l4_off = L4_OFF
        """Where the TCP header begins in a frame."""
        self.addresses_off = ADDRESSES_OFF
        self.header_len = TCP_HEADERS_LEN + len(options)
        """Bytes of all headers and the options."""
        self.room = _MAX_LEN - _IPV4_TCP_LEN - len(options)
        """The most payload that one packet can carry."""
        self.gso_type = virtio_net.GSO_TCPV4
        """The GSO type of virtio-net for a super-segment."""

    def advance(self, frames: int, length: int) -> None:
        """Move on after frames with length bytes of payload in all."""
        self.seq = self.seq + length & _MASK
        self.ident = self.ident + frames & 0xFFFF

    def headers(self, flags: int, length: int, payload_sum: int) -> bytes:
        """All headers and options of the next segment, which has length bytes of payload.

        payload_sum: the sum of the payload's words, BY_PEER or LATER. Fields of 32 bits are added whole:
        2**16 is 1 modulo 0xffff.
        """
        options = self.options
        src, dst, ident = self.src, self.dst, self.ident
        total = _IPV4_TCP_LEN + len(options) + length
        offset_flags = (tcp.HEADER_LEN + len(options)) << 10 | flags
        addresses = src + dst
        ipv4_check = -(VERSION + total + ident + DF + _TTL_TCP + addresses) % _MODULUS
        packed: bytes = _HEADERS.pack(
            self.eth_header,
            VERSION,
            total,
            ident,
            DF,
            _TTL_TCP,
            ipv4_check,
            ip.to_ipv4(src),
            ip.to_ipv4(dst),
            self.src_port,
            self.dst_port,
            self.seq,
            self.ack,
            offset_flags,
            self.window,
            self.tcp_check(addresses, total - IPV4_LEN, offset_flags, payload_sum),
            0,
        )
        return packed + options

    def tcp_check(self, addresses: int, tcp_len: int, offset_flags: int, payload_sum: int) -> int:
        """The checksum field of a segment of tcp_len bytes. payload_sum: see headers().

        addresses: a number that is the addresses' sum modulo 0xffff.
        """
        check = addresses + PROTO_TCP + tcp_len
        if payload_sum >= 0:
            check += self.src_port + self.dst_port + self.seq + self.ack
            check += offset_flags + self.window + payload_sum
            if self.options:
                check += inet.word_sum(self.options, 0, len(self.options)) * inet.SWAP
            return -check % _MODULUS
        return (check % _MODULUS or _MODULUS) if payload_sum == BY_PEER else 0

    def number_rows(self, scratch: memoryview, frame: int, pitch: int, count: int, length: int) -> None:
        """Write what differs in the IP headers of count segments, each with length bytes of payload.

        The first frame begins at ``frame``, and they are pitch bytes apart.
        """
        total = _IPV4_TCP_LEN + len(self.options) + length
        covered = VERSION + total + DF + _TTL_TCP + self.src + self.dst
        number_rows(scratch, frame, pitch, count, self.ident, covered)


class TcpHeaders6(TcpHeaders):
    """The same for IPv6: no options, no identification and no checksum of its own (RFC 8200 section 8.1)."""

    __slots__ = ("_addresses", "_sum")

    def __init__(self, eth_header: bytes, ends: Ends, out: TcpOut, options: bytes, ident: int) -> None:
        super().__init__(eth_header, ends, out, options, ident)
        self._addresses = ends.addresses6()
        self._sum = ends.address_sum()
        self.l4_off = L4_OFF6
        self.addresses_off = ADDRESSES6_OFF
        self.header_len += L4_OFF6 - L4_OFF
        self.room -= IPV6_LEN - IPV4_LEN
        self.gso_type = virtio_net.GSO_TCPV6

    def headers(self, flags: int, length: int, payload_sum: int) -> bytes:
        """See TcpHeaders."""
        options = self.options
        tcp_len = tcp.HEADER_LEN + len(options) + length
        offset_flags = (tcp.HEADER_LEN + len(options)) << 10 | flags
        packed: bytes = _HEADERS6.pack(
            self.eth_header,
            VERSION6,
            tcp_len,
            _TCP_HOPS,
            self._addresses,
            self.src_port,
            self.dst_port,
            self.seq,
            self.ack,
            offset_flags,
            self.window,
            self.tcp_check(self._sum, tcp_len, offset_flags, payload_sum),
            0,
        )
        return packed + options

    def number_rows(self, scratch: memoryview, frame: int, pitch: int, count: int, length: int) -> None:
        """All IPv6 headers of a range are equal."""


def number_rows(scratch: memoryview, frame: int, pitch: int, count: int, ident: int, covered: int) -> None:
    """Write the IPv4 identifications and checksums of count frames.

    The first begins at ``frame``, and they are pitch bytes apart. ident: of the first. covered: the sum of
    the other words of the header, which all frames share.
    """
    column = NUMBERS[:count] + ident
    column &= 0xFFFF
    _ndarray((count,), _BIG2, scratch, frame + IDENT_OFF, (pitch,))[:] = column
    column = (_MODULUS + -covered % _MODULUS) - column
    column %= _MODULUS
    _ndarray((count,), _BIG2, scratch, frame + IPV4_CHECK_OFF, (pitch,))[:] = column
