"""Rendered replies by the bytes of their query: guests often ask the same question in the same bytes.

A reply depends on the query's bytes after its id, and on the zones, the hosts file and the cache. TTLs become
lower every second. So a reply from the cache is kept until its second is over. A reply with the gateway's own
names is kept until these change. A query that is answered from here is not parsed: only the id is new.

Only replies over UDP are kept, since replies over TCP may be longer.
"""

from typing import Final, NamedTuple

MAX_REPLIES: Final = 1024
"""The most replies that are kept. The oldest one makes room."""
MAX_BYTES: Final = 2048
"""Bytes of query and reply together. Longer ones are not kept, so all replies take at most 2 MiB."""
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
        # Remove an expired reply first, so that the new one becomes the youngest.
        replies.pop(key, None)
        replies[key] = _Ready(reply[ID_BYTES:], until, counter)
        if len(replies) > MAX_REPLIES:
            del replies[next(iter(replies))]

    def clear(self) -> None:
        """Forget all replies: the zones, the hosts file or the name servers have changed."""
        self._replies.clear()
