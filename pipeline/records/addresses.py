"""How records hold addresses: an IP address as one number, a MAC address as two."""

from typing import Final, TypeAlias

Addr: TypeAlias = int
"""An IP address of either family as a number (pipeline.wire.ip). 0 means that there is none.

Only the layouts of this package know how many bytes an address takes.
"""

NO_MAC: Final = bytes(6)
"""No MAC address."""


def addr_bytes(addr: Addr) -> bytes:
    """The 16 bytes of an address in a record: its number, with the least significant byte first."""
    return addr.to_bytes(16, "little")


def addr_of(raw: bytes) -> Addr:
    """The address in these bytes: the inverse of addr_bytes()."""
    return int.from_bytes(raw, "little")


def mac_numbers(mac: bytes) -> tuple[int, int]:
    """The first four bytes and the last two of a MAC, each as a big-endian number."""
    number = int.from_bytes(mac, "big")
    return number >> 16, number & 0xFFFF


def mac_bytes(high: int, low: int) -> bytes:
    """The MAC of these two numbers: the inverse of mac_numbers()."""
    return (high << 16 | low).to_bytes(6, "big")
