"""The filter of a capture: which frames of which guests it wants. Sans I/O.

A filter has four lists: guests, hosts, ports and protocols. A frame must fit one entry of each list that is
not empty. The headers of Ethernet (with up to two tags), ARP, IPv4 and IPv6 are read. A guest may send
anything, so read() looks at no byte outside the frame and raises nothing. What it cannot read is absent, and
fits only an empty list.

A guest is a link's number, a MAC address or an IPv4 address. A frame belongs to a guest if it is on that
link, or if the guest's end of it has that address. Frames to a group address belong to the guests that have
sent from the link. A fragment that is not the first has no ports.
"""

import ipaddress
import re
from collections.abc import Sequence
from typing import Final

from pipeline.wire import arp, ethernet, ip, ipv4, ipv6
from pipeline.wire.errors import WireError

HEAD_BYTES: Final = 14 + 8 + ipv6.HEADER_LEN + 192 + 4
"""Bytes of a frame that a filter may look at: Ethernet with two tags, IPv6 with 192 bytes of extension
headers, ports. The longest IPv4 header is shorter."""
MAX_ENTRIES: Final = 64
"""Entries of one list."""

ARP: Final = -1
"""The protocol number of ARP in Head: no IP protocol has it."""
NOTHING: Final = -2
"""The protocol number of frames that are neither IP nor ARP."""
PROTOCOLS: Final[dict[str, frozenset[int]]] = {
    "arp": frozenset({ARP}),
    "icmp": frozenset({1, 58}),
    "tcp": frozenset({6}),
    "udp": frozenset({17}),
}
"""Names of protocols and their numbers (ICMP: both versions)."""

_WITH_PORTS: Final = frozenset({6, 17})
_OFFSET: Final = 0x1FFF
_PORT: Final = re.compile(r"([0-9]{1,5})(?:-([0-9]{1,5}))?", re.ASCII)
_LINK: Final = re.compile(r"[0-9]{1,5}", re.ASCII)
_MAC: Final = re.compile(ethernet.MAC_PATTERN)
_MAX_PORT: Final = 0xFFFF


class FilterError(ValueError):
    """An entry of a filter is wrong. The text names the entry and says what is allowed."""


class Head:
    """What a filter knows of a frame.

    src, dst: see pipeline.wire.ip. protocol: of IP, ARP or NOTHING. src_port, dst_port: -1 if absent.
    """

    __slots__ = ("dst", "dst_mac", "dst_port", "protocol", "src", "src_mac", "src_port")

    def __init__(self, dst_mac: bytes, src_mac: bytes) -> None:
        self.dst_mac = dst_mac
        self.src_mac = src_mac
        self.protocol = NOTHING
        self.src = 0
        self.dst = 0
        self.src_port = -1
        self.dst_port = -1


def read(view: memoryview | bytes, off: int, end: int) -> Head:
    """The head of the frame in view[off:end], whatever its bytes are."""
    end = min(end, len(view))
    if end - off < ethernet.HEADER_LEN:
        return Head(b"", b"")
    middle = off + ethernet.MAC_LEN
    head = Head(bytes(view[off:middle]), bytes(view[middle : middle + ethernet.MAC_LEN]))
    kind, at = ethernet.network_header(view, off, end)
    if kind == ethernet.TYPE_IPV4:
        _read_ipv4(head, view, at, end)
    elif kind == ethernet.TYPE_IPV6:
        _read_ipv6(head, view, at, end)
    elif kind == ethernet.TYPE_ARP and end - at >= arp.LEN:
        head.protocol = ARP
        head.src = ip.from_ipv4(int.from_bytes(view[at + 14 : at + 18], "big"))
        head.dst = ip.from_ipv4(int.from_bytes(view[at + 24 : at + 28], "big"))
    return head


def _read_ipv4(head: Head, view: memoryview | bytes, at: int, end: int) -> None:
    if end - at < ipv4.HEADER_LEN or view[at] >> 4 != 4:
        return
    head.protocol = view[at + 9]
    head.src = ip.from_ipv4(int.from_bytes(view[at + 12 : at + 16], "big"))
    head.dst = ip.from_ipv4(int.from_bytes(view[at + 16 : at + 20], "big"))
    length = (view[at] & 15) * 4
    if length >= ipv4.HEADER_LEN and not (view[at + 6] << 8 | view[at + 7]) & _OFFSET:
        _read_ports(head, view, at + length, end)


def _read_ipv6(head: Head, view: memoryview | bytes, at: int, end: int) -> None:
    if end - at < ipv6.HEADER_LEN or view[at] >> 4 != 6:
        return
    head.src = int.from_bytes(view[at + 8 : at + 24], "big")
    head.dst = int.from_bytes(view[at + 24 : at + 40], "big")
    try:
        upper = ipv6.walk(view, at + ipv6.HEADER_LEN, end, view[at + 6])
    except WireError:
        return
    head.protocol = upper.proto
    if not upper.frag_off:
        _read_ports(head, view, upper.off, end)


def _read_ports(head: Head, view: memoryview | bytes, at: int, end: int) -> None:
    if head.protocol in _WITH_PORTS and end - at >= 4:
        head.src_port = view[at] << 8 | view[at + 1]
        head.dst_port = view[at + 2] << 8 | view[at + 3]


class Filter:
    """One filter. Raises FilterError for an entry that is wrong.

    guests: link numbers, MAC addresses and IP addresses. hosts: addresses and networks of either version, as
    either end. ports: numbers and ranges such as 8000-8100, at either end. protocols: see PROTOCOLS.
    """

    def __init__(
        self,
        guests: Sequence[str] = (),
        hosts: Sequence[str] = (),
        ports: Sequence[str] = (),
        protocols: Sequence[str] = (),
    ) -> None:
        for name, entries in (("guest", guests), ("host", hosts), ("port", ports), ("protocol", protocols)):
            if len(entries) > MAX_ENTRIES:
                raise FilterError(f"{name} is given {len(entries)} times (allowed: {MAX_ENTRIES})")
        self._any_guest = not guests
        self._links: set[int] = set()
        self._macs: set[bytes] = set()
        self._addresses: set[int] = set()
        self._seen_on: set[int] = set()
        """Links from which a guest that is wanted has sent."""
        for text in guests:
            self._add_guest(text)
        self._learned = False
        self._hosts = [_host(text) for text in hosts]
        self._ports = [_port_range(text) for text in ports]
        self._protocols: set[int] = set()
        for text in protocols:
            self._protocols |= _protocol(text)

    def wants_link(self, link: int) -> bool:
        """Whether frames of this link may fit."""
        return self._any_guest or link in self._links or bool(self._macs or self._addresses)

    def forget_link(self, link: int) -> None:
        """The link is gone. Another guest may get its number, unless the filter names the number itself."""
        self._seen_on.discard(link)

    def has_learned(self) -> bool:
        """Whether fits() has found a link of a guest since the last call. Then earlier results may change."""
        learned, self._learned = self._learned, False
        return learned

    def fits(self, head: Head, link: int, from_guest: bool) -> bool:
        """Whether a frame on this link fits. from_guest: the guest of the link sent it."""
        if not (self._any_guest or self._is_of_guest(head, link, from_guest)):
            return False
        if self._protocols and head.protocol not in self._protocols:
            return False
        if self._ports and not (self._has_port(head.src_port) or self._has_port(head.dst_port)):
            return False
        return not self._hosts or self._has_host(head)

    def _is_of_guest(self, head: Head, link: int, from_guest: bool) -> bool:
        if link in self._links:
            return True
        mac, address = (head.src_mac, head.src) if from_guest else (head.dst_mac, head.dst)
        if mac in self._macs or address in self._addresses:
            if from_guest and link not in self._seen_on:
                self._seen_on.add(link)
                self._learned = True
            return True
        return not from_guest and link in self._seen_on and bool(mac) and ethernet.is_group(mac)

    def _has_port(self, port: int) -> bool:
        return any(low <= port <= high for low, high in self._ports)

    def _has_host(self, head: Head) -> bool:
        return any(ip.inside(head.src, *ends) or ip.inside(head.dst, *ends) for ends in self._hosts)

    def _add_guest(self, text: str) -> None:
        try:
            if _LINK.fullmatch(text):
                self._links.add(int(text))
            elif _MAC.fullmatch(text):
                self._macs.add(ethernet.mac_parse(text))
            else:
                self._addresses.add(ip.of(ipaddress.ip_address(text)))
        except ValueError:
            allowed = "the number of a link, a MAC address, an IP address"
            raise FilterError(f"guest {text[:100]!r} is wrong (allowed: {allowed})") from None


def _host(text: str) -> tuple[int, int]:
    """The first and the last address of a network, or twice one address."""
    try:
        return ip.network(text)
    except ValueError:
        allowed = "an IPv4 or IPv6 address, or a network such as 10.0.0.0/8"
        raise FilterError(f"host {text[:100]!r} is wrong (allowed: {allowed})") from None


def _port_range(text: str) -> tuple[int, int]:
    found = _PORT.fullmatch(text)
    low = int(found[1]) if found else 0
    high = int(found[2] or found[1]) if found else 0
    if not 1 <= low <= high <= _MAX_PORT:
        raise FilterError(f"port {text[:100]!r} is wrong (allowed: 1 to {_MAX_PORT}, or a range low-high)")
    return low, high


def _protocol(text: str) -> frozenset[int]:
    numbers = PROTOCOLS.get(text.lower())
    if numbers is None:
        raise FilterError(f"protocol {text[:100]!r} is wrong (allowed: {', '.join(PROTOCOLS)})")
    return numbers
