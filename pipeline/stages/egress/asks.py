"""Flows that wait until somebody approves them: the rule that fits them has ``action: ask``.

One question is about a guest, an address, a port and a protocol, whatever the number of its flows. TCP
connections wait: egress opens no socket for them, so the guest's SYN has no answer yet. Datagrams are dropped
meanwhile. Who approves them allows flows that begin in the next GRANT_S. After the deadline the answer is no.
"""

from collections import OrderedDict
from collections.abc import Callable, Container
from typing import Final, Generic, NamedTuple, TypeVar

from pipeline.counters import INDEX
from pipeline.ipc.policy_messages import AskRow
from pipeline.records.flows import Ends
from pipeline.stages.egress.numbers import INCARNATION_SHIFT
from pipeline.stages.worker import Worker
from pipeline.wire import ip

MAX_ASKS: Final = 256
"""Questions of one worker that wait."""
MAX_ASKS_OF_GUEST: Final = 32
MAX_WAITING: Final = 64
"""Connections that wait for one answer."""
GRANT_S: Final = 10.0
"""Seconds for which new flows of datagrams are allowed after a yes, and refused after a no."""
_NEVER: Final = float("inf")

ASKED: Final = "approval-asked"
DECIDED: Final = "approval-decided"
CLIENT: Final = "client"
TIMEOUT: Final = "timeout"
GONE: Final = "gone"
"""Who has decided."""
_TOO_MANY: Final = INDEX["egress_flow_refused_too_many_asks"]

Key = tuple[int, int, int, str]
"""Guest's address, address, port, protocol."""
W = TypeVar("W")


class Answer(NamedTuple):
    """The answer to a question. name: what a connection must state, if it states a name; "" for anything."""

    allow: bool
    rule: str
    name: str = ""


class Ask(Generic[W]):
    """One question."""

    def __init__(self, number: int, key: Key, guest: int, link: int, rule: str, until: float) -> None:
        self.number = number
        self.key = key
        self.guest = guest
        self.link = link
        self.rule = rule
        self.until = until
        self.waiting: dict[int, W] = {}
        """Connections by the key of their flow."""

    def row(self, now: float) -> AskRow:
        """What clients are told."""
        guest, address, port, protocol = self.key
        seconds = max(0.0, self.until - now)
        return AskRow(
            *(self.number, self.guest, self.link, ip.text(guest), ip.text(address)),
            *(port, protocol, self.rule, seconds),
        )


class Asks(Generic[W]):
    """The questions of one egress worker. While there is none, nothing here costs anything."""

    def __init__(self, worker: Worker, seconds: float, decided: Callable[[W, Answer], None]) -> None:
        """seconds: until the answer is no. decided: called for each connection that has waited."""
        self._worker = worker
        self.seconds = seconds
        self._decided = decided
        self._asks: OrderedDict[Key, Ask[W]] = OrderedDict()
        self._answers: OrderedDict[Key, tuple[float, Answer]] = OrderedDict()
        """What was decided about datagrams, and until when that holds."""
        self._asked_for: dict[int, Key] = {}
        """By the key of a waiting connection."""
        self._last = worker.ports.incarnation << INCARNATION_SHIFT
        """An answer to a question of a predecessor that has died must meet no other question."""

    def __len__(self) -> int:
        return len(self._asks)

    def answer(self, ends: Ends, protocol: str, now: float) -> Answer | None:
        """What was decided about flows of datagrams like this one a moment ago."""
        found = self._answers.get(_key(ends, protocol)) if self._answers else None
        return found[1] if found is not None and found[0] > now else None

    def ask(self, ends: Ends, protocol: str, guest: int, link: int, rule: str, now: float) -> Ask[W] | None:
        """The question about such a flow, which is asked if it is new. None if too many wait already."""
        key = _key(ends, protocol)
        found = self._asks.get(key)
        if found is not None:
            return found
        of_guest = sum(each.guest == guest for each in self._asks.values())
        if len(self._asks) >= MAX_ASKS or of_guest >= MAX_ASKS_OF_GUEST:
            self._worker.counts[_TOO_MANY] += 1
            return None
        self._last += 1
        made = self._asks[key] = Ask(self._last, key, guest, link, rule, now + self.seconds)
        row = made.row(now)
        self._worker.events.report(
            ASKED,
            id=f"{self._worker.name}-{made.number}",
            guest=guest,
            guest_address=row.guest_address,
            address=row.address,
            port=row.port,
            protocol=protocol,
            rule=rule,
            seconds=self.seconds,
        )
        return made

    def wait(self, ask: Ask[W], flow: int, connection: W) -> bool:
        """A connection waits for the answer. False if too many do."""
        if len(ask.waiting) >= MAX_WAITING:
            self._worker.counts[_TOO_MANY] += 1
            return False
        ask.waiting[flow] = connection
        self._asked_for[flow] = ask.key
        return True

    def withdraw(self, flow: int) -> W | None:
        """The connection with this key waits no more. Returns it, if it has waited."""
        key = self._asked_for.pop(flow, None)
        ask = self._asks.get(key) if key is not None else None
        return ask.waiting.pop(flow, None) if ask is not None else None

    def withdraw_shard(self, shard: int) -> None:
        """The tcp worker of these connections has died: they wait no more."""
        for flow in [flow for flow in self._asked_for if flow >> 32 == shard]:
            self.withdraw(flow)

    def keep_links(self, up: Container[int], now: float) -> None:
        """Forget the questions of all links but these."""
        for link in {ask.link for ask in self._asks.values() if ask.link not in up}:
            self.forget_link(link, now)

    def rows(self, now: float) -> list[AskRow]:
        """All questions that wait."""
        return [ask.row(now) for ask in self._asks.values()]

    def decide(self, number: int, allow: bool, name: str, now: float) -> bool:
        """Somebody has decided. False if no such question waits."""
        for ask in self._asks.values():
            if ask.number == number:
                self._end(ask, Answer(allow, ask.rule, name), CLIENT, now)
                return True
        return False

    def deadline(self) -> float:
        """When expire() is due."""
        return min([ask.until for ask in self._asks.values()]) if self._asks else _NEVER

    def expire(self, now: float) -> None:
        """Questions that nobody has answered in time are answered with no."""
        if not self._asks:  # in nearly every step
            return
        for ask in [ask for ask in self._asks.values() if ask.until <= now]:
            self._end(ask, Answer(False, ask.rule), TIMEOUT, now)

    def forget_link(self, link: int, now: float) -> None:
        """A link is gone, and so are those who wait on it."""
        for ask in [ask for ask in self._asks.values() if ask.link == link]:
            self._end(ask, Answer(False, ask.rule), GONE, now)

    def _end(self, ask: Ask[W], answer: Answer, by: str, now: float) -> None:
        del self._asks[ask.key]
        if ask.key[3] != "tcp" and by == CLIENT:
            self._remember(ask.key, answer, now)
        waiting, ask.waiting = ask.waiting, {}
        for flow in waiting:
            self._asked_for.pop(flow, None)
        name = self._worker.name
        self._worker.events.report(DECIDED, id=f"{name}-{ask.number}", allowed=answer.allow, by=by)
        for connection in waiting.values():
            self._decided(connection, answer)

    def _remember(self, key: Key, answer: Answer, now: float) -> None:
        self._answers[key] = now + GRANT_S, answer
        if len(self._answers) > MAX_ASKS:
            self._answers.popitem(last=False)


def _key(ends: Ends, protocol: str) -> Key:
    return ends.guest_addr, ends.remote_addr, ends.remote_port, protocol
