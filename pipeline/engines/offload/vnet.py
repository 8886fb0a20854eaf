"""Receives frames with virtio-net headers: checks each header, and does what its frame still needs.

A guest that uses offload leaves checksums to the gateway and sends up to 64 KiB of payload as one
*super-segment*. GRO (pipeline.engines.offload.gro) treats it like a run that is merged already, and does not
verify its checksum. What happens to a frame:

==========================================================  ======================================
header and frame                                            result
==========================================================  ======================================
all zero                                                    as without a header: sums are verified
DATA_VALID                                                  the sender has verified: nothing to do
NEEDS_CSUM, TCP or UDP, plain                               unchanged; no reader here sums the frame
NEEDS_CSUM, anything else, UDP to a group, no hop left      completed in place, header zeroed
super-segment of TCP, plain                                 one range; unchanged for other guests
super-segment of TCP over IPv6, not plain or IPv6 is off    an unchanged frame for other guests
super-segment of UDP, plain, not to a group                 one run of datagrams; cut for other guests
super-segment of TCP after IPv4 options, any other of UDP   cut into frames at once
super-segment without a hop left (TTL 0 or 1)               the same: demux answers it
UDP datagram longer than the MTU (UFO), not cut             completed in place, header zeroed
a type not agreed on, or fields that contradict the frame   dropped and counted
==========================================================  ======================================

Before that, untag() removes the priority tags of a frame. The offsets in the header then count from the new
start.

*Plain* is IPv4 with a header of 20 bytes that is not a fragment, and IPv6 as GRO merges it
(pipeline.engines.offload.layouts). While IPv6 is off, no IPv6 packet is plain. The virtio-net header has 12
bytes and lies right before each frame. It stays there for the worker that forwards the frame (``vnet`` in
pipeline.records). num_buffers is ignored. hdr_len is a hint that must not exceed the frame.
"""

from collections.abc import Callable
from struct import Struct
from typing import Final, TypeAlias

from pipeline.engines.offload import gro, tso
from pipeline.engines.offload.burst import Item
from pipeline.engines.offload.headers import (
    ETHERNET_LEN,
    FRAGMENT,
    HOP_LIMIT_OFF,
    IPV6_LENGTH_OFF,
    IPV6_NEXT_OFF,
    L4_OFF,
    L4_OFF6,
    MIN_TTL,
    PROTO_OFF,
    TCP_CHECK,
    TTL_OFF,
    TYPE_OFF,
    UDP_CHECK,
    UDP_LEN,
    UDP_LENGTH,
)
from pipeline.engines.offload.layouts import IPV4, IPV6, Layout
from pipeline.records.flows import FlowKey
from pipeline.records.frames import Frame
from pipeline.records.tcp import TcpRange
from pipeline.records.udp import UdpRange
from pipeline.wire import ethernet, offload, tcp, virtio_net
from pipeline.wire.errors import WireError
from pipeline.wire.ipv4 import PROTO_TCP, PROTO_UDP
from pipeline.wire.virtio_net import (
    DATA_VALID,
    GSO_NONE,
    GSO_TCPV4,
    GSO_TCPV6,
    GSO_UDP,
    GSO_UDP_L4,
    NEEDS_CSUM,
    Header,
)

VNET_LEN: Final = offload.VNET_LEN
MIN_TCP_GSO_SIZE: Final = 48
"""No TCP sends smaller segments for long (Linux: TCP_MIN_SND_MSS), and each segment costs a frame."""
MAX_DATAGRAMS: Final = 128
"""Datagrams in one super-segment of UDP (Linux: UDP_MAX_SEGMENTS)."""
DROP_BAD: Final = "link_frame_dropped_bad_vnet_header"
DROP_NO_SLOT: Final = "link_frame_dropped_no_slot"

VERIFY: Final = 0
VOUCHED: Final = 1
CUT: Final = 2
DATAGRAMS: Final = 3
"""Results of judge(): verify the sums, do not verify them, cut the frame, treat it as a run of datagrams."""

_HEADER: Final = virtio_net.LONG
_GSO_SIZE: Final = Struct("<H")
_GSO_SIZE_OFF: Final = 4
# Destination | EtherType | IPv4: version and length, total length, fragment field, TTL and protocol
_FRAME: Final = Struct("!6s6xHBxH2xHH")
_BIG2: Final = Struct("!H")
_PORTS_LEN: Final = 4
_CSUM_OFFSETS: Final = {PROTO_TCP: TCP_CHECK, PROTO_UDP: UDP_CHECK}
_CSUM_OFFSETS_BY_TTL: Final = {
    ttl << 8 | proto: offset for proto, offset in _CSUM_OFFSETS.items() for ttl in range(MIN_TTL, 256)
}
"""The same by TTL << 8 | protocol, for packets that have a hop left."""

Fields: TypeAlias = tuple[int, int, int, int, int, int, int]
"""The fields of a virtio_net.Header, in its order."""
Place: TypeAlias = Callable[[bytes | bytearray], tuple[int, int] | None]
"""Stores a frame in a slot and takes a reference to it. Returns (slot, off), or None if no slot is free."""


def untag(view: memoryview, frames: list[tuple[int, int]]) -> None:
    """Remove the priority tags of frames that have headers, in the slot and in the list."""
    for index, (off, length) in enumerate(frames):
        if length > ETHERNET_LEN and view[off + TYPE_OFF] in ethernet.TAG_FIRST_BYTES:
            removed = ethernet.remove_priority_tags(view, off, length, VNET_LEN)
            if removed:
                off += removed
                frames[index] = off, length - removed
                flags, gso_type, hdr_len, gso_size, csum_start, csum_offset, buffers = _HEADER.unpack_from(
                    view, off - VNET_LEN
                )
                # An offset that pointed before the tag is invalid. judge() refuses it.
                hdr_len, csum_start = max(hdr_len - removed, 0), max(csum_start - removed, 0)
                _HEADER.pack_into(
                    view, off - VNET_LEN, flags, gso_type, hdr_len, gso_size, csum_start, csum_offset, buffers
                )


def receive(
    view: memoryview,
    frames: list[tuple[int, int]],
    link: int,
    slot: int,
    features: int,
    place: Place,
    ipv6: bool = False,
) -> tuple[list[Item], dict[str, int]]:
    """gro.coalesce() for frames [(off, len)] with a header in the 12 bytes before each.

    features: what was agreed on (pipeline.wire.offload). ipv6: as in coalesce(). A record with slot number
    ``slot`` holds a reference to it. Any other record holds the reference that place() took. Whatever the
    bytes are, nothing is raised.
    """
    received = _Received(view, link, slot, ipv6)
    group: list[tuple[int, int]] = []
    verify = True
    supers = False
    for off, length in frames:
        fields = _HEADER.unpack_from(view, off - VNET_LEN)
        verdict = VERIFY
        if fields[0] or fields[1]:
            try:
                verdict = judge(view, off, length, fields, features, ipv6)
            except WireError as error:
                received.drop(error.reason, 1)
                continue
        if group and (verdict >= CUT or verify != (verdict == VERIFY)):
            received.add_group(group, verify, supers)
            group = []
            supers = False
        if verdict == CUT:
            received.add_cut(view[off : off + length], Header(*fields), place)
            continue
        if verdict == DATAGRAMS:
            received.add_datagrams(off, length, fields[3])
            continue
        verify = verdict == VERIFY
        if fields[1]:
            supers = True
        group.append((off, length))
    if group:
        received.add_group(group, verify, supers)
    return received.items, received.drops


class _Received:
    """The records and drops that one call of receive() has made so far."""

    def __init__(self, view: memoryview, link: int, slot: int, ipv6: bool) -> None:
        self._ipv6 = ipv6
        self._view = view
        self._link = link
        self._slot = slot
        self.items: list[Item] = []
        self.drops: dict[str, int] = {}

    def drop(self, reason: str, count: int) -> None:
        """Count dropped frames."""
        self.drops[reason] = self.drops.get(reason, 0) + count

    def add_group(self, frames: list[tuple[int, int]], verify: bool, supers: bool) -> None:
        """Add what GRO makes of frames. verify: as in coalesce(). supers: some are super-segments."""
        found, dropped = gro.coalesce(self._view, frames, self._link, self._slot, verify, True, self._ipv6)
        if supers:
            for item in found:
                if isinstance(item, TcpRange):
                    self._count_segments(item)
        self.items += found
        for reason, count in dropped.items():
            self.drop(reason, count)

    def _count_segments(self, run: TcpRange) -> None:
        """Set the number of segments that a run of super-segments stands for."""
        header = run.off - run.header_len - VNET_LEN
        gso_size: int = _GSO_SIZE.unpack_from(self._view, header + _GSO_SIZE_OFF)[0]
        if run.length and gso_size:
            run.segments = -(-run.length // gso_size)

    def add_datagrams(self, off: int, length: int, size: int) -> None:
        """Add a super-segment of datagrams of size bytes, as a run without gaps between the payloads."""
        layout = _layout_of(self._view, off)
        headers_len = layout.udp_headers_len
        payload = length - headers_len
        self.items.append(
            UdpRange(
                slot=self._slot,
                off=off + headers_len,
                length=payload,
                stride=size if payload > size else 0,
                piece_size=min(size, payload),
                link=self._link,
                key=_key_of(layout, self._view, off),
                vnet=True,
                header_len=headers_len,
            )
        )

    def add_cut(self, frame: memoryview, header: Header, place: Place) -> None:
        """Cut a super-segment, store each frame with place(), and add them."""
        for made in tso.cut(frame, header):
            where = place(made)
            if where is None:
                self.drop(DROP_NO_SLOT, 1)
            else:
                slot, off = where
                self.items.append(Frame(self._link, slot, off, len(made), False))


def judge(view: memoryview, off: int, length: int, header: Fields, features: int, ipv6: bool = False) -> int:
    """What to do with the frame at off, whose header is not all zero: VERIFY, VOUCHED, CUT or DATAGRAMS.

    May complete a checksum in place and zero the header. Raises WireError for a header that contradicts its
    frame.
    """
    flags, gso_type, hdr_len, _, csum_start, csum_offset, _ = header
    if flags & ~(NEEDS_CSUM | DATA_VALID) or hdr_len > length:
        raise WireError(DROP_BAD)
    if not flags & NEEDS_CSUM:
        if gso_type:
            raise WireError(DROP_BAD)
        return VOUCHED
    if csum_start < ETHERNET_LEN or csum_start + csum_offset + 2 > length or length < L4_OFF:
        raise WireError(DROP_BAD)
    if gso_type != GSO_NONE:
        return _judge_super(view, off, length, header, features, ipv6)
    dst, ethertype, version, total, fragment, ttl_proto = _FRAME.unpack_from(view, off)
    plain = (
        ethertype == ethernet.TYPE_IPV4
        and version == 0x45
        and not fragment & FRAGMENT
        and total + ETHERNET_LEN == length
        and ttl_proto in _CSUM_OFFSETS_BY_TTL
    )
    if plain:
        if csum_start != L4_OFF or csum_offset != _CSUM_OFFSETS_BY_TTL[ttl_proto]:
            raise WireError(DROP_BAD)
        if csum_offset == TCP_CHECK or not dst[0] & 1:
            return VOUCHED
    elif ipv6 and ethertype == ethernet.TYPE_IPV6 and _is_plain_ipv6(view, off, length):
        if csum_start != L4_OFF6 or csum_offset != _CSUM_OFFSETS[view[off + IPV6_NEXT_OFF]]:
            raise WireError(DROP_BAD)
        return VOUCHED
    tso.complete(view[off : off + length], csum_start, csum_offset)
    view[off - VNET_LEN : off] = bytes(VNET_LEN)
    return VERIFY


def _judge_super(view: memoryview, off: int, length: int, header: Fields, features: int, ipv6: bool) -> int:
    """The same as judge() for a super-segment. Its checksum field is known to be inside the frame."""
    gso_type, start = header[1], header[4]
    ethertype = view[off + TYPE_OFF] << 8 | view[off + TYPE_OFF + 1]
    plain = False
    if ethertype == ethernet.TYPE_IPV4:
        wanted = _wanted_over_ipv4(view, off, length, gso_type, start)
        proto, last_hop = view[off + PROTO_OFF], view[off + TTL_OFF] < MIN_TTL
        plain = start == L4_OFF
    elif ethertype == ethernet.TYPE_IPV6:
        wanted = _wanted_over_ipv6(view, off, length, gso_type, start)
        if start == L4_OFF6:
            proto = view[off + IPV6_NEXT_OFF]
        else:
            # There are extension headers. The guest's kernel has parsed them, so its type is trusted.
            proto = PROTO_UDP if gso_type == GSO_UDP_L4 else PROTO_TCP
        last_hop = ipv6 and view[off + HOP_LIMIT_OFF] < MIN_TTL
        # GRO finds out by itself whether a super-segment of TCP is plain. To ask here as well costs 0.5 µs.
        plain = gso_type == GSO_UDP_L4 and ipv6 and start == L4_OFF6 and _is_plain_ipv6(view, off, length)
    else:
        raise WireError(DROP_BAD)
    to_group = bool(view[off] & 1)
    if not wanted & features or not _fits(view, off, length, header, proto, to_group):
        raise WireError(DROP_BAD)
    if gso_type == GSO_UDP:
        # One packet of up to 64 KiB. Whoever forwards it cuts it into fragments (stripped.cut).
        tso.complete(view[off : off + length], start, UDP_CHECK)
        view[off - VNET_LEN : off] = bytes(VNET_LEN)
        return VERIFY
    if gso_type == GSO_UDP_L4:
        if not plain or to_group or last_hop:
            return CUT
        udp_len: int = _BIG2.unpack_from(view, off + start + UDP_LENGTH)[0]
        return DATAGRAMS if udp_len == length - start else CUT
    if last_hop or (gso_type == GSO_TCPV4 and not plain):
        return CUT
    return VOUCHED


def _is_plain_ipv6(view: memoryview, off: int, length: int) -> bool:
    """Whether GRO merges the frame at off, of at least L4_OFF bytes, if it is one of IPv6."""
    if length < L4_OFF6 + UDP_LEN or view[off + HOP_LIMIT_OFF] < MIN_TTL:
        return False
    payload_len: int = _BIG2.unpack_from(view, off + IPV6_LENGTH_OFF)[0]
    return (
        view[off + IPV6_NEXT_OFF] in _CSUM_OFFSETS
        and payload_len + L4_OFF6 == length
        and not view[off] & 1
        and view[off + TYPE_OFF : off + TYPE_OFF + 3].tobytes() in IPV6.plain
        and bool(_key_of(IPV6, view, off))
    )


def _layout_of(view: memoryview, off: int) -> Layout:
    """The layout of a plain packet."""
    return IPV6 if view[off + TYPE_OFF] == ethernet.TYPE_IPV6 >> 8 else IPV4


def _key_of(layout: Layout, view: memoryview, off: int) -> FlowKey:
    """The key of the flow of the frame at off. Empty if demux has to judge it."""
    return layout.key(view[off + layout.addresses_off : off + layout.l4_off + _PORTS_LEN].tobytes())


def _wanted_over_ipv4(view: memoryview, off: int, length: int, gso_type: int, start: int) -> int:
    """The feature that an IPv4 super-segment of this type needs, 0 for another type. Raises WireError."""
    _, _, version, total, fragment, _ = _FRAME.unpack_from(view, off)
    l4 = ETHERNET_LEN + (version & 15) * 4
    if (
        version >> 4 != 4
        or l4 < L4_OFF
        or start != l4
        or fragment & FRAGMENT
        or total + ETHERNET_LEN != length
    ):
        raise WireError(DROP_BAD)
    return {GSO_TCPV4: offload.TSO4, GSO_UDP_L4: offload.USO4, GSO_UDP: offload.UFO}.get(gso_type, 0)


def _wanted_over_ipv6(view: memoryview, off: int, length: int, gso_type: int, start: int) -> int:
    """The same over IPv6."""
    if length < L4_OFF6 or view[off + ETHERNET_LEN] >> 4 != 6 or start < L4_OFF6:
        raise WireError(DROP_BAD)
    payload_len: int = _BIG2.unpack_from(view, off + IPV6_LENGTH_OFF)[0]
    if payload_len + L4_OFF6 != length:
        raise WireError(DROP_BAD)
    if gso_type == GSO_UDP and start == L4_OFF6:
        return offload.UFO
    return {GSO_TCPV6: offload.TSO6, GSO_UDP_L4: offload.USO6}.get(gso_type, 0)


def _fits(view: memoryview, off: int, length: int, header: Fields, proto: int, to_group: bool) -> bool:
    """Whether protocol, payload and segment size of a super-segment agree with its type."""
    _, gso_type, _, gso_size, start, csum_offset, _ = header
    if csum_offset != _CSUM_OFFSETS.get(proto, -1):
        return False
    if gso_type == GSO_UDP:
        udp_len: int = _BIG2.unpack_from(view, off + start + UDP_LENGTH)[0]
        return proto == PROTO_UDP and gso_size > 0 and udp_len == length - start
    if gso_type == GSO_UDP_L4:
        return proto == PROTO_UDP and 0 < length - start - UDP_LEN <= gso_size * MAX_DATAGRAMS
    header_len = (view[off + start + 12] >> 4) * 4 if length >= start + tcp.HEADER_LEN else 0
    return (
        proto == PROTO_TCP
        and header_len >= tcp.HEADER_LEN
        and length - start - header_len > 0
        and gso_size >= MIN_TCP_GSO_SIZE
        and not to_group
    )
