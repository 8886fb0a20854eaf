"""Watch: the events for which egress waits, and what they say about reads."""

import socket
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from pipeline.host.stream import IS_ALL, IS_END, MAY_BE_MORE, HostStream
from pipeline.ipc import events as ev
from pipeline.stages.egress.tcp.watching import Watch, short_read


class Calls:
    """A worker that notes what it is asked to watch."""

    def __init__(self) -> None:
        self.made: list[tuple[str, bool]] = []
        """Each call, and whether it watches for room."""
        self.worker: Any = SimpleNamespace(
            register=lambda _fd, events, _callback: self.made.append(("register", bool(events & ev.WRITE))),
            modify=lambda _fd, events: self.made.append(("modify", bool(events & ev.WRITE))),
            unregister=lambda _fd: self.made.append(("unregister", False)),
            forget=lambda _fd: self.made.append(("forget", False)),
        )


@pytest.fixture
def stream() -> Iterator[HostStream]:
    with socket.socket() as sock:
        yield HostStream(sock, [])


def test_a_connected_socket_is_watched_for_room_only_when_it_has_none(stream: HostStream) -> None:
    calls = Calls()
    watch = Watch(calls.worker, stream)
    watch.begin(lambda _events: None, connected=True)
    assert stream.writable
    watch.await_room()
    watch.await_room()
    watch.end(alone=True)
    assert calls.made == [("register", not ev.HANGUP_WITHOUT_WRITE), ("modify", True), ("forget", False)]


def test_a_socket_that_is_connecting_is_watched_for_room_from_the_start(stream: HostStream) -> None:
    calls = Calls()
    watch = Watch(calls.worker, stream)
    watch.begin(lambda _events: None, connected=False)
    assert not stream.writable
    watch.await_room()
    watch.end(alone=False)
    assert calls.made == [("register", True), ("unregister", False)]


@pytest.mark.parametrize(
    ("events", "meaning"),
    [
        (ev.READ, IS_ALL),
        (ev.READ | ev.WRITE, IS_ALL),
        (ev.READ | ev.READ_HANGUP, IS_END),
        (ev.READ | ev.WRITE | ev.READ_HANGUP, IS_END),
        (ev.READ | ev.URGENT, MAY_BE_MORE),
        (ev.READ | ev.URGENT | ev.READ_HANGUP, MAY_BE_MORE),
        (ev.READ | ev.READ_HANGUP | ev.HANGUP, MAY_BE_MORE),
        (ev.READ | ev.READ_HANGUP | ev.ERROR, MAY_BE_MORE),
        (ev.HANGUP, MAY_BE_MORE),
    ],
)
def test_what_a_short_read_means_follows_from_the_events(events: int, meaning: int) -> None:
    assert short_read(events) == meaning
