"""Waiters and bells in one process, and the states of the handshake one by one."""

import os
import signal
import threading
import time
from collections.abc import Iterator

import posix_ipc
import pytest

from pipeline.ipc.wake import BELL_BYTES, Bell, EventfdWaiter, SemaphoreWaiter, Waiter, lone_waiter


@pytest.fixture(params=["eventfd", "pipe", "semaphore"])
def waiter(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Waiter]:
    if request.param == "pipe":
        monkeypatch.delattr(os, "eventfd")
    made: Waiter = SemaphoreWaiter() if request.param == "semaphore" else EventfdWaiter()
    yield made
    made.close()


def test_a_wait_without_a_post_times_out(waiter: Waiter) -> None:
    assert not waiter.wait(0.01)
    assert not waiter.wait(0)
    assert not waiter.wait(-1)


def test_a_post_before_the_wait_is_not_lost(waiter: Waiter) -> None:
    waiter.post()
    assert waiter.wait(5)


def test_many_posts_are_one_wake(waiter: Waiter) -> None:
    for _ in range(1000):
        waiter.post()
    assert waiter.wait(5)
    assert not waiter.wait(0)


def test_a_post_from_a_forked_process_ends_the_wait(waiter: Waiter) -> None:
    pid = os.fork()
    if pid == 0:
        time.sleep(0.05)
        waiter.post()
        os._exit(0)
    assert waiter.wait(10)
    os.waitpid(pid, 0)


def test_a_post_in_a_signal_handler_ends_the_wait(waiter: Waiter) -> None:
    previous = signal.signal(signal.SIGUSR1, lambda _number, _frame: waiter.post())
    main = threading.get_ident()
    timer = threading.Timer(0.05, lambda: signal.pthread_kill(main, signal.SIGUSR1))
    try:
        timer.start()
        began = time.monotonic()
        waiter.wait(10)
        assert time.monotonic() - began < 8
    finally:
        timer.join()
        signal.signal(signal.SIGUSR1, previous)


def test_a_full_pipe_still_reports_one_wake(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "eventfd")
    waiter = EventfdWaiter()
    for _ in range(20_000):
        waiter.post()
    assert waiter.clear()
    assert not waiter.clear()
    waiter.close()


def test_a_semaphore_leaves_no_name() -> None:
    waiter = SemaphoreWaiter()
    assert not [name for name in os.listdir("/dev/shm") if f"gvtap-{os.getpid()}-" in name]
    waiter.close()


def test_who_holds_no_sockets_waits_on_a_descriptor_where_semaphores_have_no_timed_wait(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    waiters = [lone_waiter()]
    monkeypatch.setattr(posix_ipc, "SEMAPHORE_TIMEOUT_SUPPORTED", False)
    waiters.append(lone_waiter())
    assert [type(waiter) for waiter in waiters] == [SemaphoreWaiter, EventfdWaiter]
    for waiter in waiters:
        waiter.close()


class CountingWaiter:
    """Counts posts; never blocks."""

    def __init__(self) -> None:
        self.posts = 0

    def post(self) -> None:
        self.posts += 1

    def wait(self, timeout: float) -> bool:
        return self.posts > 0

    def close(self) -> None:
        self.posts = 0


@pytest.fixture
def bell() -> tuple[Bell, CountingWaiter]:
    counting = CountingWaiter()
    return Bell(memoryview(bytearray(BELL_BYTES)), counting), counting


def test_ringing_for_an_awake_worker_costs_no_post(bell: tuple[Bell, CountingWaiter]) -> None:
    for _ in range(3):
        bell[0].ring()
    assert bell[1].posts == 0


def test_an_announced_sleeper_gets_one_post_for_many_rings(bell: tuple[Bell, CountingWaiter]) -> None:
    bell[0].announce()
    for _ in range(3):
        bell[0].ring()
    assert bell[1].posts == 1


def test_a_worker_that_found_work_after_announcing_is_awake(bell: tuple[Bell, CountingWaiter]) -> None:
    bell[0].announce()
    bell[0].awake()
    bell[0].ring()
    assert bell[1].posts == 0


def test_a_prewake_wakes_a_sleeper_once_and_is_taken_once(bell: tuple[Bell, CountingWaiter]) -> None:
    bell[0].announce()
    bell[0].prewake()
    bell[0].prewake()
    bell[0].ring()
    assert bell[1].posts == 1
    assert bell[0].take_prewake()
    assert not bell[0].take_prewake()


def test_a_prewake_to_an_awake_worker_costs_no_post_and_is_seen(bell: tuple[Bell, CountingWaiter]) -> None:
    bell[0].prewake()
    assert bell[1].posts == 0
    assert bell[0].take_prewake()


def test_control_is_posted_to_an_awake_worker_too_and_taken_once(bell: tuple[Bell, CountingWaiter]) -> None:
    assert not bell[0].take_control()
    bell[0].notify_control()
    assert bell[1].posts == 1
    assert bell[0].take_control()
    assert not bell[0].take_control()


def test_a_sleeper_with_enough_slots_is_not_woken_for_more(bell: tuple[Bell, CountingWaiter]) -> None:
    bell[0].announce(slots_wanted=False)
    bell[0].ring_for_slots()
    assert bell[1].posts == 0
    bell[0].ring()
    assert bell[1].posts == 1


def test_a_sleeper_that_waits_for_slots_is_woken_once(bell: tuple[Bell, CountingWaiter]) -> None:
    bell[0].ring_for_slots()
    assert bell[1].posts == 0
    bell[0].announce(slots_wanted=True)
    bell[0].ring_for_slots()
    bell[0].ring_for_slots()
    assert bell[1].posts == 1
