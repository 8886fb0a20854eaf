"""Split virtqueues and the features of a virtio network device (virtio 1.2, sections 2.7, 5.1.3 and 6).

A virtqueue of N entries has three areas in guest memory. N is a power of two. Numbers are little-endian. (A
driver from before version 1 uses the byte order of the guest. This program runs on little-endian machines.)

::

    descriptor table, N x 16 bytes   address 8 | length 4 | flags 2 | next 2
    available ring                   flags 2 | index 2 | heads N x 2 | used_event 2
    used ring                        flags 2 | index 2 | (head 4 | length 4) x N | avail_event 2

The driver writes the first two areas, the device writes the third. A *chain* of descriptors is one buffer. An
*indirect* descriptor refers to a table of descriptors, which is a chain. Both indices count up, modulo 2**16.
"""

from struct import Struct
from typing import Final

from pipeline.wire import offload

DESCRIPTOR: Final = Struct("<QIHH")
DESCRIPTOR_LEN: Final[int] = DESCRIPTOR.size
USED_LEN: Final = 8
RING_HEADER_LEN: Final = 4
HEAD_LEN: Final = 2
MAX_SIZE: Final = 32768
"""The largest number of entries."""

NEXT: Final = 1
WRITE: Final = 2
INDIRECT: Final = 4
"""Flags of a descriptor: the chain goes on; the device writes; the memory is a table."""

NO_INTERRUPT: Final = 1
"""Flag of the available ring, without EVENT_IDX: the driver needs no call."""
NO_NOTIFY: Final = 1
"""Flag of the used ring, without EVENT_IDX: the device needs no kick."""

TABLE_ALIGN: Final = 16
AVAIL_ALIGN: Final = 2
USED_ALIGN: Final = 4

F_CSUM: Final = 1 << 0
F_GUEST_CSUM: Final = 1 << 1
F_MTU: Final = 1 << 3
F_GUEST_TSO4: Final = 1 << 7
F_GUEST_TSO6: Final = 1 << 8
F_HOST_TSO4: Final = 1 << 11
F_HOST_TSO6: Final = 1 << 12
F_MRG_RXBUF: Final = 1 << 15
F_MQ: Final = 1 << 22
F_ANY_LAYOUT: Final = 1 << 27
F_INDIRECT_DESC: Final = 1 << 28
F_EVENT_IDX: Final = 1 << 29
F_PROTOCOL_FEATURES: Final = 1 << 30
"""Not of the device: the frontend may ask for protocol features (vhost-user)."""
F_VERSION_1: Final = 1 << 32
F_GUEST_USO4: Final = 1 << 54
F_GUEST_USO6: Final = 1 << 55
F_HOST_USO: Final = 1 << 56

NET_CONFIG: Final = Struct("<6sHHH")
"""The device's configuration space: MAC address, status, pairs of queues, MTU."""
STATUS_LINK_UP: Final = 1

_FROM_GUEST: Final = (
    (F_CSUM, offload.CSUM),
    (F_HOST_TSO4, offload.TSO4),
    (F_HOST_TSO6, offload.TSO6),
    (F_HOST_USO, offload.USO4 | offload.USO6),
)
_TO_GUEST: Final = (
    (F_GUEST_CSUM, offload.CSUM),
    (F_GUEST_TSO4, offload.TSO4),
    (F_GUEST_TSO6, offload.TSO6),
    (F_GUEST_USO4, offload.USO4),
    (F_GUEST_USO6, offload.USO6),
)


def avail_len(size: int) -> int:
    """Bytes of the available ring of a queue."""
    return RING_HEADER_LEN + size * HEAD_LEN + 2


def used_len(size: int) -> int:
    """Bytes of the used ring of a queue."""
    return RING_HEADER_LEN + size * USED_LEN + 2


def left_to_us(features: int) -> int:
    """The work that the guest may leave to us (pipeline.wire.offload), by the device's features."""
    return _translate(features, _FROM_GUEST)


def left_to_guest(features: int) -> int:
    """The work that we may leave to the guest."""
    return _translate(features, _TO_GUEST)


def _translate(features: int, table: tuple[tuple[int, int], ...]) -> int:
    found = 0
    for theirs, ours in table:
        if features & theirs:
            found |= ours
    return found
