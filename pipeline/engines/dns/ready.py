"""Replies that can be sent again as they are: guests ask the same question in the same bytes very often.

A reply depends on the query's bytes after its id, on the zones, the hosts file and the cache, and on the age
of TTLs in whole seconds. So it is kept under these bytes until a second is over, or for names of the gateway
until its names change. The id is put before it again. A query that is answered from here is not parsed.

Only replies over UDP are kept: over TCP another length is allowed.
"""

from typing import Final, NamedTuple

MAX_REPLIES: Final = 1024
"""The oldest one makes room."""
MAX_BYTES: Final = 2048
"""Bytes of query and reply together. Longer ones are not kept, so all of them take 2 MiB at most."""
ID_BYTES: Final = 2


class _Ready(NamedTuple):
    """A reply without its id, valid before ``until``. ``counter`` counts each time that it is sent."""

    rest: bytes
    until: float
    counter: str


class ReadyReplies:
    """Query without its id -> reply without its id."""

    def __init__(self) -> None:
        self._replies: dict[bytes, _Ready] = {}

    def __len__(self) -> int:
        return len(self._replies)

    def get(self, query: bytes, now: float) -> tuple[bytes, str] | None:
        """The reply to a query, and its counter; None if the query must be parsed."""
        ready = self._replies.get(query[ID_BYTES:])
        if ready is None or now >= ready.until:
            return None
        return query[:ID_BYTES] + ready.rest, ready.counter

    def put(self, query: bytes, reply: bytes, until: float, counter: str) -> None:
        """Keep the reply to a query until then."""
        if len(query) + len(reply) > MAX_BYTES:
            return
        replies = self._replies
        key = query[ID_BYTES:]
        # It becomes the youngest, also if an older one has just run out.
        replies.pop(key, None)
        replies[key] = _Ready(reply[ID_BYTES:], until, counter)
        if len(replies) > MAX_REPLIES:
            del replies[next(iter(replies))]

    def clear(self) -> None:
        """Forget everything: zones, hosts file or name servers are others now."""
        self._replies.clear()
