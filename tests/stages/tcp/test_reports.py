"""What a tcp worker reports about a connection that has ended, and at what cost nobody wants it."""

import errno
from types import SimpleNamespace
from typing import Any

import pytest

from pipeline.engines.tcp import ending
from pipeline.engines.tcp.config import TcpConfig
from pipeline.engines.tcp.connection import Connection
from pipeline.ipc.flow_rows import CLOSED, FAILED, REFUSED, FlowReport
from pipeline.records.flows import flow_key
from pipeline.stages.tcp.flow import Flow, Guest
from pipeline.stages.tcp.reports import TcpReports
from pipeline.wire import ip
from tests.support.flow_reports import ALL, Wanted
from tests.support.flows import flow_of, flow_with, on_link


def reports(events: Wanted) -> TcpReports:
    worker: Any = SimpleNamespace(events=events)
    return TcpReports(worker)


def ended(flow: Flow) -> tuple[str, FlowReport]:
    events = Wanted(*ALL)
    reports(events).ended(flow, 2.0)
    (found,) = events.got
    return found


@pytest.mark.parametrize(
    ("end", "by", "reason"),
    [
        (ending.HOST_RESET, "host", "reset"),
        (ending.LIMIT, "gateway", "limit"),
        (ending.DELETED, "gateway", "deleted"),
        (ending.TIMED_OUT, "gateway", "timeout"),
    ],
)
def test_an_open_connection_closes_for_a_reason(end: int, by: str, reason: str) -> None:
    flow = flow_of(on_link(Guest(3)))
    flow.opened(0.5)
    flow.conn.on_host_reset(1.0, end)
    kind, report = ended(flow)
    assert (kind, report.ended_by, report.reason, report.error) == (CLOSED, by, reason, 0)
    row = report.flow
    assert (row.guest, row.age, row.state, row.connect) == (3, 2.0, "closed", 0.5)


def test_a_connection_that_was_never_open_failed() -> None:
    flow = flow_of(on_link(Guest(3)))
    flow.connect_failed(errno.ENETUNREACH, refused=False)
    flow.conn.on_host_reset(1.0, ending.CONNECT_FAILED)
    kind, report = ended(flow)
    assert (kind, report.ended_by, report.error) == (FAILED, "host", errno.ENETUNREACH)
    assert report.flow.connect < 0


def test_a_guest_that_does_not_answer_a_dial_fails_it() -> None:
    conn = Connection.active(TcpConfig(), 500, 0.0)
    flow = flow_with(conn, on_link(Guest(3)), 7)
    conn.on_host_reset(10.0, ending.TIMED_OUT)
    kind, report = ended(flow)
    assert (kind, report.flow.direction, report.error) == (FAILED, "in", errno.ETIMEDOUT)


def test_without_a_socket_a_limit_has_refused_the_connection() -> None:
    flow = flow_of(on_link(Guest(3)))
    flow.connect_failed(errno.EMFILE, refused=False)
    flow.conn.on_host_reset(1.0, ending.CONNECT_FAILED)
    kind, report = ended(flow)
    assert (kind, report.limit) == (REFUSED, "egress_flow_refused_too_many_sockets")


def test_what_egress_refused_is_not_reported_twice() -> None:
    events = Wanted(*ALL)
    flow = flow_of(on_link(Guest(3)))
    flow.connect_failed(errno.EACCES, refused=True)
    reports(events).ended(flow, 2.0)
    assert events.got == []


def test_a_syn_over_a_limit_is_refused() -> None:
    events = Wanted(*ALL)
    reports(events).refused(
        flow_key(ip.parse_ipv4("192.168.127.2"), 40000, ip.parse_ipv4("1.2.3.4"), 80),
        3,
        "tcp_syn_dropped_rate_limit",
    )
    ((kind, report),) = events.got
    assert (kind, report.limit, report.reason) == (REFUSED, "tcp_syn_dropped_rate_limit", "limit")
    assert (report.flow.guest_address, report.flow.address, report.flow.port) == (
        "192.168.127.2",
        "1.2.3.4",
        80,
    )


def test_nothing_is_gathered_for_nobody() -> None:
    events = Wanted()
    of = reports(events)
    flow: Any = SimpleNamespace(refused=False)  # Any look at it would fail.
    of.opened(flow, 1.0)
    of.ended(flow, 1.0)
    assert events.got == []
