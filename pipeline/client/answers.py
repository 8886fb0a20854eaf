"""What a daemon says, as typed objects. Fields that another version does not send are empty."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TypedDict

from pipeline.client.records import Record

_FileRule = TypedDict("_FileRule", {"name-files": list[str], "stated-ports": list[int | str]}, total=False)
_FileQuota = TypedDict(
    "_FileQuota",
    {
        "bytes-from-guest": int | str,
        "bytes-to-guest": int | str,
        "dns-questions": int,
        "open-flows": str,
    },
    total=False,
)
_FilePolicy = TypedDict("_FilePolicy", {"inner-names": list[str], "ask-seconds": int}, total=False)


class Rule(_FileRule, total=False):
    """A rule of the egress policy (docs/access.md). A part that is left out fits everything."""

    action: str
    guests: list[str]
    networks: list[str]
    groups: list[str]
    names: list[str]
    ports: list[int | str]
    protocols: list[str]
    stated: str


class Quota(_FileQuota, total=False):
    """A quota of the egress policy (docs/policy.md). A bound that is left out is none."""

    guests: list[str]
    per: str
    bytes: int | str
    connections: int


class Policy(_FilePolicy, total=False):
    """The egress policy: the first rule that fits decides, else ``preset`` or ``default``."""

    default: str
    preset: str
    rules: list[Rule]
    quotas: list[Quota]
    questions: str
    rebinding: str
    quic: str
    ech: str
    h3: str


@dataclass(frozen=True, slots=True)
class Guest:
    """A guest. sums: how much of each resource it has (``links``, ``tcp_flows`` and others)."""

    number: int
    opened_by: str
    mac_addresses: tuple[str, ...]
    ip_addresses: tuple[str, ...]
    sums: Mapping[str, int]

    @staticmethod
    def of(record: Record) -> "Guest":
        """The guest in an answer."""
        sums = record.numbers()
        number = sums.pop("guest", 0)
        macs, addresses = record.texts("mac_addresses"), record.texts("ip_addresses")
        return Guest(number, record.text("opened_by"), tuple(macs), tuple(addresses), sums)


@dataclass(frozen=True, slots=True)
class Forward:
    """An open forward: a port of the host leads to one of a guest."""

    local: str
    remote: str
    protocol: str

    @staticmethod
    def of(record: Record) -> "Forward":
        """The forward in an answer."""
        return Forward(record.text("local"), record.text("remote"), record.text("protocol"))


@dataclass(frozen=True, slots=True)
class Flow:
    """A connection, or the datagrams or pings of a guest and one other end (docs/flows.md)."""

    id: str
    protocol: str
    direction: str
    guest: int
    guest_mac: str
    guest_address: str
    guest_port: int
    address: str
    port: int
    name: str
    state: str
    age_seconds: float
    idle_seconds: float
    bytes_from_guest: int
    bytes_to_guest: int

    @staticmethod
    def of(record: Record) -> "Flow":
        """The flow in an answer."""
        return Flow(
            *(record.text("id"), record.text("protocol"), record.text("direction")),
            *(int(record.number("guest")), record.text("guest_mac")),
            *(record.text("guest_address"), int(record.number("guest_port"))),
            *(record.text("address"), int(record.number("port"))),
            *(record.text("name"), record.text("state")),
            *(record.number("age_seconds"), record.number("idle_seconds")),
            *(int(record.number("bytes_from_guest")), int(record.number("bytes_to_guest"))),
        )


@dataclass(frozen=True, slots=True)
class Explanation:
    """Which rule decides about a guest and a destination (docs/policy-api.md)."""

    allowed: bool
    depends: bool
    """Whether the name that the connection states may change the answer."""
    rule: str
    why: str
    guest: str
    address: str
    passed: tuple[tuple[str, str], ...]
    """Each rule before it, and the part of that rule that does not fit."""

    @staticmethod
    def of(record: Record) -> "Explanation":
        """The explanation in an answer."""
        passed = tuple((each.text("rule"), each.text("part")) for each in record.records("passed"))
        texts = (record.text("rule"), record.text("why"), record.text("guest"), record.text("address"))
        return Explanation(record.true("allowed"), record.true("depends"), *texts, passed)


@dataclass(frozen=True, slots=True)
class Approval:
    """A flow that waits for an approval (docs/policy-api.md). name: "" if the guest asked for none."""

    id: str
    guest: int
    guest_mac: str
    guest_address: str
    address: str
    port: int
    protocol: str
    name: str
    rule: str
    seconds: float

    @staticmethod
    def of(record: Record) -> "Approval":
        """The approval in an answer, or in an event."""
        return Approval(
            *(record.text("id"), int(record.number("guest")), record.text("guest_mac")),
            *(record.text("guest_address"), record.text("address"), int(record.number("port"))),
            *(record.text("protocol"), record.text("name"), record.text("rule")),
            record.number("seconds"),
        )


@dataclass(frozen=True, slots=True)
class QuotaLimit:
    """A bound of what a guest may use. rule: egress-policy.quotas[N]. limit: its key. left: 0 if used up."""

    rule: str
    limit: str
    most: int
    left: int


@dataclass(frozen=True, slots=True)
class QuotaUse:
    """What a guest has used in a period (docs/policy.md).

    guest: a word of the quota's guests, else what has opened the guest's links. guests: numbers of the guests
    that are there and have this account. ends_at: of the period, "" for the life of the guest.
    """

    guest: str
    guests: tuple[int, ...]
    per: str
    ends_at: str
    bytes_from_guest: int
    bytes_to_guest: int
    connections: int
    dns_questions: int
    quotas: tuple[QuotaLimit, ...]

    @staticmethod
    def of(record: Record) -> "QuotaUse":
        """The account in an answer."""
        limits = (
            QuotaLimit(
                *(each.text("rule"), each.text("limit")),
                *(int(each.number("most")), int(each.number("left"))),
            )
            for each in record.records("quotas")
        )
        return QuotaUse(
            *(record.text("guest"), tuple(record.whole_numbers("guests"))),
            *(record.text("per"), record.text("ends_at")),
            *(int(record.number("bytes_from_guest")), int(record.number("bytes_to_guest"))),
            *(int(record.number("connections")), int(record.number("dns_questions"))),
            tuple(limits),
        )


@dataclass(frozen=True, slots=True)
class Event:
    """Something that has happened (docs/events.md). lost: how many events before it are missing."""

    kind: str
    time: datetime
    worker: str
    fields: Mapping[str, object]
    lost: int = 0

    @staticmethod
    def of(value: object) -> "Event":
        """The event in one line of the stream."""
        record = Record(value)
        own = ("kind", "time", "worker", "lost")
        found = value if isinstance(value, dict) else {}
        fields = {name: field for name, field in found.items() if name not in own}
        lost = int(record.number("lost"))
        return Event(record.text("kind"), _time(record.text("time")), record.text("worker"), fields, lost)


def _time(text: str) -> datetime:
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        return datetime.fromtimestamp(0, UTC)
