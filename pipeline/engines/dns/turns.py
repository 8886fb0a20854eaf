"""Questions that wait for their turn: who may begin one, and whose is next.

A client is whoever has bounds: a guest's link. As many as SHARED questions may be under way for anybody, so a
client that is alone may have all of them. Beyond that a client begins one only while fewer than LEAST are its
own, so one that floods leaves room to LEAST questions of each of four others. What may not begin waits, and
clients take turns: one question each.

Knows nothing of messages or of time. A question is any hashable key.
"""

from collections import OrderedDict
from collections.abc import Hashable
from typing import Final, Generic, TypeVar

from pipeline.engines import tally

MAX_BEGUN: Final = 512
"""Questions under way."""
SHARED: Final = 256
"""Of them, those that anybody may begin."""
LEAST: Final = 64
"""Questions that one client may have under way while there is room at all."""

K = TypeVar("K", bound=Hashable)


class Turns(Generic[K]):
    """Questions of all clients, under way or waiting."""

    def __init__(self) -> None:
        self._begun: dict[Hashable, int] = {}
        """Questions under way, by the client that began them."""
        self._total = 0
        self._waiting: OrderedDict[Hashable, OrderedDict[K, None]] = OrderedDict()
        """Clients in the order of their turns, and their questions in the order in which they came."""

    @property
    def begun_count(self) -> int:
        """Questions under way."""
        return self._total

    def begin(self, client: Hashable) -> bool:
        """Whether the client may begin a question now, ahead of nobody's turn but its own; then it has."""
        if client in self._waiting or not self._may_begin(client):
            return False
        self._count(client, 1)
        return True

    def end(self, client: Hashable) -> None:
        """A question that the client began is over."""
        self._count(client, -1)

    def wait(self, client: Hashable, question: K) -> None:
        """The question waits for the client's turn; harmless if it does so already."""
        self._waiting.setdefault(client, OrderedDict())[question] = None

    def leave(self, client: Hashable, question: K) -> None:
        """The question does not wait for the client's turn any more; harmless if it did not."""
        questions = self._waiting.get(client)
        if questions is not None:
            questions.pop(question, None)
            if not questions:
                del self._waiting[client]

    def next(self) -> tuple[Hashable, K] | None:
        """The question whose turn it is, with the client that begins it; None while none may begin."""
        for client, questions in self._waiting.items():
            if self._may_begin(client):
                question, _ = questions.popitem(last=False)
                # This ends the walk, so the order may change.
                if questions:
                    self._waiting.move_to_end(client)
                else:
                    del self._waiting[client]
                self._count(client, 1)
                return client, question
        return None

    def _may_begin(self, client: Hashable) -> bool:
        return self._total < (MAX_BEGUN if self._begun.get(client, 0) < LEAST else SHARED)

    def _count(self, client: Hashable, number: int) -> None:
        tally.add(self._begun, client, number)
        self._total += number
