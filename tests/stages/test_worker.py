"""The loop, with toy stages in forked processes.

The workers run with a MAX_SLEEP far beyond the time limit of each test where a missed wake
must not hide behind the bounded sleep.
"""

import os
import select
import signal
import socket
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterator
from math import inf
from typing import Any

import pytest

from pipeline.shm.descriptor import DESCRIPTOR, DESCRIPTOR_BYTES, NO_SLOT, TAKEN, TO_GUEST, record
from pipeline.stages import worker as worker_module
from pipeline.stages.channel import ControlChannel
from pipeline.stages.worker import Message, Worker
from pipeline.topology import Fabric, Layout

LIMIT = 15.0
"""Seconds until something that should happen at once counts as not happening."""


class Toy:
    """A stage that does nothing; the base of the others."""

    def __init__(self, worker: Worker) -> None:
        self.worker = worker

    def step(self, now: float) -> int:
        return 0

    def deadline(self) -> float:
        return inf

    def on_control(self, message: Message, fds: list[int]) -> Message | None:
        return {"error": f"no request {message.get('op')!r}"}


MakeStage = Callable[[Worker], Toy]


class Child:
    """A forked worker, seen from its supervisor."""

    def __init__(self, fabric: Fabric, name: str, make: MakeStage, max_sleep: float = 60.0) -> None:
        mine, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.name, self.bell = name, fabric.bell(name)
        self.counters = fabric.counters(name)
        self.pid = os.fork()
        if self.pid == 0:
            status = 9
            try:
                mine.close()
                vars(worker_module)["MAX_SLEEP"] = max_sleep
                worker = Worker(fabric.ports(name), its)
                worker.run(make(worker))
                status = 0
            except SystemExit as end:
                status = int(end.code or 0)
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(status)
        its.close()
        self.channel = ControlChannel(mine)
        self.inbox: deque[tuple[dict[str, Any], list[int]]] = deque()
        self.status: int | None = None

    def send(self, message: Message, fds: list[int] | None = None) -> None:
        self.channel.send(message, fds or [])
        self.bell.notify_control()

    def next_message(self) -> tuple[dict[str, Any], list[int]]:
        until = time.monotonic() + LIMIT
        while not self.inbox:
            ready, _, _ = select.select([self.channel], [], [], max(until - time.monotonic(), 0))
            assert ready, f"{self.name} says nothing"
            self.inbox.extend(self.channel.receive())
            assert self.inbox or not self.channel.ended, f"{self.name} is gone"
        return self.inbox.popleft()

    def ask(self, op: str, **more: Any) -> dict[str, Any]:
        self.send({"id": 7, "op": op, **more})
        answer, _ = self.next_message()
        assert answer.pop("id") == 7
        return answer

    def join(self) -> int:
        """Exit status within the limit; negative for a signal."""
        until = time.monotonic() + LIMIT
        while self.status is None and time.monotonic() < until:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.status = os.waitstatus_to_exitcode(status)
            else:
                time.sleep(0.005)
        assert self.status is not None, f"{self.name} does not end"
        return self.status

    def kill(self) -> None:
        if self.status is None:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
        self.channel.close()


Spawn = Callable[..., Child]


@pytest.fixture
def fabric() -> Fabric:
    return Fabric.create(Layout(64, 1, 2))


@pytest.fixture
def spawn(fabric: Fabric) -> Iterator[Spawn]:
    children: list[Child] = []

    def start(name: str, make: MakeStage = Toy, max_sleep: float = 60.0) -> Child:
        children.append(Child(fabric, name, make, max_sleep))
        return children[-1]

    yield start
    for child in children:
        child.kill()


BOTH_KINDS = pytest.mark.parametrize("name", ["demux", "ingress"])

# --- rings and bells --------------------------------------------------------------------


class Echo(Toy):
    """Sends every record back to where it came from."""

    def step(self, now: float) -> int:
        count = 0
        for peer, ring in self.worker.ports.rings_in.items():
            burst = ring.peek()
            for at in range(0, len(burst), DESCRIPTOR_BYTES):
                self.worker.ports.rings_out[peer].push(bytes(burst[at : at + DESCRIPTOR_BYTES]))
            ring.release(len(burst) // DESCRIPTOR_BYTES)
            count += len(burst) // DESCRIPTOR_BYTES
        return count


class Pinger(Toy):
    """Keeps a window of numbered records on the way to a peer and checks what comes back."""

    def __init__(self, worker: Worker, peer: str, total: int, window: int) -> None:
        super().__init__(worker)
        self.out, self.back = worker.ports.rings_out[peer], worker.ports.rings_in[peer]
        self.total, self.window = total, window
        self.sent = self.received = 0

    def step(self, now: float) -> int:
        burst = self.back.peek()
        for fields in DESCRIPTOR.iter_unpack(burst):
            assert fields[9] == self.received
            self.received += 1
        self.back.release(len(burst) // DESCRIPTOR_BYTES)
        work = len(burst)
        while self.sent < self.total and self.sent - self.received < self.window:
            self.out.push(record(TAKEN, flow=self.sent))
            self.sent += 1
            work += 1
        if work and self.received == self.total:
            self.worker.send_event({"event": "done"})
        return work


@pytest.mark.parametrize("window", [1, 40])
def test_records_go_between_a_socket_worker_and_a_semaphore_worker(spawn: Spawn, window: int) -> None:
    spawn("demux", Echo)
    pinger = spawn("ingress", lambda worker: Pinger(worker, "demux", 5000, window))
    assert pinger.next_message()[0] == {"event": "done"}


class Flood(Toy):
    """Pushes numbered records while there is room, and never looks at a clock."""

    def __init__(self, worker: Worker, peer: str, total: int, careful: bool) -> None:
        super().__init__(worker)
        self.out, self.total, self.careful, self.sent = worker.ports.rings_out[peer], total, careful, 0

    def step(self, now: float) -> int:
        burst = min(self.total - self.sent, self.out.room() if self.careful else self.total)
        for number in range(self.sent, self.sent + max(burst, 0)):
            self.out.push(record(TAKEN, flow=number))
        self.sent += max(burst, 0)
        return max(burst, 0)


class Slow(Toy):
    """Takes a few records a breath, and now and then takes a rest."""

    def __init__(self, worker: Worker, peer: str, total: int) -> None:
        super().__init__(worker)
        self.ring, self.total, self.received = worker.ports.rings_in[peer], total, 0

    def step(self, now: float) -> int:
        burst = self.ring.peek(100)
        for fields in DESCRIPTOR.iter_unpack(burst):
            assert fields[9] == self.received
            self.received += 1
        self.ring.release(len(burst) // DESCRIPTOR_BYTES)
        if self.received % 700 < 100:
            time.sleep(0.002)
        if len(burst) and self.received == self.total:
            self.worker.send_event({"event": "done"})
        return len(burst)


@pytest.mark.parametrize("careful", [True, False], ids=["by room", "by backlog"])
@pytest.mark.parametrize(("source", "target"), [("demux", "tcp0"), ("egress0", "demux"), ("tcp0", "ingress")])
def test_a_producer_that_filled_the_ring_is_woken_when_there_is_room(
    spawn: Spawn, source: str, target: str, careful: bool
) -> None:
    slow = spawn(target, lambda worker: Slow(worker, source, 20_000))
    spawn(source, lambda worker: Flood(worker, target, 20_000, careful))
    assert slow.next_message()[0] == {"event": "done"}


def test_a_worker_whose_way_out_is_blocked_sleeps_beside_a_full_ring(spawn: Spawn) -> None:
    class Blocked(Slow):
        def __init__(self, worker: Worker) -> None:
            super().__init__(worker, "demux", 5000)
            self.open = False

        def step(self, now: float) -> int:
            return super().step(now) if self.open else 0

        def on_control(self, message: Message, fds: list[int]) -> Message:
            self.open = True
            return {}

    blocked = spawn("tcp0", Blocked)
    spawn("demux", lambda worker: Flood(worker, "tcp0", 5000, True), 0.2)
    assert blocked.ask("ping") == {"ok": True}
    time.sleep(0.5)
    assert blocked.ask("unblock") == {"ok": True}
    assert blocked.next_message()[0] == {"event": "done"}
    assert blocked.ask("audit")["ok"]
    os.kill(blocked.pid, signal.SIGTERM)
    blocked.join()
    assert blocked.counters.snapshot()["worker_breaths"] < 2000


class Watcher(Toy):
    """Sends one record and waits, without a deadline, until its consumer has released it."""

    def __init__(self, worker: Worker) -> None:
        super().__init__(worker)
        self.ring = worker.ports.rings_out["ingress"]
        self.ring.push(record(TAKEN, flow=0))
        self.idx = self.ring.push_idx()
        self.told = False

    def step(self, now: float) -> int:
        if self.told:
            return 0
        if not self.ring.completed(self.idx):
            self.ring.watch(self.idx)
            return 0
        self.told = True
        self.worker.send_event({"event": "completed"})
        return 1


def test_a_watched_completion_wakes_the_worker(spawn: Spawn) -> None:
    watcher = spawn("tcp0", Watcher)
    assert watcher.ask("ping") == {"ok": True}
    assert watcher.inbox == deque()
    spawn("ingress", lambda worker: Slow(worker, "tcp0", 1))
    assert watcher.next_message()[0] == {"event": "completed"}


def test_what_a_request_pushes_is_published_without_another_event(spawn: Spawn) -> None:
    class PushOnRequest(Toy):
        def on_control(self, message: Message, fds: list[int]) -> Message:
            self.worker.ports.rings_out["tcp0"].push(record(TAKEN, flow=0))
            return {}

    consumer = spawn("tcp0", lambda worker: Slow(worker, "demux", 1))
    assert spawn("demux", PushOnRequest).ask("push") == {"ok": True}
    assert consumer.next_message()[0] == {"event": "done"}


def test_room_that_came_between_the_step_and_the_announcement_is_not_slept_over(fabric: Fabric) -> None:
    worker = Worker(fabric.ports("tcp0"), None)
    ring, consumer = worker.ports.rings_out["ingress"], fabric.ports("ingress").rings_in["tcp0"]
    for number in range(ring.capacity):
        ring.push(record(TAKEN, flow=number))
    ring.publish()
    assert ring.room() == 0
    consumer.peek(ring.capacity)
    consumer.release(ring.capacity)
    began = time.monotonic()
    assert worker._sleep(inf) == []
    assert time.monotonic() - began < 0.9, "MAX_SLEEP is 1 s"


# --- slots ------------------------------------------------------------------------------


class Sender(Toy):
    """Sends slots of its pool with a tag until none is left, then waits for them to come home."""

    def __init__(self, worker: Worker, peer: str, total: int) -> None:
        super().__init__(worker)
        self.out, self.total, self.sent = worker.ports.rings_out[peer], total, 0

    def step(self, now: float) -> int:
        work = 0
        while self.sent < self.total and (slot := self.worker.pool.alloc()) != NO_SLOT:
            self.sent += 1
            self.out.push(record(TO_GUEST, slot=slot, flow=self.sent))
            work += 1
            if self.sent == self.total:
                self.worker.send_event({"event": "sent"})
        return work


class Freer(Toy):
    """Frees each slot that comes, with the record's flow as its tag."""

    def step(self, now: float) -> int:
        count = 0
        for ring in self.worker.ports.rings_in.values():
            burst = ring.peek()
            for fields in DESCRIPTOR.iter_unpack(burst):
                self.worker.free(fields[5], fields[9])
                count += 1
            ring.release(len(burst) // DESCRIPTOR_BYTES)
        return count


@pytest.mark.parametrize(
    ("home", "holder"), [("ingress", "demux"), ("egress0", "tcp0"), ("demux", "ingress")]
)
def test_a_worker_out_of_slots_is_woken_when_they_come_home(
    spawn: Spawn, fabric: Fabric, home: str, holder: str
) -> None:
    spawn(holder, Freer)
    sender = spawn(home, lambda worker: Sender(worker, holder, 3000))
    assert sender.next_message()[0] == {"event": "sent"}
    count = fabric.layout.pools[home].slot_count
    until = time.monotonic() + LIMIT
    while (audit := sender.ask("audit"))["free"] != count and time.monotonic() < until:
        time.sleep(0.01)
    assert audit == {"ok": True, "slots": count, "free": count, "refs_out": 0, "wrong": None}
    assert list(fabric.rings_in_use()) == []


def test_tags_come_home_with_the_slots_and_name_who_freed_them(spawn: Spawn) -> None:
    class Counting(Sender):
        def __init__(self, worker: Worker) -> None:
            super().__init__(worker, "tcp0", 500)
            self.tags: list[int] = []

        def on_released(self, source: str, tags: list[int]) -> None:
            assert source == "tcp0"
            self.tags += tags
            if len(self.tags) == self.total:
                self.worker.send_event({"event": "home", "tags": self.tags})

    spawn("tcp0", Freer)
    child = spawn("egress0", Counting)
    assert child.next_message()[0] == {"event": "sent"}
    message, _ = child.next_message()
    assert message["tags"] == list(range(1, 501))


def test_the_gauges_let_the_supervisor_count_all_slots(spawn: Spawn, fabric: Fabric) -> None:
    for name in fabric.layout.names:
        spawn(name, Toy, 0.2)
    until = time.monotonic() + LIMIT
    while fabric.audit() and time.monotonic() < until:
        time.sleep(0.05)
    assert fabric.audit() == []


def test_a_slot_of_the_own_pool_is_freed_at_once(fabric: Fabric) -> None:
    worker = Worker(fabric.ports("ingress"), None)
    slot = worker.pool.alloc()
    worker.free(slot, 5)
    assert worker.pool.refs_out == 0


def test_a_slot_that_this_worker_cannot_hold_has_no_way_home(fabric: Fabric) -> None:
    worker = Worker(fabric.ports("egress0"), None)
    foreign = fabric.layout.pools["egress1"].first
    with pytest.raises(LookupError, match="egress1"):
        worker.free(foreign)


def test_a_worker_without_a_pool_says_so(fabric: Fabric) -> None:
    with pytest.raises(LookupError, match="owns no slots"):
        _ = Worker(fabric.ports("tcp0"), None).pool


# --- time -------------------------------------------------------------------------------


class Ticker(Toy):
    """Wants to be called at fixed times and tells how late it was."""

    def __init__(self, worker: Worker) -> None:
        super().__init__(worker)
        self.at, self.left = time.monotonic() + 0.02, 10

    def step(self, now: float) -> int:
        if now < self.at:
            return 0
        self.at = now + 0.02
        self.left -= 1
        if self.left == 0:
            self.at = inf
            self.worker.send_event({"event": "ticked"})
        return 0

    def deadline(self) -> float:
        return self.at


@BOTH_KINDS
def test_a_deadline_ends_the_sleep(spawn: Spawn, name: str) -> None:
    child = spawn(name, Ticker)
    assert child.next_message()[0] == {"event": "ticked"}


@BOTH_KINDS
def test_an_idle_worker_sleeps_and_wakes_only_for_housekeeping(spawn: Spawn, name: str) -> None:
    child = spawn(name, Toy, 1.0)
    assert child.ask("ping") == {"ok": True}
    time.sleep(2.5)
    counts = child.counters.snapshot()
    assert 2 <= counts["worker_breaths"] <= 8
    assert counts["worker_sleeps"] >= 1


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
    breaths = child.counters.snapshot()["worker_breaths"]
    assert child.ask("ping") == {"ok": True}
    assert child.counters.snapshot()["worker_breaths"] - breaths < 1000


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
    ready, _, _ = select.select([read_end], [], [], LIMIT)
    assert ready
    assert os.read(read_end, 1) == b""
    os.close(read_end)
