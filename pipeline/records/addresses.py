"""Addresses as records have them."""

from typing import TypeAlias

Addr: TypeAlias = int
"""An IP address as a number, in host order; 0 is "none".

All are IPv4 today. Code that only compares, stores or passes on an Addr needs no change for IPv6, whose
addresses are numbers of 128 bits. Only the layouts of this package know how many bytes an address takes.
"""


def mac_numbers(mac: bytes) -> tuple[int, int]:
    """The first four bytes and the last two of a MAC, each as a big-endian number: a record's form of it."""
    number = int.from_bytes(mac, "big")
    return number >> 16, number & 0xFFFF


def mac_bytes(high: int, low: int) -> bytes:
    """The MAC that mac_numbers() took apart."""
    return (high << 16 | low).to_bytes(6, "big")
