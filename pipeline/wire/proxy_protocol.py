"""Headers of the PROXY protocol, versions 1 and 2: they name the original client of a forwarded connection.

The proxy sends the header once, before the first byte of the connection. This module makes headers and parses
none. Version 1 is a line of text, version 2 is binary::

    0                 12       13      14      16
    signature (12)    ver|cmd  family  length  addresses: source, destination, ports

Both addresses have 4 bytes, or both have 16.
"""

from struct import Struct
from typing import Final

SIGNATURE: Final = b"\r\n\r\n\0\r\nQUIT\n"
FIXED: Final = Struct("!12sBBH")
PORTS: Final = Struct("!HH")

PROXY: Final = 0x21
"""Version 2, command PROXY."""
UNSPECIFIED: Final = 0x00
TCP4: Final = 0x11
TCP6: Final = 0x21


def build(version: int, src: bytes, src_port: int, dst: bytes, dst_port: int) -> bytes:
    """The header for a TCP connection from src to dst. version: 1 or 2."""
    if version == 1:
        kind = "TCP4" if len(src) == 4 else "TCP6"
        return f"PROXY {kind} {_text(src)} {_text(dst)} {src_port} {dst_port}\r\n".encode()
    addresses = src + dst + PORTS.pack(src_port, dst_port)
    family = TCP4 if len(src) == 4 else TCP6
    return FIXED.pack(SIGNATURE, PROXY, family, len(addresses)) + addresses


def build_unknown(version: int) -> bytes:
    """The header for a connection whose ends have no IP addresses. version: 1 or 2."""
    if version == 1:
        return b"PROXY UNKNOWN\r\n"
    return FIXED.pack(SIGNATURE, PROXY, UNSPECIFIED, 0)


def _text(addr: bytes) -> str:
    if len(addr) == 4:
        return ".".join(map(str, addr))
    return ":".join(f"{addr[at] << 8 | addr[at + 1]:x}" for at in range(0, 16, 2))
