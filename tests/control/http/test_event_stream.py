"""GET /events: server-sent events for each kind that is asked for, until the client leaves."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
import structlog

from pipeline.control.http import event_stream
from pipeline.control.hub import MAX_QUEUES, Hub
from pipeline.events.table import PUBLISHED
from tests.control.endpoint import Endpoint, endpoint

LEASE = {"mac": "5a:94:ef:e4:0c:ee", "address": "192.168.127.2"}
ASK = b"GET %s HTTP/1.1\r\nHost: x\r\n\r\n"


def hub(asked: list[list[str]] | None = None) -> Hub:
    record = asked if asked is not None else []
    return Hub(lambda watch: record.append(watch.kinds), structlog.get_logger())


async def opened(at: Endpoint, target: bytes) -> tuple[asyncio.StreamReader, asyncio.StreamWriter, bytes]:
    """A stream of events after its first comment, and the head of the answer."""
    reader, writer = await at.open()
    writer.write(ASK % target)
    async with asyncio.timeout(20):
        head = await reader.readuntil(b"\r\n\r\n")
        await reader.readuntil(b":\n\n")
    return reader, writer, head


async def next_event(reader: asyncio.StreamReader) -> tuple[str, dict[str, Any]]:
    """Kind and data of the next event."""
    async with asyncio.timeout(20):
        await reader.readuntil(b"event: ")
        kind = (await reader.readline()).decode().strip()
        line = (await reader.readline()).decode()
    assert line.startswith("data: ")
    return kind, json.loads(line.removeprefix("data: "))


async def until(condition: Any) -> None:
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.01)


def test_events_of_the_kinds_asked_for_arrive(tmp_path: Path) -> None:
    async def run() -> None:
        events = hub()
        async with endpoint(tmp_path, hub=events) as at:
            reader, writer, head = await opened(at, b"/events?kinds=lease-given")
            assert head.startswith(b"HTTP/1.1 200 OK\r\n")
            assert b"Content-Type: text/event-stream; charset=utf-8\r\n" in head
            events.publish("guest-gone", {"link": 0})
            events.publish("lease-given", LEASE, at=0.5, worker="resolver")
            assert await next_event(reader) == (
                "lease-given",
                {
                    "time": "1970-01-01T00:00:00.500000Z",
                    "kind": "lease-given",
                    "worker": "resolver",
                    **LEASE,
                },
            )
            writer.close()

    asyncio.run(run())


def test_the_number_of_lost_events_comes_with_the_next_one(tmp_path: Path) -> None:
    async def run() -> None:
        events = hub()
        async with endpoint(tmp_path, hub=events) as at:
            reader, writer, _ = await opened(at, b"/events")
            events.publish("lease-given", LEASE, lost=3)
            events.publish("lease-given", LEASE)
            assert (await next_event(reader))[1]["lost"] == 3
            assert "lost" not in (await next_event(reader))[1]
            writer.close()

    asyncio.run(run())


def test_workers_report_only_while_a_client_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def run() -> None:
        # A client that is gone is noticed with the next comment at the latest.
        monkeypatch.setattr(event_stream, "HEARTBEAT", 0.05)
        asked: list[list[str]] = []
        async with endpoint(tmp_path, hub=hub(asked)) as at:
            _, writer, _ = await opened(at, b"/events")
            assert asked == [sorted(PUBLISHED)]
            writer.close()
            await until(lambda: len(asked) == 2)
            assert asked[1] == []

    asyncio.run(run())


def test_a_comment_comes_while_nothing_happens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def run() -> None:
        monkeypatch.setattr(event_stream, "HEARTBEAT", 0.05)
        async with endpoint(tmp_path, hub=hub()) as at:
            reader, writer, _ = await opened(at, b"/events")
            async with asyncio.timeout(20):
                await reader.readuntil(b":\n\n")
                await reader.readuntil(b":\n\n")
            writer.close()

    asyncio.run(run())


@pytest.mark.parametrize(
    ("target", "text"),
    [
        ("/events?kinds=lease-gone", 'unknown kind "lease-gone": known are '),
        ("/events?kind=lease-given", 'unknown parameter "kind": only kinds is known'),
    ],
)
def test_what_is_unknown_is_named(target: str, text: str, tmp_path: Path) -> None:
    async def run() -> None:
        async with endpoint(tmp_path, hub=hub()) as at:
            status, answer = await at.call("GET", target)
            assert (status, answer[: len(text)]) == (400, text)

    asyncio.run(run())


def test_head_and_other_methods_do_not_wait_for_events(tmp_path: Path) -> None:
    async def run() -> None:
        async with endpoint(tmp_path, hub=hub()) as at:
            assert (await at.call("HEAD", "/events"))[0] == 200
            assert (await at.call("POST", "/events"))[0] == 405

    asyncio.run(run())


def test_readers_are_bounded(tmp_path: Path) -> None:
    async def run() -> None:
        async with endpoint(tmp_path, hub=hub()) as at:
            writers = [(await opened(at, b"/events"))[1] for _ in range(MAX_QUEUES)]
            assert await at.call("GET", "/events") == (503, f"{MAX_QUEUES} clients read events already\n")
            for writer in writers:
                writer.close()

    asyncio.run(run())


def test_a_client_that_does_not_read_is_cut_off_and_stops_nobody(tmp_path: Path) -> None:
    async def run() -> None:
        events = hub()
        async with endpoint(tmp_path, hub=events, timeout=0.2) as at:
            _, slow, _ = await opened(at, b"/events")
            reader, writer, _ = await opened(at, b"/events?kinds=guest-gone")
            slow.transport.pause_reading()  # type: ignore[attr-defined]
            big = {**LEASE, "host_name": "x" * 4000}

            async with asyncio.timeout(20):
                while events.wanted != {"guest-gone"}:
                    for _ in range(100):
                        events.publish("lease-given", big)
                    await asyncio.sleep(0.01)
            events.publish("guest-gone", {"link": 0})
            assert (await next_event(reader))[0] == "guest-gone"
            slow.close()
            writer.close()

    asyncio.run(run())
