"""Where events meet their subscribers: clients of ``/events``, and other parts of the supervisor.

The hub tells all workers what its subscribers want. Events that nobody wants never leave their worker. What
the supervisor itself reports goes to the log and to the hub.

A subscriber is a function that is called with each event of its kinds. A *queue* is a subscriber for a slow
reader. It keeps MAX_QUEUED events, and loses and counts those that come while it is full.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from time import time
from typing import Final, NamedTuple, Protocol

import structlog

from pipeline.events.table import KINDS, PUBLISHED
from pipeline.ipc import messages
from pipeline.logs import OPERATOR

MAX_QUEUES: Final = 16
"""Readers of events at the same time."""
MAX_QUEUED: Final = 1000
"""Events that wait for one reader."""
SUPERVISOR: Final = "supervisor"


class Happened(NamedTuple):
    """An event. at: seconds since 1970. lost: how many events before it the subscriber did not get."""

    kind: str
    at: float
    worker: str
    fields: Mapping[str, object]
    lost: int = 0

    def as_object(self) -> dict[str, object]:
        """The event as an object of JSON, with the time in UTC (ISO 8601)."""
        at = datetime.fromtimestamp(self.at, UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
        found = {"time": at, "kind": self.kind, "worker": self.worker, **self.fields}
        return {**found, "lost": self.lost} if self.lost else found


class Completer(Protocol):
    """A function that completes events of workers, and publishes them itself."""

    def __call__(self, kind: str, fields: Mapping[str, object], *, at: float, worker: str, lost: int) -> None:
        """The arguments are those of Hub.publish()."""


Subscriber = Callable[[Happened], None]


class TooManyReadersError(Exception):
    """MAX_QUEUES readers are there."""


class Hub:
    """All subscribers."""

    def __init__(
        self, watch: Callable[[messages.Watch], None], log: structlog.typing.FilteringBoundLogger
    ) -> None:
        """watch: sends a request to all workers."""
        self._watch = watch
        self._log = log
        self._subscribers: dict[Subscriber, frozenset[str]] = {}
        self.wanted: frozenset[str] = frozenset()
        """The kinds that subscribers want now."""
        self._queues = 0
        self._completers: dict[str, Completer] = {}

    def complete(self, kinds: Iterable[str], completer: Completer) -> None:
        """Call completer with each event of a worker of these kinds, instead of publishing it."""
        self._completers.update(dict.fromkeys(kinds, completer))

    def wants(self, kind: str) -> bool:
        """Whether a subscriber or the log wants events of this kind now."""
        return kind in self.wanted or self._log.is_enabled_for(KINDS[kind].level)

    def report(self, kind: str, *, operator: bool = False, **fields: object) -> None:
        """Log an event of the supervisor that has happened now, and publish it.

        operator: it came through the API on the host, so the log has other rates (pipeline.logs.OPERATOR).
        """
        row = KINDS[kind]
        rates = {OPERATOR: True} if operator else {}
        self._log.log(row.level, row.text, kind=kind, **rates, **fields)
        self.publish(kind, fields)

    def publish(
        self,
        kind: str,
        fields: Mapping[str, object],
        *,
        at: float | None = None,
        worker: str = SUPERVISOR,
        lost: int = 0,
    ) -> None:
        """Hand an event to those who want it. at: seconds since 1970, by default now."""
        if kind not in self.wanted:
            return
        happened = Happened(kind, time() if at is None else at, worker, fields, lost)
        for subscriber, kinds in list(self._subscribers.items()):
            if kind in kinds:
                subscriber(happened)

    def on_worker(self, worker: str, message: messages.HappenedEvent) -> None:
        """Publish the events of a worker."""
        lost = message.lost
        for event in message.events:
            match event:
                case [str() as kind, float() as at, dict() as fields]:
                    publish = self._completers.get(kind, self.publish)
                    publish(kind, fields, at=at, worker=worker, lost=lost)
                    lost = 0

    def subscribe(self, kinds: Iterable[str], subscriber: Subscriber) -> Callable[[], None]:
        """Call subscriber with each event of these kinds. Returns the function that ends this.

        subscriber must not raise, and must not block.
        """
        self._subscribers[subscriber] = PUBLISHED & frozenset(kinds)
        self._tell_workers()

        def end() -> None:
            self._subscribers.pop(subscriber, None)
            self._tell_workers()

        return end

    @contextmanager
    def queue(self, kinds: Iterable[str]) -> Iterator["Queue"]:
        """A queue that gets events of these kinds within the block. Raises TooManyReadersError."""
        if self._queues >= MAX_QUEUES:
            raise TooManyReadersError(f"{MAX_QUEUES} clients read events already")
        queue = Queue()
        self._queues += 1
        end = self.subscribe(kinds, queue.put)
        try:
            yield queue
        finally:
            end()
            self._queues -= 1

    def _tell_workers(self) -> None:
        watched = frozenset().union(*self._subscribers.values())
        if watched != self.wanted:
            self.wanted = watched
            self._watch(messages.Watch(sorted(watched)))


class Queue:
    """The events that wait for one reader."""

    def __init__(self) -> None:
        self._events: deque[Happened] = deque()
        self._lost = 0
        self._filled = asyncio.Event()
        self.closed = False

    def put(self, happened: Happened) -> None:
        """Add an event. If the queue is full the event is lost."""
        if len(self._events) >= MAX_QUEUED:
            self._lost += 1 + happened.lost
            return
        if self._lost:
            happened = happened._replace(lost=happened.lost + self._lost)
            self._lost = 0
        self._events.append(happened)
        self._filled.set()

    def close(self) -> None:
        """End take() now, and all later ones: the reader has gone."""
        self.closed = True
        self._filled.set()

    async def take(self) -> list[Happened]:
        """Wait for events, and return all that are there. None are there after close()."""
        await self._filled.wait()
        if not self.closed:
            self._filled.clear()
        events = list(self._events)
        self._events.clear()
        return events
