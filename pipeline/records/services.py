"""Datagrams of the gateway's DHCP and DNS services, and the names that egress must know for its policy."""

from struct import Struct
from typing import Final

from pipeline.records.addresses import NO_MAC, Addr, addr_bytes, addr_of, mac_bytes, mac_numbers
from pipeline.records.flows import FlowKey
from pipeline.records.kinds import NAMED, SERVICE_DATAGRAM

# kind, crowded, link, slot, off, length, mac (two numbers), key
_DATAGRAM: Final = Struct("<B?H4xIII8xIH14x36s12x")
_NAMED: Final = Struct("<B27xI16x16s16sQ8x")  # kind, ttl_s, guest_addr, remote_addr, pattern


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
