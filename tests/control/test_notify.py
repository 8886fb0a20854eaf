"""Notifications: one connection and one JSON object for each event, in order, never in the way."""

import asyncio
import contextlib
import socket
from pathlib import Path

import structlog
from structlog.testing import capture_logs

from pipeline.control import notify
from pipeline.control.notify import Notifier


async def collect(path: Path, got: list[bytes]) -> asyncio.Server:
    async def take(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        got.append(await reader.read())
        writer.close()

    return await asyncio.start_unix_server(take, path)


def test_each_event_is_one_connection_with_one_object(tmp_path: Path) -> None:
    async def run() -> None:
        got: list[bytes] = []
        server = await collect(tmp_path / "n", got)
        notifier = Notifier(str(tmp_path / "n"), structlog.get_logger())
        notifier.start()
        notifier.notify(notify.READY)
        notifier.notify(notify.CONNECTION_ESTABLISHED, "5a:94:ef:e4:0c:ee")
        notifier.notify(notify.CONNECTION_CLOSED, "5a:94:ef:e4:0c:ee")
        notifier.notify(notify.HYPERVISOR_ERROR)
        await notifier.stop()
        async with asyncio.timeout(5):
            while len(got) < 4:
                await asyncio.sleep(0.002)
        assert got == [
            b'{"notification_type":"ready"}\n',
            b'{"notification_type":"connection_established","mac_address":"5a:94:ef:e4:0c:ee"}\n',
            b'{"notification_type":"connection_closed","mac_address":"5a:94:ef:e4:0c:ee"}\n',
            b'{"notification_type":"hypervisor_error"}\n',
        ]
        server.close()

    asyncio.run(run())


def test_without_a_path_nothing_is_sent_and_nothing_fails() -> None:
    async def run() -> None:
        notifier = Notifier("", structlog.get_logger())
        notifier.start()
        for _ in range(1000):
            notifier.notify(notify.READY)
        await notifier.stop()

    asyncio.run(run())


def test_a_listener_that_is_not_there_costs_the_event_alone(tmp_path: Path) -> None:
    async def run() -> None:
        got: list[bytes] = []
        notifier = Notifier(str(tmp_path / "n"), structlog.get_logger())
        notifier.start()
        notifier.notify(notify.READY)
        await notifier._queue.join()
        server = await collect(tmp_path / "n", got)
        notifier.notify(notify.HYPERVISOR_ERROR)
        await notifier.stop()
        async with asyncio.timeout(5):
            while not got:
                await asyncio.sleep(0.002)
        assert got == [b'{"notification_type":"hypervisor_error"}\n']
        server.close()

    with capture_logs() as logs:
        asyncio.run(run())
    assert [entry["event"].split(":")[:2] for entry in logs] == [
        ["failed to send notification", " cannot dial notification socket"]
    ]


def test_a_full_queue_drops_with_a_warning(tmp_path: Path) -> None:
    async def run() -> None:
        notifier = Notifier(str(tmp_path / "n"), structlog.get_logger())
        for _ in range(notify.QUEUE + 2):
            notifier.notify(notify.READY)

    with capture_logs() as logs:
        asyncio.run(run())
    assert [entry["event"] for entry in logs] == ["unable to send notification"] * 2


def test_the_end_does_not_wait_for_a_listener_that_hangs(tmp_path: Path) -> None:
    async def run() -> None:
        async def hang(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await asyncio.sleep(60)

        server = await asyncio.start_unix_server(hang, tmp_path / "n", backlog=1)
        notifier = Notifier(str(tmp_path / "n"), structlog.get_logger())
        notifier.start()
        for _ in range(notify.QUEUE):
            notifier.notify(notify.READY)
        async with asyncio.timeout(5):
            await notifier.stop(grace=0.05)
        server.close()

    asyncio.run(run())


def test_a_listener_that_accepts_nothing_holds_nobody_up_and_its_events_are_counted(tmp_path: Path) -> None:
    async def run() -> None:
        lost: list[str] = []
        with socket.socket(socket.AF_UNIX) as stuck:
            stuck.bind(str(tmp_path / "n"))
            stuck.listen(1)
            notifier = Notifier(str(tmp_path / "n"), structlog.get_logger(), lost.append)
            notifier.start()
            for _ in range(notify.QUEUE + 50):
                notifier.notify(notify.READY)
            async with asyncio.timeout(5):
                await notifier.stop()
            stuck.setblocking(False)
            taken = 0
            with contextlib.suppress(BlockingIOError):
                while True:
                    stuck.accept()[0].close()
                    taken += 1
        assert lost == ["notifications_dropped"] * (notify.QUEUE + 50 - taken)
        assert 0 < taken < notify.QUEUE

    with capture_logs():
        asyncio.run(run())
