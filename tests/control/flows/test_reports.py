"""Reports of workers become events: completed, in order, and bounded."""

import asyncio
import errno
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import structlog

from pipeline.control.flows import reports
from pipeline.control.flows.reports import FlowEvents
from pipeline.control.hub import Happened, Hub
from pipeline.control.workers import RequestError
from pipeline.events.flows import COMPLETED
from pipeline.ipc import messages
from pipeline.ipc.flow_rows import CLOSED, FAILED, OPENED, OUT, REFUSED, FlowReport, FlowRow

GUEST = "192.168.127.2"
ROW = FlowRow(9, "tcp", OUT, 3, GUEST, 40000, "1.2.3.4", 443, "established", 1.5, 0.5)


class Rig:
    """The hub with a subscriber, and played workers."""

    def __init__(self) -> None:
        log = structlog.get_logger()
        self.hub = Hub(lambda _watch: None, log)
        self.got: list[Happened] = []
        self.hub.subscribe(COMPLETED, self.got.append)
        self.asked: list[str] = []
        self.fails = False
        self.guests: dict[str, list[Any]] = {GUEST: ["5a:94:ef:e4:0c:ee", 3]}
        self.flows = FlowEvents(self, self.hub, log)

    async def __call__(self, worker: str, op: messages.Request, fds: Sequence[Any] = ()) -> dict[str, Any]:
        ask: dict[str, Any] = op.encode()
        self.asked.append(ask["op"])
        await asyncio.sleep(0)
        if self.fails:
            raise RequestError("demux is gone")
        if ask["op"] == "neighbors":
            return {"neighbors": self.guests}
        return {"names": ["www.example.com"] * len(ask["pairs"])}

    def report(self, kind: str, report: FlowReport, lost: int = 0) -> None:
        event = [kind, 1.5, {"facts": [list(report.flow), *report[1:]]}]
        self.hub.on_worker("tcp0", messages.HappenedEvent([event], lost))

    async def settle(self) -> None:
        for _ in range(20):
            await asyncio.sleep(0)


def run(test: Callable[[Rig], Awaitable[None]]) -> None:
    async def inside() -> None:
        await test(Rig())

    asyncio.run(inside())


def test_a_flow_is_completed_when_it_opens_and_the_same_when_it_ends() -> None:
    async def test(rig: Rig) -> None:
        rig.report(OPENED, FlowReport(ROW))
        await rig.settle()
        rig.guests = {}
        rig.report(CLOSED, FlowReport(ROW._replace(state="closed"), "guest", "fin"))
        await rig.settle()
        assert rig.asked == ["neighbors", "names"]
        opened, closed = rig.got
        assert (opened.kind, opened.worker, opened.at) == (OPENED, "tcp0", 1.5)
        assert opened.fields["id"] == "tcp0-9"
        assert "ended_by" not in opened.fields
        for event in rig.got:
            assert event.fields["guest_mac"] == "5a:94:ef:e4:0c:ee"
            assert event.fields["name"] == "www.example.com"
        assert closed.fields["duration_seconds"] == 1.5
        assert (closed.fields["ended_by"], closed.fields["reason"]) == ("guest", "fin")
        assert closed.fields["errno"] is None

    run(test)


def test_reports_that_come_together_are_asked_about_once_and_stay_in_order() -> None:
    async def test(rig: Rig) -> None:
        for number in range(100):
            rig.report(
                FAILED, FlowReport(ROW._replace(number=number + 1), "host", "error", errno.ECONNREFUSED)
            )
        await rig.settle()
        assert rig.asked == ["neighbors", "names"]
        assert [event.fields["id"] for event in rig.got] == [f"tcp0-{number + 1}" for number in range(100)]
        assert rig.got[0].fields["errno"] == "ECONNREFUSED"

    run(test)


def test_a_refusal_names_the_rule_or_the_key_of_the_limit() -> None:
    async def test(rig: Rig) -> None:
        row = ROW._replace(number=0)
        rig.report(REFUSED, FlowReport(row, "gateway", "policy", rule="egress-policy.default"))
        rig.report(REFUSED, FlowReport(row, "gateway", "limit", limit="tcp_syn_dropped_rate_limit"))
        rig.report(REFUSED, FlowReport(row, "gateway", "limit", limit="egress_flow_refused_too_many_sockets"))
        await rig.settle()
        found = [(event.fields["rule"], event.fields["limit"]) for event in rig.got]
        assert found == [
            ("egress-policy.default", None),
            (None, "max-syns-per-second"),
            (None, "egress_flow_refused_too_many_sockets"),
        ]
        assert {event.fields["id"] for event in rig.got} == {None}

    run(test)


def test_without_an_answer_events_have_no_names() -> None:
    async def test(rig: Rig) -> None:
        rig.fails = True
        rig.report(CLOSED, FlowReport(ROW, "host", "fin"))
        await rig.settle()
        (event,) = rig.got
        assert event.fields["name"] is event.fields["guest_mac"] is None
        assert event.fields["guest"] == 3

    run(test)


def test_reports_over_the_bound_are_lost_and_counted() -> None:
    async def test(rig: Rig) -> None:
        for number in range(reports.MAX_WAITING + 5):
            rig.report(CLOSED, FlowReport(ROW._replace(number=number + 1), "host", "fin"))
        await rig.settle()
        assert len(rig.got) == reports.MAX_WAITING
        rig.report(CLOSED, FlowReport(ROW, "host", "fin"), lost=2)
        await rig.settle()
        assert rig.got[-1].lost == 7

    run(test)


def test_the_end_publishes_what_waits() -> None:
    async def test(rig: Rig) -> None:
        rig.report(CLOSED, FlowReport(ROW, "host", "fin"))
        await rig.flows.stop()
        assert [event.kind for event in rig.got] == [CLOSED]

    run(test)


def test_the_log_has_flows_only_as_long_as_it_has_level_debug() -> None:
    async def test(rig: Rig) -> None:
        # Another test of this process may have left a logger that drops this level.
        structlog.reset_defaults()
        rig.flows = FlowEvents(rig, rig.hub, structlog.get_logger())
        with structlog.testing.capture_logs() as lines:
            for on, count in ((False, 0), (True, 1), (True, 2), (False, 2), (True, 3)):
                rig.flows.log_each(on=on)
                rig.report(OPENED, FlowReport(ROW))
                await rig.settle()
                assert len(lines) == count
        assert {line["event"] for line in lines} == {"flow opened"}

    run(test)


def test_without_the_log_no_worker_reports_flows() -> None:
    watched: list[list[str]] = []
    hub = Hub(lambda watch: watched.append(watch.kinds), structlog.get_logger())
    flows = FlowEvents(Rig(), hub, structlog.get_logger())
    flows.log_each(on=True)
    flows.log_each(on=False)
    assert watched == [sorted(COMPLETED), []]


def test_a_report_of_something_else_is_ignored() -> None:
    async def test(rig: Rig) -> None:
        rig.hub.on_worker("tcp0", messages.HappenedEvent([[CLOSED, 1.0, {}]], 0))
        await rig.settle()
        assert rig.got == []

    run(test)
