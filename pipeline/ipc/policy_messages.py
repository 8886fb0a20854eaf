"""The control messages about the egress policy, to egress workers and the resolver (see message_table.py)."""

from dataclasses import dataclass
from typing import NamedTuple

from pipeline.ipc.message import Answer, Request


class AskRow(NamedTuple):
    """A flow that waits for an approval. number: of the question, in its worker. seconds: that are left."""

    number: int
    guest: int
    link: int
    guest_address: str
    address: str
    port: int
    protocol: str
    rule: str
    seconds: float


class UseRow(NamedTuple):
    """What an account has counted in one worker, or in all of them.

    sums: bytes from and to the guest, connections, DNS questions. quotas: the numbers of those that bound it.
    """

    per: str
    subject: str
    sums: list[int]
    quotas: list[int]


@dataclass(frozen=True, slots=True)
class Count(Request):
    """Report what guests have used of their quotas, and count on. To egress workers and the resolver.

    elsewhere: period, subject and sums, as in a UseRow: what all others have counted. gone: periods and
    subjects of accounts that are over. They are in the answer for the last time.
    """

    NAME = "count"
    elsewhere: list[list[object]]
    gone: list[list[str]]


@dataclass(frozen=True, slots=True)
class CountAnswer(Answer):
    """rows: each the values of a UseRow. incarnation: one that has changed begins at zero."""

    incarnation: int
    rows: list[list[object]]


@dataclass(frozen=True, slots=True)
class EndForbidden(Request):
    """End the open flows of guests that the policy forbids now."""

    NAME = "end_forbidden"


@dataclass(frozen=True, slots=True)
class EndForbiddenAnswer(Answer):
    """ended: how many flows."""

    ended: int


@dataclass(frozen=True, slots=True)
class Explain(Request):
    """Say which rule decides about a flow of a guest. protocol: tcp, udp or icmp.

    guest, address: of either family, as text. name: as if the gateway had told the guest that the address has
    this name; "" for none.
    """

    NAME = "explain"
    guest: str
    address: str
    port: int
    protocol: str
    name: str


@dataclass(frozen=True, slots=True)
class ExplainAnswer(Answer):
    """rule: a path in the configuration, or the counter of a built-in rule, or "" for a service.

    passed: for each rule before it, the part that is not about such a flow. depends: the name that the flow
    states may change the answer. via: the proxy, without credentials.
    """

    allowed: bool
    rule: str
    passed: list[str]
    depends: bool | None = None
    via: str | None = None


@dataclass(frozen=True, slots=True)
class Asks(Request):
    """Report the flows that wait for an approval."""

    NAME = "asks"


@dataclass(frozen=True, slots=True)
class AsksAnswer(Answer):
    """asks: each the values of an AskRow."""

    asks: list[list[object]]


@dataclass(frozen=True, slots=True)
class Decide(Request):
    """Answer a question. name: what the connection must state, if it states a name; "" for anything."""

    NAME = "decide"
    number: int
    allow: bool
    name: str


@dataclass(frozen=True, slots=True)
class DecideAnswer(Answer):
    """found: whether such a question has waited."""

    found: bool
