"""Checksums and segmentation for frames whose sender left both to a network card, without virtio-net headers.

The guest's virtio-net card offers checksum and segmentation offload, and the guest uses it. But the virtual
machine monitor (such as libkrun) strips the virtio-net header before it sends the frame to us. So:

- The TCP or UDP checksum field holds the pseudo-header's sum, not complemented, with this segment's length.
- A TCP segment may be longer than the MTU, up to 64 KiB. Its pseudo-header has the length of the whole.
- A UDP datagram may be longer than the MTU, too (UFO). It is one packet, not yet cut into fragments.

For the gateway itself such frames need no work here: GRO completes checksums while it verifies them
(gro_sums). This module is for frames that go to another guest or into a capture. complete() is for the frames
that GRO leaves alone (IPv6, IPv4 options, VLANs), and cut() for those longer than the MTU. Fragments, IPv6
extension headers and other protocols are left alone: senders do not leave their checksums to a card.
"""

from struct import Struct
from typing import Final

from pipeline.engines.offload import checksum as inet
from pipeline.engines.offload import tso
from pipeline.engines.offload.headers import FRAGMENT, IPV6_LEN, TCP_CHECK, UDP_CHECK
from pipeline.wire import ethernet, ipv4, tcp, udp, virtio_net
from pipeline.wire.ipv4 import PROTO_TCP, PROTO_UDP

Buffer = bytes | memoryview

_NETWORKS: Final = frozenset((ethernet.TYPE_IPV4, ethernet.TYPE_IPV6))
_IPV6_FRAGMENT: Final = 44
_FRAGMENT_HEADER: Final = Struct("!BxHI")
_FRAGMENT_HEADER_LEN: Final = 8
_FIELD_OFFSETS: Final = {PROTO_TCP: TCP_CHECK, PROTO_UDP: UDP_CHECK}
_U2: Final = Struct("!H")
_MORE_V4: Final = 0x2000
_MORE_V6: Final = 1
_COPIED: Final = 0x80
"""The bit of an IPv4 option's type that says: copy the option into every fragment."""
_END_OF_OPTIONS: Final = 0
_NO_OPERATION: Final = 1

Place = tuple[int, int, int, int]
"""Start of the TCP or UDP header, end of its payload, protocol, sum of the pseudo-header."""


def complete(view: memoryview | bytearray, off: int, length: int) -> None:
    """Complete the TCP or UDP checksum of the frame at off, if it is partial."""
    kind, begin = ethernet.network_header(view, off, off + length)
    if kind in _NETWORKS:
        complete_packet(view, begin, off + length)


def complete_packet(view: memoryview | bytearray, off: int, end: int) -> None:
    """The same for the IP packet in view[off:end], with or without Ethernet padding."""
    place = _find(view, off, end)
    if place is None:
        return
    start, stop, proto, pseudo = place
    field = start + _FIELD_OFFSETS[proto]
    # The pseudo-header's sum is never zero. A UDP field of zero means that there is no checksum.
    if (view[field] << 8 | view[field + 1]) != (pseudo % inet.MODULUS or inet.MODULUS):
        return
    # A complete checksum may be the same number by chance.
    if not inet.verify(view, start, stop - start, pseudo):
        zero = inet.MODULUS if proto == PROTO_UDP else 0
        inet.complete_partial(view, start, stop - start, pseudo, field, zero)


def can_cut(view: memoryview, off: int, end: int) -> bool:
    """Whether cut() cuts the IP packet in view[off:end] if it is too long, and its checksum is right."""
    return _find(view, off, end) is not None


def cut(frame: memoryview, mtu: int, ident: int) -> list[Buffer]:
    """Cut a frame whose packet is longer than mtu. Returns the frame itself if it need not or cannot be cut.

    The checksum must be complete. TCP becomes segments and UDP fragments, whatever DF says, as with a card.
    ident: the identification of IPv6 fragments. IPv4 fragments keep that of the packet.
    """
    kind, begin = ethernet.network_header(frame, 0, len(frame))
    if len(frame) - begin <= mtu or kind not in _NETWORKS:
        return [frame]
    place = _find(frame, begin, len(frame))
    if place is None or place[1] - begin <= mtu:
        return [frame]
    start, stop, proto, pseudo = place
    # Work on a copy without padding and tags. The tags are inserted again at the end.
    tags = bytes(frame[2 * ethernet.MAC_LEN : begin - 2])
    whole = bytearray(frame[: 2 * ethernet.MAC_LEN])
    whole += frame[begin - 2 : stop]
    start -= len(tags)
    parts: list[bytearray]
    if proto == PROTO_TCP:
        parts = _segments(whole, start, mtu, pseudo)
    elif whole[ethernet.HEADER_LEN] >> 4 == 4:
        parts = _fragments_v4(whole, start, mtu)
    else:
        parts = _fragments_v6(whole, start, mtu, ident)
    if not parts:
        return [frame]
    if not tags:
        return [bytes(part) for part in parts]
    at = 2 * ethernet.MAC_LEN
    return [bytes(part[:at]) + tags + bytes(part[at:]) for part in parts]


def _find(view: memoryview | bytearray, off: int, end: int) -> Place | None:
    """Where the TCP segment or UDP datagram lies in the packet view[off:end]; None if there is none."""
    if end - off < ipv4.HEADER_LEN:
        return None
    version = view[off] >> 4
    if version == 4:
        start = off + (view[off] & 15) * 4
        stop = off + (view[off + 2] << 8 | view[off + 3])
        proto = view[off + 9]
        if start - off < ipv4.HEADER_LEN or (view[off + 6] << 8 | view[off + 7]) & FRAGMENT:
            return None
        addresses = view[off + 12 : off + 20]
    elif version == 6 and end - off >= IPV6_LEN:
        start = off + IPV6_LEN
        stop = start + (view[off + 4] << 8 | view[off + 5])
        proto = view[off + 6]
        addresses = view[off + 8 : off + 40]
    else:
        return None
    if stop > end:
        return None
    if proto == PROTO_TCP:
        if stop - start < tcp.HEADER_LEN:
            return None
    elif proto == PROTO_UDP:
        if stop - start < udp.HEADER_LEN:
            return None
        length = view[start + 4] << 8 | view[start + 5]
        if not udp.HEADER_LEN <= length <= stop - start:
            return None
        stop = start + length
    else:
        return None
    return start, stop, proto, int.from_bytes(addresses, "big") + proto + stop - start


def _segments(whole: bytearray, start: int, mtu: int, pseudo: int) -> list[bytearray]:
    """The TCP segments of a frame; none if header lengths are impossible or the checksum is wrong."""
    header_len = (whole[start + 12] >> 4) * 4
    room = mtu - (start - ethernet.HEADER_LEN) - header_len
    length = len(whole) - start
    if (
        not tcp.HEADER_LEN <= header_len < length
        or room <= 0
        or not inet.verify(whole, start, length, pseudo)
    ):
        return []
    _U2.pack_into(whole, start + TCP_CHECK, pseudo % inet.MODULUS or inet.MODULUS)
    is_v4 = whole[ethernet.HEADER_LEN] >> 4 == 4
    header = virtio_net.Header(
        flags=virtio_net.NEEDS_CSUM,
        gso_type=virtio_net.GSO_TCPV4 if is_v4 else virtio_net.GSO_TCPV6,
        hdr_len=start + header_len,
        gso_size=room,
        csum_start=start,
        csum_offset=TCP_CHECK,
    )
    return tso.cut(memoryview(whole), header)


def _fragments_v4(whole: bytearray, start: int, mtu: int) -> list[bytearray]:
    """The fragments of an IPv4 packet (RFC 791 section 2.3). The first has all options."""
    begin = ethernet.HEADER_LEN
    if (mtu - (start - begin)) // 8 <= 0:
        return []
    parts = []
    header = whole[:start]
    off = start
    while off < len(whole):
        end = off + (mtu - (len(header) - begin)) // 8 * 8
        made = header + whole[off:end]
        more = _MORE_V4 if end < len(whole) else 0
        made[begin] = 0x40 | (len(header) - begin) >> 2
        _U2.pack_into(made, begin + 2, len(made) - begin)
        _U2.pack_into(made, begin + 6, more | (off - start) >> 3)
        made[begin + 10 : begin + 12] = b"\0\0"
        _U2.pack_into(made, begin + 10, inet.checksum(made, begin, len(header) - begin))
        parts.append(made)
        if off == start:
            options = begin + ipv4.HEADER_LEN
            header = whole[:options] + _copied(whole[options:start])
        off = end
    return parts


def _copied(options: bytearray) -> bytearray:
    """The options to copy into each fragment (RFC 791 section 3.1), padded. An invalid length ends them."""
    kept = bytearray()
    at = 0
    while at < len(options) and options[at] != _END_OF_OPTIONS:
        length = 1
        if options[at] != _NO_OPERATION:
            length = options[at + 1] if at + 1 < len(options) else 0
            if length < 2 or at + length > len(options):
                break
            if options[at] & _COPIED:
                kept += options[at : at + length]
        at += length
    return kept + bytes(-len(kept) % 4)


def _fragments_v6(whole: bytearray, start: int, mtu: int, ident: int) -> list[bytearray]:
    """The fragments of an IPv6 packet without extension headers (RFC 8200 section 4.5)."""
    begin = ethernet.HEADER_LEN
    room = (mtu - IPV6_LEN - _FRAGMENT_HEADER_LEN) // 8 * 8
    if room <= 0:
        return []
    proto = whole[begin + 6]
    parts = []
    for off in range(start, len(whole), room):
        more = _MORE_V6 if off + room < len(whole) else 0
        made = whole[:start]
        made += _FRAGMENT_HEADER.pack(proto, off - start | more, ident)
        made += whole[off : off + room]
        made[begin + 6] = _IPV6_FRAGMENT
        _U2.pack_into(made, begin + 4, len(made) - start)
        parts.append(made)
    return parts
