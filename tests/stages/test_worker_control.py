"""The loop: sockets, control messages and the end, with toy stages in forked processes."""

import os
import resource
import select
import signal
import socket
import time

import pytest

from pipeline.ipc import channel
from pipeline.ipc.fabric import Fabric
from pipeline.stages.worker import Message, Worker
from tests.support.ready import readable
from tests.support.toy_workers import LIMIT, Child, Spawn, Toy

BOTH_KINDS = pytest.mark.parametrize("name", ["demux", "ingress"])

# --- sockets ----------------------------------------------------------------------------


class SocketEcho(Toy):
    """Echoes bytes on descriptors that a request brought."""

    def on_control(self, message: Message, fds: list[int]) -> Message:
        sock = socket.socket(fileno=fds[0])
        sock.setblocking(False)
        edge = select.EPOLLET if message["edge"] else 0
        self.worker.register(sock.fileno(), select.EPOLLIN | edge, lambda _events: self.echo(sock))
        return {}

    def echo(self, sock: socket.socket) -> None:
        try:
            while data := sock.recv(100):
                sock.send(data)
        except BlockingIOError:
            return
        self.worker.unregister(sock.fileno())
        sock.close()


@pytest.mark.parametrize("edge", [False, True], ids=["level", "edge"])
def test_a_registered_descriptor_calls_its_callback_until_it_is_unregistered(
    spawn: Spawn, edge: bool
) -> None:
    child = spawn("egress0", SocketEcho)
    ends = [socket.socketpair() for _ in range(5)]
    for mine, its in ends:
        mine.settimeout(LIMIT)
        child.send({"id": 1, "op": "echo", "edge": edge}, [its.fileno()])
        assert child.next_message()[0] == {"id": 1, "ok": True}
        its.close()
    for number in range(100):
        ends[number % 5][0].send(b"%d" % number)
        assert ends[number % 5][0].recv(100) == b"%d" % number
    for mine, _ in ends:
        mine.shutdown(socket.SHUT_WR)
        assert mine.recv(1) == b"", "the stage closed its end"
        mine.close()
    time.sleep(0.3)
    os.kill(child.pid, signal.SIGTERM)
    child.join()
    assert child.counters.snapshot()["worker_breaths"] < 2000, "it slept when there was nothing to do"


def test_a_callback_may_unregister_a_descriptor_whose_event_is_next(spawn: Spawn) -> None:
    class Rivals(Toy):
        def on_control(self, message: Message, fds: list[int]) -> Message:
            self.fds = fds
            for fd in fds:
                self.worker.register(fd, select.EPOLLIN, lambda _events, fd=fd: self.win(fd))
            return {}

        def win(self, winner: int) -> None:
            for fd in self.fds:
                self.worker.unregister(fd)
                os.close(fd)
            self.worker.send_event({"event": "won"})

    child = spawn("egress0", Rivals)
    pipes = [os.pipe() for _ in range(4)]
    for _, write_end in pipes:
        os.write(write_end, b"x")
    child.send({"id": 1, "op": "race"}, [read_end for read_end, _ in pipes])
    messages = [child.next_message()[0], child.next_message()[0]]
    assert {"event": "won"} in messages
    assert child.ask("ping") == {"ok": True}
    for read_end, write_end in pipes:
        os.close(read_end)
        os.close(write_end)


def test_a_semaphore_worker_holds_no_descriptors(fabric: Fabric) -> None:
    worker = Worker(fabric.ports("demux"), None)
    for call in (lambda: worker.register(0, 1, print), lambda: worker.modify(0, 1)):
        with pytest.raises(LookupError, match="semaphore"):
            call()


def test_descriptors_are_handed_from_listen_to_egress(spawn: Spawn) -> None:
    class Accepting(Toy):
        def on_control(self, message: Message, fds: list[int]) -> Message:
            os.write(fds[0], b"from egress1")
            os.close(fds[0])
            return {"ok": True}

    class Giving(Toy):
        def on_control(self, message: Message, fds: list[int]) -> Message:
            self.worker.send_peer("egress1", {"op": "accepted"}, fds)
            os.close(fds[0])
            return {}

    spawn("egress1", Accepting)
    read_end, write_end = os.pipe()
    giving = spawn("listen", Giving)
    giving.send({"id": 1, "op": "give"}, [write_end])
    os.close(write_end)
    assert giving.next_message()[0] == {"id": 1, "ok": True}
    assert os.read(read_end, 100) == b"from egress1"
    os.close(read_end)


# --- control ----------------------------------------------------------------------------


class Answering(Toy):
    """Knows a good request, a bad one and one that it answers later."""

    def __init__(self, worker: Worker) -> None:
        super().__init__(worker)
        self.later: Message | None = None

    def step(self, now: float) -> int:
        if self.later is None:
            return 0
        self.worker.reply(self.later, {"late": True})
        self.later = None
        return 1

    def on_control(self, message: Message, fds: list[int]) -> Message | None:
        if message["op"] == "later":
            self.later = message
            return None
        if message["op"] == "fail":
            raise ValueError("told to")
        return {"op": message["op"]}


@BOTH_KINDS
def test_requests_are_answered_whatever_comes_of_them(spawn: Spawn, name: str) -> None:
    child = spawn(name, Answering)
    assert child.ask("good") == {"ok": True, "op": "good"}
    assert child.ask("fail") == {"error": "told to"}
    assert child.ask("later") == {"ok": True, "late": True}
    child.send({"op": "no id, no answer"})
    assert child.ask("ping") == {"ok": True}


@BOTH_KINDS
def test_many_requests_at_once_are_answered_in_order(spawn: Spawn, name: str) -> None:
    child = spawn(name, Answering)
    for number in range(100):
        child.send({"id": number, "op": "good"})
    assert [child.next_message()[0]["id"] for _ in range(100)] == list(range(100))


def test_a_message_whose_bell_was_not_rung_is_found_by_housekeeping(spawn: Spawn) -> None:
    child = spawn("demux", Answering, 0.5)
    assert child.ask("ping") == {"ok": True}
    child.channel.send({"id": 3, "op": "good"})
    assert child.next_message()[0]["id"] == 3


class Verbose(Toy):
    """Has answers of any length."""

    def on_control(self, message: Message, fds: list[int]) -> Message:
        return {"text": "x" * message["length"]}


@BOTH_KINDS
def test_long_answers_do_not_end_the_worker(spawn: Spawn, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(channel, "MAX_MESSAGE", 4_000_000)
    child = spawn(name, Verbose)
    for length in (100, 250_000, 3_999_000):
        child.send({"id": 1, "op": "talk", "length": length})
        assert len(child.next_message()[0]["text"]) == length
    child.send({"id": 2, "op": "talk", "length": 4_000_000})
    assert "too long" in child.next_message()[0]["error"]
    assert child.ask("ping") == {"ok": True}


def test_a_request_whose_socket_finds_no_room_is_answered_with_an_error(spawn: Spawn) -> None:
    class AtItsLimit(Toy):
        def on_control(self, message: Message, fds: list[int]) -> Message:
            if message["op"] == "limit":
                resource.setrlimit(resource.RLIMIT_NOFILE, (3, 3))
                return {}
            return {"fds": len(fds)}

    child = spawn("egress0", AtItsLimit)
    read_end, write_end = os.pipe()
    child.send({"id": 1, "op": "take"}, [write_end])
    assert child.next_message()[0]["fds"] == 1
    child.ask("limit")
    child.send({"id": 2, "op": "take"}, [write_end])
    assert child.next_message()[0] == {"id": 2, "error": "worker egress0 has no descriptor left"}
    assert child.ask("ping") == {"ok": True}
    assert child.counters.snapshot()["worker_messages_lost"] == 1
    os.close(read_end)
    os.close(write_end)


# --- the end ----------------------------------------------------------------------------


class Closing(Toy):
    """Writes a word on a descriptor when it is closed."""

    def on_control(self, message: Message, fds: list[int]) -> Message:
        self.fd = fds[0]
        return {}

    def close(self) -> None:
        os.write(self.fd, b"closed")


@BOTH_KINDS
@pytest.mark.parametrize("how", ["sigterm", "request", "socket"])
def test_an_orderly_end_closes_the_stage(spawn: Spawn, name: str, how: str) -> None:
    child = spawn(name, Closing, 60.0 if how != "socket" else 0.2)
    read_end, write_end = os.pipe()
    child.send({"id": 1, "op": "keep"}, [write_end])
    os.close(write_end)
    child.next_message()
    time.sleep(0.05)
    if how == "sigterm":
        os.kill(child.pid, signal.SIGTERM)
    elif how == "request":
        assert child.ask("stop") == {"ok": True}
    else:
        child.channel.close()
    assert child.join() == 0
    assert os.read(read_end, 100) == b"closed"
    os.close(read_end)


@BOTH_KINDS
def test_signals_meant_for_the_supervisor_do_not_end_a_worker(spawn: Spawn, name: str) -> None:
    child = spawn(name, Toy)
    assert child.ask("ping") == {"ok": True}
    for number in (signal.SIGINT, signal.SIGHUP):
        os.kill(child.pid, number)
    assert child.ask("ping") == {"ok": True}


@BOTH_KINDS
def test_a_signal_that_came_before_the_worker_had_its_handlers_is_not_lost(spawn: Spawn, name: str) -> None:
    """Who forks blocks them until then (pipeline.daemon.processes)."""
    read_end, write_end = os.pipe()

    class Slow(Toy):
        def __init__(self, worker: Worker) -> None:
            super().__init__(worker)
            os.read(read_end, 1)

    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
    try:
        child = spawn(name, Slow)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    os.kill(child.pid, signal.SIGTERM)
    os.write(write_end, b".")
    assert child.join() == 0
    os.close(read_end)
    os.close(write_end)


@BOTH_KINDS
def test_a_stage_that_fails_ends_the_worker_with_status_1(spawn: Spawn, name: str) -> None:
    class Failing(Toy):
        def step(self, now: float) -> int:
            raise RuntimeError("broken on purpose")

    assert spawn(name, Failing).join() == 1


def test_workers_end_when_the_supervisor_is_killed(fabric: Fabric) -> None:
    read_end, write_end = os.pipe()
    supervisor = os.fork()
    if supervisor == 0:
        os.close(read_end)
        children = [Child(fabric, name, Toy) for name in ("demux", "tcp0", "ingress", "egress0")]
        for child in children:
            child.ask("ping")
        os.write(write_end, b"ready")
        time.sleep(600)
        os._exit(0)
    os.close(write_end)
    assert os.read(read_end, 5) == b"ready"
    os.kill(supervisor, signal.SIGKILL)
    os.waitpid(supervisor, 0)
    # The pipe ends when the last process that inherited it does.
    assert readable(read_end, LIMIT)
    assert os.read(read_end, 1) == b""
    os.close(read_end)
