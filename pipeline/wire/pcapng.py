"""Blocks of a pcapng capture (draft-ietf-opsawg-pcapng), as little-endian bytes.

::

    type | total length | body, padded to 4 bytes | total length          32 bits each
    0a0d0d0a  section header (SHB)      begins a capture; bytes after it use its byte order
    00000001  interface description (IDB)   one for each guest link; the first is interface 0
    00000006  enhanced packet (EPB)     interface, time, lengths, frame, options

An option is code, length and value, padded to 4 bytes. Times are nanoseconds since 1970 (if_tsresol 9).
"""

from struct import Struct
from typing import Final

SECTION_HEADER: Final = 0x0A0D0D0A
INTERFACE_DESCRIPTION: Final = 1
ENHANCED_PACKET: Final = 6
BYTE_ORDER_MAGIC: Final = 0x1A2B3C4D
LINKTYPE_ETHERNET: Final = 1
SNAPLEN: Final = 262144
"""The longest frame that is kept, unless the reader asks for less."""
HEAD_LEN: Final = 8
"""Bytes of a block's type and total length."""

INBOUND: Final = 1
"""epb_flags: the guest sent the frame."""
OUTBOUND: Final = 2
"""epb_flags: the frame is for the guest."""

_OPT_COMMENT: Final = 1
_SHB_USERAPPL: Final = 4
_IF_NAME: Final = 2
_IF_DESCRIPTION: Final = 3
_IF_MACADDR: Final = 6
_IF_TSRESOL: Final = 9
_NANOSECONDS: Final = b"\x09"
_EPB_FLAGS: Final = 2
_EPB_DROPCOUNT: Final = 4

_BLOCK: Final = Struct("<II")
_U4: Final = Struct("<I")
_OPTION: Final = Struct("<HH")
_SECTION: Final = Struct("<IHHq")
_INTERFACE: Final = Struct("<HHI")
_PACKET: Final = Struct("<IIIIIII")  # type, total length, interface, time (high, low), kept, length
_FLAGS: Final = Struct("<HHI")
_DROPCOUNT: Final = Struct("<HHQ")
_END: Final = bytes(4)
_MAX_TEXT: Final = 0xFFFF

Buffer = bytes | bytearray | memoryview


class BlockError(ValueError):
    """Bytes that are not the head of a block."""


def section_header(application: str) -> bytes:
    """The block that begins a capture. application: the program that writes it."""
    body = _SECTION.pack(BYTE_ORDER_MAGIC, 1, 0, -1) + _text(_SHB_USERAPPL, application) + _END
    return _block(SECTION_HEADER, body)


def interface_description(name: str, description: str, mac: bytes, snaplen: int) -> bytes:
    """The block of an Ethernet interface. mac: 6 bytes, or none if it is not known."""
    body = _INTERFACE.pack(LINKTYPE_ETHERNET, 0, snaplen) + _text(_IF_NAME, name)
    if description:
        body += _text(_IF_DESCRIPTION, description)
    if mac:
        body += _option(_IF_MACADDR, mac)
    return _block(INTERFACE_DESCRIPTION, body + _option(_IF_TSRESOL, _NANOSECONDS) + _END)


def enhanced_packet(
    interface: int, when: int, frame: Buffer, snaplen: int, flags: int, lost: int, comment: str
) -> list[Buffer]:
    """The block of a frame, in pieces that the caller joins.

    when: nanoseconds since 1970. flags: INBOUND or OUTBOUND. lost: frames that are missing before this one.
    """
    kept = frame[:snaplen] if len(frame) > snaplen else frame
    options = _FLAGS.pack(_EPB_FLAGS, 4, flags)
    if lost:
        options += _DROPCOUNT.pack(_EPB_DROPCOUNT, 8, lost)
    if comment:
        options += _text(_OPT_COMMENT, comment)
    pad = -len(kept) % 4
    total = _PACKET.size + len(kept) + pad + len(options) + len(_END) + 4
    high, low = when >> 32 & 0xFFFFFFFF, when & 0xFFFFFFFF
    head = _PACKET.pack(ENHANCED_PACKET, total, interface, high, low, len(kept), len(frame))
    return [head, kept, b"".join((bytes(pad), options, _END, _U4.pack(total)))]


def block_head(data: Buffer) -> tuple[int, int]:
    """(type, total length) of the block that begins with these HEAD_LEN bytes. Raises BlockError."""
    kind, total = _BLOCK.unpack_from(data)
    if total < HEAD_LEN + 4 or total % 4:
        raise BlockError(f"a block of {total} bytes is impossible")
    return kind, total


def _block(kind: int, body: bytes) -> bytes:
    total = HEAD_LEN + len(body) + 4
    return _BLOCK.pack(kind, total) + body + _U4.pack(total)


def _option(code: int, value: bytes) -> bytes:
    return _OPTION.pack(code, len(value)) + value + bytes(-len(value) % 4)


def _text(code: int, text: str) -> bytes:
    return _option(code, text.encode("utf-8", "replace")[:_MAX_TEXT])
