"""The hub: who gets which event, and what workers are asked for."""

import asyncio

import pytest
import structlog
from structlog.testing import capture_logs

from pipeline.control.hub import MAX_QUEUED, MAX_QUEUES, Happened, Hub, TooManyReadersError
from pipeline.events.table import PUBLISHED
from pipeline.ipc import messages

LEASE = {"mac": "5a:94:ef:e4:0c:ee", "address": "192.168.127.2"}


class Rig:
    def __init__(self) -> None:
        self.asked: list[list[str]] = []
        self.hub = Hub(lambda watch: self.asked.append(watch.kinds), structlog.get_logger())
        self.got: list[Happened] = []


def test_workers_are_asked_for_what_any_subscriber_wants() -> None:
    rig = Rig()
    end_one = rig.hub.subscribe(["lease-given", "guest-gone"], rig.got.append)
    end_two = rig.hub.subscribe(["lease-given"], lambda _happened: None)
    end_one()
    end_two()
    assert rig.asked == [["guest-gone", "lease-given"], ["lease-given"], []]


def test_a_subscriber_gets_its_kinds_alone() -> None:
    rig = Rig()
    rig.hub.subscribe(["lease-given"], rig.got.append)
    rig.hub.publish("lease-given", LEASE, at=1.5, worker="resolver")
    rig.hub.publish("lease-released", LEASE)
    assert rig.got == [Happened("lease-given", 1.5, "resolver", LEASE)]


def test_kinds_of_the_log_alone_are_not_published() -> None:
    rig = Rig()
    rig.hub.subscribe(["worker-started", "no-such-kind"], rig.got.append)
    assert rig.asked == []


def test_what_the_supervisor_reports_is_logged_too() -> None:
    rig = Rig()
    rig.hub.subscribe(PUBLISHED, rig.got.append)
    with capture_logs() as lines:
        rig.hub.report("forward-opened", protocol="tcp", local=":1", remote="192.168.127.2:1", opened_by="")
    assert [line["event"] for line in lines] == ["forward opened"]
    assert [(happened.kind, happened.worker) for happened in rig.got] == [("forward-opened", "supervisor")]


def test_events_of_workers_are_published_with_the_number_of_lost_ones() -> None:
    rig = Rig()
    rig.hub.subscribe(["lease-given"], rig.got.append)
    events: list[list[object]] = [["lease-given", 1.0, LEASE], ["lease-given", 2.0, LEASE]]
    rig.hub.on_worker("resolver", messages.HappenedEvent(events, 7))
    assert [(happened.at, happened.lost) for happened in rig.got] == [(1.0, 7), (2.0, 0)]


def test_a_reader_that_is_slow_is_told_how_many_events_it_lost() -> None:
    async def run() -> None:
        rig = Rig()
        with rig.hub.queue(["lease-given"]) as queue:
            for _ in range(MAX_QUEUED + 3):
                rig.hub.publish("lease-given", LEASE)
            first = await queue.take()
            rig.hub.publish("lease-given", LEASE)
            rig.hub.publish("lease-given", LEASE)
            then = await queue.take()
        assert len(first) == MAX_QUEUED
        assert {happened.lost for happened in first} == {0}
        assert [happened.lost for happened in then] == [3, 0]

    asyncio.run(run())


def test_readers_are_bounded_and_make_room_when_they_leave() -> None:
    async def run() -> None:
        rig = Rig()
        queues = [rig.hub.queue(PUBLISHED) for _ in range(MAX_QUEUES)]
        for queue in queues:
            queue.__enter__()
        with pytest.raises(TooManyReadersError):
            rig.hub.queue(PUBLISHED).__enter__()
        queues[0].__exit__(None, None, None)
        with rig.hub.queue(PUBLISHED):
            pass

    asyncio.run(run())


def test_a_closed_queue_ends_what_waits() -> None:
    async def run() -> None:
        with Rig().hub.queue(PUBLISHED) as queue:
            waiting = asyncio.ensure_future(queue.take())
            await asyncio.sleep(0)
            queue.close()
            assert await waiting == []
            assert queue.closed

    asyncio.run(run())
