"""A session with servers that refuse, are silent, or hang. Each is tried once, and each wait has an end."""

import asyncio
import json
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

pytest.importorskip("nats")

from pipeline.engines.fleet.mirror import Entry
from pipeline.fleet import store
from pipeline.fleet.store import ERRORS, Access, Session

LONG_S = 30.0


def access(url: str) -> Access:
    return Access((url,), "net", "host1", "", "", None)


def test_a_server_that_refuses_is_tried_once() -> None:
    """The client would try it 60 times, with 2 s between. So other servers would wait for minutes."""

    async def scenario() -> None:
        with socket.socket() as nobody:
            nobody.bind(("127.0.0.1", 0))
            url = f"nats://127.0.0.1:{nobody.getsockname()[1]}"
            session = Session(access(url))
            with pytest.raises(ConnectionRefusedError):
                await asyncio.wait_for(session.open(url), LONG_S)
            await asyncio.wait_for(session.close(), LONG_S)

    asyncio.run(scenario())


INFO = b'INFO {"server_id":"S","version":"2.9.10","headers":true,"max_payload":1048576}\r\n'


async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Never say anything."""


async def no_pong(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Say who it is, and nothing more."""
    writer.write(INFO)


async def no_jetstream(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Accept the client, and answer no request."""
    writer.write(INFO)
    while line := await reader.readline():
        if line.startswith(b"PING"):
            writer.write(b"PONG\r\n")


async def closes(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """End each connection at once."""
    writer.close()


@pytest.mark.parametrize("behaviour", [silent, no_pong, no_jetstream, closes])
def test_a_server_that_does_not_work_is_tried_once(
    behaviour: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]],
) -> None:
    async def scenario() -> None:
        writers: list[asyncio.StreamWriter] = []

        async def accepted(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writers.append(writer)
            await behaviour(reader, writer)

        server = await asyncio.start_server(accepted, "127.0.0.1", 0)
        url = f"nats://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        session = Session(access(url))
        with pytest.raises(ERRORS):
            await asyncio.wait_for(session.open(url), LONG_S)
        await asyncio.wait_for(session.close(), LONG_S)
        assert session.lost.is_set()
        assert len(writers) == 1
        for writer in writers:
            writer.close()
        server.close()

    asyncio.run(scenario())


@pytest.mark.parametrize("text", ["", "secret-but-no-jwt\n", "-----BEGIN NATS USER JWT-----\nsecret\n"])
def test_a_file_without_credentials_is_refused_and_not_shown(tmp_path: Path, text: str) -> None:
    """The client would look for the JWT for ever, and the daemon would stand still."""
    path = tmp_path / "file.creds"
    path.write_text(text)
    session = Session(access("nats://127.0.0.1:9")._replace(credentials=str(path)))
    with pytest.raises(ValueError, match="no JWT, or no seed") as raised:
        asyncio.run(session.open("nats://127.0.0.1:9"))
    assert "secret" not in str(raised.value)


@pytest.mark.parametrize("text", ["", "secret", "SUSECRETSECRETSECRETSECRETSECRETSECRETSECRETSECRETSECRETSE"])
def test_a_seed_that_is_none_is_refused_and_not_shown(tmp_path: Path, text: str) -> None:
    pytest.importorskip("nkeys")
    path = tmp_path / "file.seed"
    path.write_text(text)
    session = Session(access("nats://127.0.0.1:9")._replace(nkey=str(path)))
    with pytest.raises(ERRORS) as raised:
        asyncio.run(session.open("nats://127.0.0.1:9"))
    assert not text or text.lower() not in str(raised.value).lower()


STREAM = {
    "config": {"name": "KV_net", "subjects": ["$KV.net.>"]},
    "created": "2026-01-01T00:00:00Z",
    "state": {"messages": 0, "bytes": 0, "first_seq": 1, "last_seq": 0, "consumer_count": 0},
}
CONSUMER = {
    "stream_name": "KV_net",
    "name": "c",
    "created": "2026-01-01T00:00:00Z",
    "config": {"deliver_policy": "last_per_subject"},
}


async def slow_to_watch(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answer what a session asks, and a question for a watch after 1.5 s."""
    writer.write(INFO)
    inbox = b""
    while line := await reader.readline():
        words = line.split()
        if line.startswith(b"PING"):
            writer.write(b"PONG\r\n")
        elif line.startswith(b"SUB") and not inbox:
            inbox = words[-1]
        elif line.startswith((b"PUB", b"HPUB")):
            await reader.readexactly(int(words[-1]) + 2)
            is_watch = b"CONSUMER" in words[1]
            if is_watch:
                await asyncio.sleep(1.5)
            answer = json.dumps(CONSUMER if is_watch else STREAM).encode()
            writer.write(b"MSG %s %s %d\r\n%s\r\n" % (words[2], inbox, len(answer), answer))


def test_a_server_has_more_time_to_make_a_watch_of_many_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    """With 250 000 keys and little processor time, a server needed more than the 2 s of other requests."""
    monkeypatch.setattr(store, "TIMEOUT", 1.0)
    found: list[Entry | None] = []

    async def scenario() -> None:
        server = await asyncio.start_server(slow_to_watch, "127.0.0.1", 0)
        url = f"nats://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        session = Session(access(url))
        await asyncio.wait_for(session.open(url), LONG_S)
        await asyncio.wait_for(session.watch(found.append), LONG_S)
        assert not session.lost.is_set()
        await session.close()
        server.close()

    asyncio.run(scenario())
    assert found == [None]
