"""Questions that are asked upstream, and the queries of guests that wait for their answers.

A query mostly waits for the answer to its own question. With DNS64 it may wait for another one: a query for
AAAA waits for A if the name has no AAAA records, and a query for PTR waits for that of the embedded address.
"""

from collections.abc import Hashable
from typing import Generic, NamedTuple, TypeVar

from pipeline.engines import tally
from pipeline.engines.dns import message as m
from pipeline.engines.dns.cache import Cached

W = TypeVar("W", bound=Hashable)


class Key(NamedTuple):
    """Two questions with the same key are equal: name in lower case (wire form), type, class, DO, CD, AD.

    The answer to a query without AD and DO does not say whether its data is authentic (RFC 6840 section 5.8).
    So it does not serve a query with one of these bits.
    """

    name: bytes
    rdtype: int
    rdclass: int
    dnssec: bool
    checking_disabled: bool
    authentic: bool


def key_of(query: m.Query) -> Key:
    """The key of a query's question."""
    return Key(
        query.question[: -m.TAIL.size].lower(),
        query.rdtype,
        query.rdclass,
        query.dnssec,
        bool(query.flags & m.CD),
        bool(query.flags & m.AD),
    )


class Wanted(NamedTuple):
    """The query of a guest, and the query whose answer it needs now. Without DNS64 both are the same object.

    synthesizes: A records may answer it (DNS64). first: then, the answer about AAAA, which has no addresses.
    """

    query: m.Query
    asked: m.Query
    synthesizes: bool = False
    first: Cached | None = None

    @property
    def kind(self) -> tuple[int, bool, bool]:
        """Queries of one kind that wait for the same answer get the same records."""
        return self.query.rdtype, self.synthesizes, self.asked is self.query


class Waiting(NamedTuple):
    """A query that waits, its client, and when the guest asked."""

    wanted: Wanted
    client: Hashable
    since: float


class Pending(Generic[W]):
    """A question and the queries that wait for its answer.

    ``begun``: whether the question is under way. ``client``: the client whose turn it was. ``clients``: how
    many queries wait, by client. ``waiters``: by where the reply goes, and the type that was asked for there.
    """

    __slots__ = ("begun", "client", "clients", "query", "waiters")

    def __init__(self, query: m.Query) -> None:
        self.query = query
        self.client: Hashable = None
        self.begun = False
        self.waiters: dict[tuple[W, int], Waiting] = {}
        self.clients: dict[Hashable, int] = {}

    def begin(self, client: Hashable) -> None:
        """The question goes upstream, in the turn of this client."""
        self.begun = True
        self.client = client

    def add(self, slot: tuple[W, int], waiting: Waiting) -> None:
        """One more query waits for the answer."""
        self.waiters[slot] = waiting
        tally.add(self.clients, waiting.client, 1)

    def remove(self, slot: tuple[W, int]) -> Waiting:
        """A query does not wait any more."""
        waiting = self.waiters.pop(slot)
        tally.add(self.clients, waiting.client, -1)
        return waiting
