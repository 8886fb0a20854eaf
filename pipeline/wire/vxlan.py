"""The VXLAN header (RFC 7348 section 5): 8 bytes before an Ethernet frame in a UDP datagram.

::

    0        1                 4          7
    flags    reserved          VNI        reserved

Of the flags, only I has a meaning: the VNI is valid. A sender writes zero into all reserved bits. A receiver
ignores them.
"""

from struct import Struct
from typing import Final

from pipeline.wire.errors import WireError

PORT: Final = 4789
"""The UDP port that IANA gave to VXLAN."""
HEADER: Final = Struct("!II")
HEADER_LEN: Final[int] = HEADER.size
VALID: Final = 0x08000000
"""The I flag in the first word."""
VNI_SHIFT: Final = 8
"""The VNI is the second word without its last 8 bits."""
MAX_VNI: Final = 0xFFFFFF

OVERHEAD_V4: Final = 20 + 8 + HEADER_LEN + 14
"""Bytes that a packet of a guest grows by over IPv4: outer IP, UDP, VXLAN, and the frame's own header."""
OVERHEAD_V6: Final = 40 + 8 + HEADER_LEN + 14
"""The same over IPv6."""


def build(vni: int) -> bytes:
    """The header of all frames of a network. Raises ValueError for a number that no network can have."""
    if not 0 <= vni <= MAX_VNI:
        raise ValueError(f"no VNI is {vni}")
    return HEADER.pack(VALID, vni << VNI_SHIFT)


def parse(view: memoryview | bytes, off: int, end: int) -> int:
    """The VNI of the datagram in view[off:end]. Raises WireError without a whole header or the I flag."""
    if off < 0 or end - off < HEADER_LEN or end > len(view):
        raise WireError("vxlan_datagram_dropped_truncated")
    flags, vni = HEADER.unpack_from(view, off)
    if not flags & VALID:
        raise WireError("vxlan_datagram_dropped_no_vni")
    return int(vni >> VNI_SHIFT)
