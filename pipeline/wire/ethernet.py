"""Ethernet II headers and MAC addresses (IEEE 802.3).

A MAC address is ``bytes`` of length 6 everywhere in the program. Frames have no frame check sequence.

::

    0    6    12         14
    dst  src  ethertype  payload

A tag (IEEE 802.1Q) comes before the EtherType: two bytes 0x8100, or 0x88a8 for a service tag (802.1ad),
then priority and VLAN ID. A tag with VLAN ID 0 is a *priority tag*: the frame belongs to no VLAN. As in
Linux, both kinds of priority tag are removed and their priority is ignored. A frame with another VLAN ID
has EtherType 0x8100 or 0x88a8, which the gateway does not know.
"""

import re
from struct import Struct
from typing import Final

from pipeline.wire import ip
from pipeline.wire.errors import WireError

HEADER: Final = Struct("!6s6sH")
HEADER_LEN: Final[int] = HEADER.size
MAC_LEN: Final = 6

BROADCAST: Final[bytes] = b"\xff" * MAC_LEN
ZERO: Final[bytes] = bytes(MAC_LEN)

TYPE_IPV4: Final = 0x0800
TYPE_ARP: Final = 0x0806
TYPE_IPV6: Final = 0x86DD
TYPE_VLAN: Final = 0x8100
TYPE_SERVICE_VLAN: Final = 0x88A8

TAG_LEN: Final = 4
MAX_TAGS: Final = 2
"""Tags of one frame that are read: a service tag and the one inside it. Linux has no such limit."""
TAG_FIRST_BYTES: Final = frozenset((TYPE_VLAN >> 8, TYPE_SERVICE_VLAN >> 8))
"""A frame whose byte 12 is not one of these has no tag."""

_TAG_TYPES: Final = frozenset((TYPE_VLAN, TYPE_SERVICE_VLAN))
_TAG: Final = Struct("!HH")
_VLAN_ID: Final = 0x0FFF
_GROUP_BIT: Final = 0x01
_LOCAL_BIT: Final = 0x02
MAC_PATTERN: Final = "[0-9a-fA-F]{2}(?::[0-9a-fA-F]{2}){5}|[0-9a-fA-F]{2}(?:-[0-9a-fA-F]{2}){5}"
_MAC_TEXT: Final = re.compile(MAC_PATTERN)


def parse_header(view: memoryview | bytes, off: int, end: int) -> tuple[bytes, bytes, int]:
    """Read (dst, src, ethertype) of the frame in view[off:end].

    Raises WireError when the frame is shorter than its header.
    """
    if end - off < HEADER_LEN or end > len(view) or off < 0:
        raise WireError("link_frame_dropped_runt")
    dst, src, ethertype = HEADER.unpack_from(view, off)
    return dst, src, ethertype


def remove_priority_tags(view: memoryview, off: int, length: int, before: int = 0) -> int:
    """Remove the priority tags of the frame at off. Returns the number of bytes by which its start moved.

    The addresses move, and with them the ``before`` bytes right before them. A tag without an EtherType after
    it stays. So does every tag after one with another VLAN ID.
    """
    last = length - TAG_LEN - 2
    removed = 0
    while removed < MAX_TAGS * TAG_LEN and 2 * MAC_LEN + removed <= last:
        kind, control = _TAG.unpack_from(view, off + 2 * MAC_LEN + removed)
        if kind not in _TAG_TYPES or control & _VLAN_ID:
            break
        removed += TAG_LEN
    if removed:
        begin = off - before
        view[begin + removed : off + 2 * MAC_LEN + removed] = bytes(view[begin : off + 2 * MAC_LEN])
    return removed


def network_header(view: memoryview | bytes | bytearray, off: int, end: int) -> tuple[int, int]:
    """(EtherType, offset after it) of the frame in view[off:end], after up to MAX_TAGS tags.

    Returns (0, end) when the frame ends before that.
    """
    at = off + 2 * MAC_LEN
    for _ in range(MAX_TAGS + 1):
        if at + 2 > end:
            break
        kind = view[at] << 8 | view[at + 1]
        if kind not in _TAG_TYPES:
            return kind, at + 2
        at += TAG_LEN
    return 0, end


def header(dst: bytes, src: bytes, ethertype: int) -> bytes:
    """The 14 bytes before the payload."""
    return HEADER.pack(dst, src, ethertype)


def type_of(addr: int) -> int:
    """The EtherType of packets to this IP address."""
    return TYPE_IPV4 if ip.is_ipv4(addr) else TYPE_IPV6


def is_group(mac: bytes) -> bool:
    """Whether mac is the address of a group: multicast or broadcast."""
    return bool(mac[0] & _GROUP_BIT)


def mac_text(mac: bytes) -> str:
    """The text ``5a:94:ef:e4:0c:dd``: lower case, with colons."""
    return mac.hex(":")


def mac_parse(text: str) -> bytes:
    """The six bytes of ``5a:94:ef:e4:0c:dd`` (any case, colons or dashes). ValueError otherwise."""
    if not _MAC_TEXT.fullmatch(text):
        raise ValueError(f"invalid MAC address: {text}")
    return bytes.fromhex(text.replace("-", ":").replace(":", ""))


def machine_mac_parse(text: str) -> bytes:
    """The same for the address of one machine: ValueError also for a group's, and for one of zeros."""
    mac = mac_parse(text)
    if mac[0] & _GROUP_BIT or not any(mac):
        raise ValueError(f"not the MAC address of a machine: {text}")
    return mac


def local_mac(raw: bytes) -> bytes:
    """A locally administered address of a machine, made of six bytes (IEEE 802, section 8.2.2)."""
    return bytes((raw[0] & ~_GROUP_BIT | _LOCAL_BIT, *raw[1:]))
