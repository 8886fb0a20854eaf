"""Ethernet II headers and MAC addresses (IEEE 802.3).

A MAC address is ``bytes`` of length 6 everywhere in the program. Knows no VLAN tag: a
tagged frame is a frame of EtherType 0x8100 and nobody here asks for one. The frame check
sequence is never part of a frame.

::

    0    6    12         14
    dst  src  ethertype  payload
"""

import re
from struct import Struct
from typing import Final

from pipeline.wire.errors import WireError

HEADER: Final = Struct("!6s6sH")
HEADER_LEN: Final[int] = HEADER.size
MAC_LEN: Final = 6

BROADCAST: Final[bytes] = b"\xff" * MAC_LEN
ZERO: Final[bytes] = bytes(MAC_LEN)

TYPE_IPV4: Final = 0x0800
TYPE_ARP: Final = 0x0806

_GROUP_BIT: Final = 0x01
_MAC_TEXT: Final = re.compile(r"[0-9a-fA-F]{2}(?::[0-9a-fA-F]{2}){5}|[0-9a-fA-F]{2}(?:-[0-9a-fA-F]{2}){5}")


def parse_header(view: memoryview | bytes, off: int, end: int) -> tuple[bytes, bytes, int]:
    """Read (dst, src, ethertype) of the frame in view[off:end].

    Raises WireError when the frame is shorter than its header.
    """
    if end - off < HEADER_LEN or end > len(view) or off < 0:
        raise WireError("link_frame_dropped_runt")
    dst, src, ethertype = HEADER.unpack_from(view, off)
    return dst, src, ethertype


def header(dst: bytes, src: bytes, ethertype: int) -> bytes:
    """The 14 bytes before the payload."""
    return HEADER.pack(dst, src, ethertype)


def is_group(mac: bytes) -> bool:
    """Whether mac addresses more than one station (multicast, broadcast included)."""
    return bool(mac[0] & _GROUP_BIT)


def mac_text(mac: bytes) -> str:
    """Lower-case, colons: ``5a:94:ef:e4:0c:dd``."""
    return mac.hex(":")


def mac_parse(text: str) -> bytes:
    """The six bytes of ``5a:94:ef:e4:0c:dd`` (any case, colons or dashes). ValueError otherwise."""
    if not _MAC_TEXT.fullmatch(text):
        raise ValueError(f"invalid MAC address: {text}")
    return bytes.fromhex(text.replace("-", ":").replace(":", ""))
