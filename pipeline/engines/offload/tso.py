"""What a network card does for a sender: cut a super-segment into frames, complete a checksum.

For frames with a virtio-net header (pipeline.wire.virtio_net) whose receiver does not take
them as they are: TCP over IPv4 or IPv6 (the IPv4 identification counts up, RFC 9293 and 791
headers are patched), and UDP datagrams that were handed over in one piece. This is the slow path of
guest-to-guest traffic. pipeline.engines.offload.gso cuts what this program sends itself.

A frame must have passed pipeline.engines.offload.vnet first: nothing is checked here. Fragments,
tunnels and VLAN tags are not cut.
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
    TYPE_IPV4,
    TYPE_OFF,
    UDP_CHECK,
    UDP_LEN,
)
from pipeline.wire import tcp, virtio_net

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
    """Put the checksum of frame[csum_start:] at csum_offset from there, where the pseudo-header's sum is.

    A result of zero is written as 0xffff for UDP, where zero means that there is no checksum (RFC 768).
    """
    total = inet.word_sum(frame, csum_start, len(frame) - csum_start)
    zero = inet.MODULUS if csum_offset == UDP_CHECK else 0
    # A sum over little-endian words belongs into a little-endian field.
    _LITTLE.pack_into(frame, csum_start + csum_offset, -total % inet.MODULUS or zero)


def cut(frame: memoryview, header: virtio_net.Header) -> list[bytearray]:
    """The frames that a super-segment stands for, each whole with its checksums.

    header: of GSO_TCPV4, GSO_TCPV6 or GSO_UDP_L4, for this frame; csum_start is where TCP or UDP begins.
    """
    start = header.csum_start
    is_tcp = header.gso_type != virtio_net.GSO_UDP_L4
    l4_len = (frame[start + _TCP_OFFSET] >> 4) * 4 if is_tcp else UDP_LEN
    begin = start + l4_len
    head = bytes(frame[:begin])
    check_at = start + header.csum_offset
    # The field has the pseudo-header's sum, in which the length is that of the whole.
    pseudo = _U2.unpack_from(head, check_at)[0] - (len(frame) - start)
    is_ipv4 = _U2.unpack_from(head, TYPE_OFF)[0] == TYPE_IPV4
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
