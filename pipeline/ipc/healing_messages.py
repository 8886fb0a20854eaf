"""The control messages with which the supervisor replaces workers that died (pipeline.daemon.healing).

message_table.py describes control messages. Living workers get Pause, Lost, Settle and Resume, in this order.
"""

from dataclasses import dataclass

from pipeline.ipc.message import Answer, Event, Message, Request


@dataclass(frozen=True, slots=True)
class Pause(Request):
    """Other workers have died: take no breath until Resume. The answer comes between two breaths."""

    NAME = "pause"


@dataclass(frozen=True, slots=True)
class Lost(Request):
    """To a worker that pauses: drop the rings with these dead workers."""

    NAME = "lost"
    workers: list[str]


@dataclass(frozen=True, slots=True)
class LostAnswer(Answer):
    """slots: the number of references that the worker holds now, by slot.

    links: of ingress: the links that are up, each with the number of its guest.
    """

    slots: dict[int, int]
    links: dict[int, int] | None = None


@dataclass(frozen=True, slots=True)
class Settle(Request):
    """To a worker that pauses, after Lost: end what lived in the dead workers, and greet their successors.

    slots: the references that all living workers hold of this worker's slots; None if it owns none. links: as
    in LostAnswer. peers: for each descriptor, the successor at the other end of this hand-off socket.
    """

    NAME = "settle"
    workers: list[str]
    links: dict[int, int]
    peers: list[str]
    slots: dict[int, int] | None = None


@dataclass(frozen=True, slots=True)
class SettleAnswer(Answer):
    """returned: references to this worker's slots that were lost with the dead workers."""

    returned: int


@dataclass(frozen=True, slots=True)
class Resume(Request):
    """Breathe again."""

    NAME = "resume"


@dataclass(frozen=True, slots=True)
class AllLeases(Message):
    """ipv4, ipv6: of each lease the address (as in Accepted), the client, and the end on time.monotonic()."""

    ipv4: list[list[object]]
    ipv6: list[list[object]]


@dataclass(frozen=True, slots=True)
class LeasesEvent(AllLeases, Event):
    """All leases of clients, after a change. The supervisor keeps them for a successor of the resolver."""

    NAME = "leases"


@dataclass(frozen=True, slots=True)
class RestoreLeases(AllLeases, Request):
    """Take over the leases of a predecessor that has died."""

    NAME = "restore_leases"


@dataclass(frozen=True, slots=True)
class LinkUpEvent(Event):
    """A guest's link is up. If a successor of ingress can carry it on, the message has its descriptor.

    form: see pipeline.links.adopted; "" if it cannot. vnet: what the guest takes, None without virtio-net
    headers.
    """

    NAME = "link_up"
    number: int
    guest: int
    protocol: str
    peer: str
    identity: str
    form: str
    vnet: int | None = None


@dataclass(frozen=True, slots=True)
class LinkDownEvent(Event):
    """A link of which LinkUpEvent told is gone."""

    NAME = "link_down"
    number: int


@dataclass(frozen=True, slots=True)
class InnerEvent(Event):
    """The own addresses and MACs of a link that have inner ones (pipeline.engines.apart), as on the wire."""

    NAME = "inner"
    number: int
    places: list[bytes]


@dataclass(frozen=True, slots=True)
class CarriedLink(Message):
    """A link that another process carries on. It goes with its descriptors.

    The fields up to form, and vnet, are those of LinkUpEvent. head: the beginning of a frame that has come in
    part. skip: bytes to come of a frame that is too long. backlog: bytes that the guest must get first.
    decided, features: of OffloadLink.begin_again(). places: of InnerEvent.
    """

    number: int
    guest: int
    protocol: str
    peer: str
    identity: str
    form: str
    head: bytes
    skip: int
    vnet: int | None = None
    backlog: bytes | None = None
    decided: bool | None = None
    features: int | None = None
    places: list[bytes] | None = None


@dataclass(frozen=True, slots=True)
class Adopt(CarriedLink, Request):
    """To ingress: carry on this link."""

    NAME = "adopt"


@dataclass(frozen=True, slots=True)
class HandOver(Request):
    """To a worker that pauses: the supervisor has a successor. Report what that one needs, before the answer.

    Ingress sends LinkEvent for each link and KnowledgeEvent, the resolver LeasesEvent and KnowledgeEvent, and
    tcp ConnectionsEvent.
    """

    NAME = "hand_over"


@dataclass(frozen=True, slots=True)
class LinkEvent(CarriedLink, Event):
    """A link as it is now."""

    NAME = "link"


@dataclass(frozen=True, slots=True)
class ConnectionsEvent(Event):
    """The connections of a tcp worker: guest's address (as in Accepted) and port, and those outside."""

    NAME = "connections"
    ends: list[list[object]]


@dataclass(frozen=True, slots=True)
class Knowledge(Message):
    """What a worker knows, for another daemon's worker of this kind. Each kind has one of the fields.

    last_link: of ingress: links were numbered up to this one. names: of the resolver: the names for which
    guests got addresses, each with the guest's address and the one it got (as in Accepted), the number of the
    policy's pattern, the time to live and, for a proxy, the text.
    """

    last_link: int | None = None
    names: list[list[object]] | None = None


@dataclass(frozen=True, slots=True)
class KnowledgeEvent(Knowledge, Event):
    """From a worker that pauses."""

    NAME = "knowledge"


@dataclass(frozen=True, slots=True)
class Know(Knowledge, Request):
    """To ingress or the resolver, before guests are served."""

    NAME = "know"


@dataclass(frozen=True, slots=True)
class Seek(Request):
    """To demux: find out where the guests with these addresses are (as in Accepted)."""

    NAME = "seek"
    addrs: list[bytes]


@dataclass(frozen=True, slots=True)
class EndStrays(Request):
    """To tcp: let guests find out that these connections are gone. The field is that of ConnectionsEvent."""

    NAME = "end_strays"
    ends: list[list[object]]
