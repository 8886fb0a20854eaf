"""Two processes, random stalls on both sides: no loss, no duplicate, no torn record, no missed wake.

The default run is short. ``make stress`` sets STRESS_MESSAGES=10000000.
Neither side ever stalls longer than a few milliseconds, so a wait that runs into
its time limit, or a record that lay in the ring for longer than BOUND while its consumer slept,
is a missed wake.
"""

import mmap
import os
import random
import time
import traceback
from collections.abc import Callable
from struct import Struct

import pytest

from pipeline.ipc.ring import Consumer, Producer, ring_bytes
from pipeline.ipc.segment import Segment
from pipeline.ipc.wake import BELL_BYTES, Bell, EventfdWaiter, SemaphoreWaiter, Waiter
from tests.support.twin import compiled_python, require_compiled

MESSAGES = int(os.environ.get("STRESS_MESSAGES", "500000"))
ROUND_TRIPS = MESSAGES // 50
WAIT = 20.0
"""Seconds a wait may last: far beyond MAX_SLEEP, so that a missed wake cannot hide behind that net."""
BOUND = 5.0
"""Seconds a record may lie in the ring of a sleeping consumer: generous, because the machine may be busy."""
CAPACITY = 256
RECORD = Struct("<QQQQ32x")
MIX = 0x9E3779B97F4A7C15
WAITERS = pytest.mark.parametrize("waiter", [SemaphoreWaiter, EventfdWaiter])
WORD = 2**64 - 1


class Side:
    """One end of the test: its stalls and its sleeps."""

    def __init__(self, own: Bell, peer: Bell, seed: int) -> None:
        self.own, self.peer = own, peer
        self.random = random.Random(seed)
        self.sleeps = 0

    def stall(self) -> None:
        """Nothing, a spin of up to some microseconds, or up to 2 ms asleep; rarely the last."""
        choice = self.random.random()
        if choice < 0.02:
            time.sleep(self.random.random() * 0.002)
        elif choice < 0.3:
            for _ in range(self.random.randrange(300)):
                pass

    def sleep_unless(self, ready: Callable[[], bool]) -> None:
        self.own.announce()
        if self.random.random() < 0.2:
            self.stall()
        if not ready():
            self.sleeps += 1
            assert self.own.waiter.wait(WAIT), "nobody rang"
        self.own.awake()


def in_child(work: Callable[[], None]) -> int:
    """Fork a process that does work and reports success in its status."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            work()
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    return pid


def bells(buf: memoryview, waiter: Callable[[], Waiter]) -> tuple[Bell, Bell]:
    return Bell(buf[:BELL_BYTES], waiter()), Bell(buf[BELL_BYTES : 2 * BELL_BYTES], waiter())


def produce(ring: Producer, side: Side) -> None:
    sent = 0
    while sent < MESSAGES or ring.backlog:
        for number in range(sent, min(sent + side.random.randrange(1, 200), MESSAGES)):
            ring.push(RECORD.pack(number, number * MIX & WORD, ~number & WORD, time.monotonic_ns()))
            sent = number + 1
        if ring.publish():
            side.peer.ring()
        side.stall()
        while ring.room() <= 0:
            ring.arm()
            side.sleep_unless(ring.released)
            ring.disarm()
            if ring.publish():
                side.peer.ring()


@WAITERS
def test_every_record_arrives_once_in_order_and_whole(waiter: Callable[[], Waiter]) -> None:
    segment = Segment.create(2 * BELL_BYTES + ring_bytes(CAPACITY, 64))
    memory = segment.buf[2 * BELL_BYTES :]
    mine, its = bells(segment.buf, waiter)
    seed = random.randrange(2**32)
    pid = in_child(lambda: produce(Producer(memory, CAPACITY), Side(its, mine, seed)))
    consume(Consumer(memory, CAPACITY), Side(mine, its, seed + 1))
    assert os.waitpid(pid, 0)[1] == 0


def consume(ring: Consumer, side: Side) -> None:
    expected, longest = 0, 0
    while expected < MESSAGES:
        burst = ring.peek(side.random.randrange(1, 257))
        if not len(burst):
            side.sleep_unless(ring.pending)
            burst = ring.peek()
            if len(burst):
                longest = max(longest, time.monotonic_ns() - RECORD.unpack_from(burst)[3])
        count = 0
        for number, mixed, inverted, _ in RECORD.iter_unpack(burst):
            assert number == expected
            assert mixed == number * MIX & WORD
            assert inverted == ~number & WORD
            expected += 1
            count += 1
        ring.release(count)
        if ring.wake_due():
            side.peer.ring()
        side.stall()
    assert not ring.pending()
    assert side.sleeps > MESSAGES // 10_000, "the run has to exercise the sleep"
    assert longest / 1e9 < BOUND


def eventfd(fd: int) -> EventfdWaiter:
    """A waiter on an eventfd that another process has made."""
    waiter = EventfdWaiter()
    os.dup2(fd, waiter.fileno())
    return waiter


def far_side(what: str, memory_fd: int, consumer_fd: int, producer_fd: int, seed: int) -> None:
    """One end of a ring, in a process that was started, not forked."""
    buf = memoryview(mmap.mmap(memory_fd, 0))
    consumer, producer = Bell(buf, eventfd(consumer_fd)), Bell(buf[BELL_BYTES:], eventfd(producer_fd))
    if what == "produce":
        produce(Producer(buf[2 * BELL_BYTES :], CAPACITY), Side(producer, consumer, seed))
    else:
        consume(Consumer(buf[2 * BELL_BYTES :], CAPACITY), Side(consumer, producer, seed))


@pytest.mark.skipif(not hasattr(os, "eventfd"), reason="the bells need eventfds")
@pytest.mark.parametrize("compiled", ["produce", "consume"])
def test_a_compiled_end_and_a_plain_one_understand_each_other(compiled: str) -> None:
    require_compiled()
    memory_fd = os.memfd_create("ring")
    os.truncate(memory_fd, 2 * BELL_BYTES + ring_bytes(CAPACITY, 64))
    waiters = EventfdWaiter(), EventfdWaiter()
    fds = [memory_fd, *(waiter.fileno() for waiter in waiters)]
    seed = random.randrange(2**32)
    code = "from pipeline.ipc import ring; assert not ring.__file__.endswith('.py')\n"
    code += "from tests.ipc.test_ring_stress import far_side\n"
    code += f"far_side({compiled!r}, {', '.join(map(str, fds))}, {seed})"
    child = compiled_python(code, fds)
    try:
        far_side("produce" if compiled == "consume" else "consume", *fds, seed + 1)
    finally:
        assert child.wait(60) == 0
        os.close(memory_fd)
        for waiter in waiters:
            waiter.close()


def answer(requests: Consumer, replies: Producer, side: Side) -> None:
    for _ in range(ROUND_TRIPS):
        while not len(burst := requests.peek()):
            side.sleep_unless(requests.pending)
        replies.push(bytes(burst))
        requests.release(1)
        if side.random.random() < 0.3:
            side.stall()
        replies.publish()
        side.peer.ring()


@WAITERS
def test_no_wake_is_missed_when_both_sides_sleep_in_turns(waiter: Callable[[], Waiter]) -> None:
    size = ring_bytes(2, 64)
    segment = Segment.create(2 * BELL_BYTES + 2 * size)
    there, back = segment.buf[2 * BELL_BYTES :][:size], segment.buf[2 * BELL_BYTES + size :][:size]
    mine, its = bells(segment.buf, waiter)
    seed = random.randrange(2**32)
    pid = in_child(lambda: answer(Consumer(there, 2), Producer(back, 2), Side(its, mine, seed)))
    requests, replies = Producer(there, 2), Consumer(back, 2)
    side = Side(mine, its, seed + 1)
    for number in range(ROUND_TRIPS):
        requests.push(RECORD.pack(number, 0, 0, 0))
        requests.publish()
        its.ring()
        if side.random.random() < 0.3:
            side.stall()
        while not len(burst := replies.peek()):
            side.sleep_unless(replies.pending)
        assert RECORD.unpack(burst)[0] == number
        replies.release(1)
    assert os.waitpid(pid, 0)[1] == 0
    assert side.sleeps > ROUND_TRIPS // 10, "the run has to exercise the sleep"


def flood(bell: Bell, counter: memoryview, start: float, rounds: int) -> None:
    for number in range(rounds):
        counter[0] = number + 1
        bell.ring()
        if number % 7 == 0:
            time.sleep(start)


@WAITERS
def test_two_ringers_cannot_wipe_out_a_sleepers_announcement(waiter: Callable[[], Waiter]) -> None:
    rounds = ROUND_TRIPS // 2
    segment = Segment.create(2 * BELL_BYTES + 128)
    mine, _ = bells(segment.buf, waiter)
    words = [segment.buf[at : at + 64].cast("Q") for at in (2 * BELL_BYTES, 2 * BELL_BYTES + 64)]
    pids = [
        in_child(lambda word=word, n=n: flood(mine, word, 1e-5 * n, rounds))  # type: ignore[misc]
        for n, word in enumerate(words, 1)
    ]
    seen = [0, 0]
    while seen != [rounds, rounds]:
        mine.announce()
        now = [word[0] for word in words]
        if now == seen:
            assert mine.waiter.wait(WAIT), "nobody rang"
        mine.awake()
        assert all(new >= old for new, old in zip(now, seen, strict=True))
        seen = now
    for pid in pids:
        assert os.waitpid(pid, 0)[1] == 0
