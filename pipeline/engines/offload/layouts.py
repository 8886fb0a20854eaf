"""What GRO must know of each family: where fields lie in a frame, and how a plain packet looks.

A *plain* packet is what GRO merges: IPv4 without options or IPv6 without extension headers, not a fragment,
with a hop left. The engines read frames of both families with the same code and the offsets of a ``Layout``.

The *length* of a packet is what its header says. IPv4 counts the whole packet, IPv6 the part after its
header. ``counted_off`` is where the counted bytes begin.
"""

from struct import Struct
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from pipeline.engines.offload import checksum as inet
from pipeline.engines.offload.headers import (
    ADDRESSES6_OFF,
    ADDRESSES_OFF,
    ENDS,
    ENDS6,
    ETHERNET_LEN,
    FRAGMENT_PROTO,
    IPV4_LEN,
    IPV6_LENGTH_OFF,
    L4_OFF,
    L4_OFF6,
    MIN_TTL,
    PLAIN_IPV4,
    PLAIN_IPV6,
    PROTO_OFF,
    TCP_CHECK,
    TCP_HEADERS_LEN,
    TCP_HEADERS_LEN6,
    TCP_SEQ,
    TYPE_OFF,
    UDP_CHECK,
    UDP_HEADERS_LEN,
    UDP_HEADERS_LEN6,
)
from pipeline.records.flows import FlowKey, flow_key_of_halves
from pipeline.wire import ethernet, tcp
from pipeline.wire.ip import MAPPED
from pipeline.wire.ipv4 import PROTO_TCP, PROTO_UDP

TcpHead: TypeAlias = tuple[bytes, int, bytes, bytes, int, int, bytes]
"""pre, length, hops, flow, seq, ack_word and options of a segment, as in the comments below."""
UdpHead: TypeAlias = tuple[bytes, int, int, bytes, int, int]
"""pre, length, hops, flow, UDP length and checksum of a datagram."""

# IPv4. Ethernet header, version and TOS (pre) | total length (length) | (ident) | fragment field, TTL,
# protocol (hops) | (checksum) | addresses and ports (flow) | sequence number | ack, offset, flags, window
# (ack_word) | (checksum, urgent) | the first 12 bytes of options
_TCP: Final = Struct("!16sHxx4sxx12sIQ4x12s")
_UDP: Final = Struct("!16sHxxIxx12sHH")
# IPv6. Ethernet header, version, traffic class and flow label (pre) | payload length | next header, hop limit
# (hops) | addresses and ports (flow) | as in IPv4
_TCP6: Final = Struct("!18sH2s36sIQ4x12s")
_UDP6: Final = Struct("!18sHH36sHH")

TIMES_LEN: Final = 12
"""Bytes of the timestamps option in its usual form (NOP, NOP, timestamps)."""
_VERSION6: Final = 6
_NOT_ON_LINKS: Final = (0, 0xFFFF)
"""Of an address in ::/64: the next 32 bits of no address, of loopback, and of an IPv4-mapped address."""
_LINK_LOCAL: Final = 0xFE80 >> 6

_WORD: Final = inet.WORD
_BIG2: Final = np.dtype(">u2")
_BIG4: Final = np.dtype(">u4")
_U4: Final = np.dtype("u4")
_ndarray = np.ndarray
_add = np.add.reduce


class Layout:
    """IPv4. All offsets count from the start of the frame."""

    def __init__(
        self,
        ethertype: int,
        addresses_off: int,
        l4_off: int,
        counted_off: int,
        changing: tuple[int, ...],
    ) -> None:
        """changing: words of the IP header that may differ in a run."""
        self.ethertype = ethertype
        self.addresses_off = addresses_off
        self.l4_off = l4_off
        """The TCP or UDP header begins here, right after the addresses."""
        self.counted_off = counted_off
        self.tcp_headers_len = l4_off + tcp.HEADER_LEN
        self.udp_headers_len = l4_off + 8
        self.timed = self.tcp_headers_len + TIMES_LEN
        """Bytes of all headers with the timestamps option in its usual form. tcp_head reads as many."""
        self.seq_off = l4_off + TCP_SEQ
        self.tcp_equal = _mask(self.tcp_headers_len + tcp.MAX_OPTIONS_LEN, changing, self.seq_off)
        """The words of the headers that must be equal in a run of segments."""
        field = l4_off + TCP_CHECK >> 1
        self.tcp_equal[[(self.seq_off >> 1) + 1, field]] = 0
        self.udp_equal = _mask(self.udp_headers_len, changing, l4_off + UDP_CHECK)
        self.plain = frozenset({PLAIN_IPV4})
        """Bytes 12 to 14 of a plain packet's frame: EtherType, version, and what shares its byte."""
        self.summed_len = IPV4_LEN
        """Bytes of the IP header that have a checksum of their own."""
        self.plain_hops = frozenset(
            bytes((df, 0, ttl, PROTO_TCP)) for df in (0, 0x40) for ttl in range(MIN_TTL, 256)
        )
        """``hops`` of a segment that may merge. A look-up is not slower than a mask and a comparison."""
        self.udp_mask, self.udp_hops, self.udp_hops_left = FRAGMENT_PROTO, PROTO_UDP, 0xFE00
        """Of ``hops`` of a datagram: the bits that say what it is, their value, and bits of which a datagram
        with a hop left has one."""
        self.needs_udp_checksum = False
        """Whether a UDP checksum of zero is wrong."""

    def tcp_head(self, view: memoryview | bytes, off: int) -> TcpHead:
        """The fields of the segment in the frame at view[off:]."""
        return _TCP.unpack_from(view, off)

    def udp_head(self, view: memoryview | bytes, off: int) -> UdpHead:
        """The fields of the datagram in the frame at view[off:]."""
        return _UDP.unpack_from(view, off)

    def key(self, flow: bytes) -> FlowKey:
        """The key of the flow of a packet from a guest. Empty if demux has to judge the packet itself."""
        src, dst, src_port, dst_port = ENDS.unpack(flow)
        # As ip.from_ipv4(), without the calls.
        src = src | MAPPED if src else 0
        dst = dst | MAPPED if dst else 0
        return flow_key_of_halves(0, src, src_port, 0, dst, dst_port)

    def header_sums(self, view: memoryview, off: int, stride: int, count: int) -> NDArray[np.uint32] | None:
        """The sums of the IP headers of count frames modulo 0xffff: zero if right. None without checksums."""
        start = off + ETHERNET_LEN
        sums: NDArray[np.uint32] = _add(
            _ndarray((count, IPV4_LEN // 2), _WORD, view, start, (stride, 2)), 1, _U4
        )
        return sums % inet.MODULUS

    def are_segments(
        self, view: memoryview, off: int, stride: int, count: int, length: int
    ) -> NDArray[np.bool_]:
        """Which of count frames are plain TCP packets of this length."""
        strides = (stride,)
        found: NDArray[np.bool_] = (
            _ndarray((count,), _BIG2, view, off + TYPE_OFF, strides) == ethernet.TYPE_IPV4
        )
        first = _ndarray((count,), _BIG4, view, off + ETHERNET_LEN, strides)
        found &= first & np.uint32(0xFF00FFFF) == 0x45000000 | length
        third = _ndarray((count,), _BIG4, view, off + PROTO_OFF - 3, strides)
        found &= third & np.uint32(FRAGMENT_PROTO) == PROTO_TCP
        return found


class Layout6(Layout):
    """IPv6. It has no checksum of its own, so UDP must have one (RFC 8200 section 8.1)."""

    def __init__(self) -> None:
        super().__init__(ethernet.TYPE_IPV6, ADDRESSES6_OFF, L4_OFF6, L4_OFF6, ())
        self.plain = frozenset(b"\x86\xdd" + bytes((PLAIN_IPV6 | upper,)) for upper in range(16))
        self.summed_len = 0
        self.plain_hops = frozenset(bytes((PROTO_TCP, hops)) for hops in range(MIN_TTL, 256))
        self.udp_mask, self.udp_hops, self.udp_hops_left = 0xFF00, PROTO_UDP << 8, 0x00FE
        self.needs_udp_checksum = True

    def tcp_head(self, view: memoryview | bytes, off: int) -> TcpHead:
        """See Layout."""
        return _TCP6.unpack_from(view, off)

    def udp_head(self, view: memoryview | bytes, off: int) -> UdpHead:
        """See Layout."""
        return _UDP6.unpack_from(view, off)

    def key(self, flow: bytes) -> FlowKey:
        """See Layout. Demux judges link-local addresses, ::/96, and IPv4-mapped ones."""
        src_high: int
        dst_high: int
        src_low: int
        dst_low: int
        src_high, src_low, dst_high, dst_low, src_port, dst_port = ENDS6.unpack(flow)
        if src_high >> 54 == _LINK_LOCAL or dst_high >> 54 == _LINK_LOCAL:
            return b""
        if not src_high and src_low >> 32 in _NOT_ON_LINKS:
            return b""
        if not dst_high and dst_low >> 32 in _NOT_ON_LINKS:
            return b""
        return flow_key_of_halves(src_high, src_low, src_port, dst_high, dst_low, dst_port)

    def header_sums(self, view: memoryview, off: int, stride: int, count: int) -> NDArray[np.uint32] | None:
        """See Layout."""
        return None

    def are_segments(
        self, view: memoryview, off: int, stride: int, count: int, length: int
    ) -> NDArray[np.bool_]:
        """See Layout."""
        strides = (stride,)
        found: NDArray[np.bool_] = (
            _ndarray((count,), _BIG2, view, off + TYPE_OFF, strides) == ethernet.TYPE_IPV6
        )
        first = _ndarray((count,), _BIG4, view, off + ETHERNET_LEN, strides)
        found &= first >> np.uint32(28) == _VERSION6
        second = _ndarray((count,), _BIG4, view, off + IPV6_LENGTH_OFF, strides)
        found &= second >> np.uint32(8) == length << 8 | PROTO_TCP
        return found


def _mask(headers_len: int, changing: tuple[int, ...], field: int) -> NDArray[np.uint16]:
    """A mask of the words of headers: all but these of the IP header, and the one at offset ``field``."""
    mask = np.full(headers_len // 2, 0xFFFF, _WORD)
    mask[[*changing, field >> 1]] = 0
    return mask


IPV4: Final = Layout(
    ethernet.TYPE_IPV4,
    ADDRESSES_OFF,
    L4_OFF,
    ETHERNET_LEN,
    (9, 12),  # identification and checksum
)
IPV6: Final = Layout6()

assert (IPV4.tcp_headers_len, IPV6.tcp_headers_len) == (TCP_HEADERS_LEN, TCP_HEADERS_LEN6)
assert (IPV4.udp_headers_len, IPV6.udp_headers_len) == (UDP_HEADERS_LEN, UDP_HEADERS_LEN6)
