"""Calls that block, in threads that hold up nobody."""

import asyncio
import threading

import pytest

from pipeline.control.threads import Threads


def test_a_call_returns_or_raises_as_it_would_here() -> None:
    async def run() -> None:
        threads = Threads(1)
        assert await threads.run(lambda: 7) == 7
        with pytest.raises(ZeroDivisionError):
            await threads.run(lambda: 1 // 0)
        assert await threads.run(lambda: None) is None

    asyncio.run(run())


def test_a_call_that_hangs_holds_up_neither_the_loops_end_nor_more_than_its_place() -> None:
    free = threading.Event()

    async def run() -> None:
        threads = Threads(2)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await threads.run(free.wait)
        assert await threads.run(lambda: "the other place") == "the other place"
        hanging = asyncio.create_task(threads.run(free.wait))
        await asyncio.sleep(0)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await threads.run(lambda: "no place")
        hanging.cancel()

    # Would not come back if the loop waited for the threads.
    asyncio.run(run())
    free.set()


def test_a_system_without_room_for_a_thread_is_an_error_and_costs_no_place(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(_thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    async def work() -> None:
        threads = Threads(1)
        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", refuse)
            with pytest.raises(OSError, match="no further thread"):
                await threads.run(lambda: 1)
        async with asyncio.timeout(5):
            assert await threads.run(lambda: 2) == 2

    asyncio.run(work())
