"""DNS over TCP: guests' connections, with bounds and an idle time.

One guest may have all connections while no other guest wants one. Answers are sent in the order in which they
come (RFC 7766 section 6.2.1.1). A connection ends after MAX_QUERIES queries, after IDLE seconds without a
query, or when its guest leaves MAX_UNSENT bytes unread. The caller makes the answers.
"""

import socket
from collections import Counter
from collections.abc import Callable
from typing import Final, NamedTuple

from pipeline.counters import INDEX
from pipeline.engines import tally
from pipeline.host.framed import FramedStream
from pipeline.host.upstream.resolver import Poller
from pipeline.ipc import events as ev

MAX_CONNECTIONS: Final = 256
LEAST_CONNECTIONS: Final = 16
"""Connections that each guest may have. If all are in use, the guest with most connections loses one."""
MAX_QUERIES: Final = 128
"""Queries after which a connection ends."""
FIRST_QUERY: Final = 2.0
IDLE: Final = 8.0
MAX_UNSENT: Final = 512 * 1024
"""Bytes of answers that a guest may leave unread before its connection is closed."""

_OPENED: Final = INDEX["dns_connection_opened"]
_EVICTED: Final = INDEX["dns_connection_evicted"]
_REFUSED: Final = INDEX["dns_connection_refused_too_many"]
_NOT_READING: Final = INDEX["dns_connection_closed_not_reading"]
_CONNECTIONS: Final = INDEX["dns_connections"]


class StreamClient(NamedTuple):
    """A query over TCP that waits for an answer: the numbers of its connection and of the query."""

    connection: int
    query: int


class _Connection:
    """``addr``, ``guest``: address and number of the guest. ``waiting``: the number of unanswered queries.

    ``expires``: when it is closed unless it is used.
    """

    __slots__ = ("addr", "events", "expires", "guest", "number", "queries", "stream", "waiting")

    def __init__(self, number: int, addr: int, guest: int, stream: FramedStream, expires: float) -> None:
        self.number = number
        self.addr = addr
        self.guest = guest
        self.stream = stream
        self.expires = expires
        self.queries = 0
        self.waiting = 0
        self.events = ev.READ

    def asked(self, now: float) -> int:
        """A query came. Returns its number."""
        self.queries += 1
        self.waiting += 1
        self.expires = now + IDLE
        return self.queries

    def unanswered(self) -> None:
        """The query that came gets no answer."""
        self.waiting -= 1

    def answer(self, payload: bytes, now: float) -> None:
        """Send the answer to a query."""
        self.waiting -= 1
        self.expires = now + IDLE
        self.stream.send(payload)

    def wait_for(self, events: int) -> bool:
        """Wait for these events from now on. Returns whether that is a change."""
        changed = events != self.events
        self.events = events
        return changed


class DnsStreams:
    """All connections. ``on_query(message, client, guest)`` returns whether ``reply`` will be called."""

    def __init__(
        self,
        poller: Poller,
        counts: memoryview,
        on_query: Callable[[bytes, StreamClient, int], bool],
        clock: Callable[[], float],
    ) -> None:
        self._poller = poller
        self._counts = counts
        self._on_query = on_query
        self._clock = clock
        self._connections: dict[int, _Connection] = {}
        self._numbers = 0

    def __len__(self) -> int:
        return len(self._connections)

    def sums(self) -> dict[int, int]:
        """How many connections each guest has, by its number."""
        return Counter(connection.guest for connection in self._connections.values())

    def asker(self, client: StreamClient) -> tuple[int, int]:
        """Address and number of the guest that asked; zeros if its connection is gone."""
        connection = self._connections.get(client.connection)
        return (connection.addr, connection.guest) if connection is not None else (0, 0)

    def serve(self, sock: socket.socket, addr: int, guest: int) -> None:
        """Take over a connection of the guest with this address and number.

        If there are too many connections, one is closed. A guest with LEAST_CONNECTIONS loses one of its own.
        """
        if len(self._connections) >= MAX_CONNECTIONS and not self._make_room(guest):
            self._counts[_REFUSED] += 1
            sock.close()
            return
        self._numbers += 1
        expires = self._clock() + FIRST_QUERY
        connection = _Connection(self._numbers, addr, guest, FramedStream(sock), expires)
        self._connections[connection.number] = connection
        self._poller.register(
            sock.fileno(), connection.events, lambda events: self._on_event(connection, events)
        )
        self._counts[_OPENED] += 1
        self._counts[_CONNECTIONS] = len(self._connections)

    def reply(self, client: StreamClient, payload: bytes) -> None:
        """Answer a query. Its connection may be gone."""
        connection = self._connections.get(client.connection)
        if connection is None:
            return
        connection.answer(payload, self._clock())
        self._settle(connection)

    def deadline(self) -> float:
        """When the next connection expires."""
        return min((each.expires for each in self._connections.values()), default=float("inf"))

    def expire(self, now: float) -> None:
        """Close connections that were idle for too long."""
        for connection in list(self._connections.values()):
            if connection.expires <= now:
                self._close(connection)

    def close(self) -> None:
        """Close every connection."""
        for connection in list(self._connections.values()):
            self._close(connection)

    def _on_event(self, connection: _Connection, events: int) -> None:
        if connection.number not in self._connections:
            return
        if events & (ev.ERROR | ev.HANGUP):
            # Both directions are over: the guest would not read an answer.
            self._close(connection)
            return
        connection.stream.flush()
        if events & ev.READ:
            for message in connection.stream.receive():
                if connection.queries >= MAX_QUERIES:
                    break
                client = StreamClient(connection.number, connection.asked(self._clock()))
                if not self._on_query(message, client, connection.guest):
                    connection.unanswered()
                if connection.number not in self._connections:
                    return
        self._settle(connection)

    def _settle(self, connection: _Connection) -> None:
        """Close the connection if it is over, else wait for the events that it needs."""
        stream = connection.stream
        finished = stream.ended or connection.queries >= MAX_QUERIES
        if stream.unsent > MAX_UNSENT:
            self._counts[_NOT_READING] += 1
            self._close(connection)
        elif stream.broken or (finished and not connection.waiting and not stream.unsent):
            self._close(connection)
        else:
            events = (0 if finished else ev.READ) | (ev.WRITE if stream.unsent else 0)
            if connection.wait_for(events):
                self._poller.modify(stream.fileno(), events)

    def _make_room(self, guest: int) -> bool:
        """Close a connection for a new one of this guest; False if none may be closed."""
        everyone = list(self._connections.values())
        counts: dict[int, int] = {}
        for each in everyone:
            tally.add(counts, each.guest, 1)
        if counts.get(guest, 0) >= LEAST_CONNECTIONS:
            return self._evict([each for each in everyone if each.guest == guest and not each.waiting])
        most = max(counts, key=lambda each: counts[each])
        of_most = [each for each in everyone if each.guest == most]
        return (
            self._evict([each for each in of_most if not each.waiting])
            or (counts[most] > LEAST_CONNECTIONS and self._evict(of_most))
            or self._evict([each for each in everyone if not each.waiting])
        )

    def _evict(self, among: list[_Connection]) -> bool:
        """Close one of these: first those that have asked, and of them the one that is idle for longest."""
        if not among:
            return False
        self._counts[_EVICTED] += 1
        self._close(min(among, key=lambda each: (not each.queries, each.expires)))
        return True

    def _close(self, connection: _Connection) -> None:
        del self._connections[connection.number]
        self._poller.unregister(connection.stream.fileno())
        connection.stream.close()
        self._counts[_CONNECTIONS] = len(self._connections)
