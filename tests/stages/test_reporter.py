"""A worker's events: who gets them, in which batches, and what is lost."""

import errno
import os
import socket
from collections.abc import Iterator
from typing import Any

import pytest
import structlog
from structlog.testing import capture_logs

from pipeline.events.kind import DEBUG, INFO
from pipeline.ipc import message_table, messages
from pipeline.ipc.channel import ControlChannel
from pipeline.stages.control_sockets import ControlSockets
from pipeline.stages.reporter import BATCH, MAX_BACKLOG, RATE, Reporter


class Rig:
    def __init__(self, level: int = INFO) -> None:
        own, peer = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.supervisor = ControlChannel(peer)
        log = structlog.wrap_logger(
            structlog.testing.ReturnLogger(), wrapper_class=structlog.make_filtering_bound_logger(level)
        )
        self.control = ControlSockets("tcp0", own, {}, log.bind(), lambda _message, _fds: None)
        self.reporter = Reporter(log.bind(), self.control)

    def received(self) -> list[messages.HappenedEvent]:
        found = [message_table.event_of(message) for message, _ in self.supervisor.receive()]
        return [message for message in found if isinstance(message, messages.HappenedEvent)]

    def lease(self, **fields: object) -> None:
        self.reporter.report("lease-given", mac="5a:94:ef:e4:0c:ee", **fields)


@pytest.fixture
def rig() -> Iterator[Rig]:
    made = Rig()
    yield made
    made.control.close()
    made.supervisor.close()


def events(batches: list[messages.HappenedEvent]) -> list[Any]:
    return [event for batch in batches for event in batch.events]


def test_without_subscribers_an_event_is_a_line_of_the_log_alone(rig: Rig) -> None:
    with capture_logs() as lines:
        rig.lease(seconds=60)
    (line,) = lines
    assert (line["event"], line["log_level"], line["seconds"]) == ("lease given", "info", 60)
    assert not rig.reporter.waiting
    rig.reporter.flush()
    assert rig.received() == []


def test_kinds_below_the_level_of_the_log_are_not_wanted(rig: Rig) -> None:
    assert rig.reporter.wants("lease-given")
    assert not rig.reporter.wants("question-answered")
    assert Rig(DEBUG).reporter.wants("question-answered")


def test_another_level_of_the_log_counts_once_it_is_checked(rig: Rig) -> None:
    rig.reporter._log = Rig(DEBUG).reporter._log
    rig.reporter.check_levels()
    assert rig.reporter.wants("question-answered")


def test_a_subscriber_gets_its_kinds_at_any_level_of_the_log(rig: Rig) -> None:
    rig.reporter.watch(["question-answered"])
    assert rig.reporter.wants("question-answered")
    with capture_logs() as lines:
        rig.reporter.report("question-answered", name="example.com.")
    rig.lease()
    rig.reporter.flush()
    ((kind, at, fields),) = events(rig.received())
    assert (kind, fields) == ("question-answered", {"name": "example.com."})
    assert at > 1e9
    assert lines == []


def test_a_full_batch_does_not_wait(rig: Rig) -> None:
    rig.reporter.watch(["lease-given"])
    for _ in range(BATCH + 1):
        rig.lease()
    assert [len(batch.events) for batch in rig.received()] == [BATCH]
    assert rig.reporter.waiting
    rig.reporter.keep_house()
    assert [len(batch.events) for batch in rig.received()] == [1]


def test_events_over_the_rate_are_lost_and_counted(rig: Rig) -> None:
    rig.reporter.watch(["lease-given"])
    got = []
    for _ in range(RATE + 5):
        rig.lease()
        got += rig.received()
    rig.reporter.keep_house()
    rig.lease()
    rig.reporter.flush()
    got += rig.received()
    assert len(events(got)) == RATE + 1
    assert sum(batch.lost for batch in got) == 5


def test_a_supervisor_that_does_not_read_costs_no_memory(rig: Rig) -> None:
    rig.reporter.watch(["lease-given"])
    for _ in range(100):
        for _ in range(RATE):
            rig.lease(host_name="x" * 200)
        rig.reporter.keep_house()
    assert rig.control.backlog <= MAX_BACKLOG
    while not rig.control.flush():
        rig.received()
    rig.received()
    rig.lease()
    rig.reporter.flush()
    (batch,) = rig.received()
    assert batch.lost > RATE


def test_a_batch_that_cannot_be_sent_is_lost_and_counted(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_descriptor(*_: object) -> None:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    rig.reporter.watch(["lease-given"])
    with monkeypatch.context() as patch:
        patch.setattr(rig.control, "send_event", no_descriptor)
        rig.lease()
        rig.lease()
        rig.reporter.flush()
    rig.lease()
    rig.reporter.flush()
    (batch,) = rig.received()
    assert (len(batch.events), batch.lost) == (1, 2)


def test_a_text_that_no_message_can_carry_is_lost_and_the_worker_goes_on(rig: Rig) -> None:
    rig.reporter.watch(["lease-given"])
    rig.lease(host_name="\udcff")
    rig.reporter.flush()
    rig.lease(host_name="web")
    rig.reporter.flush()
    (batch,) = rig.received()
    assert [event[2]["host_name"] for event in batch.events] == ["web"]
    assert batch.lost == 1


def test_what_waits_is_forgotten_when_the_last_subscriber_leaves(rig: Rig) -> None:
    rig.reporter.watch(["lease-given"])
    rig.lease()
    rig.reporter.watch([])
    rig.reporter.flush()
    assert rig.received() == []
