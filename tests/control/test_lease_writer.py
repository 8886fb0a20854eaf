"""The state file of leases, as the supervisor writes it."""

import asyncio
import stat
from pathlib import Path
from typing import Any

import pytest

from pipeline.control import lease_writer
from pipeline.control.lease_writer import LeaseWriter


class Log:
    """The lines of the writer."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def warning(self, event: str, **_: object) -> None:
        self.lines.append(event)

    info = warning


def writer(path: Path) -> tuple[LeaseWriter, list[str]]:
    log: Any = Log()
    return LeaseWriter(str(path), log), log.lines


async def until(path: Path, content: bytes) -> None:
    async with asyncio.timeout(10):
        while not path.exists() or path.read_bytes() != content:
            await asyncio.sleep(0.001)


def test_the_last_content_is_in_the_file_which_only_its_user_reads(tmp_path: Path) -> None:
    async def run() -> None:
        path = tmp_path / "leases.json"
        made, lines = writer(path)
        for number in range(20):
            made.put(b"%d" % number)
        await until(path, b"19")
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert [each.name for each in tmp_path.iterdir()] == ["leases.json"]
        assert lines == []
        await made.close()

    asyncio.run(run())


def test_a_write_that_failed_is_tried_again_with_pauses_until_it_succeeds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "no" / "leases.json"
    pauses: list[float] = []
    sleep = asyncio.sleep

    async def pause(seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) == 9:
            path.parent.mkdir()
        await sleep(0)

    async def run() -> None:
        made, lines = writer(path)
        with monkeypatch.context() as patch:
            patch.setattr(lease_writer.asyncio, "sleep", pause)
            made.put(b"old")
            made.put(b"new")
            async with asyncio.timeout(10):
                while not path.exists():
                    await sleep(0.001)
        await until(path, b"new")
        await sleep(0.01)
        assert pauses == [1, 2, 4, 8, 16, 32, 60, 60, 60]
        assert lines == ["leases not written yet", "leases written again"]
        await made.close()

    asyncio.run(run())


def test_what_waits_at_the_end_is_written_once_more(tmp_path: Path) -> None:
    async def run() -> None:
        path = tmp_path / "no" / "leases.json"
        made, _ = writer(path)
        made.put(b"content")
        await asyncio.sleep(0.05)
        path.parent.mkdir()
        await made.close()
        assert path.read_bytes() == b"content"

    asyncio.run(run())


def test_an_end_without_a_way_to_write_is_an_end(tmp_path: Path) -> None:
    async def run() -> None:
        made, lines = writer(tmp_path / "no" / "leases.json")
        made.put(b"content")
        await made.close()
        assert lines.count("leases not written yet") <= 1

    asyncio.run(run())
