"""POST /restart: who may use it, and what it answers."""

import asyncio
import json
from pathlib import Path

import pytest

from pipeline.control.restart_error import RestartError
from tests.control.endpoint import endpoint


async def restarted() -> int:
    return 77


async def refused() -> int:
    raise RestartError("line 3: this is wrong")


def test_the_answer_has_the_new_process(tmp_path: Path) -> None:
    async def run() -> None:
        async with endpoint(tmp_path, restart=restarted) as at:
            status, text = await at.call("POST", "/restart")
            assert (status, json.loads(text)) == (200, {"pid": 77})

    asyncio.run(run())


def test_a_restart_that_fails_says_why(tmp_path: Path) -> None:
    async def run() -> None:
        async with endpoint(tmp_path, restart=refused) as at:
            assert await at.call("POST", "/restart") == (500, "line 3: this is wrong\n")
        async with endpoint(tmp_path) as at:
            status, text = await at.call("POST", "/restart")
            assert (status, text) == (500, "this program cannot be replaced while it runs\n")

    asyncio.run(run())


def test_reading_restarts_nothing(tmp_path: Path) -> None:
    async def run() -> None:
        async with endpoint(tmp_path, restart=refused) as at:
            assert await at.call("GET", "/restart") == (400, "post only\n")

    asyncio.run(run())


@pytest.mark.parametrize("kind", ["guest", "monitoring"])
def test_neither_guests_nor_monitors_may(tmp_path: Path, kind: str) -> None:
    async def run() -> None:
        async with endpoint(tmp_path, restart=restarted, **{kind: True}) as at:
            status, _ = await at.call("POST", "/restart")
            assert status in (404, 405)

    asyncio.run(run())
