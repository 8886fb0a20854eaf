"""The control messages between the supervisor and the workers, as typed classes.

A *request* goes to a worker, which returns an *answer*. An *event* goes from a worker to the supervisor. On
the socket each is a msgpack map. A request has its name under the key ``op``, an event under ``event``. An
answer has no name. An optional field that is None is left out. A message may carry open descriptors
(channel.py). The table names them in parentheses.

==============  =========================================================================================
to              requests
==============  =========================================================================================
any worker      Stop, Ping, Audit, Reload, Watch, LogFile (a file), Pause, Lost, Settle (sockets),
                HandOver, Resume
all but listen  Guests
ingress         Attach (with a socket), Open (sockets), Capture (a file), LiveCapture (a socket),
                Adopt (sockets), Know, Connected, Members, Places
demux           Cam, Neighbors, Seek, Station, FarStations, Stations, StationsAway
tcp             FlowIds, Flows, EndFlow, EndStrays, StationsAway
resolver        Names, Leases, DnsAll, DnsAdd, ServeTcp (a socket), RestoreLeases, Know, LeaseGranted,
                NamesAway, Count
listen          Expose (a socket), Unexpose, Tunnel (a socket)
egress          FlowIds, Flows, EndFlow, EndForbidden, Explain, Asks, Decide, Count
                of listen: Accepted (a socket), UdpForward (a socket), UdpUnforward
==============  =========================================================================================
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, TypeVar

from pipeline.ipc import fleet_messages, flow_messages, healing_messages, policy_messages
from pipeline.ipc.message import Answer as Answer
from pipeline.ipc.message import Event as Event
from pipeline.ipc.message import Message as Message
from pipeline.ipc.message import MessageError as MessageError
from pipeline.ipc.message import Request as Request

# --- requests to any worker ---------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Stop(Request):
    """End the worker in an orderly way."""

    NAME = "stop"


@dataclass(frozen=True, slots=True)
class Ping(Request):
    """Answer at once. That shows that the worker serves its socket."""

    NAME = "ping"


@dataclass(frozen=True, slots=True)
class Audit(Request):
    """Check and count the worker's slots."""

    NAME = "audit"


@dataclass(frozen=True, slots=True)
class Reload(Request):
    """Use these settings from now on, as far as they can change. config: a pickled Config."""

    NAME = "reload"
    config: bytes


@dataclass(frozen=True, slots=True)
class AuditAnswer(Answer):
    """slots, free: of the worker's pool. refs_out: references to them. wrong: an inconsistency, or None.

    held: what the stage holds for guests, as numbers by name.
    """

    slots: int
    free: int
    refs_out: int
    wrong: str | None
    held: dict[str, int]


@dataclass(frozen=True, slots=True)
class Watch(Request):
    """From now on, report the events of these kinds (pipeline.events), and no others."""

    NAME = "watch"
    kinds: list[str]


@dataclass(frozen=True, slots=True)
class HappenedEvent(Event):
    """Events that were asked for with Watch. Each is a kind, a time (seconds since 1970) and its fields.

    lost: how many others there were since the last message of this kind.
    """

    NAME = "happened"
    events: list[list[object]]
    lost: int


# --- ingress ----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Attach(Request):
    """Serve a guest on the socket of a /connect request. head: bytes of it that were read already."""

    NAME = "attach"
    head: bytes
    name: str | None = None
    framing: str | None = None
    offload: str | None = None
    """Versions of the offload extension that the guest asks for."""


@dataclass(frozen=True, slots=True)
class Open(Request):
    """Accept guests on these sockets. once: only one guest. macs: by UUID, for vpnkit.

    vnet: what guests take (pipeline.links.vnet), None if their frames have no virtio-net header.
    shared: another program may have the open file of a tap too. place: the URL of a link to other hosts.
    """

    NAME = "open"
    protocol: str
    once: bool | None = None
    macs: dict[str, bytes] | None = None
    vnet: int | None = None
    shared: bool | None = None
    place: str | None = None


@dataclass(frozen=True, slots=True)
class Capture(Request):
    """Write every frame to this file, which has the header of a capture already."""

    NAME = "capture"


@dataclass(frozen=True, slots=True)
class ConnectEvent(Event):
    """Connect this datagram socket to the sender of its first datagram, whom the worker may not reach.

    number: of Connected.
    """

    NAME = "connect"
    number: int


@dataclass(frozen=True, slots=True)
class Connected(Request):
    """The socket of ConnectEvent is connected, or error says why not."""

    NAME = "connected"
    number: int
    error: str | None = None


@dataclass(frozen=True, slots=True)
class LiveCapture(Request):
    """Write a pcapng capture of the frames that fit the filter to this socket, after the bytes of head.

    guests, hosts, ports, protocols: entries of the filter (pipeline.engines.capture_filter).
    drops: write the frames that ingress or demux dropped, and no others. snaplen: bytes kept of a frame.
    """

    NAME = "live_capture"
    head: bytes
    guests: list[str]
    hosts: list[str]
    ports: list[str]
    protocols: list[str]
    drops: bool
    snaplen: int


@dataclass(frozen=True, slots=True)
class LiveCaptureAnswer(Answer):
    """refused: why there is no capture, or None. busy: whether too many are running."""

    busy: bool
    refused: str | None = None


@dataclass(frozen=True, slots=True)
class GuestEvent(Event):
    """change: "left" when a guest has left, "failed" when a listener can accept no more guests.

    text: the original's line about a guest that left. opened_by: who opened its link, if that is known.
    """

    NAME = "guest"
    change: str
    protocol: str
    error: str
    peer: str | None = None
    text: str | None = None
    opened_by: str | None = None


@dataclass(frozen=True, slots=True)
class StateFileEvent(Event):
    """The leases have changed: write this to the state file."""

    NAME = "state_file"
    content: bytes


@dataclass(frozen=True, slots=True)
class FilesEvent(Event):
    """The worker's process can be looked at no more. This descriptor is its folder /proc/self/fd."""

    NAME = "files"


@dataclass(frozen=True, slots=True)
class LogFile(Request):
    """Write the log to this file from now on: it was opened again."""

    NAME = "log_file"


@dataclass(frozen=True, slots=True)
class Guests(Request):
    """Report what each guest has of this worker."""

    NAME = "guests"


@dataclass(frozen=True, slots=True)
class GuestsAnswer(Answer):
    """guests: by the guest's number, as text, what it has: a number by kind. Ingress names all guests.

    peers: of ingress: by number, which process, machine or address the guest is. macs, ips: of demux: by
    number, the guest's MAC and IPv4 addresses. own: of ingress: what inner addresses stand for, by number.
    """

    guests: dict[str, dict[str, int]]
    peers: dict[str, str] | None = None
    macs: dict[str, list[str]] | None = None
    ips: dict[str, list[str]] | None = None
    own: dict[str, dict[str, str]] | None = None

    @staticmethod
    def of(sums: Mapping[str, Mapping[int, int]], peers: Mapping[int, str] | None = None) -> "GuestsAnswer":
        """The answer from a number for each guest, by kind."""
        guests: dict[str, dict[str, int]] = {}
        for kind, by_guest in sums.items():
            for guest, number in by_guest.items():
                guests.setdefault(str(guest), {})[kind] = number
        texts = None if peers is None else {str(guest): peer for guest, peer in peers.items()}
        return GuestsAnswer(guests, texts)


# --- demux, tcp -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Cam(Request):
    """Report the switch's table of MAC addresses."""

    NAME = "cam"


@dataclass(frozen=True, slots=True)
class CamAnswer(Answer):
    """cam: the number of the guest's link by MAC address."""

    cam: dict[str, int]


@dataclass(frozen=True, slots=True)
class Neighbors(Request):
    """Report which guests have these addresses."""

    NAME = "neighbors"
    addresses: list[str]


@dataclass(frozen=True, slots=True)
class NeighborsAnswer(Answer):
    """neighbors: MAC address and number of the guest, by address. Unknown addresses are left out."""

    neighbors: dict[str, list[str | int]]


@dataclass(frozen=True, slots=True)
class WithdrawRoute(Request):
    """The program ends: tell guests that the gateway is no default router any more."""

    NAME = "withdraw_route"


@dataclass(frozen=True, slots=True)
class MacEvent(Event):
    """A guest's MAC address was "seen", is "gone", or has "moved" to another link."""

    NAME = "mac"
    change: str
    mac: str


# --- resolver ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Leases(Request):
    """Report all DHCP leases."""

    NAME = "leases"


@dataclass(frozen=True, slots=True)
class LeasesAnswer(Answer):
    """leases: MAC address by IPv4 address."""

    leases: dict[str, str]


@dataclass(frozen=True, slots=True)
class DnsAll(Request):
    """Report all DNS zones."""

    NAME = "dns_all"


@dataclass(frozen=True, slots=True)
class DnsAllAnswer(Answer):
    """zones: in the form of the HTTP API."""

    zones: list[dict[str, object]]


@dataclass(frozen=True, slots=True)
class DnsAdd(Request):
    """Add a DNS zone. zone: in the form of the HTTP API."""

    NAME = "dns_add"
    zone: dict[str, object]


@dataclass(frozen=True, slots=True)
class ServeTcp(Request):
    """Serve DNS on this socket, a guest's TCP connection. guest: ``address:port``."""

    NAME = "serve_tcp"
    guest: str
    link: int


# --- listen, egress ---------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Expose(Request):
    """Open a port forward on this bound socket. proxy: version of the PROXY header.

    found: addresses of local's host name, for the supervisor's part alone that binds.

    name: the local address by which Unexpose names the forward, if that is not ``local``.
    """

    NAME = "expose"
    protocol: str
    local: str
    remote: str
    proxy: int | None = None
    found: list[str] | None = None
    name: str | None = None


@dataclass(frozen=True, slots=True)
class ExposeAnswer(Answer):
    """port: the bound port of the host; None for a unix socket."""

    port: int | None = None


@dataclass(frozen=True, slots=True)
class Unexpose(Request):
    """Close a port forward."""

    NAME = "unexpose"
    protocol: str
    local: str


@dataclass(frozen=True, slots=True)
class Tunnel(Request):
    """Connect this socket to a port of a guest. head: bytes of it that were read already."""

    NAME = "tunnel"
    ip: str
    port: int
    head: bytes | None = None


@dataclass(frozen=True, slots=True)
class Accepted(Request):
    """Connect this accepted socket to a guest. first: bytes to send to the guest before the socket's.

    addr: as in a record (pipeline.records.addresses), since numbers of messages have 64 bits.
    """

    NAME = "accepted"
    addr: bytes
    port: int
    first: bytes


@dataclass(frozen=True, slots=True)
class UdpForward(Request):
    """Forward datagrams between this bound socket and a guest. key: a name for UdpUnforward.

    addr: as in Accepted.
    """

    NAME = "udp_forward"
    key: str
    addr: bytes
    port: int


@dataclass(frozen=True, slots=True)
class UdpUnforward(Request):
    """Close the UDP forward with this key."""

    NAME = "udp_unforward"
    key: str


@dataclass(frozen=True, slots=True)
class ServiceEvent(Event):
    """A guest has connected to a service of the gateway, with this socket.

    guest: ``address:port``. number: of the guest that opened the link.
    """

    NAME = "service"
    name: str
    guest: str
    link: int
    number: int


_M = TypeVar("_M", Request, Event)


def _by_name(*known: type[_M]) -> dict[str, type[_M]]:
    return {cls.NAME: cls for cls in known}


_REQUESTS: Final = _by_name(
    *(Stop, Ping, Audit, Reload, Watch, LogFile, Guests, Attach, Open, Capture, LiveCapture, Connected),
    *(Cam, Neighbors, WithdrawRoute, Leases),
    *(flow_messages.FlowIds, flow_messages.Flows, flow_messages.EndFlow, flow_messages.Names),
    *(policy_messages.EndForbidden, policy_messages.Explain),
    *(policy_messages.Asks, policy_messages.Decide, policy_messages.Count),
    *(DnsAll, DnsAdd, ServeTcp),
    *(healing_messages.Pause, healing_messages.Lost, healing_messages.Settle, healing_messages.Resume),
    healing_messages.RestoreLeases,
    *(healing_messages.Adopt, healing_messages.HandOver, healing_messages.Know),
    *(healing_messages.Seek, healing_messages.EndStrays),
    *(fleet_messages.Members, fleet_messages.Places, fleet_messages.Stations, fleet_messages.StationsAway),
    *(fleet_messages.Station, fleet_messages.FarStations),
    *(fleet_messages.LeaseGranted, fleet_messages.NamesAway),
    *(Expose, Unexpose, Tunnel, Accepted, UdpForward, UdpUnforward),
)
_EVENTS: Final = _by_name(
    *(HappenedEvent, GuestEvent, MacEvent, ServiceEvent, StateFileEvent, FilesEvent, ConnectEvent),
    *(healing_messages.LeasesEvent, healing_messages.LinkUpEvent, healing_messages.LinkDownEvent),
    healing_messages.InnerEvent,
    *(healing_messages.LinkEvent, healing_messages.ConnectionsEvent, healing_messages.KnowledgeEvent),
    *(fleet_messages.StationsEvent, fleet_messages.NamesEvent),
    *(fleet_messages.LeaseWantedEvent, fleet_messages.LeaseOverEvent),
)


def request_of(found: Mapping[str, object]) -> Request | None:
    """The request in a map; None for an unknown or malformed one."""
    return _decoded(_REQUESTS.get(str(found.get(Request.KEY))), found)


def event_of(found: Mapping[str, object]) -> Event | None:
    """The event in a map; None for an unknown or malformed one."""
    return _decoded(_EVENTS.get(str(found.get(Event.KEY))), found)


def _decoded(cls: type[_M] | None, found: Mapping[str, object]) -> _M | None:
    try:
        return cls.decode(found) if cls is not None else None
    except MessageError:
        return None
