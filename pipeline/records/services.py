"""Datagrams of the gateway's DHCP and DNS services, and the names that egress must know for its policy."""

from struct import Struct
from typing import Final

from pipeline.records.addresses import NO_MAC, Addr, addr_bytes, addr_of, mac_bytes, mac_numbers
from pipeline.records.flows import FlowKey
from pipeline.records.kinds import NAMED, SERVICE_DATAGRAM, TOLD

# kind, crowded, link, slot, off, length, mac (two numbers), key
_DATAGRAM: Final = Struct("<B?H4xIII8xIH14x36s12x")
_NAMED: Final = Struct("<B27xI16x16s16sQ8x")  # kind, ttl_s, guest_addr, remote_addr, pattern
_TOLD: Final = Struct("<B??B4x16s16s56s")  # kind, first, last, length, guest_addr, remote_addr, text
TOLD_TEXT: Final = 56
"""Characters of a name in one record."""


class ServiceDatagram:
    """SERVICE_DATAGRAM: one UDP payload of the guest on ``link`` for a service, or the service's answer.

    key: the remote end is the service's, in both directions. The guest's address is 0 if the guest has none
    yet. An answer to 255.255.255.255 goes to the broadcast MAC on the link. The reader may overwrite the
    HEADER_ROOM bytes (pipeline.records.udp) before an answer with headers. ``crowded``, in a question: other
    guests than this one are active. ``mac``, in a question over IPv6: the source of its frame; else zeros.
    """

    def __init__(
        self,
        link: int,
        key: FlowKey,
        slot: int,
        off: int,
        length: int,
        crowded: bool = False,
        mac: bytes = NO_MAC,
    ) -> None:
        self.link = link
        self.key = key
        self.slot = slot
        self.off = off
        self.length = length
        self.crowded = crowded
        self.mac = mac

    @staticmethod
    def unpack(burst: memoryview, at: int) -> "ServiceDatagram":
        """The record at burst[at:]."""
        _, crowded, link, slot, off, length, high, low, key = _DATAGRAM.unpack_from(burst, at)
        return ServiceDatagram(link, key, slot, off, length, crowded, mac_bytes(high, low))

    @staticmethod
    def pack(
        link: int,
        key: FlowKey,
        slot: int,
        off: int,
        length: int,
        crowded: bool = False,
        mac: bytes = NO_MAC,
    ) -> bytes:
        """A record with these fields."""
        high, low = mac_numbers(mac)
        return _DATAGRAM.pack(SERVICE_DATAGRAM, crowded, link, slot, off, length, high, low, key)


class Named:
    """NAMED: for ttl_s seconds the policy treats ``remote_addr`` as a name, for one guest only.

    pattern: the number of the policy's pattern that this name matches, 64 bits (pipeline.engines.policy).
    """

    def __init__(self, guest_addr: Addr, remote_addr: Addr, pattern: int, ttl_s: int) -> None:
        self.guest_addr = guest_addr
        self.remote_addr = remote_addr
        self.pattern = pattern
        self.ttl_s = ttl_s

    @staticmethod
    def unpack(burst: memoryview, at: int) -> "Named":
        """The record at burst[at:]."""
        _, ttl_s, guest_addr, remote_addr, pattern = _NAMED.unpack_from(burst, at)
        return Named(addr_of(guest_addr), addr_of(remote_addr), pattern, ttl_s)

    @staticmethod
    def pack(guest_addr: Addr, remote_addr: Addr, pattern: int, ttl_s: int) -> bytes:
        """A record with these fields."""
        return _NAMED.pack(NAMED, ttl_s, addr_bytes(guest_addr), addr_bytes(remote_addr), pattern)


class Told:
    """TOLD: the gateway gave a guest ``remote_addr`` for a name, of which ``text`` is a part.

    A name has several records, which follow each other. ``first``, ``last``: whether it begins, or ends.
    """

    def __init__(self, guest_addr: Addr, remote_addr: Addr, first: bool, last: bool, text: str) -> None:
        self.guest_addr = guest_addr
        self.remote_addr = remote_addr
        self.first = first
        self.last = last
        self.text = text

    @staticmethod
    def unpack(burst: memoryview, at: int) -> "Told":
        """The record at burst[at:]."""
        _, first, last, length, guest_addr, remote_addr, text = _TOLD.unpack_from(burst, at)
        return Told(addr_of(guest_addr), addr_of(remote_addr), first, last, text[:length].decode("latin-1"))

    @staticmethod
    def pack(guest_addr: Addr, remote_addr: Addr, first: bool, last: bool, text: str) -> bytes:
        """A record with these fields. text: at most TOLD_TEXT characters."""
        part = text.encode("latin-1", "replace")
        ends = addr_bytes(guest_addr), addr_bytes(remote_addr)
        return _TOLD.pack(TOLD, first, last, len(part), *ends, part.ljust(TOLD_TEXT, b"\0"))

    @staticmethod
    def pack_all(guest_addr: Addr, remote_addr: Addr, name: str) -> list[bytes]:
        """The records of a name, which is not empty."""
        starts = range(0, len(name), TOLD_TEXT)
        return [
            Told.pack(guest_addr, remote_addr, at == 0, at == starts[-1], name[at : at + TOLD_TEXT])
            for at in starts
        ]
