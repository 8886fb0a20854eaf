"""Segmentation and checksum offload for one guest's frames, as a network card does it for a sender.

A guest may send a *super-segment*: TCP payload, or UDP datagrams, of up to 64 KiB in one frame with a
virtio-net header (pipeline.wire.virtio_net). If the receiving guest cannot take it, cut() makes the frames
that it stands for. This is the slow path of traffic between guests. pipeline.engines.offload.gso makes the
segments that this program sends itself.

The caller must have checked the frame with pipeline.engines.offload.vnet. Nothing is checked here. Fragments,
tunnels and frames with VLAN tags are not cut.
"""

from struct import Struct
from typing import Final

from pipeline.engines.offload import checksum as inet
from pipeline.engines.offload.headers import (
    ETHERNET_LEN,
    IDENT_OFF,
    IPV4_CHECK_OFF,
    IPV6_LEN,
    TOTAL_OFF,
    TYPE_OFF,
    UDP_CHECK,
    UDP_LEN,
)
from pipeline.wire import ethernet, tcp, virtio_net

_TCP_SEQ: Final = 4
_TCP_OFFSET: Final = 12
_TCP_FLAGS: Final = 13
_UDP_LENGTH: Final = 4
_LAST_ONLY: Final = tcp.PSH | tcp.FIN
_FIRST_ONLY: Final = tcp.CWR
_MASK: Final = 0xFFFFFFFF

_U2: Final = Struct("!H")
_U4: Final = Struct("!I")
_LITTLE: Final = Struct("<H")
_TOTAL_IDENT: Final = Struct("!HH")


def complete(frame: memoryview | bytearray, csum_start: int, csum_offset: int) -> None:
    """Complete the checksum of frame[csum_start:], whose field has the pseudo-header's sum.

    csum_offset: of the field, from csum_start. For UDP a checksum of zero is written as 0xffff, since zero
    means that there is none (RFC 768).
    """
    total = inet.word_sum(frame, csum_start, len(frame) - csum_start)
    zero = inet.MODULUS if csum_offset == UDP_CHECK else 0
    # The checksum of a little-endian sum is stored in little-endian order.
    _LITTLE.pack_into(frame, csum_start + csum_offset, -total % inet.MODULUS or zero)


def cut(frame: memoryview, header: virtio_net.Header) -> list[bytearray]:
    """The frames that a super-segment stands for, with their checksums.

    header: the frame's virtio-net header, of type GSO_TCPV4, GSO_TCPV6 or GSO_UDP_L4.
    """
    start = header.csum_start
    is_tcp = header.gso_type != virtio_net.GSO_UDP_L4
    l4_len = (frame[start + _TCP_OFFSET] >> 4) * 4 if is_tcp else UDP_LEN
    begin = start + l4_len
    head = bytes(frame[:begin])
    check_at = start + header.csum_offset
    # The field has the pseudo-header's sum with the length of the whole super-segment. Subtract the length.
    pseudo = _U2.unpack_from(head, check_at)[0] - (len(frame) - start)
    is_ipv4 = _U2.unpack_from(head, TYPE_OFF)[0] == ethernet.TYPE_IPV4
    ident = _U2.unpack_from(head, IDENT_OFF)[0]
    seq = _U4.unpack_from(head, start + _TCP_SEQ)[0]
    flags = head[start + _TCP_FLAGS] if is_tcp else 0
    end = len(frame)
    size = header.gso_size
    frames = []
    for number, off in enumerate(range(begin, end, size)):
        made = bytearray(head)
        made += frame[off : off + size]
        length = len(made)
        if is_ipv4:
            _TOTAL_IDENT.pack_into(made, TOTAL_OFF, length - ETHERNET_LEN, ident + number & 0xFFFF)
            made[IPV4_CHECK_OFF : IPV4_CHECK_OFF + 2] = b"\0\0"
            check = inet.checksum(made, ETHERNET_LEN, (made[ETHERNET_LEN] & 15) * 4)
            _U2.pack_into(made, IPV4_CHECK_OFF, check)
        else:
            _U2.pack_into(made, ETHERNET_LEN + 4, length - ETHERNET_LEN - IPV6_LEN)
        if is_tcp:
            _U4.pack_into(made, start + _TCP_SEQ, seq + off - begin & _MASK)
            without = 0 if off + size >= end else _LAST_ONLY
            if number:
                without |= _FIRST_ONLY
            made[start + _TCP_FLAGS] = flags & ~without
        else:
            _U2.pack_into(made, start + _UDP_LENGTH, length - start)
        _U2.pack_into(made, check_at, (pseudo + length - start) % inet.MODULUS)
        complete(made, start, header.csum_offset)
        frames.append(made)
    return frames
