"""Control messages by name: what the supervisor and the workers say to each other besides records on rings.

A *request* asks a worker, an *event* tells the supervisor, an *answer* belongs to a request. On the wire each
is a msgpack map. A request has its name under ``op``, an event under ``event``, an answer has none. An
optional field that is None is left out. Descriptors travel beside the map (channel.py).

==============  =========================================================================================
to              requests
==============  =========================================================================================
any worker      Stop, Ping, Audit
ingress         Attach (with a socket), Open (sockets), Capture (a file)
demux           Cam, Neighbors
tcp             Flows
resolver        Leases, DnsAll, DnsAdd, ServeTcp (a socket)
listen          Expose, Unexpose, Tunnel (a socket)
egress          of listen: Accepted (a socket), UdpForward (a socket), UdpUnforward
==============  =========================================================================================
"""

from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields
from types import UnionType
from typing import ClassVar, Final, Self, TypeVar, get_args, get_origin, get_type_hints


class MessageError(ValueError):
    """A map is not the message that it should be."""


class Message:
    """Base of all messages. ``KEY`` and ``NAME`` say which one a map is."""

    __slots__ = ()
    KEY: ClassVar[str] = ""
    NAME: ClassVar[str] = ""

    def encode(self) -> dict[str, object]:
        """The map."""
        found: dict[str, object] = {self.KEY: self.NAME} if self.KEY else {}
        for name, (_, needed) in _kinds(type(self)).items():
            value = getattr(self, name)
            if needed or value is not None:
                found[name] = value
        return found

    @classmethod
    def decode(cls, found: Mapping[str, object]) -> Self:
        """The message of a map. Raises MessageError for a missing field, or one of another type."""
        values = {}
        for name, (kinds, needed) in _kinds(cls).items():
            value = found.get(name)
            if value is None and not needed:
                continue
            if not isinstance(value, kinds):
                raise MessageError(f"{cls.__name__}: {name} is {value!r}")
            values[name] = value
        return cls(**values)


class Request(Message):
    """Asks a worker."""

    __slots__ = ()
    KEY = "op"


class Event(Message):
    """Tells the supervisor."""

    __slots__ = ()
    KEY = "event"


class Answer(Message):
    """Belongs to a request."""

    __slots__ = ()


_Kinds = dict[str, tuple[tuple[type, ...], bool]]
_found_kinds: Final[dict[type[Message], _Kinds]] = {}


def _kinds(cls: type[Message]) -> _Kinds:
    """Of each field: its types on the wire, and whether it is needed."""
    kinds = _found_kinds.get(cls)
    if kinds is None:
        hints = get_type_hints(cls)
        kinds = _found_kinds[cls] = {
            row.name: (_types(hints[row.name]), row.default is MISSING)
            for row in fields(cls)  # type: ignore[arg-type]  # every message is a dataclass
        }
    return kinds


def _types(hint: type) -> tuple[type, ...]:
    parts = get_args(hint) if isinstance(hint, UnionType) else (hint,)
    return tuple(get_origin(part) or part for part in parts)


# --- requests to any worker ---------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Stop(Request):
    """End in an orderly way."""

    NAME = "stop"


@dataclass(frozen=True, slots=True)
class Ping(Request):
    """Answer, to show that the worker serves its socket."""

    NAME = "ping"


@dataclass(frozen=True, slots=True)
class Audit(Request):
    """Count the worker's slots."""

    NAME = "audit"


@dataclass(frozen=True, slots=True)
class AuditAnswer(Answer):
    """Slots of the worker's pool, free ones, references that others hold, and an inconsistency or None.

    held: what the stage holds for guests, how many of each thing.
    """

    slots: int
    free: int
    refs_out: int
    wrong: str | None
    held: dict[str, int]


# --- ingress ----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Attach(Request):
    """A stream that /connect took over. head: bytes of it that were read already."""

    NAME = "attach"
    head: bytes
    name: str | None = None
    framing: str | None = None
    offload: str | None = None
    """Versions of the offload extension that the guest asks for."""


@dataclass(frozen=True, slots=True)
class Open(Request):
    """Sockets on which guests come in. once: one guest alone. macs: by UUID, for vpnkit."""

    NAME = "open"
    protocol: str
    once: bool | None = None
    macs: dict[str, bytes] | None = None


@dataclass(frozen=True, slots=True)
class Capture(Request):
    """A file that begins with the head of a capture. Every frame is written to it from now on."""

    NAME = "capture"


@dataclass(frozen=True, slots=True)
class GuestEvent(Event):
    """change: "left", or "failed" if the listener of this protocol cannot accept guests any more."""

    NAME = "guest"
    change: str
    protocol: str
    error: str
    peer: str | None = None
    text: str | None = None
    """The log's words for a guest that left."""


# --- demux, tcp -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Cam(Request):
    """The switch's table."""

    NAME = "cam"


@dataclass(frozen=True, slots=True)
class CamAnswer(Answer):
    """MAC address -> number of the guest's link."""

    cam: dict[str, int]


@dataclass(frozen=True, slots=True)
class Neighbors(Request):
    """The guests' addresses."""

    NAME = "neighbors"


@dataclass(frozen=True, slots=True)
class NeighborsAnswer(Answer):
    """IPv4 address -> MAC address."""

    neighbors: dict[str, str]


@dataclass(frozen=True, slots=True)
class MacEvent(Event):
    """A guest's MAC address: change is "seen", "gone" or "moved"."""

    NAME = "mac"
    change: str
    mac: str


@dataclass(frozen=True, slots=True)
class Flows(Request):
    """All connections."""

    NAME = "flows"


@dataclass(frozen=True, slots=True)
class FlowsAnswer(Answer):
    """One printable snapshot for each connection."""

    flows: list[dict[str, object]]


# --- resolver ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Leases(Request):
    """All DHCP leases."""

    NAME = "leases"


@dataclass(frozen=True, slots=True)
class LeasesAnswer(Answer):
    """IPv4 address -> MAC address."""

    leases: dict[str, str]


@dataclass(frozen=True, slots=True)
class DnsAll(Request):
    """All zones."""

    NAME = "dns_all"


@dataclass(frozen=True, slots=True)
class DnsAllAnswer(Answer):
    """The zones as the API shows them."""

    zones: list[dict[str, object]]


@dataclass(frozen=True, slots=True)
class DnsAdd(Request):
    """Add a zone, as the API takes it."""

    NAME = "dns_add"
    zone: dict[str, object]


@dataclass(frozen=True, slots=True)
class ServeTcp(Request):
    """A guest's TCP connection to the name server. guest: ``address:port``."""

    NAME = "serve_tcp"
    guest: str
    link: int


# --- listen, egress ---------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Expose(Request):
    """Open a forward. proxy: version of the PROXY header. found: addresses of the host name in local."""

    NAME = "expose"
    protocol: str
    local: str
    remote: str
    proxy: int | None = None
    found: list[str] | None = None


@dataclass(frozen=True, slots=True)
class Unexpose(Request):
    """Close a forward."""

    NAME = "unexpose"
    protocol: str
    local: str


@dataclass(frozen=True, slots=True)
class Tunnel(Request):
    """A connection for a port of a guest. head: bytes of it that were read already."""

    NAME = "tunnel"
    ip: str
    port: int
    head: bytes | None = None


@dataclass(frozen=True, slots=True)
class Accepted(Request):
    """A host's connection for a guest. first: bytes that the guest gets before any others."""

    NAME = "accepted"
    addr: int
    port: int
    first: bytes


@dataclass(frozen=True, slots=True)
class UdpForward(Request):
    """The bound socket of a UDP forward. key: what UdpUnforward calls it."""

    NAME = "udp_forward"
    key: str
    addr: int
    port: int


@dataclass(frozen=True, slots=True)
class UdpUnforward(Request):
    """Close a UDP forward."""

    NAME = "udp_unforward"
    key: str


@dataclass(frozen=True, slots=True)
class ServiceEvent(Event):
    """A guest's connection to a service of the gateway, with its socket. guest: ``address:port``."""

    NAME = "service"
    name: str
    guest: str
    link: int


_M = TypeVar("_M", Request, Event)


def _by_name(*known: type[_M]) -> dict[str, type[_M]]:
    return {cls.NAME: cls for cls in known}


_REQUESTS: Final = _by_name(
    *(Stop, Ping, Audit, Attach, Open, Capture, Cam, Neighbors, Flows, Leases, DnsAll, DnsAdd, ServeTcp),
    *(Expose, Unexpose, Tunnel, Accepted, UdpForward, UdpUnforward),
)
_EVENTS: Final = _by_name(GuestEvent, MacEvent, ServiceEvent)


def request_of(found: Mapping[str, object]) -> Request | None:
    """The request that a map is, None for an unknown or malformed one."""
    return _decoded(_REQUESTS.get(str(found.get(Request.KEY))), found)


def event_of(found: Mapping[str, object]) -> Event | None:
    """The event that a map is, None for an unknown or malformed one."""
    return _decoded(_EVENTS.get(str(found.get(Event.KEY))), found)


def _decoded(cls: type[_M] | None, found: Mapping[str, object]) -> _M | None:
    try:
        return cls.decode(found) if cls is not None else None
    except MessageError:
        return None
