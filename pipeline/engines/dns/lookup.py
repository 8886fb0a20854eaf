"""Finds the answer to a guest's query among the answers of upstream servers, or the question to ask them.

Without DNS64 that is the cache and the query's own question. With DNS64 (RFC 6147) an answer may lead to
another question, and answers are made of others::

    query        asked first     then                                         made of it
    AAAA         AAAA            A, if the answer has no usable address       AAAA records
    PTR of       PTR of the                                                   the same, by the
    64:ff9b::a   IPv4 address                                                 name that was asked for

What is made is kept in the cache too, under a key of its own.
"""

from typing import Final

from pipeline.engines.dns import message as m
from pipeline.engines.dns.cache import Cached, DnsCache
from pipeline.engines.dns.dns64 import Dns64
from pipeline.engines.dns.pending import Wanted, key_of
from pipeline.engines.dns.zones import A

_MADE: Final = "made"


class Lookup:
    """The cache, and the answers that DNS64 makes of what is in it. ``made``: how many it has made."""

    def __init__(self, dns64: Dns64 | None) -> None:
        """dns64: None for no synthetic addresses."""
        self.cache = DnsCache()
        self.dns64 = dns64
        self.made = 0

    def wanted(self, query: m.Query, over_ipv6: bool) -> Wanted:
        """What a guest's query wants. over_ipv6: how it came."""
        if self.dns64 is None:
            return Wanted(query, query)
        return Wanted(query, self.dns64.asked(query), self.dns64.synthesizes(query, over_ipv6))

    def find(self, wanted: Wanted, now: float) -> Cached | Wanted:
        """The answer to a query; else the question that must be asked upstream."""
        if wanted.synthesizes or wanted.asked is not wanted.query:
            made = self.cache.get((_MADE, key_of(wanted.query)), now)
            if made is not None:
                return made
        found: Cached | Wanted = wanted
        while isinstance(found, Wanted):
            cached = self.cache.get(key_of(found.asked), now)
            if cached is None:
                return found
            found = self._judge(found, cached, now)
        return found

    def follow(self, wanted: Wanted, body: m.Body, now: float) -> Cached | Wanted:
        """The same, when the answer to wanted.asked has just come."""
        found = self._judge(wanted, Cached(body, 0, now), now)
        return self.find(found, now) if isinstance(found, Wanted) else found

    def _judge(self, wanted: Wanted, answer: Cached, now: float) -> Cached | Wanted:
        """What the answer to wanted.asked leads to: the answer to the guest's query, or the next question."""
        query, asked, synthesizes, first = wanted
        if asked is query and not synthesizes:
            return answer
        from pipeline.engines.dns import synthesis  # noqa: PLC0415  see message.py

        if asked is query:
            if synthesis.lacks_addresses(answer.body):
                return Wanted(query, m.about(query, query.labels, A), True, answer)
            return self._usable(query, answer, now)
        if first is None:
            return self._keep(query, synthesis.pointer_body(query, asked, answer), now)
        if answer.body.rcode != m.NOERROR or self.dns64 is None:
            # Even an error may come with records of any kind.
            return self._usable(query, answer, now)
        body = synthesis.addresses_body(query, asked, answer, first, self.dns64.address)
        return self._usable(query, first, now) if body is None else self._keep(query, body, now)

    def _usable(self, query: m.Query, answer: Cached, now: float) -> Cached:
        """The answer about AAAA without addresses that no guest may get."""
        from pipeline.engines.dns import synthesis  # noqa: PLC0415  see message.py

        if synthesis.has_excluded(answer.body):
            return self._keep(query, synthesis.without_excluded(query, answer), now)
        return answer

    def _keep(self, query: m.Query, body: m.Body, now: float) -> Cached:
        """Keep an answer that was made. One that may not be kept serves this query alone."""
        self.made += 1
        self.cache.put((_MADE, key_of(query)), body, now)
        return Cached(body, 0, now + 1.0 if body.lifetime else now)
