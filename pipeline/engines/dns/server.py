"""The gateway's name server: it answers a guest's query itself, or forwards the question to upstream servers.

Sans-IO. ``on_query`` gets a guest's message and decides. The first case that holds counts::

    same bytes as before ..... Answer            (ready.py) the message is not parsed
    malformed ................ Answer (FORMERR, NOTIMP ...) or Ignored
    AXFR and the like ........ Answer (REFUSED)
    a local zone's name ...... Answer            (zones.py)
    localhost, hosts file .... Answer            (hosts.py)
    in the cache ............. Answer            (cache.py)
    made of the cache ........ Answer            (lookup.py) with DNS64
    too many queries wait .... Answer (SERVFAIL) in all, or of this client
    question under way ....... Joined            the query waits for the same answer
    too many under way ....... Queued            in all, or for this client (turns.py)
    else ..................... Forward           the caller asks upstream, then calls on_upstream

``on_upstream`` makes the replies to all queries that wait for the upstream's response. The caller must call
it exactly once for each Forward, with its key. Then it must call ``next_forwards``, since an answer makes
room for a waiting question. ``expire`` gives up queries that waited for too long. At ``deadline()`` both are
due. pipeline/host/upstream asks the servers, and retries.

With DNS64, a query for AAAA whose answer lacks addresses goes on with the question for A: from the cache, or
as one more question that waits for its turn.
"""

from collections import OrderedDict
from collections.abc import Hashable, Mapping, Sequence
from typing import Final, Generic, NamedTuple

from pipeline.engines import tally
from pipeline.engines.dns import message as m
from pipeline.engines.dns import turns
from pipeline.engines.dns.cache import Cached
from pipeline.engines.dns.dns64 import Dns64
from pipeline.engines.dns.filters import FORBIDDEN, AnswerFilter
from pipeline.engines.dns.hosts import Hosts
from pipeline.engines.dns.lookup import Lookup
from pipeline.engines.dns.pending import Key, Pending, W, Waiting, Wanted, key_of
from pipeline.engines.dns.ready import ReadyReplies
from pipeline.engines.dns.responses import upstream_body
from pipeline.engines.dns.zones import AAAA, ANY, PTR, A, Local, Zone, Zones
from pipeline.wire.errors import WireError

MAX_WAITERS: Final = 8192
"""The most queries of guests that wait for an answer."""
SHARED_WAITERS: Final = 4096
"""A client's query may wait while fewer queries than these wait. So a client that is alone gets them all."""
LEAST_WAITERS: Final = 256
"""Waiting queries that each client may have while there is any room."""
QUEUE_SECONDS: Final = 4.0
"""How long a query waits for its question's turn. The guest gets an answer before its own 5 s are over."""
MAX_ALIKE: Final = 128
"""The most queries of one client that wait for the same answer. All their replies are sent at once."""
MAX_EXPIRED: Final = 128
"""The most queries that one expire() gives up. Their replies are sent at once too."""
MAX_TTL: Final = 86400
MAX_NEGATIVE_TTL: Final = 3600
FAILURE_TTL: Final = 1
"""Seconds until a failed question is asked again (RFC 9520 section 3.2)."""

_REFUSED_TYPES: Final = frozenset({41, 249, 250, 251, 252})
"""OPT, TKEY, TSIG, IXFR, AXFR: types that a forwarder does not serve."""
_FOREVER: Final = float("inf")


class Answer(NamedTuple):
    """Send this reply now."""

    payload: bytes
    counter: str


class Forward(NamedTuple):
    """Ask upstream: ``payload`` has id 0 and, as its last 11 bytes, an OPT record without options.

    ``since``: when the guest asked.
    """

    key: Key
    payload: bytes
    counter: str
    since: float


class Joined(NamedTuple):
    """Nothing to do: this query waits for the answer to a question that is under way."""

    key: Key
    counter: str


class Queued(NamedTuple):
    """Nothing to do: the question waits for its turn and then comes as a Forward."""

    key: Key
    counter: str


class Ignored(NamedTuple):
    """Nothing to do, and no reply."""

    counter: str


Decision = Answer | Forward | Joined | Queued | Ignored


class Dns(Generic[W]):
    """The server. A waiter (W) says where to send a reply. A client is a guest, and has bounds of its own."""

    def __init__(
        self,
        zones: Zones,
        max_begun: int = turns.MAX_BEGUN,
        per_second: int = turns.MAX_PER_SECOND,
        dns64: Dns64 | None = None,
        answer_filter: AnswerFilter | None = None,
    ) -> None:
        """max_begun: the most questions under way. per_second: a client's rate, see set_crowded().

        dns64: None for no synthetic addresses. answer_filter: judges answers of upstream servers.
        """
        self._filter = answer_filter or AnswerFilter()
        self.zones = zones
        self.dns64 = dns64
        self._lookup = Lookup(dns64)
        self.cache = self._lookup.cache
        self._ready = ReadyReplies()
        self._ready6 = ReadyReplies()
        """Those to queries that came over IPv6."""
        self._hosts = Hosts()
        self._pending: dict[Key, Pending[W]] = {}
        self._turns: turns.Turns[Key] = turns.Turns(max_begun, per_second)
        self._queue: OrderedDict[tuple[Key, tuple[W, int]], float] = OrderedDict()
        """Queries whose question waits for its turn, and since when. The oldest comes first."""
        self._waiting = 0
        self._clients: dict[Hashable, int] = {}
        """Waiting queries by client."""

    @property
    def made_count(self) -> int:
        """Answers that DNS64 has made of others."""
        return self._lookup.made

    @property
    def pending_count(self) -> int:
        """Questions under way upstream."""
        return self._turns.begun_count

    @property
    def queued_count(self) -> int:
        """Questions that wait for their turn."""
        return len(self._pending) - self._turns.begun_count

    @property
    def waiting_count(self) -> int:
        """Queries that wait for an answer."""
        return self._waiting

    def set_hosts(self, names: Mapping[str, Sequence[bytes]]) -> None:
        """Replace the names of the host's hosts file: name -> addresses (4 or 16 bytes)."""
        self._forget_replies()
        self._hosts.replace(names)

    def add_zone(self, zone: Zone) -> None:
        """Add a zone, or extend the one with its name. Raises ZoneError."""
        self._forget_replies()
        self.zones.add(zone)

    def set_zones(self, zones: Zones) -> None:
        """Replace all zones."""
        self._forget_replies()
        self.zones = zones

    def set_rate(self, per_second: int) -> None:
        """Change each client's rate of questions, see set_crowded()."""
        self._turns.set_rate(per_second)

    def on_guest_names(self) -> None:
        """A name of a guest came or went."""
        self._forget_replies()

    def forget_answers(self) -> None:
        """Forget the answers of upstream servers: the host has other servers now."""
        self._forget_replies()
        self.cache.clear()

    def _forget_replies(self) -> None:
        self._ready.clear()
        self._ready6.clear()

    # --- queries ------------------------------------------------------------------------

    def on_query(
        self,
        wire: bytes,
        waiter: W,
        client: Hashable,
        now: float,
        *,
        tcp: bool = False,
        over_ipv6: bool = False,
    ) -> Decision:
        """Decide on a guest's message. over_ipv6: how it came, which matters for DNS64."""
        kept = self._ready6 if over_ipv6 else self._ready
        if not tcp:
            ready = kept.get(wire, now)
            if ready is not None:
                return Answer(ready[0], ready[1])
        query = m.parse_query(wire, tcp=tcp)
        if isinstance(query, m.Malformed):
            return Answer(query.reply, query.counter) if query.reply else Ignored(query.counter)
        if query.rdtype in _REFUSED_TYPES:
            return Answer(m.render(query, m.Body(m.REFUSED)), "dns_query_refused_type")
        wanted = self._lookup.wanted(query, over_ipv6)
        found: Cached | Wanted
        counter = "dns_query_answered_local"
        local = self._own_answer(wanted)
        if local is not None:
            found = Cached(local, 0, _FOREVER)
        else:
            found = self._lookup.find(wanted, now)
            counter = "dns_query_answered_from_cache"
            if isinstance(found, Cached) and found.body.forbidden:
                counter = FORBIDDEN
        if isinstance(found, Wanted):
            return self._wait(found, waiter, client, now, now)
        payload = m.render(query, found.body, found.age)
        # Negative replies are not kept: a guest may make up any number of names that do not exist.
        if not tcp and found.body.rcode == m.NOERROR:
            kept.put(wire, payload, found.until, counter)
        return Answer(payload, counter)

    def _wait(
        self, wanted: Wanted, waiter: W, client: Hashable, since: float, now: float, *, in_turn: bool = False
    ) -> Decision:
        """Let a query wait for an answer. since: when the guest asked. in_turn: after those that wait."""
        key = key_of(wanted.asked)
        slot = (waiter, wanted.query.rdtype)
        pending = self._pending.get(key)
        if pending is not None and slot in pending.waiters:
            return Ignored("dns_query_ignored_repeated")
        most = MAX_WAITERS if self._clients.get(client, 0) < LEAST_WAITERS else SHARED_WAITERS
        alike = pending.clients.get(client, 0) if pending is not None else 0
        if self._waiting >= most or alike >= MAX_ALIKE:
            return Answer(m.render(wanted.query, m.Body(m.SERVFAIL)), "dns_query_refused_busy")
        if pending is None:
            pending = self._pending[key] = Pending(wanted.asked)
        pending.add(slot, Waiting(wanted, client, since))
        tally.add(self._clients, client, 1)
        self._waiting += 1
        if pending.begun:
            return Joined(key, "dns_query_joined")
        if not in_turn and self._turns.begin(client, now):
            return self._forward(key, pending, client, since)
        # Several clients may wait for this question. The first client that has a turn begins it.
        self._turns.wait(client, key)
        self._queue[key, slot] = now
        return Queued(key, "dns_query_queued")

    def _forward(self, key: Key, pending: Pending[W], client: Hashable, since: float) -> Forward:
        """Begin a question for a client."""
        for slot in pending.waiters:
            self._queue.pop((key, slot), None)
        for each in pending.clients:
            self._turns.leave(each, key)
        pending.begin(client)
        return Forward(key, m.upstream_query(pending.query), "dns_query_forwarded", since)

    def next_forwards(self, now: float) -> list[Forward]:
        """The questions whose turn has come."""
        forwards = []
        while (turn := self._turns.next(now)) is not None:
            client, key = turn
            pending = self._pending[key]
            since = next(iter(pending.waiters.values())).since
            forwards.append(self._forward(key, pending, client, since))
        return forwards

    def set_crowded(self, until: float) -> None:
        """Several guests are active. Until then, each client has a rate for questions upstream."""
        self._turns.crowded_until = until

    def on_client_gone(self, now: float) -> None:
        """A client is gone."""
        self._turns.on_client_gone(now)

    def deadline(self) -> float:
        """When expire() or next_forwards() is due; inf when no question waits for its turn."""
        return min(self._expiry(), self._turns.deadline()) if self._queue else _FOREVER

    def _expiry(self) -> float:
        return next(iter(self._queue.values())) + QUEUE_SECONDS if self._queue else _FOREVER

    def expire(self, now: float) -> list[tuple[W, bytes]]:
        """(waiter, reply) of queries whose question waited too long for its turn, at most MAX_EXPIRED."""
        replies: list[tuple[W, bytes]] = []
        while self._expiry() <= now and len(replies) < MAX_EXPIRED:
            (key, slot), _ = self._queue.popitem(last=False)
            pending = self._pending[key]
            wanted, client, _ = pending.remove(slot)
            replies.append((slot[0], m.render(wanted.query, m.Body(m.SERVFAIL))))
            self._waiting -= 1
            tally.add(self._clients, client, -1)
            if client not in pending.clients:
                self._turns.leave(client, key)
            if not pending.waiters:
                del self._pending[key]
        return replies

    # --- answers ------------------------------------------------------------------------

    def on_upstream(self, key: Key, wire: bytes | None, now: float) -> tuple[list[tuple[W, bytes]], str]:
        """The response to a Forward came. wire: None if no server has answered.

        Returns (waiter, reply) for all waiting queries, and the name of the counter for the result.
        """
        pending = self._pending.get(key)
        if pending is None or not pending.begun:
            return [], "dns_upstream_response_unasked"
        del self._pending[key]
        self._turns.end(pending.client)
        counter = "dns_upstream_failed" if wire is None else "dns_upstream_answered"
        body = m.Body(m.SERVFAIL)
        if wire is not None:
            try:
                body = upstream_body(
                    pending.query,
                    wire,
                    max_ttl=MAX_TTL,
                    max_negative_ttl=MAX_NEGATIVE_TTL,
                    removed=self._filter.removed,
                )
                body = self._filter.judge(pending.query, body)
            except WireError as error:
                counter = error.reason
        if body.forbidden:
            counter = FORBIDDEN
        if body.rcode == m.SERVFAIL:
            body = body._replace(lifetime=FAILURE_TTL)
        self.cache.put(key, body, now)
        replies: list[tuple[W, bytes]] = []
        results: dict[tuple[int, bool, bool], Cached | Wanted] = {}
        for (waiter, _), (wanted, client, since) in pending.waiters.items():
            self._waiting -= 1
            tally.add(self._clients, client, -1)
            found = results.get(wanted.kind)
            if found is None:
                found = results[wanted.kind] = self._lookup.follow(wanted, body, now)
            if isinstance(found, Cached):
                replies.append((waiter, m.render(wanted.query, found.body, found.age)))
                continue
            # The query goes on with its next question.
            wanted = found._replace(query=wanted.query)
            decision = self._wait(wanted, waiter, client, since, now, in_turn=True)
            if isinstance(decision, Answer):
                replies.append((waiter, decision.payload))
        return replies, counter

    def is_local(self, query: m.Query) -> bool:
        """Whether the gateway answers the query itself, so that it does not leave the host."""
        return self._local(query) is not None

    def _own_answer(self, wanted: Wanted) -> m.Body | None:
        """The gateway's own answer; None if it must ask upstream."""
        query = wanted.query
        local = self._local(wanted.asked)
        if local is None:
            return None
        if query.rdclass not in (m.CLASS_IN, ANY):
            return m.own_body(query, local.rcode)
        if wanted.synthesizes and self.dns64 is not None and not local.addresses:
            # The name has no AAAA record, or does not exist. Then it has no A record either.
            other = self._local(m.about(query, query.labels, A))
            local = self.dns64.translated(other) if other is not None else local
        records = [(A if len(address) == 4 else AAAA, address) for address in local.addresses]
        if local.pointer and (pointer := m.text_wire(local.pointer)):
            records.append((PTR, pointer))
        return m.own_body(query, local.rcode, records, local.ttl)

    def _local(self, query: m.Query) -> Local | None:
        """What the gateway knows itself: special names, its zones, the hosts file."""
        if self.dns64 is not None and query.rdclass == m.CLASS_IN:
            special = self.dns64.special(query)
            if special is not None:
                return special
        local = self.zones.resolve(query.labels, query.rdtype)
        if local is None and query.rdclass == m.CLASS_IN:
            local = self._hosts.answer(query)
        return local
