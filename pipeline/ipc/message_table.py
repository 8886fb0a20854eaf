"""All control messages between the supervisor and the workers, and which of them a map is.

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
demux           Cam, Neighbors, WithdrawRoute, Seek, Station, FarStations, Stations, StationsAway
tcp             FlowIds, Flows, EndFlow, EndStrays, StationsAway
resolver        Names, Leases, DnsAll, DnsAdd, ServeTcp (a socket), RestoreLeases, Know, LeaseGranted,
                NamesAway, Count
listen          Expose (a socket), Unexpose, Tunnel (a socket)
egress          FlowIds, Flows, EndFlow, EndForbidden, Explain, Asks, Decide, Count
                of listen: Accepted (a socket), UdpForward (a socket), UdpUnforward
==============  =========================================================================================
"""

from collections.abc import Mapping
from typing import Final, TypeVar

from pipeline.ipc import (
    fleet_messages,
    flow_messages,
    forward_messages,
    healing_messages,
    messages,
    policy_messages,
)
from pipeline.ipc.message import Event, MessageError, Request

_MODULES: Final = (
    fleet_messages,
    flow_messages,
    forward_messages,
    healing_messages,
    messages,
    policy_messages,
)
_M = TypeVar("_M", Request, Event)


def _by_name(base: type[_M]) -> dict[str, type[_M]]:
    """The messages of all modules that have this base, by their names."""
    classes = [cls for module in _MODULES for cls in vars(module).values() if isinstance(cls, type)]
    return {cls.NAME: cls for cls in classes if issubclass(cls, base) and cls.NAME}


REQUESTS: Final = _by_name(Request)
EVENTS: Final = _by_name(Event)


def request_of(found: Mapping[str, object]) -> Request | None:
    """The request in a map; None for an unknown or malformed one."""
    return _decoded(REQUESTS.get(str(found.get(Request.KEY))), found)


def event_of(found: Mapping[str, object]) -> Event | None:
    """The event in a map; None for an unknown or malformed one."""
    return _decoded(EVENTS.get(str(found.get(Event.KEY))), found)


def _decoded(cls: type[_M] | None, found: Mapping[str, object]) -> _M | None:
    try:
        return cls.decode(found) if cls is not None else None
    except MessageError:
        return None
