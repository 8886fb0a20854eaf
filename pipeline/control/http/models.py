"""What the API's requests and answers hold, as pydantic models.

The models of requests check what a client sent. read() makes one of a body, with Go's words for a fault. All
models also describe the API: openapi.py makes the schemas of /openapi.json from them.

Keys of a request may be in upper or lower case. null is the same as a missing key. Unknown keys are ignored,
as in the original.
"""

from typing import Annotated, Any, Final, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, RootModel, ValidationError, WithJsonSchema, model_validator
from pydantic_core import ErrorDetails

from pipeline.config.model import EgressPolicy
from pipeline.go.text import GoError, first_object, kind_of
from pipeline.system import inet

Text = Annotated[str, WithJsonSchema({"type": ["string", "null"]})]
"""A text of a request, "" when it is missing."""


class Request(BaseModel):
    """An object of a request. Its keys come in lower case (see first_object)."""

    model_config = ConfigDict(strict=True, frozen=True)

    @model_validator(mode="before")
    @classmethod
    def _without_nulls(cls, keys: object) -> object:
        if isinstance(keys, dict):
            return {key: value for key, value in keys.items() if value is not None}
        return {} if keys is None else keys


class ExposeRequest(Request):
    """Open a forward."""

    local: Text = ""
    remote: Text = ""
    protocol: Text = Field("", description="tcp (default), udp, tcp4, tcp6, udp4, udp6, unix or npipe")
    proxy_protocol: Text = Field("", description="v1 or v2: the guest gets a PROXY header first")


class UnexposeRequest(Request):
    """Close a forward."""

    local: Text = ""
    protocol: Text = ""


class RecordRequest(Request):
    """One name of a zone, or a pattern of names."""

    name: Text = Field("", serialization_alias="Name")
    ip: Text = Field("", serialization_alias="IP")
    regexp: Text = Field("", serialization_alias="Regexp")


class ZoneRequest(Request):
    """A zone, or records for the one of that name."""

    name: Text = Field("", serialization_alias="Name")
    records: list[RecordRequest] = Field(
        [], serialization_alias="Records", json_schema_extra={"type": ["array", "null"]}
    )
    default_ip: Text = Field("", validation_alias="defaultip", serialization_alias="DefaultIP")


_R = TypeVar("_R", bound=Request)


def read(model: type[_R], body: bytes) -> _R:
    """A request from its body. Raises GoError."""
    keys = first_object(body)
    try:
        return model.model_validate(keys)
    except ValidationError as error:
        raise GoError(_words(error.errors()[0])) from None


class FieldError(ValueError):
    """A field of a request is wrong. key: which one, "" for the whole body."""

    def __init__(self, key: str, text: str) -> None:
        super().__init__(text)
        self.key = key


_M = TypeVar("_M", bound=BaseModel)


def read_strictly(model: type[_M], body: bytes) -> _M:
    """A request from its body, without Go's leniency. Raises FieldError."""
    try:
        return model.model_validate_json(body)
    except ValidationError as error:
        first = error.errors()[0]
    key = ".".join(map(str, first["loc"]))
    if first["type"] == "extra_forbidden":
        raise FieldError(key[:100], f"unknown key (allowed: {', '.join(model.model_fields)})")
    raise FieldError(key, first["msg"])


def _words(error: ErrorDetails) -> str:
    field = [step for step in error["loc"] if isinstance(step, str)][-1]
    wanted = "string" if error["type"] == "string_type" else "list of objects"
    return f"json: cannot unmarshal {kind_of(error['input'])} into Go struct field {field} of type {wanted}"


class Forward(BaseModel):
    """An open forward."""

    model_config = ConfigDict(extra="forbid")

    local: str = Field(description="host address: ip:port, or the path of a unix socket")
    remote: str = Field(description="the guest's ip:port; for unix tcp://ip:port or ssh-tunnel://...")
    protocol: Annotated[str, WithJsonSchema({"enum": [*inet.TCP, *inet.UDP, "unix", "npipe"]})]
    proxy_protocol: Annotated[str, WithJsonSchema({"enum": ["v1", "v2"]})] = ""


class Record(BaseModel):
    """One name of a zone, or a pattern of names, with its address."""

    name: str = Field(serialization_alias="Name")
    ip: str = Field(serialization_alias="IP")
    regexp: str = Field("", serialization_alias="Regexp", description="RE2 pattern")


class Zone(BaseModel):
    """A zone of the name server."""

    name: str = Field(serialization_alias="Name")
    records: list[Record] = Field(serialization_alias="Records")
    default_ip: str = Field(serialization_alias="DefaultIP")


class Forwards(RootModel[list[Forward]]):
    """All open forwards."""


class Zones(RootModel[list[Zone] | None]):
    """All zones; null when there are none."""


class Leases(RootModel[dict[str, Annotated[str, Field(pattern="^([0-9a-f]{2}:){5}[0-9a-f]{2}$")]]]):
    """IP address to MAC address."""


class Cam(RootModel[dict[str, int]]):
    """MAC address to number of the guest's link."""


class Guests(RootModel[list[dict[str, int | str | list[str] | dict[str, str]]]]):
    """For each guest its number, opener and addresses, and sums by kind: links, flows, sockets and others."""


_Seconds = Annotated[float, Field(ge=0)]
_Count = Annotated[int, Field(ge=0)]


class Flow(BaseModel):
    """An open flow: a TCP connection, the datagrams or the pings of a guest and one other end."""

    model_config = ConfigDict(extra="forbid")

    id: str = Field(description="worker and number; names the flow as long as it lives")
    protocol: Literal["tcp", "udp", "icmp"]
    direction: Literal["out", "in"] = Field(description="out: the guest opened it; in: a client of a forward")
    guest: int = Field(description="the guest's number, as in /guests")
    guest_mac: str | None
    guest_address: str
    guest_port: int = Field(description="icmp: the identifier")
    address: str = Field(description='the other end as the guest sees it; in: the client, "" if it has none')
    port: int
    name: str | None = Field(description="DNS name for which the guest got the address from the gateway")
    state: str = Field(description="tcp: of RFC 9293, in lower case; else open")
    age_seconds: _Seconds
    idle_seconds: _Seconds
    bytes_from_guest: _Count
    bytes_to_guest: _Count = Field(description="tcp: acknowledged by the guest")
    packets_from_guest: _Count
    packets_to_guest: _Count
    connect_seconds: _Seconds | None = Field(description="time until the other end answered; only tcp")
    min_rtt_seconds: _Seconds | None = Field(description="smallest round-trip time to the guest; only tcp")
    retransmissions: _Count | None = Field(description="segments sent to the guest again; only tcp")


class Flows(BaseModel):
    """Open flows."""

    model_config = ConfigDict(extra="forbid")

    flows: list[Flow]
    total: _Count = Field(description="how many would fit without the limit")


class Policy(RootModel[EgressPolicy]):
    """The egress policy, as at `egress-policy` in a file. A part that a rule leaves out fits everything."""


class PolicyChanged(BaseModel):
    """The policy is in force in all workers."""

    model_config = ConfigDict(extra="forbid")

    ended: _Count = Field(description="open flows that it forbids, and that were ended")


class ExplainRequest(BaseModel):
    """A flow that a guest may ask for. address or name is needed, or both."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")

    guest: str = Field(description="the guest's IP address, MAC address, or number as in /guests")
    address: str = Field("", description="the destination; without it the host looks the name up")
    name: str = Field("", max_length=255, description="as if the gateway had told the guest this name for it")
    port: Annotated[int, Field(ge=0, le=65535, description="needed unless the protocol is icmp")] = 0
    protocol: Literal["tcp", "udp", "icmp"] = "tcp"


class PassedRule(BaseModel):
    """A rule that does not decide."""

    model_config = ConfigDict(extra="forbid")

    rule: str
    part: str = Field(description="the part of the rule that does not fit")


class Explanation(BaseModel):
    """What decides about a flow of a guest."""

    model_config = ConfigDict(extra="forbid")

    allowed: bool
    depends: bool = Field(description="whether the name that the connection states may change the answer")
    rule: str = Field(
        description="egress-policy.rules[N], .default or .preset, the counter of a built-in rule, "
        'or "" for a service of the gateway'
    )
    why: str = Field(description="the same for people")
    decides: dict[str, Any] | None = Field(description="the rule itself, if it is one of the policy")
    guest: str = Field(description="the guest's address")
    address: str = Field(description="the destination")
    passed: list[PassedRule] = Field(description="the rules before it, at most the last 100")
    via: str = Field(description='the proxy to which an allowed connection goes, without credentials, or ""')


class Approval(BaseModel):
    """A flow that waits for an approval."""

    model_config = ConfigDict(extra="forbid")

    id: str
    guest: int = Field(description="the guest's number, as in /guests")
    guest_mac: str | None
    guest_address: str
    address: str = Field(description="the destination")
    port: int
    protocol: Annotated[str, WithJsonSchema({"enum": ["tcp", "udp"]})]
    name: str | None = Field(description="DNS name for which the guest got the address from the gateway")
    rule: str
    seconds: _Seconds = Field(description="until the answer is no")


class Approvals(RootModel[list[Approval]]):
    """All flows that wait for an approval."""


class ApprovalRequest(BaseModel):
    """The answer to a question."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")

    allow: bool
    scope: Literal["once", "session", "always"] = Field(
        "once",
        description="session: a rule about the guest's link until it ends; always: a rule about all guests",
    )


class ApprovalGiven(BaseModel):
    """The question is decided."""

    model_config = ConfigDict(extra="forbid")

    rule_added: bool = Field(description="whether the policy has a new rule")


class QuotaLimit(BaseModel):
    """One bound of an account."""

    model_config = ConfigDict(extra="forbid")

    rule: str = Field(description="egress-policy.quotas[N]")
    limit: str = Field(
        description="its key: bytes, bytes-from-guest, bytes-to-guest, connections or dns-questions"
    )
    most: _Count
    left: _Count = Field(description="0 if it is used up")


class QuotaUse(BaseModel):
    """What a guest has used in the present period, in which a quota of the policy bounds it."""

    model_config = ConfigDict(extra="forbid")

    guest: str = Field(
        description="whose it is: a word of the quota's guests, else what has opened the guest's links"
    )
    guests: list[int] = Field(description="guests that are there and have this account, as in /guests")
    per: str = Field(description="life, hour, day or month")
    ends_at: str | None = Field(description="when the period ends; null for the life of a guest")
    bytes_from_guest: _Count
    bytes_to_guest: _Count
    connections: _Count
    dns_questions: _Count
    quotas: list[QuotaLimit]


class QuotaUses(RootModel[list[QuotaUse]]):
    """All accounts."""


class QuotaResetRequest(BaseModel):
    """Which accounts begin again."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")

    guest: str = Field("", description="guest of /quotas, or a number of its guests; all without it")
    per: Literal["", "life", "hour", "day", "month"] = Field("", description="all periods without it")


class QuotaReset(BaseModel):
    """They have begun again."""

    model_config = ConfigDict(extra="forbid")

    accounts: _Count = Field(description="how many")


class Problem(BaseModel):
    """Why a request about the policy is refused."""

    model_config = ConfigDict(extra="forbid")

    error: str
    key: str = Field(description='what is wrong in the body or the query, such as rules[0].ports[1]; or ""')


class Counters(RootModel[dict[str, "int | Counters"]]):
    """Numbers in objects of any depth."""


class Version(BaseModel):
    """What is running."""

    model_config = ConfigDict(extra="forbid")

    version: str = Field(description='of the installed package, or "unknown"')
    python: str
    data_path: Annotated[str, WithJsonSchema({"enum": ["compiled", "plain"]})]


class Restarted(BaseModel):
    """The program has been replaced."""

    model_config = ConfigDict(extra="forbid")

    pid: int = Field(description="process id of the new supervisor")


class WorkerState(BaseModel):
    """One worker. Several may share a process."""

    model_config = ConfigDict(extra="forbid")

    worker: str
    process: str
    pid: int
    answers: bool = Field(description="whether it answered within two seconds")
    busy: float = Field(description="share of the last second in which it was busy, 0 to 1")


class NetworkAddresses(BaseModel):
    """The virtual network."""

    model_config = ConfigDict(extra="forbid")

    subnet: str
    mtu: int
    gateway: str
    guest: str = Field(description="the first guest's address; forwards without an address lead to it")
    host: str


class Endpoint(BaseModel):
    """A socket of the daemon."""

    model_config = ConfigDict(extra="forbid")

    use: str = Field(description="listen, listen-connect, services, metrics, or the protocol of guests")
    url: str


class OpenFlows(BaseModel):
    """Flows that are open, by protocol."""

    model_config = ConfigDict(extra="forbid")

    tcp: int
    udp: int
    icmp: int


class Status(Version):
    """The state of the daemon."""

    pid: int
    uptime_seconds: float
    placement: str
    network: NetworkAddresses
    endpoints: list[Endpoint]
    workers: list[WorkerState]
    guests: int | None = Field(description="guests with a link; null if ingress does not answer")
    links: int
    leases: int
    flows: OpenFlows
    bytes_from_guests: int
    bytes_to_guests: int
    forwards: list[Forward]
    drops: dict[str, int] = Field(
        description="what was dropped or refused, by counter; only those that are not 0"
    )


class RingTraffic(BaseModel):
    """What one ring between two workers carries."""

    model_config = ConfigDict(extra="forbid")

    source: str
    target: str
    records: int = Field(description="records that it has carried since the start")
    waiting: int = Field(description="records in it now")
    capacity: int


class GuestTraffic(BaseModel):
    """What one guest's link sent and got since it came up, Ethernet headers included."""

    model_config = ConfigDict(extra="forbid")

    mac: str = Field(description="the first MAC address of the link; other: of the links beyond the first 64")
    bytes_from_guest: int
    bytes_to_guest: int
    frames_from_guest: int
    frames_to_guest: int
    frames_dropped: int = Field(description="frames that were dropped because they were bad")


class Traffic(BaseModel):
    """What passes through the pipeline."""

    model_config = ConfigDict(extra="forbid")

    rings: list[RingTraffic]
    guests: list[GuestTraffic]


REQUESTS: Final = (
    *(ExposeRequest, UnexposeRequest, ZoneRequest, Policy, ExplainRequest, ApprovalRequest),
    QuotaResetRequest,
)
ANSWERS: Final = (
    *(Forwards, Zones, Leases, Cam, Guests, Flows, Counters, Version, Status, Traffic),
    *(PolicyChanged, Explanation, Problem, Approvals, ApprovalGiven, Restarted),
    *(QuotaUses, QuotaReset),
)
