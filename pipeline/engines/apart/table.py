"""Which link has which addresses, and which of them have an inner address (inner.py).

A link *claims* an address or a MAC by the first frame with it as its source. The first link that does so has
it, under this name, until it is down or demux says otherwise. Any other link that uses it gets an inner
address for it. So does a link whose address is not of the network.

The table judges no address that no guest may have: the gateway's, groups, loopback. Those stay as they are,
and demux refuses them. A source that looks like an inner address is refused.

Demux must learn no address that its link has not claimed here. Else it would refuse the link that has. So
frames from addresses beyond the bound on claims are dropped. Demux makes room when it forgets an address.

Hostile guests: a guest may claim any address. That takes nothing from others, who get inner addresses. There
are bounds on what a guest claims with all its links, and on the inner addresses of a link.
"""

from collections.abc import Sequence
from typing import Final, NamedTuple

from pipeline.engines import tally
from pipeline.engines.apart.inner import MAX_PLACES, InnerAddresses, is_inner_mac
from pipeline.engines.neighbors.addresses import GuestAddresses
from pipeline.wire import ethernet, ip
from pipeline.wire.errors import WireError

SPARE_CLAIMS: Final = 1024
"""A guest may claim this many addresses more than demux knows of it, since demux refuses some."""
MAX_MACS: Final = 1024
"""The most MACs that one guest claims. One more replaces the oldest of its link."""

INNER_SOURCE: Final = "link_frame_dropped_inner_source"
TOO_MANY: Final = "link_frame_dropped_too_many_inner"


class Renamed(NamedTuple):
    """A link has an inner address for an address or a MAC of its own. Both have the bytes of the wire."""

    link: int
    own: bytes
    inner: bytes


class LinkNames:
    """The addresses and MACs of one link, by own and by inner name."""

    def __init__(self, link: int, guest: int) -> None:
        self.link = link
        self.guest = guest
        """The number of the guest that opened the link."""
        self.places: list[bytes] = []
        """The own names that have an inner one, by place. A place counts from 1."""
        self.inner_addrs: dict[int, int] = {}
        """Each address that the link has used as a source -> its inner one, or itself."""
        self.own_addrs: dict[int, int] = {}
        """Inner address -> own."""
        self.inner_macs: dict[bytes, bytes] = {}
        self.own_macs: dict[bytes, bytes] = {}


class Claims:
    """The addresses of all links."""

    def __init__(
        self,
        addresses: GuestAddresses,
        inner: InnerAddresses,
        gateway_mac: bytes,
        max_neighbors: int,
    ) -> None:
        """max_neighbors: how many addresses of one guest demux knows."""
        self._addresses = addresses
        self._max_claims = max_neighbors + SPARE_CLAIMS
        self.inner = inner
        self._gateway_mac = gateway_mac
        self._links: dict[int, LinkNames] = {}
        self._addrs: dict[int, int] = {}
        """Address -> the link that has it under its own name."""
        self._macs: dict[bytes, int] = {}
        self._addrs_of: dict[int, int] = {}
        """How many of these addresses each guest has on all its links."""
        self._macs_of: dict[int, int] = {}
        self._renamed: list[Renamed] = []

    # --- links --------------------------------------------------------------------------

    def link_up(self, link: int, guest: int, places: Sequence[bytes] = ()) -> None:
        """A link of this guest is attached. places: the list of a predecessor that had this link."""
        names = self._links[link] = LinkNames(link, guest)
        for own in places[:MAX_PLACES]:
            self._rename(names, own)

    def link_down(self, link: int) -> None:
        """The link is gone, and with it all that it had."""
        names = self._links.pop(link, None)
        if names is None:
            return
        for addr in names.inner_addrs:
            if self._addrs.get(addr) == link:
                del self._addrs[addr]
                tally.add(self._addrs_of, names.guest, -1)
        for mac in names.inner_macs:
            if self._macs.get(mac) == link:
                del self._macs[mac]
                tally.add(self._macs_of, names.guest, -1)

    def names(self, link: int) -> LinkNames | None:
        """What the link has; None if it is not attached."""
        return self._links.get(link)

    # --- what frames of a link show -------------------------------------------------------

    def source(self, names: LinkNames, addr: int) -> int:
        """The address that stands for a source address of the link. Raises WireError."""
        known = names.inner_addrs.get(addr)
        if known is not None:
            return known
        if not addr or addr in self._addresses.own or ip.is_multicast(addr) or ip.is_loopback(addr):
            return addr
        if addr == ip.BROADCAST:
            return addr
        if self.inner.link_of(addr):
            raise WireError(INNER_SOURCE)
        if not self._addresses.may_have(addr) or self._addrs.get(addr, names.link) != names.link:
            return self._rename_addr(names, addr)
        if self._addrs_of.get(names.guest, 0) >= self._max_claims:
            raise WireError(TOO_MANY)
        self._claim(names, addr)
        return addr

    def set_bound(self, max_neighbors: int) -> None:
        """Change how many addresses a guest may claim. See __init__."""
        self._max_claims = max_neighbors + SPARE_CLAIMS

    def source_mac(self, names: LinkNames, mac: bytes) -> bytes:
        """The MAC that stands for a source MAC of the link. Raises WireError."""
        known = names.inner_macs.get(mac)
        if known is not None:
            return known
        if ethernet.is_group(mac) or mac in (ethernet.ZERO, self._gateway_mac):
            return mac
        if is_inner_mac(mac):
            raise WireError(INNER_SOURCE)
        if self._macs.get(mac, names.link) != names.link:
            self._make_room(names)
            self._rename(names, mac)
            return names.inner_macs[mac]
        if self._macs_of.get(names.guest, 0) >= MAX_MACS:
            oldest = next((own for own, inner in names.inner_macs.items() if own == inner), b"")
            if not oldest:
                raise WireError(TOO_MANY)
            del names.inner_macs[oldest], self._macs[oldest]
            tally.add(self._macs_of, names.guest, -1)
        self._macs[mac] = names.link
        names.inner_macs[mac] = mac
        tally.add(self._macs_of, names.guest, 1)
        return mac

    # --- what demux says --------------------------------------------------------------------

    def has(self, addr: int, link: int) -> None:
        """Demux says that this link has an address. Another link, which claims it too, loses it."""
        names = self._links.get(link)
        if names is None or addr in names.own_addrs or self._addrs.get(addr) == link:
            return
        if names.inner_addrs.get(addr, addr) != addr:
            # The link has an inner address for it already, and its flows go on with that one.
            return
        self.has_not(addr)
        self._claim(names, addr)

    def has_not(self, addr: int) -> None:
        """Demux says that no link has the address under its own name."""
        link = self._addrs.pop(addr, None)
        if link is not None:
            names = self._links[link]
            del names.inner_addrs[addr]
            tally.add(self._addrs_of, names.guest, -1)

    def _claim(self, names: LinkNames, addr: int) -> None:
        """The link has the address, which no other link has, under its own name."""
        self._addrs[addr] = names.link
        names.inner_addrs[addr] = addr
        tally.add(self._addrs_of, names.guest, 1)

    # --- inner addresses ----------------------------------------------------------------------

    def _rename_addr(self, names: LinkNames, addr: int) -> int:
        self._make_room(names)
        self._rename(names, ip.packed(addr))
        return names.inner_addrs[addr]

    def _make_room(self, names: LinkNames) -> None:
        if len(names.places) >= MAX_PLACES:
            raise WireError(TOO_MANY)

    def _rename(self, names: LinkNames, own: bytes) -> None:
        """Give an own address or MAC, as on the wire, the inner address of the next place."""
        names.places.append(own)
        link, place = names.link, len(names.places)
        if len(own) == ethernet.MAC_LEN:
            inner_mac = self.inner.of_mac(link, place)
            names.inner_macs[own] = inner_mac
            names.own_macs[inner_mac] = own
            self._renamed.append(Renamed(link, own, inner_mac))
            return
        own_addr = ip.of_packed(own)
        inner_addr = self.inner.of_addr(own_addr, link, place)
        names.inner_addrs[own_addr] = inner_addr
        names.own_addrs[inner_addr] = own_addr
        self._renamed.append(Renamed(link, own, ip.packed(inner_addr)))

    def take_renamed(self) -> list[Renamed]:
        """The inner addresses that were given since the last call."""
        if not self._renamed:
            return self._renamed
        renamed, self._renamed = self._renamed, []
        return renamed

    def all_renamed(self) -> list[Renamed]:
        """The inner addresses of all links."""
        found: list[Renamed] = []
        for names in self._links.values():
            for inner_mac, mac in names.own_macs.items():
                found.append(Renamed(names.link, mac, inner_mac))
            for inner_addr, addr in names.own_addrs.items():
                found.append(Renamed(names.link, ip.packed(addr), ip.packed(inner_addr)))
        return found

    def __len__(self) -> int:
        """How many addresses and MACs are claimed."""
        return len(self._addrs) + len(self._macs)
