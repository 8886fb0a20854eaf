"""Fair turns for DNS questions: which client may ask a question upstream now, and which is next.

A client is a guest. Any client may begin a question while fewer than SHARED are under way. So a client that
is alone gets all of these. A client with fewer than LEAST questions under way may begin one while fewer than
MAX_BEGUN are under way. So no client waits for another one that floods. All other questions wait, and clients
take turns, with one question each.

A question costs a socket and much work, here and at the server. So each client also has a rate while several
guests are active, which is called *crowded*.

This module does not know messages. A question is any hashable key.
"""

from collections import OrderedDict
from collections.abc import Hashable
from typing import Final, Generic, TypeVar

from pipeline.engines import tally
from pipeline.engines.buckets import Buckets, for_questions

MAX_BEGUN: Final = 1024
"""The most questions under way, if the system allows a socket for each."""
SHARED: Final = 512
"""Any client may begin a question while fewer are under way. At most four fifths of the bound on all."""
LEAST: Final = 64
"""Questions that each client may have under way while fewer than MAX_BEGUN are under way."""

MAX_PER_SECOND: Final = 1000
"""Questions that a client may begin in a second while several guests are active."""

_NEVER: Final = float("inf")

K = TypeVar("K", bound=Hashable)


class Turns(Generic[K]):
    """Questions of all clients, under way or waiting."""

    def __init__(self, max_begun: int = MAX_BEGUN, per_second: int = MAX_PER_SECOND) -> None:
        self._most = max_begun
        self._shared = min(SHARED, max_begun * 4 // 5)
        self._rates = Buckets(*for_questions(per_second))
        self.crowded_until = -_NEVER
        """The time until which clients have a rate. The owner sets it."""
        self._begun: dict[Hashable, int] = {}
        """Questions under way, by client."""
        self._total = 0
        self._waiting: OrderedDict[Hashable, OrderedDict[K, None]] = OrderedDict()
        """Clients in the order of their turns, each with its questions in order of arrival."""

    @property
    def begun_count(self) -> int:
        """Questions under way."""
        return self._total

    def set_rate(self, per_second: int) -> None:
        """Change each client's rate."""
        self._rates.set_rate(*for_questions(per_second))

    def begin(self, client: Hashable, now: float) -> bool:
        """Begin a question of the client if it may. Returns False if the client must wait for its turn."""
        if client in self._waiting or not self._may_begin(client, now):
            return False
        self._begin(client, now)
        return True

    def end(self, client: Hashable) -> None:
        """A question that the client began is over."""
        self._count(client, -1)

    def wait(self, client: Hashable, question: K) -> None:
        """The question waits for the client's turn. It may do so already."""
        self._waiting.setdefault(client, OrderedDict())[question] = None

    def leave(self, client: Hashable, question: K) -> None:
        """The question does not wait for the client's turn any more, if it did."""
        questions = self._waiting.get(client)
        if questions is not None:
            questions.pop(question, None)
            if not questions:
                del self._waiting[client]

    def next(self, now: float) -> tuple[Hashable, K] | None:
        """Begin the next question. Returns (client, question); None while no question may begin."""
        for client, questions in self._waiting.items():
            if self._may_begin(client, now):
                question, _ = questions.popitem(last=False)
                # The loop ends here, so the order may change.
                if questions:
                    self._waiting.move_to_end(client)
                else:
                    del self._waiting[client]
                self._begin(client, now)
                return client, question
        return None

    def deadline(self) -> float:
        """When a client that waits only because of its rate may begin; inf if there is none."""
        waiting = [self._rates.ready_at(client, 1.0) for client in self._waiting if self._has_room(client)]
        return min([*waiting, self.crowded_until]) if waiting else _NEVER

    def on_client_gone(self, now: float) -> None:
        """A client is gone. Its questions under way end like others. It gets no fresh rate by returning."""
        self._rates.forget_full(now)

    def _may_begin(self, client: Hashable, now: float) -> bool:
        crowded = now < self.crowded_until
        return self._has_room(client) and not (crowded and self._rates.level(client, now) < 1.0)

    def _begin(self, client: Hashable, now: float) -> None:
        if now < self.crowded_until:
            self._rates.charge(client, 1, now)
        self._count(client, 1)

    def _has_room(self, client: Hashable) -> bool:
        return self._total < (self._most if self._begun.get(client, 0) < LEAST else self._shared)

    def _count(self, client: Hashable, number: int) -> None:
        tally.add(self._begun, client, number)
        self._total += number
