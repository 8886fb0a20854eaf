"""Frames behind virtio-net headers: which header is true, and what is left to do for its frame.

A guest that offloads leaves checksums to us and sends up to 64 KiB of payload as one
*super-segment*. Such a frame is as good as a received run, so GRO (pipeline.engines.gro)
describes it like any other, only unverified. What happens to which header:

==========================================================  ======================================
header and frame                                            becomes
==========================================================  ======================================
all zero                                                    as without a header: sums are verified
DATA_VALID                                                  the sender vouches: nothing is verified
NEEDS_CSUM, TCP or UDP, plain IPv4                          stays so; nobody sums it in this program
NEEDS_CSUM, anything else, UDP to a group, no hop left      completed in place, header zeroed
super-segment of TCP, plain IPv4                            one range; stays so for other guests
super-segment of TCP over IPv6                              a frame that stays so for other guests
super-segment of UDP, plain IPv4, not to a group            one run of datagrams; cut for other guests
super-segment of TCP behind IPv4 options, or of UDP else    cut into frames at once
super-segment over IPv4 without a hop left (TTL 0 or 1)     the same: demux answers it
a type not agreed on, or fields that deny the frame         dropped and counted
==========================================================  ======================================

Before all that, untag() removes the priority tags of a frame, and its header then counts from the new start.

Plain IPv4 is a header of 20 bytes and no fragment. The header, 12 bytes, lies right before each
frame and stays there for whoever forwards the frame (pipeline.shm.descriptor, FRAME_VNET and
RUN_VNET). num_buffers is not looked at, hdr_len is a hint that must not exceed the frame.
"""

from collections.abc import Callable
from struct import Struct
from typing import Final

from pipeline.engines.offload import gro, gro_udp, tso
from pipeline.engines.offload.gro import Item
from pipeline.wire import ethernet, ipv4, offload, tcp, virtio_net
from pipeline.wire.errors import WireError
from pipeline.wire.virtio_net import (
    DATA_VALID,
    GSO_NONE,
    GSO_TCPV4,
    GSO_TCPV6,
    GSO_UDP_L4,
    NEEDS_CSUM,
    Header,
)

FRAME_VNET: Final = 2
RUN_VNET: Final = 0x400
"""Bits of flags and aux; the numbers are those of pipeline.shm.descriptor (a test holds them together)."""
VNET_LEN: Final = offload.VNET_LEN
MIN_TCP_GSO_SIZE: Final = 48
"""No TCP has smaller segments for long (Linux: TCP_MIN_SND_MSS), and each piece costs a frame."""
MAX_DATAGRAMS: Final = 128
"""Datagrams in one super-segment of UDP (Linux: UDP_MAX_SEGMENTS)."""
DROP_BAD: Final = "link_frame_dropped_bad_vnet_header"
DROP_NO_SLOT: Final = "link_frame_dropped_no_slot"

VERIFY: Final = 0
VOUCHED: Final = 1
CUT: Final = 2
DATAGRAMS: Final = 3
"""What judge() says: sums are to be verified, are not, the frame is to be cut, or is a run of datagrams."""

_HEADER: Final = virtio_net.LONG
_GSO_SIZE: Final = Struct("<H")
# Destination | EtherType | IPv4: version and length, total length, fragment field, TTL and protocol
_FRAME: Final = Struct("!6s6xHBxH2xHH")
_IPV4_OFF: Final = 14
_PLAIN_L4: Final = _IPV4_OFF + ipv4.HEADER_LEN
_IPV4: Final = 0x0800
_IPV6: Final = 0x86DD
_IPV6_L4: Final = _IPV4_OFF + 40
_FRAGMENT: Final = 0x3FFF
_FLOW_OFF: Final = 26
_FLOW: Final = Struct("!III")
"""Addresses and ports."""
_UDP_LEN_OFF: Final = 38
_BIG2: Final = Struct("!H")
_TCP: Final = 6
_UDP: Final = 17
_UDP_LEN: Final = 8
_CSUM_OFFSETS: Final = {_TCP: tcp.CHECKSUM_OFFSET, _UDP: 6}
_CSUM_OFFSETS_BY_TTL: Final = {
    ttl << 8 | proto: offset for proto, offset in _CSUM_OFFSETS.items() for ttl in range(gro.MIN_TTL, 256)
}
"""The same by TTL and protocol, for what has a hop left."""
_IPV6_FIELDS: Final = Struct("!HB")

_unpack_header = _HEADER.unpack_from
_unpack_frame = _FRAME.unpack_from

Place = Callable[[bytes | bytearray], tuple[int, int] | None]
"""Stores a frame in a slot with a reference of its own: (slot, off), or None without a free slot."""


def untag(view: memoryview, frames: list[tuple[int, int]]) -> None:
    """Remove the priority tags of frames behind headers, in the slot and in the list."""
    for index, (off, length) in enumerate(frames):
        if length > _IPV4_OFF and view[off + 12] in ethernet.TAG_FIRST_BYTES:
            removed = ethernet.remove_priority_tags(view, off, length, VNET_LEN)
            if removed:
                off += removed
                frames[index] = off, length - removed
                flags, gso_type, hdr_len, gso_size, csum_start, csum_offset, buffers = _unpack_header(
                    view, off - VNET_LEN
                )
                # What counted from before the tag is a lie, which judge() will find.
                hdr_len, csum_start = max(hdr_len - removed, 0), max(csum_start - removed, 0)
                _HEADER.pack_into(
                    view, off - VNET_LEN, flags, gso_type, hdr_len, gso_size, csum_start, csum_offset, buffers
                )


def receive(
    view: memoryview, frames: list[tuple[int, int]], link: int, slot: int, features: int, place: Place
) -> tuple[list[Item], dict[str, int]]:
    """gro.coalesce() for frames [(off, len)] with a header in the 12 bytes before each.

    features: what was agreed on (pipeline.wire.offload). Items whose slot is ``slot`` stand for a
    reference to it each; others for the one that place() took. Whatever the bytes are, nothing is raised.
    """
    items: list[Item] = []
    drops: dict[str, int] = {}
    group: list[tuple[int, int]] = []
    verify = True
    supers = False
    for off, length in frames:
        fields = _unpack_header(view, off - VNET_LEN)
        verdict = VERIFY
        if fields[0] or fields[1]:
            try:
                verdict = judge(view, off, length, fields, features)
            except WireError as error:
                drops[error.reason] = drops.get(error.reason, 0) + 1
                continue
        if group and (verdict >= CUT or verify != (verdict == VERIFY)):
            _describe(view, group, link, slot, verify, supers, items, drops)
            group = []
            supers = False
        if verdict == CUT:
            _cut(view[off : off + length], Header(*fields), link, place, items, drops)
            continue
        if verdict == DATAGRAMS:
            items.append(_run(view, off, length, fields[3], link, slot))
            continue
        verify = verdict == VERIFY
        if fields[1]:
            supers = True
        group.append((off, length))
    if group:
        _describe(view, group, link, slot, verify, supers, items, drops)
    return items, drops


def _describe(
    view: memoryview,
    frames: list[tuple[int, int]],
    link: int,
    slot: int,
    verify: bool,
    supers: bool,
    items: list[Item],
    drops: dict[str, int],
) -> None:
    """Add what GRO makes of frames with equal verdicts. supers: there are super-segments among them."""
    found, dropped = gro.coalesce(view, frames, link, slot, verify, FRAME_VNET, RUN_VNET)
    items += [_counted(view, item) for item in found] if supers else found
    for reason, count in dropped.items():
        drops[reason] = drops.get(reason, 0) + count


def _counted(view: memoryview, item: Item) -> Item:
    """The item with the number of segments that its super-segments stand for."""
    if item[0] == gro.FRAME or not item[7]:
        return item
    (gso_size,) = _GSO_SIZE.unpack_from(view, item[6] - (item[18] & 0xFF) - VNET_LEN + 4)
    return (*item[:9], -(-item[7] // gso_size), *item[10:]) if gso_size else item


def _run(view: memoryview, off: int, length: int, size: int, link: int, slot: int) -> Item:
    """The run of datagrams of size bytes that a super-segment is: their payloads lie side by side."""
    payload = length - gro_udp.HEADERS_LEN
    count = -(-payload // size)
    src, dst, ports = _FLOW.unpack_from(view, off + _FLOW_OFF)
    return (
        gro_udp.UDP_RANGE, 0, link, size if count > 1 else 0, min(size, payload), slot,
        off + gro_udp.HEADERS_LEN, payload, 0, count, 0, 0, 0, 0, 0, src, dst, ports,
        gro_udp.HEADERS_LEN | RUN_VNET,
    )  # fmt: skip


def _cut(
    frame: memoryview, header: Header, link: int, place: Place, items: list[Item], drops: dict[str, int]
) -> None:
    """Add the frames that a super-segment stands for, each in the place that it is given."""
    for made in tso.cut(frame, header):
        where = place(made)
        if where is None:
            drops[DROP_NO_SLOT] = drops.get(DROP_NO_SLOT, 0) + 1
        else:
            items.append(
                (gro.FRAME, 0, link, 0, 0, where[0], where[1], len(made), 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0)
            )


def judge(
    view: memoryview, off: int, length: int, header: tuple[int, int, int, int, int, int, int], features: int
) -> int:
    """What is to be done with the frame at off, whose header is not all zero: one of the above.

    header: the fields of virtio_net.Header. May complete a checksum in place and zero them. Raises
    WireError for a header that is not true of its frame.
    """
    flags, gso_type, hdr_len, gso_size, csum_start, csum_offset, _ = header
    if flags & ~(NEEDS_CSUM | DATA_VALID) or hdr_len > length:
        raise WireError(DROP_BAD)
    if not flags & NEEDS_CSUM:
        if gso_type:
            raise WireError(DROP_BAD)
        return VOUCHED
    if csum_start < _IPV4_OFF or csum_start + csum_offset + 2 > length or length < _PLAIN_L4:
        raise WireError(DROP_BAD)
    dst, ethertype, version, total, fragment, ttl_proto = _unpack_frame(view, off)
    if gso_type != GSO_NONE:
        return _judge_super(
            view, off, length, gso_type, gso_size, csum_start, csum_offset,
            features, dst[0] & 1, ethertype, version, total, fragment, ttl_proto,
        )  # fmt: skip
    plain = (
        ethertype == _IPV4
        and version == 0x45
        and not fragment & _FRAGMENT
        and total + _IPV4_OFF == length
        and ttl_proto in _CSUM_OFFSETS_BY_TTL
    )
    if plain:
        if csum_start != _PLAIN_L4 or csum_offset != _CSUM_OFFSETS_BY_TTL[ttl_proto]:
            raise WireError(DROP_BAD)
        if csum_offset == tcp.CHECKSUM_OFFSET or not dst[0] & 1:
            return VOUCHED
    tso.complete(view[off : off + length], csum_start, csum_offset)
    view[off - VNET_LEN : off] = bytes(VNET_LEN)
    return VERIFY


def _judge_super(
    view: memoryview, off: int, length: int, gso_type: int, gso_size: int, start: int, csum_offset: int,
    features: int, to_group: int, ethertype: int, version: int, total: int, fragment: int, ttl_proto: int,
) -> int:  # fmt: skip
    """judge() for a super-segment with a checksum inside the frame."""
    proto = ttl_proto & 0xFF
    last_hop = ethertype == _IPV4 and ttl_proto >> 8 < gro.MIN_TTL
    if ethertype == _IPV4:
        l4 = _IPV4_OFF + (version & 15) * 4
        if (
            version >> 4 != 4
            or l4 < _PLAIN_L4
            or start != l4
            or fragment & _FRAGMENT
            or total + _IPV4_OFF != length
        ):
            raise WireError(DROP_BAD)
        wanted = {GSO_TCPV4: offload.TSO4, GSO_UDP_L4: offload.USO4}.get(gso_type, 0)
    elif ethertype == _IPV6:
        if length < _IPV6_L4 or version >> 4 != 6 or start < _IPV6_L4:
            raise WireError(DROP_BAD)
        payload_len, next_header = _IPV6_FIELDS.unpack_from(view, off + _IPV4_OFF + 4)
        if payload_len + _IPV6_L4 != length:
            raise WireError(DROP_BAD)
        # Behind extension headers the type has to be believed: the guest's kernel has walked them.
        proto = next_header if start == _IPV6_L4 else _UDP if gso_type == GSO_UDP_L4 else _TCP
        wanted = {GSO_TCPV6: offload.TSO6, GSO_UDP_L4: offload.USO6}.get(gso_type, 0)
    else:
        wanted = 0
    if not wanted & features:
        raise WireError(DROP_BAD)
    if gso_type == GSO_UDP_L4:
        payload = length - start - _UDP_LEN
        fits = proto == _UDP and 0 < payload <= gso_size * MAX_DATAGRAMS
    else:
        header_len = (view[off + start + 12] >> 4) * 4 if length >= start + tcp.HEADER_LEN else 0
        payload = length - start - header_len
        fits = (
            proto == _TCP
            and header_len >= tcp.HEADER_LEN
            and payload > 0
            and gso_size >= MIN_TCP_GSO_SIZE
            and not to_group
        )
    if not fits or csum_offset != _CSUM_OFFSETS[proto]:
        raise WireError(DROP_BAD)
    if gso_type == GSO_UDP_L4 and start == _PLAIN_L4 and ethertype == _IPV4 and not to_group:
        udp_len = _BIG2.unpack_from(view, off + _UDP_LEN_OFF)[0]
        return DATAGRAMS if not last_hop and udp_len == payload + _UDP_LEN else CUT
    if gso_type == GSO_UDP_L4 or (gso_type == GSO_TCPV4 and (start != _PLAIN_L4 or last_hop)):
        return CUT
    return VOUCHED
