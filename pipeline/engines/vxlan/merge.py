"""Merges the TCP segments of a train of datagrams into super-segments, as a network card does (LRO).

The kernel hands over equally long datagrams that arrived together as one *train* (UDP_GRO). If their frames
are consecutive segments of one flow, GRO finds that and verifies their checksums
(pipeline.engines.offload.gro). This module then moves their payloads together, so that one frame with a
virtio-net header remains, with the checksum left to its receiver. A guest with offload takes it as it is.

Every frame of the result has a virtio-net header of 12 bytes right before it. Between the frames of a train
there are only the 8 bytes of the tunnel's header, so frames that were not merged move apart::

    before    ....|8|frame|8|frame|8|frame|8|frame|
    after     |12|frame with the payload of the first three|..|12|frame|
"""

from struct import Struct
from typing import Final

import numpy as np

from pipeline.engines.offload import checksum as inet
from pipeline.engines.offload import gro
from pipeline.engines.offload.burst import Item
from pipeline.engines.offload.headers import (
    ETHERNET_LEN,
    IPV4_CHECK_OFF,
    IPV4_LEN,
    IPV6_LEN,
    IPV6_LENGTH_OFF,
    L4_OFF,
    L4_OFF6,
    TCP_CHECK,
    TCP_FLAGS,
    TOTAL_OFF,
    TYPE_OFF,
)
from pipeline.records.frames import Frame
from pipeline.records.tcp import TcpRange
from pipeline.wire import ethernet, virtio_net
from pipeline.wire.ipv4 import PROTO_TCP

VNET_LEN: Final[int] = virtio_net.LONG_LEN
MIN_SIZE: Final = 48
"""The least payload of a segment that is merged. Receivers of super-segments take no smaller one."""
MAX_FRAMES: Final = 256
"""The most frames of a train, twice as many as Linux makes. Further ones are dropped."""
RESERVE: Final = MAX_FRAMES * 4
"""Bytes after a train that must be free, since its frames may move apart by 4 bytes each."""
DROP_TOO_MANY: Final = "vxlan_frame_dropped_no_room"

_NOTHING_KNOWN: Final = bytes(VNET_LEN)
_VERIFIED: Final = virtio_net.build(virtio_net.Header(flags=virtio_net.DATA_VALID), VNET_LEN)
_U2: Final = Struct("!H")
_U1: Final = np.dtype("u1")

_ndarray = np.ndarray
_or = np.bitwise_or.reduce
_IPV4: Final = ethernet.TYPE_IPV4 >> 8

Places = list[tuple[int, int]]
"""(offset, length) of frames."""
_Found = tuple[int, int, bytes]
"""Offset, length, virtio-net header."""


def count_alike(view: memoryview, at: int, size: int, count: int, length: int) -> int:
    """How many of count datagrams of size bytes at ``at`` begin with the same bytes as the first.

    length: how many bytes that are. They lie in the view. Those after the first that differs do not count.
    """
    length = min(length, size)
    rows = _ndarray((count, length), _U1, view, at, (size, 1))
    different = _or(rows ^ rows[0], 1).nonzero()[0]
    return int(different[0]) if len(different) else count


def merge(view: memoryview, frames: Places) -> tuple[Places, dict[str, int]]:
    """Merge the frames of one train, and put a virtio-net header before each.

    The 12 bytes before the first frame must be free, and RESERVE bytes after the last. Returns the places,
    and the number of dropped frames by the name of the counter. Whatever the bytes are, nothing is raised.
    """
    if len(frames) < 2:
        for off, _ in frames:
            view[off - VNET_LEN : off] = _NOTHING_KNOWN
        return frames, {}
    items, drops = gro.coalesce(view, frames, ipv6=True)
    found: list[_Found] = []
    for item in items:
        found += _frames_of(view, item)
    found.sort()
    if len(found) > MAX_FRAMES:
        drops[DROP_TOO_MANY] = len(found) - MAX_FRAMES
        del found[MAX_FRAMES:]
    return _spread(view, found), drops


def _frames_of(view: memoryview, item: Item) -> list[_Found]:
    """The frames that a record of GRO stands for."""
    if isinstance(item, Frame):
        return [(item.off, item.length, _NOTHING_KNOWN)]
    header_len = item.header_len
    if isinstance(item, TcpRange) and item.stride and MIN_SIZE <= item.piece_size < item.length:
        return [_joined(view, item)]
    return [(begin - header_len, header_len + end - begin, _VERIFIED) for begin, end in item.piece_bounds()]


def _joined(view: memoryview, run: TcpRange) -> _Found:
    """Move the payloads of a run together, and make one super-segment of it."""
    size = run.piece_size
    full = run.length // size
    rows = _ndarray((full, size), _U1, view, run.off, (run.stride, 1))
    # numpy sees that both overlap, and copies the source first.
    _ndarray((full, size), _U1, view, run.off)[:] = rows
    rest = run.length - full * size
    if rest:
        last, at = run.off + full * run.stride, run.off + full * size
        view[at : at + rest] = view[last : last + rest]
    begin = run.off - run.header_len
    length = run.header_len + run.length
    if view[begin + TYPE_OFF] == _IPV4:
        l4_off, gso_type = L4_OFF, virtio_net.GSO_TCPV4
        check = begin + IPV4_CHECK_OFF
        _U2.pack_into(view, begin + TOTAL_OFF, length - ETHERNET_LEN)
        _U2.pack_into(view, check, 0)
        _U2.pack_into(view, check, inet.checksum(view, begin + ETHERNET_LEN, IPV4_LEN))
        addresses = view[begin + l4_off - 8 : begin + l4_off]
    else:
        l4_off, gso_type = L4_OFF6, virtio_net.GSO_TCPV6
        _U2.pack_into(view, begin + IPV6_LENGTH_OFF, length - ETHERNET_LEN - IPV6_LEN)
        addresses = view[begin + l4_off - 32 : begin + l4_off]
    view[begin + l4_off + TCP_FLAGS] = run.flags
    pseudo = int.from_bytes(addresses, "big") + PROTO_TCP + length - l4_off
    _U2.pack_into(view, begin + l4_off + TCP_CHECK, pseudo % inet.MODULUS or inet.MODULUS)
    header = virtio_net.Header(
        flags=virtio_net.NEEDS_CSUM,
        gso_type=gso_type,
        hdr_len=run.header_len,
        gso_size=run.piece_size,
        csum_start=l4_off,
        csum_offset=TCP_CHECK,
    )
    return begin, length, virtio_net.build(header, VNET_LEN)


def _spread(view: memoryview, found: list[_Found]) -> Places:
    """Move frames so that each has room for its header, and write the headers."""
    places: Places = []
    free = 0
    for off, length, _ in found:
        at = max(off, free + VNET_LEN)
        places.append((at, length))
        free = at + length
    # From the last to the first, since frames only move towards the end.
    for index in range(len(found) - 1, -1, -1):
        off, length, header = found[index]
        at = places[index][0]
        if at != off:
            view[at : at + length] = view[off : off + length]
        view[at - VNET_LEN : at] = header
    return places
