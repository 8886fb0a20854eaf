"""Where stations of other hosts are, as the hosts of a fleet tell each other (pipeline.engines.fleet.places).

A frame for a MAC address in this table goes to one host alone, although no frame has come from there yet. A
question for the MAC address of a known IP address (ARP, RFC 826; neighbour solicitation, RFC 4861) is sent to
a group, but concerns one station. So it goes to the host of that station. An announcement goes to all hosts.

What a frame says is newer than what stands here. So the forwarding table comes first.
"""

from collections.abc import Mapping
from typing import Final

from pipeline.engines.vxlan.forwarding import ALL_HOSTS
from pipeline.wire import arp, ethernet, icmpv6, ipv6

MAX_PLACES: Final = 1 << 17
"""The most MAC addresses, and the most IP addresses."""

_ARP_SENDER: Final = ethernet.HEADER_LEN + 14
_ARP_TARGET: Final = ethernet.HEADER_LEN + 24
_ARP_OPERATION: Final = ethernet.HEADER_LEN + 6
_IPV4_LEN: Final = 4
_ND_TYPE: Final = ethernet.HEADER_LEN + ipv6.HEADER_LEN
_ND_TARGET: Final = _ND_TYPE + 8
_NEXT_HEADER: Final = ethernet.HEADER_LEN + 6
_IPV6_SOURCE: Final = ethernet.HEADER_LEN + 8
_IPV6_LEN: Final = 16
_NOBODY: Final = bytes(_IPV6_LEN)
_ETHERTYPE: Final = slice(12, 14)
_ARP: Final = ethernet.TYPE_ARP.to_bytes(2, "big")
_IPV6: Final = ethernet.TYPE_IPV6.to_bytes(2, "big")


class Places:
    """MAC addresses and packed IP addresses, each with the number of its host."""

    def __init__(self) -> None:
        self._macs: dict[bytes, int] = {}
        self._addrs: dict[bytes, int] = {}

    def __len__(self) -> int:
        return len(self._macs) + len(self._addrs)

    def set(self, macs: Mapping[bytes, int], addrs: Mapping[bytes, int]) -> None:
        """These are at these hosts from now on; ALL_HOSTS: it is not known where."""
        for table, changes in ((self._macs, macs), (self._addrs, addrs)):
            for key, host in changes.items():
                if host == ALL_HOSTS:
                    table.pop(key, None)
                elif key in table or len(table) < MAX_PLACES:
                    table[key] = host

    def forget_host(self, host: int) -> None:
        """A host is gone."""
        for table in (self._macs, self._addrs):
            for key in [key for key, at in table.items() if at == host]:
                del table[key]

    def host_of(self, mac: bytes) -> int:
        """The host to which a frame for mac goes, or ALL_HOSTS."""
        return self._macs.get(mac, ALL_HOSTS)

    def host_of_question(self, frame: bytes | memoryview) -> int:
        """The host that a frame for a group concerns, if it asks for a known address; else ALL_HOSTS."""
        if not self._addrs:
            return ALL_HOSTS
        kind = frame[_ETHERTYPE]
        if kind == _ARP:
            return self._asked_by_arp(frame)
        return self._asked_by_solicitation(frame) if kind == _IPV6 else ALL_HOSTS

    def _asked_by_arp(self, frame: bytes | memoryview) -> int:
        target = bytes(frame[_ARP_TARGET : _ARP_TARGET + _IPV4_LEN])
        is_request = frame[_ARP_OPERATION : _ARP_OPERATION + 2] == arp.REQUEST.to_bytes(2, "big")
        if not is_request or target == frame[_ARP_SENDER : _ARP_SENDER + _IPV4_LEN]:
            # An announcement (RFC 5227 section 3) is for all.
            return ALL_HOSTS
        return self._addrs.get(target, ALL_HOSTS)

    def _asked_by_solicitation(self, frame: bytes | memoryview) -> int:
        if len(frame) < _ND_TARGET + _IPV6_LEN or frame[_NEXT_HEADER] != ipv6.PROTO_ICMPV6:
            return ALL_HOSTS
        if frame[_ND_TYPE] != icmpv6.NEIGHBOR_SOLICITATION:
            return ALL_HOSTS
        if frame[_IPV6_SOURCE : _IPV6_SOURCE + _IPV6_LEN] == _NOBODY:
            # Duplicate address detection (RFC 4862 section 5.4): whoever has the address is to answer.
            return ALL_HOSTS
        return self._addrs.get(bytes(frame[_ND_TARGET : _ND_TARGET + _IPV6_LEN]), ALL_HOSTS)
