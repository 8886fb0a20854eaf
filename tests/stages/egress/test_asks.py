"""Questions about flows: who waits for an answer, for how long, and how many may."""

from types import SimpleNamespace
from typing import Any

import pytest

from pipeline.counters import INDEX, TABLE
from pipeline.records.flows import Ends
from pipeline.stages.egress import asks
from pipeline.stages.egress.asks import MAX_ASKS, MAX_ASKS_OF_GUEST, MAX_WAITING, Answer, Asks
from pipeline.wire import ip

REMOTE = ip.parse_ipv4("192.0.2.7")
RULE = "egress-policy.rules[0]"


class Rig:
    def __init__(self, incarnation: int = 0) -> None:
        self.counts = [0] * len(TABLE)
        self.events: list[tuple[str, dict[str, Any]]] = []
        self.answers: list[tuple[str, Answer]] = []
        events = SimpleNamespace(report=lambda kind, **fields: self.events.append((kind, fields)))
        ports = SimpleNamespace(incarnation=incarnation)
        worker: Any = SimpleNamespace(name="egress0", counts=self.counts, events=events, ports=ports)
        self.asks: Asks[str] = Asks(worker, 30, lambda who, answer: self.answers.append((who, answer)))

    def ask(self, port: int = 443, guest: int = 1, now: float = 0.0, protocol: str = "tcp") -> Any:
        ends = Ends(ip.parse_ipv4("192.168.127.2") + guest, 4000, REMOTE, port)
        return self.asks.ask(ends, protocol, guest, guest, RULE, now)

    def wait(self, flow: int, who: str, port: int = 443, now: float = 0.0) -> bool:
        return self.asks.wait(self.ask(port, now=now), flow, who)


@pytest.fixture
def rig() -> Rig:
    return Rig()


def test_flows_to_one_destination_are_one_question(rig: Rig) -> None:
    assert rig.wait(1, "first")
    assert rig.wait(2, "second")
    assert rig.wait(3, "elsewhere", port=80)
    assert [fields["id"] for _, fields in rig.events] == ["egress0-1", "egress0-2"]
    assert rig.asks.decide(1, True, "a.test", 1.0)
    assert rig.answers == [(who, Answer(True, RULE, "a.test")) for who in ("first", "second")]
    assert not rig.asks.decide(1, True, "", 1.0), "it is decided"
    assert rig.events[-1] == ("approval-decided", {"id": "egress0-1", "allowed": True, "by": "client"})
    assert [row.number for row in rig.asks.rows(1.0)] == [2]


def test_after_the_deadline_the_answer_is_no(rig: Rig) -> None:
    rig.wait(1, "first", now=5.0)
    assert rig.asks.deadline() == 35.0
    rig.asks.expire(34.9)
    assert rig.answers == []
    rig.asks.expire(35.0)
    assert rig.answers == [("first", Answer(False, RULE))]
    assert rig.events[-1][1]["by"] == "timeout"
    assert rig.asks.deadline() == float("inf")


def test_a_connection_that_is_over_is_not_answered(rig: Rig) -> None:
    rig.wait(1, "first")
    rig.wait(2, "second")
    assert rig.asks.withdraw(1) == "first"
    assert rig.asks.withdraw(1) is None
    assert rig.asks.withdraw(77) is None
    rig.asks.decide(1, True, "", 1.0)
    assert [who for who, _ in rig.answers] == ["second"]


def test_a_link_that_goes_takes_its_questions_with_it(rig: Rig) -> None:
    rig.wait(1, "first")
    rig.ask(guest=2)
    rig.asks.forget_link(1, 1.0)
    assert (len(rig.asks), rig.answers) == (1, [("first", Answer(False, RULE))])
    assert rig.events[-1][1]["by"] == "gone"


def test_datagrams_get_the_answer_for_a_moment(rig: Rig) -> None:
    ends = Ends(ip.parse_ipv4("192.168.127.3"), 4000, REMOTE, 53)
    other_port = ends._replace(guest_port=4001) if hasattr(ends, "_replace") else ends
    assert rig.asks.answer(ends, "udp", 0.0) is None
    rig.ask(53, protocol="udp")
    rig.asks.decide(1, True, "", 1.0)
    assert rig.asks.answer(other_port, "udp", 2.0) == Answer(True, RULE)
    assert rig.asks.answer(ends, "udp", 1.0 + asks.GRANT_S) is None


def test_questions_and_flows_are_bounded(rig: Rig) -> None:
    made = [rig.ask(port) for port in range(1, MAX_ASKS_OF_GUEST + 2)]
    assert made[-1] is None
    assert len(rig.asks) == MAX_ASKS_OF_GUEST
    for guest in range(2, 2 + MAX_ASKS // MAX_ASKS_OF_GUEST):
        for port in range(1, MAX_ASKS_OF_GUEST + 1):
            rig.ask(port, guest)
    assert len(rig.asks) == MAX_ASKS
    flows = [rig.asks.wait(made[0], flow, str(flow)) for flow in range(MAX_WAITING + 1)]
    assert flows == [True] * MAX_WAITING + [False]
    assert rig.counts[INDEX["egress_flow_refused_too_many_asks"]] == 1 + MAX_ASKS_OF_GUEST + 1


def test_an_answer_to_a_question_of_a_dead_predecessor_meets_no_other_question() -> None:
    first, second = Rig(), Rig(incarnation=1)
    first.wait(1, "approved")
    second.wait(1, "another flow", port=22)
    (asked,) = first.asks.rows(0.0)
    assert not second.asks.decide(asked.number, True, "", 1.0)
    assert second.answers == []
