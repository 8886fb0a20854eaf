"""The control messages about a fleet: several hosts whose guests share one network (see message_table.py).

Hosts are named by their outer address, the one of their VXLAN socket. Addresses of guests are packed: 4 bytes
for IPv4, 16 for IPv6.
"""

from dataclasses import dataclass

from pipeline.ipc.message import Event, Request


@dataclass(frozen=True, slots=True)
class Members(Request):
    """These other hosts are members now. hosts: address and port of each, with a blank between them."""

    NAME = "members"
    hosts: list[str]


@dataclass(frozen=True, slots=True)
class Places(Request):
    """These MAC and IP addresses are at these hosts, by outer address; "" for none of the other hosts."""

    NAME = "places"
    macs: dict[bytes, str]
    addrs: dict[bytes, str]


@dataclass(frozen=True, slots=True)
class StationsAway(Request):
    """These stations are on other hosts now. addrs: what they had here, as packed addresses.

    Demux has them on the link to other hosts. Tcp resets the connections of the addresses.
    """

    NAME = "stations_away"
    macs: list[bytes]
    addrs: list[bytes]


@dataclass(frozen=True, slots=True)
class Station(Request):
    """This host is itself a station of the network, with this packed IPv4 address; empty: not any more."""

    NAME = "station"
    addr: bytes


@dataclass(frozen=True, slots=True)
class FarStations(Request):
    """The other hosts are stations with these MAC addresses, and no guest of this host is."""

    NAME = "far_stations"
    macs: list[bytes]


@dataclass(frozen=True, slots=True)
class StationsEvent(Event):
    """What changed about the guests of this host since the last event. complete: all that is here.

    macs: whether each MAC address is here. addrs: the MAC that has each address here, empty if none has.
    """

    NAME = "stations"
    macs: dict[bytes, bool]
    addrs: dict[bytes, bytes]
    complete: bool


@dataclass(frozen=True, slots=True)
class Stations(Request):
    """Report everything that is here with a StationsEvent."""

    NAME = "stations_all"


@dataclass(frozen=True, slots=True)
class LeaseWantedEvent(Event):
    """A client asks for an address of the fleet's pool, for as many seconds. Answered by LeaseGranted."""

    NAME = "lease_wanted"
    mac: bytes
    seconds: float


@dataclass(frozen=True, slots=True)
class LeaseGranted(Request):
    """The client may have this address for so many seconds from now. An empty address: it gets none now."""

    NAME = "lease_granted"
    mac: bytes
    addr: bytes
    seconds: float


@dataclass(frozen=True, slots=True)
class LeaseOverEvent(Event):
    """The client does not have the address any more. declined: it found that somebody else uses it."""

    NAME = "lease_over"
    mac: bytes
    addr: bytes
    declined: bool


@dataclass(frozen=True, slots=True)
class NamesEvent(Event):
    """The host names of the guests of this host: packed IPv4 address by label."""

    NAME = "names_here"
    names: dict[str, bytes]


@dataclass(frozen=True, slots=True)
class NamesAway(Request):
    """The host names of guests of other hosts: packed IPv4 address by label.

    complete: these are all. Else the others stay, and those with an empty address are gone.
    """

    NAME = "names_away"
    names: dict[str, bytes]
    complete: bool
