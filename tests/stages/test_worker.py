"""The loop: rings, slots and time, with toy stages in forked processes.

The workers run with a MAX_SLEEP far beyond the time limit of each test where a missed wake
must not hide behind the bounded sleep. Sockets, control and the end: test_worker_control.py.
"""

import os
import signal
import time
from collections import deque
from math import inf

import pytest

from pipeline.ipc.fabric import Fabric
from pipeline.records.flows import flow_of
from pipeline.records.kinds import NO_SLOT, RECORD_BYTES
from pipeline.records.streams import Taken, ToGuest
from pipeline.stages.loop import Loop
from pipeline.stages.worker import Message, Worker
from tests.support.toy_workers import LIMIT, Spawn, Toy

BOTH_KINDS = pytest.mark.parametrize("name", ["demux", "ingress"])

# --- rings and bells --------------------------------------------------------------------


class Echo(Toy):
    """Sends every record back to where it came from."""

    def step(self, now: float) -> int:
        count = 0
        for peer, ring in self.worker.ports.rings_in.items():
            burst = ring.peek()
            for at in range(0, len(burst), RECORD_BYTES):
                self.worker.ports.rings_out[peer].push(bytes(burst[at : at + RECORD_BYTES]))
            ring.release(len(burst) // RECORD_BYTES)
            count += len(burst) // RECORD_BYTES
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
        for at in range(0, len(burst), RECORD_BYTES):
            assert flow_of(burst, at) == self.received
            self.received += 1
        self.back.release(len(burst) // RECORD_BYTES)
        work = len(burst)
        while self.sent < self.total and self.sent - self.received < self.window:
            self.out.push(Taken.pack(self.sent, 1))
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
        begin = self.sent
        # Asks for room until there is none: that is how a stage says that it waits for some.
        while self.sent < self.total and (not self.careful or self.out.room() > 0):
            self.out.push(Taken.pack(self.sent, 1))
            self.sent += 1
        return self.sent - begin


class Slow(Toy):
    """Takes a few records a breath, and now and then takes a rest."""

    def __init__(self, worker: Worker, peer: str, total: int) -> None:
        super().__init__(worker)
        self.ring, self.total, self.received = worker.ports.rings_in[peer], total, 0

    def step(self, now: float) -> int:
        burst = self.ring.peek(100)
        for at in range(0, len(burst), RECORD_BYTES):
            assert flow_of(burst, at) == self.received
            self.received += 1
        self.ring.release(len(burst) // RECORD_BYTES)
        if self.received % 700 < 100:
            time.sleep(0.002)
        if len(burst) and self.received == self.total:
            self.worker.send_event({"event": "done"})
        return len(burst)

    def deadline(self) -> float:
        return 0.0 if self.ring.pending() else inf


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

        def deadline(self) -> float:
            return super().deadline() if self.open else inf

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
        self.ring.push(Taken.pack(0, 1))
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
            self.worker.ports.rings_out["tcp0"].push(Taken.pack(0, 1))
            return {}

    consumer = spawn("tcp0", lambda worker: Slow(worker, "demux", 1))
    assert spawn("demux", PushOnRequest).ask("push") == {"ok": True}
    assert consumer.next_message()[0] == {"event": "done"}


def test_room_that_came_between_the_step_and_the_announcement_is_not_slept_over(fabric: Fabric) -> None:
    worker = Worker(fabric.ports("tcp0"), None)
    ring, consumer = worker.ports.rings_out["ingress"], fabric.ports("ingress").rings_in["tcp0"]
    for number in range(ring.capacity):
        ring.push(Taken.pack(number, 1))
    ring.publish()
    assert ring.room() == 0
    consumer.peek(ring.capacity)
    consumer.release(ring.capacity)
    began = time.monotonic()
    worker.adopt(Toy(worker))
    assert Loop(worker.ports.bell.waiter, [worker]).sleep() == []
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
            self.out.push(ToGuest.pack(self.sent, slot, 0, 0))
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
            for at in range(0, len(burst), RECORD_BYTES):
                piece = ToGuest.unpack(burst, at)
                self.worker.free(piece.slot, piece.flow)
                count += 1
            ring.release(len(burst) // RECORD_BYTES)
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
    pool = {"slots": count, "free": count, "refs_out": 0, "wrong": None}
    assert audit == {"ok": True, **pool, "held": {"toys": 0}}
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
    assert counts["worker_busy_share"] < 500_000
    assert 0 < counts["worker_busy"] < 2_000_000
