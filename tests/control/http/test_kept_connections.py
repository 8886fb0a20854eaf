"""Later requests of a kept connection whose head is longer than what a head may have."""

import asyncio
from pathlib import Path

import pytest

from pipeline.control.http import connection
from tests.control.endpoint import endpoint

ALL = b"GET /services/forwarder/all HTTP/1.1\r\nHost: a\r\n\r\n"
FIELD = b"X: " + b"y" * 70_000 + b"\r\n"
FIELDS = b"X: y\r\n" * 14_000


@pytest.mark.parametrize("guest", [False, True], ids=["host", "guest"])
@pytest.mark.parametrize(
    "fields", [FIELD, FIELDS, FIELD * 7, FIELDS * 7], ids=["field", "fields", "7 times", "7 times fields"]
)
def test_a_head_of_70_kb_on_a_kept_connection_is_answered_with_431(
    fields: bytes, guest: bool, tmp_path: Path
) -> None:
    async def run() -> None:
        async with endpoint(tmp_path, guest=guest) as at:
            # What follows the head is no request any more.
            answer = await at.raw(ALL * 2 + ALL.replace(b"\r\n\r\n", b"\r\n" + fields + b"\r\n") + ALL)
            assert answer.count(b"HTTP/1.1 200 OK\r\n") == 2
            assert answer.count(b"HTTP/1.1 ") == 3
            *_, last = answer.split(b"[]\n")
            assert last.startswith(b"HTTP/1.1 431 Request Header Fields Too Large\r\n")
            assert b"Connection: close\r\n" in last

    asyncio.run(run())


@pytest.mark.parametrize("half_close", [False, True])
def test_a_head_without_end_on_a_kept_connection_is_answered_with_431(
    half_close: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "LINGER", 60.0 if half_close else 0.1)

    async def run() -> None:
        async with endpoint(tmp_path) as at, asyncio.timeout(10):
            reader, writer = await at.open()
            writer.write(ALL)
            await reader.readuntil(b"[]\n")
            writer.write(b"GET / HTTP/1.1\r\n" + FIELDS)
            if half_close:
                writer.write_eof()
            answer = await reader.read()
            assert answer.startswith(b"HTTP/1.1 431 Request Header Fields Too Large\r\n")
            writer.close()
            monkeypatch.setattr(connection, "LINGER", 60.0)
            monkeypatch.setattr(connection, "LINGER_BYTES", 200_000)
            answer = await at.raw(ALL + b"GET / HTTP/1.1\r\n" + FIELDS * 3)
            assert b"HTTP/1.1 431 Request Header Fields Too Large\r\n" in answer

    asyncio.run(run())
