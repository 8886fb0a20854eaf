"""How records hold addresses: an IP address as one number, a MAC address as two."""

from typing import TypeAlias

Addr: TypeAlias = int
"""An IP address as a number, in host order. 0 means that there is none.

All are IPv4 today. An IPv6 address would be a number of 128 bits: code that only compares, stores or passes
on an Addr would not change. Only the layouts of this package know how many bytes an address takes.
"""


def mac_numbers(mac: bytes) -> tuple[int, int]:
    """The first four bytes and the last two of a MAC, each as a big-endian number."""
    number = int.from_bytes(mac, "big")
    return number >> 16, number & 0xFFFF


def mac_bytes(high: int, low: int) -> bytes:
    """The MAC of these two numbers: the inverse of mac_numbers()."""
    return (high << 16 | low).to_bytes(6, "big")
