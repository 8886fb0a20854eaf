"""The control messages about workers, links and services.

message_table.py describes control messages and lists all of them.
"""

from collections.abc import Mapping
from dataclasses import dataclass

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


# --- services of the gateway ---------------------------------------------------------------------------


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
