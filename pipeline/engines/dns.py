"""The gateway's name server: what to answer at once, what to ask upstream, who waits for it.

Sans-IO. ``on_query`` gets a guest's message and decides::

    malformed ................ Answer (FORMERR, NOTIMP ...) or Ignored
    a local zone's name ...... Answer            (dns_zones.py)
    localhost, hosts file .... Answer
    in the cache ............. Answer            (dns_cache.py)
    the same is under way .... Joined            the guest waits with the others
    too much is under way .... Answer (SERVFAIL)   in all, or for this client
    else ..................... Forward           the caller asks upstream, then calls on_upstream

``on_upstream`` turns the upstream's response, or its absence, into the replies of all who wait.
Every Forward must be followed by exactly one ``on_upstream`` with its key. How upstream servers are
asked, retried and found is pipeline/host/resolver.py.
"""

import ipaddress
from collections.abc import Hashable, Mapping, Sequence
from typing import Final, Generic, NamedTuple, TypeVar

import dns.exception
import dns.name
import dns.reversename

from pipeline.engines import dns_message as m
from pipeline.engines import tally
from pipeline.engines.dns_cache import DnsCache
from pipeline.engines.dns_zones import AAAA, ANY, PTR, A, Local, Zones
from pipeline.wire.errors import WireError

MAX_PENDING: Final = 256
"""Questions under way upstream."""
MAX_PENDING_A_CLIENT: Final = 64
"""Of them, those that one client began: names of a silent server must leave room for other clients' names."""
MAX_WAITERS: Final = 2048
"""Guests' queries that wait for them."""
MAX_WAITERS_A_CLIENT: Final = 128
MAX_TTL: Final = 86400
MAX_NEGATIVE_TTL: Final = 3600
FAILURE_TTL: Final = 1
"""Seconds for which a failed question is not asked again (RFC 9520 section 3.2)."""

_REFUSED_TYPES: Final = frozenset({41, 249, 250, 251, 252})
"""OPT, TKEY, TSIG, IXFR, AXFR: no questions for a forwarder."""
_LOCALHOST: Final = (b"\x7f\0\0\1", bytes(15) + b"\1")

W = TypeVar("W", bound=Hashable)


class Key(NamedTuple):
    """What makes two questions the same: name in lower case (wire form), type, class, DO and CD bits."""

    name: bytes
    rdtype: int
    rdclass: int
    dnssec: bool
    checking_disabled: bool


class Answer(NamedTuple):
    """Send this reply now."""

    payload: bytes
    counter: str


class Forward(NamedTuple):
    """Ask upstream: ``payload`` has id 0 and, as its last 11 bytes, an OPT record without options."""

    key: Key
    payload: bytes
    counter: str


class Joined(NamedTuple):
    """Nothing to do: the answer of a question under way will serve this query too."""

    key: Key
    counter: str


class Ignored(NamedTuple):
    """Nothing to do and nothing to answer."""

    counter: str


class _Pending(Generic[W]):
    """A question under way: the client that began it, and who waits for it, with their query and client."""

    __slots__ = ("client", "query", "waiters")

    def __init__(self, query: m.Query, client: Hashable) -> None:
        self.query = query
        self.client = client
        self.waiters: dict[W, tuple[m.Query, Hashable]] = {}


class Dns(Generic[W]):
    """The server. A waiter (W) is the caller's name for where a reply goes; a client is who has bounds."""

    def __init__(self, zones: Zones) -> None:
        self.zones = zones
        self.cache = DnsCache()
        self._hosts: dict[bytes, tuple[bytes, ...]] = {}
        self._pointers: dict[bytes, str] = {}
        self._pending: dict[Key, _Pending[W]] = {}
        self._waiting = 0
        self._clients: dict[Hashable, int] = {}
        """Queries that wait, by client."""
        self._began: dict[Hashable, int] = {}
        """Questions under way, by the client that began them."""

    @property
    def pending_count(self) -> int:
        """Questions under way upstream."""
        return len(self._pending)

    @property
    def waiting_count(self) -> int:
        """Queries that wait for them."""
        return self._waiting

    def set_hosts(self, names: Mapping[str, Sequence[bytes]]) -> None:
        """Take names -> addresses (4 or 16 bytes) from the host's hosts file, instead of those before.

        A name of one label that stands for the host itself (a loopback address) is left
        out: to a guest it would mean the guest.
        """
        self._hosts.clear()
        self._pointers.clear()
        for name, addresses in names.items():
            text = name.lower().rstrip(".")
            wire = m.text_wire(text)
            useful = tuple(a for a in addresses if "." in text or not _is_loopback(a))
            if not wire or not useful:
                continue
            self._hosts[wire] = useful
            for address in useful:
                if any(address) and not _is_loopback(address):
                    self._pointers.setdefault(address, text)

    # --- queries ------------------------------------------------------------------------

    def on_query(
        self, wire: bytes, waiter: W, client: Hashable, now: float, *, tcp: bool = False
    ) -> Answer | Forward | Joined | Ignored:
        """Decide on a guest's message."""
        query = m.parse_query(wire, tcp=tcp)
        if isinstance(query, m.Malformed):
            return Answer(query.reply, query.counter) if query.reply else Ignored(query.counter)
        if query.rdtype in _REFUSED_TYPES:
            return Answer(m.render(query, m.Body(m.REFUSED)), "dns_query_refused_type")
        local = self._own_answer(query)
        if local is not None:
            return Answer(m.render(query, local), "dns_query_answered_local")
        key = Key(
            query.question[:-4].lower(),
            query.rdtype,
            query.rdclass,
            query.dnssec,
            bool(query.flags & m.CD),
        )
        cached = self.cache.get(key, now)
        if cached is not None:
            return Answer(m.render(query, cached[0], cached[1]), "dns_query_answered_from_cache")
        return self._wait(key, query, waiter, client)

    def _wait(
        self, key: Key, query: m.Query, waiter: W, client: Hashable
    ) -> Answer | Forward | Joined | Ignored:
        pending = self._pending.get(key)
        if pending is not None and waiter in pending.waiters:
            return Ignored("dns_query_ignored_repeated")
        mine = self._clients.get(client, 0)
        busy = self._waiting >= MAX_WAITERS or mine >= MAX_WAITERS_A_CLIENT
        if pending is None:
            began = self._began.get(client, 0)
            busy = busy or len(self._pending) >= MAX_PENDING or began >= MAX_PENDING_A_CLIENT
        if busy:
            return Answer(m.render(query, m.Body(m.SERVFAIL)), "dns_query_refused_busy")
        tally.add(self._clients, client, 1)
        self._waiting += 1
        if pending is not None:
            pending.waiters[waiter] = (query, client)
            return Joined(key, "dns_query_joined")
        tally.add(self._began, client, 1)
        pending = self._pending[key] = _Pending(query, client)
        pending.waiters[waiter] = (query, client)
        return Forward(key, m.upstream_query(query), "dns_query_forwarded")

    # --- answers ------------------------------------------------------------------------

    def on_upstream(self, key: Key, wire: bytes | None, now: float) -> tuple[list[tuple[W, bytes]], str]:
        """Take the response to a Forward, None if there is none.

        Returns (waiter, reply) of all who wait for it, and the counter of how it went.
        """
        pending = self._pending.pop(key, None)
        if pending is None:
            return [], "dns_upstream_response_unasked"
        tally.add(self._began, pending.client, -1)
        counter = "dns_upstream_failed" if wire is None else "dns_upstream_answered"
        body = m.Body(m.SERVFAIL)
        if wire is not None:
            try:
                body = m.upstream_body(
                    pending.query, wire, max_ttl=MAX_TTL, max_negative_ttl=MAX_NEGATIVE_TTL
                )
            except WireError as error:
                counter = error.reason
        if body.rcode == m.SERVFAIL:
            body = body._replace(lifetime=FAILURE_TTL)
        self.cache.put(key, body, now)
        replies = []
        for waiter, (query, client) in pending.waiters.items():
            replies.append((waiter, m.render(query, body)))
            self._waiting -= 1
            tally.add(self._clients, client, -1)
        return replies, counter

    def _own_answer(self, query: m.Query) -> m.Body | None:
        """What the gateway knows itself; None when upstream must be asked."""
        labels, rdtype = query.labels, query.rdtype
        local = self.zones.resolve(labels, rdtype)
        if local is None and query.rdclass == m.CLASS_IN:
            local = self._from_hosts(query)
        if local is None:
            return None
        if query.rdclass not in (m.CLASS_IN, ANY):
            return m.own_body(query, local.rcode)
        records = [(A if len(address) == 4 else AAAA, address) for address in local.addresses]
        if local.pointer and (pointer := m.text_wire(local.pointer)):
            records.append((PTR, pointer))
        return m.own_body(query, local.rcode, records)

    def _from_hosts(self, query: m.Query) -> Local | None:
        """The hosts file's answer, and RFC 6761 section 6.3 for localhost."""
        labels, rdtype = query.labels, query.rdtype
        if labels and labels[-1].lower() == b"localhost":
            return _of_type(_LOCALHOST, rdtype)
        name = query.question[:-4].lower()
        known = self._hosts.get(name)
        if known is not None and rdtype in (A, AAAA, ANY):
            return _of_type(known, rdtype)
        if rdtype == PTR and self._pointers and name.endswith(b"\x04arpa\0"):
            try:
                address = ipaddress.ip_address(dns.reversename.to_address(dns.name.Name((*labels, b""))))
            except (dns.exception.DNSException, ValueError):
                return None
            pointer = self._pointers.get(address.packed)
            return Local(m.NOERROR, pointer=pointer) if pointer else None
        return None


def _of_type(addresses: Sequence[bytes], rdtype: int) -> Local:
    """All addresses of the type asked for; none is an answer too, for the name exists."""
    wanted = {A: (4,), AAAA: (16,), ANY: (4, 16)}.get(rdtype, ())
    return Local(m.NOERROR, tuple(address for address in addresses if len(address) in wanted))


def _is_loopback(address: bytes) -> bool:
    return address[0] == 127 if len(address) == 4 else address == _LOCALHOST[1]
