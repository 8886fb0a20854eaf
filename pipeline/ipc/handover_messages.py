"""The messages with which a supervisor hands over to its successor (pipeline.daemon.restart).

They cross versions of the program: a field that the other side does not know is ignored, and one without a
default that is missing is an error. So a new field has a default. A message that the other side does not know
is ignored too. Times are those of time.monotonic(), which all processes share. The table names the
descriptors in parentheses.

==================  =====================================================================================
from                messages, in order
==================  =====================================================================================
old supervisor      Place (sockets, or a tap), File (a file), Minder (a socket), PlacesEnd
successor           Ready, or Refused
old supervisor      OpenForward (a socket), Zone, Policy, Used, Leases, GuestLink (sockets),
                    Connections, Known, StateEnd
successor           Running, or Refused
old supervisor      Yours
successor           Taken
==================  =====================================================================================
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, TypeVar

from pipeline.ipc.healing_messages import AllLeases, CarriedLink, Knowledge
from pipeline.ipc.message import MessageError, Request


@dataclass(frozen=True, slots=True)
class Place(Request):
    """Where guests or clients arrive. protocol: of guests' links, "" for an endpoint of the API."""

    NAME = "place"
    protocol: str
    url: str


@dataclass(frozen=True, slots=True)
class File(Request):
    """A file that is written: kind is CAPTURE or PID_FILE."""

    NAME = "file"
    kind: str
    path: str


@dataclass(frozen=True, slots=True)
class Minder(Request):
    """The socket to the process that the user started, if that is not the supervisor any more."""

    NAME = "minder"


@dataclass(frozen=True, slots=True)
class PlacesEnd(Request):
    """There are no more places. count: of Place, File and Minder."""

    NAME = "places_end"
    count: int


@dataclass(frozen=True, slots=True)
class Ready(Request):
    """The successor has read its configuration, and its workers answer."""

    NAME = "ready"
    version: str


@dataclass(frozen=True, slots=True)
class Refused(Request):
    """The successor cannot take over. It ends."""

    NAME = "refused"
    reason: str


@dataclass(frozen=True, slots=True)
class OpenForward(Request):
    """An open forward. The fields up to ``asked`` are those of control.forwarder.Forward.

    expose: the request Expose that opens it in the listen worker; None for a forward over ssh. configured:
    whether it comes from the configuration, not from a client of the API.
    """

    NAME = "open_forward"
    local: str
    remote: str
    protocol: str
    configured: bool
    proxy_protocol: str = ""
    opened_by: str = "host"
    guest: int = 0
    asked: str = ""
    expose: dict[str, object] | None = None


@dataclass(frozen=True, slots=True)
class Zone(Request):
    """What a client of the API has added to the zones, as in DnsAdd."""

    NAME = "zone"
    zone: dict[str, object]


@dataclass(frozen=True, slots=True)
class Policy(Request):
    """The egress policy in JSON: that of the configuration, and that which a client of the API has set."""

    NAME = "policy"
    of_file: str
    of_api: str


@dataclass(frozen=True, slots=True)
class Leases(AllLeases, Request):
    """All leases of guests."""

    NAME = "leases"


@dataclass(frozen=True, slots=True)
class Used(Request):
    """What guests have used of their quotas: each the values of control.quotas.ledger.Saved."""

    NAME = "used"
    rows: list[list[object]]


@dataclass(frozen=True, slots=True)
class Connections(Request):
    """Connections of guests that end now, as in ConnectionsEvent."""

    NAME = "connections"
    ends: list[list[object]]


@dataclass(frozen=True, slots=True)
class Known(Knowledge, Request):
    """What workers know: the last number of a link, and names that guests were told."""

    NAME = "known"


@dataclass(frozen=True, slots=True)
class GuestLink(CarriedLink, Request):
    """A guest's link."""

    NAME = "guest_link"


@dataclass(frozen=True, slots=True)
class StateEnd(Request):
    """There are no more messages of the state. count: how many there were."""

    NAME = "state_end"
    count: int


@dataclass(frozen=True, slots=True)
class Running(Request):
    """The successor has everything that it needs, and waits for Yours. Until then nothing is lost."""

    NAME = "running"


@dataclass(frozen=True, slots=True)
class Yours(Request):
    """All of it is the successor's now. The old supervisor ends."""

    NAME = "yours"


@dataclass(frozen=True, slots=True)
class Taken(Request):
    """The pid file names the successor. Clients may learn that it runs."""

    NAME = "taken"


CAPTURE: Final = "capture"
PID_FILE: Final = "pid-file"

HandoverMessage = (
    Place | File | Minder | PlacesEnd | Ready | Refused | OpenForward | Zone | Policy | Used | Leases
    | GuestLink | Connections | Known | StateEnd | Running | Yours | Taken
)  # fmt: skip
_M = TypeVar("_M")
_CLASSES: Final = {
    cls.NAME: cls
    for cls in (
        *(Place, File, Minder, PlacesEnd, Ready, Refused, OpenForward, Zone, Policy, Leases, GuestLink),
        *(Used, Connections, Known, StateEnd, Running, Yours, Taken),
    )
}


def decode(found: Mapping[str, object]) -> HandoverMessage | None:
    """The message in a map; None for one that this version does not know. Raises MessageError."""
    cls = _CLASSES.get(str(found.get(Request.KEY)))
    return None if cls is None else cls.decode(found)


def checked(message: HandoverMessage | None, fds: int) -> None:
    """Raise MessageError if a message has not the descriptors that it needs."""
    needed = 1 if isinstance(message, Place | File | Minder | GuestLink) else 0
    if isinstance(message, OpenForward):
        needed = 1
    if fds < needed:
        raise MessageError(f"{type(message).__name__}: {fds} descriptors instead of {needed}")
