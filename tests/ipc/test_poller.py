"""The poller's contract, on epoll and on kqueue (a played one where the system has none)."""

import gc
import os
import select
import socket
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from pipeline.ipc import events
from pipeline.ipc.poller import EpollPoller, Events, KqueuePoller, Poller
from pipeline.ipc.wake import EventfdWaiter
from tests.support import fake_kqueue

LIMIT = 5.0
ALL = 64
LINK = events.READ | events.WRITE | events.READ_HANGUP | events.EDGE
"""What stages wait for on a connection."""


@pytest.fixture
def waiter() -> Iterator[EventfdWaiter]:
    made = EventfdWaiter()
    yield made
    made.close()


@pytest.fixture(params=["epoll", "kqueue"])
def poller(request: pytest.FixtureRequest, waiter: EventfdWaiter) -> Iterator[Poller]:
    made: Poller
    if request.param == "epoll":
        made = EpollPoller(waiter)
    else:
        made = KqueuePoller(waiter, select if hasattr(select, "kqueue") else fake_kqueue)
    yield made
    made.close()


class Pair:
    """A connection; the poller watches ``ours``."""

    def __init__(self, ours: socket.socket, theirs: socket.socket) -> None:
        self.ours, self.theirs = ours, theirs
        for sock in (ours, theirs):
            sock.setblocking(False)

    @property
    def fd(self) -> int:
        return self.ours.fileno()


def unix_pair() -> Pair:
    return Pair(*socket.socketpair())


def tcp_pair() -> Pair:
    with socket.create_server(("127.0.0.1", 0)) as server:
        ours = socket.create_connection(server.getsockname())
        return Pair(ours, server.accept()[0])


@pytest.fixture(params=[unix_pair, tcp_pair], ids=["unix", "tcp"])
def pair(request: pytest.FixtureRequest) -> Iterator[Pair]:
    made = request.param()
    yield made
    made.ours.close()
    made.theirs.close()


def nothing(_events: int) -> None:
    """A callback of a test that looks at what poll() returns."""


def of(fd: int, found: Events) -> int:
    """The bits for fd; each descriptor is there once at most."""
    assert len(found) == len(dict(found))
    return dict(found).get(fd, 0)


def fill(sock: socket.socket) -> None:
    try:
        while True:
            sock.send(bytes(65536))
    except BlockingIOError:
        return


def drain(sock: socket.socket) -> None:
    try:
        while sock.recv(65536):
            pass
    except BlockingIOError:
        return


def until(poller: Poller, fd: int, bits: int) -> int:
    """Poll until all bits were told of fd; everything that was told."""
    told = 0
    while told & bits != bits:
        found = poller.poll(LIMIT, ALL)
        assert found, f"{bits:#x} of {fd} does not come, only {told:#x}"
        told |= of(fd, found)
    return told


def quiet(poller: Poller) -> bool:
    return not poller.poll(0, ALL)


def test_bits_are_those_of_epoll() -> None:
    assert events.READ == select.EPOLLIN
    assert events.URGENT == select.EPOLLPRI
    assert events.WRITE == select.EPOLLOUT
    assert events.ERROR == select.EPOLLERR
    assert events.HANGUP == select.EPOLLHUP
    assert events.READ_HANGUP == select.EPOLLRDHUP
    assert events.EDGE == select.EPOLLET


def test_on_linux_the_loop_calls_epoll_itself(waiter: EventfdWaiter) -> None:
    poll: Any = EpollPoller(waiter).poll
    assert isinstance(poll.__self__, select.epoll)


@pytest.mark.parametrize("missing", ["", "eventfd"], ids=["eventfd", "pipe"])
def test_each_post_is_heard_once(monkeypatch: pytest.MonkeyPatch, missing: str) -> None:
    if missing:
        monkeypatch.delattr(os, missing)
    waiter = EventfdWaiter()
    poller = EpollPoller(waiter)
    for posts in (1, 2, 1):
        poller.rung = False
        for _ in range(posts):
            waiter.post()
        poller.dispatch(poller.poll(LIMIT, ALL))
        assert poller.rung
        assert quiet(poller)
    poller.close()
    waiter.close()


def test_a_pipe_that_is_heard_never_fills(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "eventfd")
    waiter = EventfdWaiter()
    poller = EpollPoller(waiter)
    for _ in range(70_000 // 8):
        waiter.post()
        poller.rung = False
        poller.dispatch(poller.poll(LIMIT, ALL))
        assert poller.rung
    poller.close()
    waiter.close()


def test_level_is_told_again_until_it_is_read(poller: Poller, pair: Pair) -> None:
    poller.register(pair.fd, events.READ, nothing)
    assert quiet(poller)
    pair.theirs.send(b"x")
    for _ in range(3):
        assert of(pair.fd, poller.poll(LIMIT, ALL)) == events.READ
    pair.ours.recv(1)
    assert quiet(poller)


def test_edge_is_told_once_a_change(poller: Poller, pair: Pair) -> None:
    poller.register(pair.fd, LINK, nothing)
    until(poller, pair.fd, events.WRITE)
    assert quiet(poller)
    pair.theirs.send(b"x")
    assert until(poller, pair.fd, events.READ) & ~events.WRITE == events.READ
    assert quiet(poller)
    pair.theirs.send(b"y")
    until(poller, pair.fd, events.READ)
    assert pair.ours.recv(10) == b"xy"
    assert quiet(poller)


def test_room_is_told_when_the_other_end_has_read(poller: Poller, pair: Pair) -> None:
    poller.register(pair.fd, LINK, nothing)
    fill(pair.ours)
    while poller.poll(0, ALL):
        fill(pair.ours)
    drain(pair.theirs)
    until(poller, pair.fd, events.WRITE)


def test_half_an_end_is_no_hang_up(poller: Poller, pair: Pair) -> None:
    poller.register(pair.fd, LINK, nothing)
    until(poller, pair.fd, events.WRITE)
    pair.theirs.shutdown(socket.SHUT_WR)
    told = until(poller, pair.fd, events.READ | events.READ_HANGUP)
    assert not told & (events.HANGUP | events.ERROR)
    assert pair.ours.recv(1) == b""
    assert pair.ours.send(b"x") == 1


def test_both_ends_are_a_hang_up_even_far_apart(poller: Poller, pair: Pair) -> None:
    poller.register(pair.fd, LINK, nothing)
    pair.theirs.shutdown(socket.SHUT_WR)
    until(poller, pair.fd, events.READ_HANGUP)
    pair.ours.shutdown(socket.SHUT_WR)
    until(poller, pair.fd, events.HANGUP)


def test_a_reset_is_an_error_and_a_hang_up(poller: Poller) -> None:
    pair = tcp_pair()
    poller.register(pair.fd, LINK, nothing)
    pair.theirs.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    pair.theirs.close()
    until(poller, pair.fd, events.ERROR | events.HANGUP | events.READ_HANGUP)
    pair.ours.close()


def test_a_refused_connection_is_told_as_writable(poller: Poller) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = server.getsockname()
    sock = socket.socket()
    sock.setblocking(False)
    sock.connect_ex(address)
    poller.register(sock.fileno(), LINK, nothing)
    until(poller, sock.fileno(), events.WRITE | events.ERROR)
    assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    sock.close()


def test_the_end_of_a_stream_is_read_without_asking_for_more(poller: Poller, pair: Pair) -> None:
    poller.register(pair.fd, events.READ, nothing)
    pair.theirs.close()
    assert until(poller, pair.fd, events.READ) & events.READ
    assert pair.ours.recv(1) == b""


def test_who_waits_for_nothing_hears_of_the_end_only(poller: Poller) -> None:
    pair = unix_pair()
    poller.register(pair.fd, events.READ, nothing)
    poller.modify(pair.fd, 0)
    pair.theirs.send(b"x")
    assert quiet(poller)
    pair.theirs.close()
    until(poller, pair.fd, events.HANGUP)
    poller.unregister(pair.fd)
    pair.ours.close()


def test_modify_changes_what_is_told(poller: Poller, pair: Pair) -> None:
    pair.theirs.send(b"x")
    poller.register(pair.fd, events.READ, nothing)
    assert until(poller, pair.fd, events.READ) == events.READ
    poller.modify(pair.fd, events.WRITE)
    assert until(poller, pair.fd, events.WRITE) == events.WRITE
    poller.modify(pair.fd, events.READ | events.WRITE)
    assert until(poller, pair.fd, events.READ | events.WRITE) == events.READ | events.WRITE
    poller.modify(pair.fd, 0)
    assert not poller.poll(0, ALL) or quiet(poller)
    poller.modify(pair.fd, events.WRITE)
    for _ in range(3):
        assert of(pair.fd, poller.poll(LIMIT, ALL)) == events.WRITE, "level again"


def test_what_is_unregistered_is_not_heard_of(poller: Poller, pair: Pair) -> None:
    heard: list[int] = []
    poller.register(pair.fd, LINK, heard.append)
    assert poller.registered(pair.fd)
    pair.theirs.send(b"x")
    found = poller.poll(LIMIT, ALL)
    poller.unregister(pair.fd)
    assert not poller.registered(pair.fd)
    poller.dispatch(found)
    assert heard == []
    assert quiet(poller)
    poller.register(pair.fd, LINK, heard.append)
    poller.dispatch(poller.poll(LIMIT, ALL))
    assert heard[0] & events.READ


def test_what_is_forgotten_and_closed_is_not_heard_of(poller: Poller) -> None:
    first = unix_pair()
    fd = first.fd
    poller.register(fd, LINK, nothing)
    first.theirs.shutdown(socket.SHUT_WR)
    until(poller, fd, events.READ_HANGUP)
    poller.forget(fd)
    first.ours.close()
    assert not poller.registered(fd)
    assert quiet(poller)
    second = unix_pair()
    os.dup2(second.fd, fd)
    poller.register(fd, LINK, nothing)
    assert not until(poller, fd, events.WRITE) & (events.HANGUP | events.READ_HANGUP)
    poller.unregister(fd)
    os.close(fd)


def test_a_number_taken_over_by_another_socket_starts_afresh(poller: Poller) -> None:
    first = unix_pair()
    fd = first.fd
    poller.register(fd, LINK, nothing)
    first.theirs.shutdown(socket.SHUT_WR)
    until(poller, fd, events.READ_HANGUP)
    poller.unregister(fd)
    first.ours.close()
    second = unix_pair()
    os.dup2(second.fd, fd)
    poller.register(fd, LINK, nothing)
    assert not until(poller, fd, events.WRITE) & (events.HANGUP | events.READ_HANGUP)
    poller.unregister(fd)
    os.close(fd)


def test_a_closed_poller_leaves_no_descriptor(waiter: EventfdWaiter) -> None:
    gc.collect()
    before = os.listdir("/proc/self/fd")
    for made in (EpollPoller(waiter), KqueuePoller(waiter, fake_kqueue)):
        assert len(os.listdir("/proc/self/fd")) > len(before)
        made.close()
    assert os.listdir("/proc/self/fd") == before


def test_more_events_than_asked_for_come_with_the_next_poll(poller: Poller) -> None:
    pairs = [unix_pair() for _ in range(5)]
    for pair in pairs:
        poller.register(pair.fd, LINK, nothing)
        pair.theirs.send(b"x")
    told = dict.fromkeys((pair.fd for pair in pairs), 0)
    while found := poller.poll(0, 2):
        assert len(found) <= 2
        for fd, mask in found:
            told[fd] |= mask
    assert set(told.values()) == {events.READ | events.WRITE}
    for pair in pairs:
        pair.ours.close()
        pair.theirs.close()


@pytest.mark.parametrize("early", [True, False], ids=["gone before", "gone after"])
def test_a_pipe_that_nobody_reads_hangs_up(poller: Poller, early: bool) -> None:
    read_end, write_end = os.pipe()
    if early:
        os.close(read_end)
    poller.register(write_end, events.WRITE | events.EDGE, nothing)
    if not early:
        until(poller, write_end, events.WRITE)
        os.close(read_end)
    assert until(poller, write_end, events.ERROR)
    assert quiet(poller)
    poller.unregister(write_end)
    os.close(write_end)


def test_urgent_bytes_are_told_with_those_to_read(poller: Poller) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        theirs = socket.create_connection(listener.getsockname())
        ours, _ = listener.accept()
    with theirs, ours:
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_OOBINLINE, 1)
        poller.register(ours.fileno(), LINK | events.URGENT, nothing)
        theirs.send(b"a")
        until(poller, ours.fileno(), events.READ)
        theirs.send(b"!", socket.MSG_OOB)
        until(poller, ours.fileno(), events.READ | events.URGENT)
        assert [ours.recv(10), ours.recv(10)] == [b"a", b"!"]
        poller.unregister(ours.fileno())


# --- kqueue alone: what the played one cannot show ---------------------------------------


class Script:
    """A kqueue that tells what it is told to."""

    KQ_FILTER_READ, KQ_FILTER_WRITE = fake_kqueue.KQ_FILTER_READ, fake_kqueue.KQ_FILTER_WRITE
    KQ_EV_ADD, KQ_EV_DELETE = fake_kqueue.KQ_EV_ADD, fake_kqueue.KQ_EV_DELETE
    KQ_EV_CLEAR, KQ_EV_EOF = fake_kqueue.KQ_EV_CLEAR, fake_kqueue.KQ_EV_EOF
    kevent = fake_kqueue.kevent

    def __init__(self) -> None:
        self.changes: list[fake_kqueue.kevent] = []
        self.found: list[fake_kqueue.kevent] = []

    def kqueue(self) -> "Script":
        return self

    def close(self) -> None:
        """Nothing to give back."""

    def control(
        self, changes: list[fake_kqueue.kevent] | None, max_events: int, timeout: float
    ) -> list[fake_kqueue.kevent]:
        self.changes += changes or []
        found, self.found = self.found[:max_events], self.found[max_events:]
        return found


FD = 50


@pytest.fixture
def script() -> Script:
    return Script()


@pytest.fixture
def told(script: Script, waiter: EventfdWaiter) -> Callable[..., Events]:
    """Gets kevents, gives events, of a poller that watches FD as a connection is watched."""
    made = KqueuePoller(waiter, script)
    made.register(FD, LINK, nothing)

    def poll(*found: fake_kqueue.kevent) -> Events:
        script.found = list(found)
        return made.poll(0.0, ALL)

    return poll


def read(flags: int = 0, error: int = 0) -> fake_kqueue.kevent:
    return fake_kqueue.kevent(FD, fake_kqueue.KQ_FILTER_READ, flags, error)


def write(flags: int = 0, error: int = 0) -> fake_kqueue.kevent:
    return fake_kqueue.kevent(FD, fake_kqueue.KQ_FILTER_WRITE, flags, error)


EOF = fake_kqueue.KQ_EV_EOF


def test_both_filters_of_a_descriptor_are_one_event(told: Callable[..., Events]) -> None:
    assert told(read(), write()) == [(FD, events.READ | events.WRITE)]


def test_the_own_shutdown_is_no_hang_up(told: Callable[..., Events]) -> None:
    # macOS says EV_EOF on the write filter after shutdown(SHUT_WR).
    assert told(write(EOF)) == [(FD, events.WRITE)]
    assert told(read()) == [(FD, events.READ)]
    assert told(read(EOF)) == [(FD, events.READ | events.READ_HANGUP | events.HANGUP)]


def test_an_error_is_told_with_the_end(told: Callable[..., Events]) -> None:
    gone = events.READ | events.READ_HANGUP | events.ERROR
    assert told(read(EOF, 54)) == [(FD, gone)]
    assert told(write(EOF, 54)) == [(FD, events.WRITE | events.ERROR | events.HANGUP)]


def test_filters_are_made_anew_when_level_becomes_edge(script: Script, waiter: EventfdWaiter) -> None:
    made = KqueuePoller(waiter, script)
    made.register(FD, events.READ, nothing)
    script.changes.clear()
    made.modify(FD, events.READ | events.WRITE)
    assert [(c.filter, c.flags) for c in script.changes] == [(Script.KQ_FILTER_WRITE, Script.KQ_EV_ADD)]
    script.changes.clear()
    made.modify(FD, events.READ | events.EDGE)
    edge = Script.KQ_EV_ADD | Script.KQ_EV_CLEAR
    assert sorted((c.filter, c.flags) for c in script.changes) == sorted(
        [
            (Script.KQ_FILTER_WRITE, Script.KQ_EV_DELETE),
            (Script.KQ_FILTER_READ, Script.KQ_EV_DELETE),
            (Script.KQ_FILTER_READ, edge),
        ]
    )
    script.changes.clear()
    made.unregister(FD)
    assert [(c.filter, c.flags) for c in script.changes] == [(Script.KQ_FILTER_READ, Script.KQ_EV_DELETE)]
