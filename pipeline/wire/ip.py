"""IP addresses of both families: as numbers, and as text.

An address has one type everywhere. An IPv6 address is its number of 128 bits. An IPv4 address is the number
of its IPv4-mapped IPv6 address ``::ffff:a.b.c.d`` (RFC 4291 section 2.5.5.2). So an IPv4 address that a guest
spells as a mapped one is the same number, and no rule can be gone around with it. Numbers of IPv4 addresses
stay below 2**48, which compiled code holds without an object.

0 means that there is no address. On the wire it is 0.0.0.0 or ``::``.

Modulo 0xffff, the number of an address is the sum of its 16-bit words. That also holds for a mapped address
and its four bytes. So checksums need not know the family.
"""

import ipaddress
from typing import Final

NOTHING: Final = 0
"""No address."""
MAPPED: Final = 0xFFFF_0000_0000
"""The number of ``::ffff:0.0.0.0``."""
BROADCAST: Final = MAPPED | 0xFFFFFFFF
"""255.255.255.255"""
NAT64: Final = 0x64FF9B << 96
"""64:ff9b::, the first address of the prefix that embeds IPv4 addresses (RFC 6052 section 2.1)."""

LOOPBACK6: Final = 1
"""::1"""

_IPV4_BITS: Final = 0xFFFFFFFF
_MAX_OCTET: Final = 255
_METADATA6: Final = frozenset(
    (0xFD000EC2 << 96 | 0x254, 0xFD2000CE << 96 | 0x254, 0xFD0000C1 << 96 | 0xA9FE_A9FE)
)
"""fd00:ec2::254 (EC2), fd20:ce::254 (Google Cloud) and fd00:c1::a9fe:a9fe (Oracle Cloud)."""


def of(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> int:
    """The number of an address that the standard library has parsed."""
    return from_ipv4(int(address)) if isinstance(address, ipaddress.IPv4Address) else int(address)


def from_ipv4(bits: int) -> int:
    """The address of these 32 bits."""
    return bits | MAPPED if bits else NOTHING


def to_ipv4(addr: int) -> int:
    """The 32 bits of an IPv4 address, or of no address."""
    return addr & _IPV4_BITS


def ipv4_bytes(addr: int) -> bytes:
    """The four bytes of an IPv4 address, or of no address, as on the wire."""
    return to_ipv4(addr).to_bytes(4, "big")


def packed(addr: int) -> bytes:
    """The 4 bytes of an IPv4 address, or the 16 of an IPv6 address, as on the wire."""
    return ipv4_bytes(addr) if is_ipv4(addr) else addr.to_bytes(16, "big")


def of_packed(raw: bytes) -> int:
    """The address in these 4 or 16 bytes: the inverse of packed()."""
    return from_ipv4(int.from_bytes(raw, "big")) if len(raw) == 4 else int.from_bytes(raw, "big")


def is_ipv4(addr: int) -> bool:
    """Whether this is an IPv4 address."""
    return addr >> 32 == 0xFFFF


def text(addr: int) -> str:
    """The address as text: dotted, or as RFC 5952 has it. ``0.0.0.0`` for no address."""
    if addr and not is_ipv4(addr):
        return str(ipaddress.IPv6Address(addr))
    return f"{addr >> 24 & 255}.{addr >> 16 & 255}.{addr >> 8 & 255}.{addr & 255}"


def full_text(addr: int) -> str:
    """The address as text for calls of the system: an IPv6 address has all its digits.

    text() takes ten times as long for an IPv6 address.
    """
    if addr and not is_ipv4(addr):
        return addr.to_bytes(16, "big").hex(":", 2)
    return text(addr)


def host_port(addr: int, port: int) -> str:
    """Address and port as text, an IPv6 address in brackets."""
    return f"{text(addr)}:{port}" if is_ipv4(addr) or not addr else f"[{text(addr)}]:{port}"


def host_of(text: str) -> str:
    """The address in what host_port() wrote, without brackets; "" if the text has no port."""
    return text.rpartition(":")[0].strip("[]")


def parse(text: str) -> int:
    """The address in a text of either family, as socket calls return it: a zone (``%eth0``) is left out.

    Raises ValueError.
    """
    if ":" in text:
        return int(ipaddress.IPv6Address(text.partition("%")[0]))
    return parse_ipv4(text)


def parse_ipv4(text: str) -> int:
    """The address in a text like ``192.168.127.1``. Raises ValueError, also for leading zeros."""
    value = 0
    parts = text.split(".")
    if len(parts) != 4:
        raise ValueError(f"invalid IP address: {text}")
    for part in parts:
        # C libraries read a number with a leading zero as octal.
        if not (part.isascii() and part.isdigit()) or (part[0] == "0" and len(part) > 1) or len(part) > 3:
            raise ValueError(f"invalid IP address: {text}")
        octet = int(part)
        if octet > _MAX_OCTET:
            raise ValueError(f"invalid IP address: {text}")
        value = value << 8 | octet
    return from_ipv4(value)


def prefix(addr: int, length: int) -> tuple[int, int]:
    """The first and the last address of the network of ``addr``. length: of its prefix, as in its family."""
    host_bits = (32 if is_ipv4(addr) else 128) - length
    first = addr >> host_bits << host_bits
    return first, first | (1 << host_bits) - 1


def network(text: str) -> tuple[int, int]:
    """The first and the last address of a network such as ``10.0.0.0/8``, or twice one address.

    Bits after the prefix are ignored. Raises ValueError.
    """
    found = ipaddress.ip_network(text, strict=False)
    return of(found[0]), of(found[-1])


def inside(addr: int, first: int, last: int) -> bool:
    """Whether the network with these ends has the address. No IPv6 network has an IPv4 address."""
    return first <= addr <= last and is_ipv4(addr) == is_ipv4(last)


def embedded(addr: int) -> int:
    """The IPv4 address that an address of 64:ff9b::/96 stands for (RFC 6052). Any other address is returned.

    Rules judge the result, so that no rule can be gone around with the other spelling.
    """
    return from_ipv4(addr & _IPV4_BITS) if addr >> 32 == NAT64 >> 32 else addr


def as_seen_from(addr: int, guest_addr: int) -> int:
    """How a guest's address of the other family names this address: the inverse of embedded()."""
    if is_ipv4(addr) and not is_ipv4(guest_addr):
        return NAT64 | addr & _IPV4_BITS
    return addr


def is_multicast(addr: int) -> bool:
    """224.0.0.0/4 or ff00::/8."""
    return addr >> 28 == 0xFFFFE or addr >> 120 == 0xFF


def is_loopback(addr: int) -> bool:
    """127.0.0.0/8 or ::1."""
    return addr >> 24 == 0xFFFF7F or addr == LOOPBACK6


def is_link_local(addr: int) -> bool:
    """169.254.0.0/16 (RFC 3927) or fe80::/10."""
    return addr >> 16 == 0xFFFFA9FE or addr >> 118 == 0xFE80 >> 6


def is_metadata(addr: int) -> bool:
    """Where clouds have their metadata service: 169.254.0.0/16, or one of three unique local addresses."""
    return addr >> 16 == 0xFFFFA9FE or addr in _METADATA6


def is_reserved(addr: int) -> bool:
    """No address, 0.0.0.0/8, 240.0.0.0/4, or ::/8 without 64:ff9b::/96 (RFC 4291 section 2.4, RFC 8215).

    ::/8 has many ways to embed an IPv4 address. No host of the Internet has an address in it.
    """
    if is_ipv4(addr):
        return addr >> 24 == 0xFFFF00 or addr >> 28 == 0xFFFFF
    return addr >> 120 == 0 and addr >> 32 != NAT64 >> 32
