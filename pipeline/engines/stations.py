"""Which addresses belong to one station: a guest has addresses of both families, and many of IPv6.

Rules name a guest by one of its addresses. They hold for the whole station: all addresses that its MAC has on
its link. So a guest does not go around a rule with an address of the other family. A guest with several MAC
addresses is several stations, as several machines behind a bridge are.

A guest may have an address that another one has too (pipeline.engines.apart). It then has an inner address in
all records. The rules for its own address hold for it, and those for its own MAC.
"""

from collections.abc import Callable, Collection, Container, Mapping

Station = tuple[bytes, int]
"""MAC address and link."""
StationOf = Callable[[int], Station | None]
"""The station that has an address now."""


class Stations:
    """The addresses of all stations, as demux has reported them."""

    def __init__(self, static: Mapping[int, bytes]) -> None:
        """static: the MAC of each address of a static lease. Its station has it from the start."""
        self._static: dict[bytes, set[int]] = {}
        for addr, mac in static.items():
            self._static.setdefault(mac, set()).add(addr)
        self._station_of: dict[int, Station] = {}
        self._addresses: dict[Station, set[int]] = {}
        self._own_addrs: dict[int, tuple[int, int]] = {}
        """Inner address -> (own address, link)."""
        self._own_macs: dict[Station, bytes] = {}
        """(inner MAC, link) -> own MAC."""

    def __len__(self) -> int:
        return len(self._station_of)

    def learn(self, addr: int, mac: bytes, link: int) -> None:
        """The station with this MAC on this link has the address, and no other one."""
        self.forget(addr)
        station = (self._own_macs.get((mac, link), mac), link)
        self._station_of[addr] = station
        self._addresses.setdefault(station, set()).add(addr)

    def forget(self, addr: int) -> None:
        """No station has the address any more."""
        station = self._station_of.pop(addr, None)
        if station is not None:
            of_station = self._addresses[station]
            of_station.discard(addr)
            if not of_station:
                del self._addresses[station]

    def rename(self, inner: int, own: int, link: int) -> None:
        """A guest's own address has this inner one from now on."""
        self._own_addrs[inner] = own, link

    def rename_mac(self, inner: bytes, own: bytes, link: int) -> None:
        """The same for a MAC address."""
        self._own_macs[inner, link] = own

    def forget_link(self, link: int) -> None:
        """All stations of the link are gone."""
        for addr in [addr for addr, station in self._station_of.items() if station[1] == link]:
            self.forget(addr)
        for inner in [inner for inner, (_, of_link) in self._own_addrs.items() if of_link == link]:
            del self._own_addrs[inner]
        for station in [station for station in self._own_macs if station[1] == link]:
            del self._own_macs[station]

    def keep_links(self, up: Container[int]) -> None:
        """Forget the stations of all links but these."""
        links = {station[1] for station in self._station_of.values()}
        links.update(link for _, link in self._own_addrs.values())
        links.update(link for _, link in self._own_macs)
        for link in links:
            if link not in up:
                self.forget_link(link)

    def station_of(self, addr: int) -> Station | None:
        """The station that has this address, None if that is not known."""
        return self._station_of.get(addr)

    def addresses_of(self, addr: int) -> Collection[int]:
        """All addresses of the station that has this one, this one among them. Rules for any of them hold."""
        held = self.held_with(addr)
        if not self._own_addrs:
            return held
        found = set(held)
        found.update([self._own_addrs[inner][0] for inner in held if inner in self._own_addrs])
        return found

    def held_with(self, addr: int) -> Collection[int]:
        """The same without own addresses that another guest has too."""
        station = self._station_of.get(addr)
        if station is None:
            return (addr,)
        found, static = self._addresses[station], self._static.get(station[0])
        return found | static if static else found
