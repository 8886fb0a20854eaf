"""The virtio-net header: which work the sender of a frame leaves to the receiver (virtio 1.2, 5.1.6).

It precedes each frame on a tap opened with IFF_VNET_HDR, and on links whose ends agreed to offload. Fields
are little-endian. The 12-byte form ends with num_buffers. The 10-byte form, the tap's default, does not.

::

    0      1         2        4         6           8            10
    flags  gso_type  hdr_len  gso_size  csum_start  csum_offset  num_buffers
"""

from struct import Struct
from typing import Final, NamedTuple

from pipeline.wire.errors import WireError

SHORT: Final = Struct("<BBHHHH")
LONG: Final = Struct("<BBHHHHH")
SHORT_LEN: Final[int] = SHORT.size
LONG_LEN: Final[int] = LONG.size

NEEDS_CSUM: Final = 1
"""The checksum at csum_start + csum_offset holds only the pseudo-header's sum."""
DATA_VALID: Final = 2
"""The sender has verified the checksum."""
RSC_INFO: Final = 4

GSO_NONE: Final = 0
GSO_TCPV4: Final = 1
GSO_UDP: Final = 3
GSO_TCPV6: Final = 4
GSO_UDP_L4: Final = 5
GSO_ECN: Final = 0x80
"""A bit in addition to the GSO type: the segments have ECN marks."""

_GSO_TYPES: Final = frozenset((GSO_NONE, GSO_TCPV4, GSO_UDP, GSO_TCPV6, GSO_UDP_L4))


class Header(NamedTuple):
    """Offsets and lengths are in bytes. csum_start counts from the start of the frame."""

    flags: int = 0
    gso_type: int = GSO_NONE
    hdr_len: int = 0
    gso_size: int = 0
    csum_start: int = 0
    csum_offset: int = 0
    num_buffers: int = 0


def parse(view: memoryview | bytes, off: int, end: int, header_len: int = SHORT_LEN) -> Header:
    """Read and validate the header at off of a frame that ends at end.

    header_len: SHORT_LEN or LONG_LEN. Raises WireError when the header is truncated, or names an unknown GSO
    type, a segment size of zero, or a checksum outside the frame.
    """
    frame_len = end - off - header_len
    if frame_len < 0 or end > len(view) or off < 0:
        raise WireError("link_frame_dropped_bad_vnet_header")
    if header_len == LONG_LEN:
        header = Header(*LONG.unpack_from(view, off))
    else:
        header = Header(*SHORT.unpack_from(view, off))
    gso = header.gso_type & ~GSO_ECN
    if gso not in _GSO_TYPES or (gso != GSO_NONE and header.gso_size == 0):
        raise WireError("link_frame_dropped_bad_vnet_header")
    if header.flags & NEEDS_CSUM and header.csum_start + header.csum_offset + 2 > frame_len:
        raise WireError("link_frame_dropped_bad_vnet_header")
    # hdr_len is only a hint (virtio 1.2, 5.1.6.2), but it must not exceed the frame.
    if gso != GSO_NONE and header.hdr_len > frame_len:
        raise WireError("link_frame_dropped_bad_vnet_header")
    return header


def build(header: Header, header_len: int = SHORT_LEN) -> bytes:
    """The 10 or 12 bytes before the frame."""
    if header_len == LONG_LEN:
        return LONG.pack(*header)
    return SHORT.pack(*header[:6])
