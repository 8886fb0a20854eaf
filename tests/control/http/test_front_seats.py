"""The front door when it has as many connections as it may have."""

import asyncio
import socket
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from tests.control.endpoint import endpoint

CLOSE = b"GET /services/forwarder/all HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0.002)


def test_an_idle_connection_makes_room_for_a_new_one(tmp_path: Path) -> None:
    async def run() -> None:
        async with endpoint(tmp_path, max_connections=2) as at, asyncio.timeout(5):
            held = [await at.open() for _ in range(2)]
            await until(lambda: len(at.front.seats) == 2)
            assert (await at.raw(CLOSE)).endswith(b"[]\n")
            assert await held[0][0].read() == b"", "the oldest"
            held[1][1].write(CLOSE)
            assert (await held[1][0].read()).endswith(b"[]\n")
            for _, writer in held:
                writer.close()

    asyncio.run(run())


def test_the_backlog_waits_while_all_connections_wait_for_answers(tmp_path: Path) -> None:
    async def run() -> None:
        async with endpoint(tmp_path, max_connections=1) as at, asyncio.timeout(5):
            _, writer = await at.open()
            writer.write(b"POST /services/dns/add HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\n")
            await until(lambda: at.front.seats.full and not at.front.seats.has_idle())
            waiting = asyncio.ensure_future(at.raw(CLOSE))
            await asyncio.sleep(0.05)
            assert not waiting.done()
            writer.write(b"[not JSON")
            assert (await waiting).endswith(b"[]\n")
            writer.close()

    asyncio.run(run())


def test_a_guest_with_all_connections_leaves_some_to_another(tmp_path: Path) -> None:
    async def run() -> None:
        counted: list[str] = []
        async with endpoint(tmp_path, max_connections=4) as at, asyncio.timeout(5):
            at.front._count = counted.append
            pairs = [socket.socketpair() for _ in range(6)]
            for number, (_, theirs) in enumerate(pairs[:4]):
                at.front.serve(theirs, f"192.168.127.2:{number}", guest=1)
            await until(lambda: len(at.front.seats) == 4)
            for _, theirs in pairs[4:]:
                at.front.serve(theirs, "192.168.127.3:1", guest=2)
            assert at.front.seats.sums() == {1: 2, 2: 2}
            assert counted == ["api_connection_evicted"] * 2
            await until(lambda: pairs[1][1].fileno() < 0)
            for ours, _ in pairs:
                ours.close()

    asyncio.run(run())


def test_connections_over_the_bound_do_not_fill_the_log(tmp_path: Path) -> None:
    async def run() -> None:
        lines: list[str] = []
        log: Any = SimpleNamespace(warning=lambda event, **_: lines.append(event))
        async with endpoint(tmp_path, max_connections=1) as at, asyncio.timeout(5):
            at.front._refused._log = log
            ours, theirs = socket.socketpair()
            at.front.serve(theirs, "192.168.127.2:1", guest=1)
            ours.send(b"POST /services/dns/add HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\n")
            await until(lambda: not at.front.seats.has_idle())
            for number in range(100):
                mine, other = socket.socketpair()
                at.front.serve(other, f"192.168.127.2:{number}", guest=1)
                assert mine.recv(10) == b""
                mine.close()
            ours.close()
        assert lines == ["connection refused, too many"]

    asyncio.run(run())
