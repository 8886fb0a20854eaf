"""Measures how fast records cross a ring, and what a wake-up costs. One JSON line; status 1 on failure.

Each figure is min/median/max over the rounds:
- records a second, within one process and between two, in bursts of BURST;
- microseconds from the ring of a bell to the sleeper's first instruction, for a semaphore and for an eventfd;
- nanoseconds of a bell whose worker is awake.

The consumer looks at the kind of each record and unpacks it, as a stage does.
"""

import argparse
import json
import os
import select
import statistics
import sys
import time
from collections.abc import Callable

from pipeline.ipc.ring import Consumer, Producer, ring_bytes
from pipeline.ipc.segment import Segment
from pipeline.ipc.wake import BELL_BYTES, MAX_SLEEP, Bell, EventfdWaiter, SemaphoreWaiter, Waiter
from pipeline.records.frames import Frame
from pipeline.records.kinds import FRAME, RECORD_BYTES

CAPACITY = 1024
BURST = 32
RECORD = Frame(link=1, slot=7, off=256, length=1514, vnet=False).pack()


def consume(ring: Consumer) -> int:
    """Read one burst. Returns the number of records."""
    count = 0
    burst = ring.peek()
    for at in range(0, len(burst), RECORD_BYTES):
        if burst[at] == FRAME:
            Frame.unpack(burst, at)
            count += 1
    ring.release(count)
    return count


def within_one_process(messages: int) -> float:
    """Records a second, if producer and consumer take turns in one process."""
    segment = Segment.create(ring_bytes(CAPACITY, RECORD_BYTES))
    producer, consumer = Producer(segment.buf, CAPACITY), Consumer(segment.buf, CAPACITY)
    received = 0
    began = time.perf_counter()
    while received < messages:
        for _ in range(BURST):
            producer.push(RECORD)
        producer.publish()
        received += consume(consumer)
    return received / (time.perf_counter() - began)


def between_two_processes(messages: int) -> float:
    """Records a second between two processes. Each sleeps when it has nothing to do."""
    segment = Segment.create(2 * BELL_BYTES + ring_bytes(CAPACITY, RECORD_BYTES))
    mine = Bell(segment.buf[:BELL_BYTES], SemaphoreWaiter())
    its = Bell(segment.buf[BELL_BYTES:], SemaphoreWaiter())
    memory = segment.buf[2 * BELL_BYTES :]

    def send() -> None:
        ring = Producer(memory, CAPACITY)
        sent = 0
        while sent < messages or ring.backlog:
            for _ in range(min(BURST, messages - sent)):
                ring.push(RECORD)
                sent += 1
            if ring.publish():
                mine.ring()
            while ring.room() < BURST:
                ring.arm()
                its.announce()
                if not ring.released():
                    its.waiter.wait(MAX_SLEEP)
                its.awake()
                ring.disarm()
                if ring.publish():
                    mine.ring()

    ring = Consumer(memory, CAPACITY)
    began = time.perf_counter()
    pid = in_child(send)
    received = 0
    while received < messages:
        count = consume(ring)
        received += count
        if ring.wake_due():
            its.ring()
        if not count:
            mine.announce()
            if not ring.pending():
                mine.waiter.wait(MAX_SLEEP)
            mine.awake()
    rate = received / (time.perf_counter() - began)
    reap(pid)
    return rate


def wake_latency_us(kind: type[SemaphoreWaiter] | type[EventfdWaiter], round_trips: int) -> float:
    """Microseconds of half a round trip between two processes that always sleep."""
    segment = Segment.create(2 * BELL_BYTES + 128)
    bells = [Bell(segment.buf[at : at + BELL_BYTES], kind()) for at in (0, BELL_BYTES)]
    words = [segment.buf[at : at + 64].cast("Q") for at in (2 * BELL_BYTES, 2 * BELL_BYTES + 64)]

    def turns(me: int) -> None:
        own, peer, wait = bells[me], bells[1 - me], sleeper(bells[me].waiter)
        for turn in range(1, round_trips + 1):
            if me == 0:
                words[0][0] = turn
                peer.ring()
            while words[1 - me][0] < turn:
                own.announce()
                if words[1 - me][0] < turn:
                    wait()
                own.awake()
            if me == 1:
                words[1][0] = turn
                peer.ring()

    pid = in_child(lambda: turns(1))
    began = time.perf_counter()
    turns(0)
    took = time.perf_counter() - began
    reap(pid)
    return took / round_trips / 2 * 1e6


def sleeper(waiter: Waiter) -> Callable[[], object]:
    """The call by which a worker with this waiter sleeps: on the semaphore, or in epoll on the eventfd."""
    if not isinstance(waiter, EventfdWaiter):
        return lambda: waiter.wait(MAX_SLEEP)
    poll = select.epoll()
    poll.register(waiter.fileno(), select.EPOLLIN)
    clear = waiter.clear
    return lambda: poll.poll(MAX_SLEEP) and clear()


def idle_ring_ns(rings: int) -> float:
    """Nanoseconds of Bell.ring while its worker is awake."""
    bell = Bell(memoryview(bytearray(BELL_BYTES)), SemaphoreWaiter())
    began = time.perf_counter()
    for _ in range(rings):
        bell.ring()
    return (time.perf_counter() - began) / rings * 1e9


def in_child(work: Callable[[], None]) -> int:
    """Fork a process that calls work. Its status is 0 after success."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            work()
            status = 0
        finally:
            os._exit(status)
    return pid


def reap(pid: int) -> None:
    """Wait for the child. ChildProcessError if it failed, so that a failed run has no figure."""
    if os.waitpid(pid, 0)[1]:
        raise ChildProcessError(f"the other process of the measurement failed (pid {pid})")


def spread(measure: Callable[[], float], rounds: int, digits: int) -> dict[str, float]:
    """Min, median and max of measure() over the rounds."""
    figures = sorted(measure() for _ in range(rounds))
    return {
        "min": round(figures[0], digits),
        "median": round(statistics.median(figures), digits),
        "max": round(figures[-1], digits),
    }


def main() -> int:
    """Measure everything and print the line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--messages", type=int, default=1_000_000, help="records a round")
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    messages, rounds = args.messages, args.rounds
    result = {
        "benchmark": "micro/ring",
        "burst": BURST,
        "records_per_second_one_process": spread(lambda: within_one_process(messages), rounds, 0),
        "records_per_second_two_processes": spread(lambda: between_two_processes(messages), rounds, 0),
        "wake_semaphore_us": spread(lambda: wake_latency_us(SemaphoreWaiter, messages // 50), rounds, 2),
        "wake_eventfd_epoll_us": spread(lambda: wake_latency_us(EventfdWaiter, messages // 50), rounds, 2),
        "ring_of_an_awake_worker_ns": spread(lambda: idle_ring_ns(messages // 10), rounds, 0),
    }
    print(json.dumps(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
