"""Polls of top: what is asked, what comes of an answer that is bad or late, and the end of a flow."""

import queue
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.client import api
from pipeline.client.top.polls import FLOWS, GUESTS, METRICS, STATUS, Ask, Poll, Poller, take
from pipeline.client.top.samples import Samples
from tests.support import played_daemon
from tests.support.fake_api import FakeApi

SECONDS = 20.0


@pytest.fixture
def server(tmp_path: Path) -> Iterator[FakeApi]:
    made = FakeApi(tmp_path / "api.sock")
    made.says("/status", played_daemon.status(0))
    made.says("/flows", played_daemon.flows(0))
    made.answers["/metrics"] = ("200 OK", played_daemon.metrics(0).encode())
    yield made
    made.close()


def test_a_poll_has_one_request_of_each_kind(server: FakeApi) -> None:
    asks = Ask(STATUS), Ask(FLOWS, (("limit", "5"),)), Ask(METRICS)
    poll = take(api.Api(server.url), asks)
    targets = [request.split(" ", 2)[:2] for request in server.requests]
    assert targets == [["GET", "/status"], ["GET", "/flows?limit=5"], ["GET", "/metrics"]]
    assert (poll.error, poll.faults) == ("", {})
    assert poll.answers[asks[0]] == played_daemon.status(0)
    assert isinstance(poll.answers[asks[2]], Samples)


def test_a_refusal_leaves_the_other_answers(server: FakeApi) -> None:
    server.refuses("/flows", "404 page not found", "404 Not Found")
    server.answers["/metrics"] = ("200 OK", b"gvtap_ring_records{")
    asks = Ask(FLOWS), Ask(METRICS), Ask(STATUS)
    poll = take(api.Api(server.url), asks)
    assert list(poll.answers) == [asks[2]]
    assert poll.error == ""
    assert "has no /flows: it is older than this program" in poll.faults[asks[0]]
    assert "not in Prometheus' format" in poll.faults[asks[1]]


def test_an_answer_that_is_not_complete_is_an_error(server: FakeApi) -> None:
    server.answers["/status"] = ("200 OK\r\nContent-Length: 500", b"{}")
    poll = take(api.Api(server.url), [Ask(STATUS), Ask(FLOWS)])
    assert "/status" in poll.error
    assert (poll.answers, len(server.requests)) == ({}, 1), "the rest of the poll is left out"


def test_a_daemon_that_is_gone_is_an_error(tmp_path: Path) -> None:
    poll = take(api.Api(f"unix://{tmp_path}/none"), [Ask(STATUS)])
    assert poll.error.startswith(f"cannot ask the daemon at unix://{tmp_path}/none: ")


def test_the_poller_asks_at_once_when_the_requests_change(server: FakeApi) -> None:
    polls: queue.Queue[Poll] = queue.Queue()
    poller = Poller(api.Api(server.url), 3600.0)
    poller.start([Ask(STATUS)], polls.put)
    assert list(polls.get(timeout=SECONDS).answers) == [Ask(STATUS)]
    poller.ask([Ask(FLOWS)])
    assert list(polls.get(timeout=SECONDS).answers) == [Ask(FLOWS)]
    poller.stop()


def test_the_poller_asks_again_after_the_interval_and_not_after_its_stop(server: FakeApi) -> None:
    polls: queue.Queue[Poll] = queue.Queue()
    poller = Poller(api.Api(server.url), 0.01)
    poller.start([Ask(STATUS)], polls.put)
    for _ in range(3):
        assert polls.get(timeout=SECONDS).error == ""
    poller.stop()
    (thread,) = [each for each in threading.enumerate() if each.name == "polls"] or [threading.Thread()]
    if thread.is_alive():
        thread.join(SECONDS)
    assert not thread.is_alive()


def test_the_poller_goes_on_when_the_daemon_comes_back(tmp_path: Path) -> None:
    polls: queue.Queue[Poll] = queue.Queue()
    poller = Poller(api.Api(f"unix://{tmp_path}/api.sock"), 0.01)
    poller.start([Ask(GUESTS)], polls.put)
    assert polls.get(timeout=SECONDS).error != ""
    server = FakeApi(tmp_path / "api.sock")
    server.says("/guests", [])
    while polls.get(timeout=SECONDS).error:
        pass
    poller.stop()
    server.close()


def test_a_daemon_that_does_not_answer_holds_neither_the_caller_nor_the_end(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(str(tmp_path / "api.sock"))
        silent.listen()
        poller = Poller(api.Api(f"unix://{tmp_path}/api.sock"), 0.01)
        poller.start([Ask(STATUS)], lambda poll: None)
        poller.end("tcp0-1", lambda error: None)
        poller.stop()
        waiting = [each for each in threading.enumerate() if each.name in ("polls", "end")]
        assert waiting != []
        assert all(thread.daemon for thread in waiting)


def test_the_end_of_a_flow_is_a_delete_of_its_id(server: FakeApi) -> None:
    errors: queue.Queue[str] = queue.Queue()
    server.answers["/flows/tcp0-17"] = ("200 OK", b"")
    poller = Poller(api.Api(server.url), 1.0)
    poller.end("tcp0-17", errors.put)
    assert errors.get(timeout=SECONDS) == ""
    assert server.requests[0].startswith("DELETE /flows/tcp0-17 HTTP/1.1\r\n")
    server.refuses("/flows/..%2Fa%20b", "there is no flow '../a b'", "404 Not Found")
    poller.end("../a b", errors.put)
    assert errors.get(timeout=SECONDS) == "there is no flow '../a b'"
