"""Unix sockets on the host that are forwarded into a guest over ssh: their files, clients and half-closes."""

import asyncio
import socket
import stat
from asyncio import StreamReader, StreamWriter
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import structlog

from pipeline.control.ssh import socket_forward
from pipeline.control.ssh.connection import SshConnection
from pipeline.control.ssh.socket_forward import SocketError, SocketForward, SocketForwards, host_path
from tests.support import ssh_guest
from tests.support.ssh_guest import SshGuest

LOG = structlog.get_logger()


@pytest.fixture
def guest(tmp_path: Path) -> SshGuest:
    return SshGuest(tmp_path)


def run(work: Coroutine[Any, Any, None]) -> None:
    async def within() -> None:
        async with asyncio.timeout(30):
            await work

    asyncio.run(within())


def forward(guest: SshGuest, path: Path, to: str = "/echo", patience: float = 10.0) -> SocketForward:
    connection = SshConnection(guest.destination(to), guest.dial, LOG, patience)
    return SocketForward(str(path), connection, LOG)


@asynccontextmanager
async def forwarded(
    guest: SshGuest, path: Path, to: str = "/echo", patience: float = 10.0
) -> AsyncIterator[Path]:
    """A forwarded socket, open during the block."""
    made = forward(guest, path, to, patience)
    await made.open()
    yield path
    await made.close()


@asynccontextmanager
async def client(path: Path, limit: int = 1 << 16) -> AsyncIterator[tuple[StreamReader, StreamWriter]]:
    """A client of the socket."""
    reader, writer = await asyncio.open_unix_connection(str(path), limit=limit)
    yield reader, writer
    writer.close()


@asynccontextmanager
async def served(path: Path) -> AsyncIterator[StreamReader]:
    """A client that the guest's echo has answered, so that its connection reaches the guest."""
    async with client(path) as (reader, writer):
        writer.write(b"x")
        assert await reader.read(1) == b"x"
        yield reader


async def ask(path: Path, data: bytes) -> bytes:
    """Send data, end this half, and read to the end."""
    async with client(path) as (reader, writer):
        writer.write(data)
        writer.write_eof()
        return await reader.read(-1)


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("/a/b", "/a/b"),
        ("unix:///a/b", "/a/b"),
        ("/a%20b", "/a%20b"),
        ("unix:///a%20b", "/a b"),
    ],
)
def test_a_socket_is_named_by_path_or_url(text: str, path: str) -> None:
    assert host_path(text) == path


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("npipe:////./pipe/x", "named pipes are not supported by this platform"),
        ("tcp://a:1", "unknown scheme of a forwarded socket: tcp://a:1"),
        ("unix://", "unknown scheme"),
        ("unix://[a/b", "cannot listen: unix://"),
    ],
)
def test_other_places_are_refused(text: str, words: str) -> None:
    with pytest.raises(SocketError, match=words):
        host_path(text)


def test_the_socket_is_there_for_its_owner_before_the_guest_and_gone_at_the_end(
    guest: SshGuest, tmp_path: Path
) -> None:
    async def work() -> None:
        guest.down = True
        path = tmp_path / "s"
        made = forward(guest, path)
        await made.open()
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        early = asyncio.create_task(ask(path, b"early bird"))
        while guest.dials < 2:
            await asyncio.sleep(0.01)
        guest.down = False
        assert await early == b"early bird"
        await made.close()
        assert not path.exists()

    run(work())


def test_an_old_socket_is_replaced_and_nothing_else_is(guest: SshGuest, tmp_path: Path) -> None:
    async def work() -> None:
        path, precious = tmp_path / "s", tmp_path / "precious"
        with socket.socket(socket.AF_UNIX) as old:
            old.bind(str(path))
        async with forwarded(guest, path):
            assert await ask(path, b"x") == b"x"
        precious.write_text("keep")
        for name in ("precious", "link"):
            if name == "link":
                (tmp_path / name).symlink_to(precious)
            with pytest.raises(SocketError, match="exists and is not a socket"):
                await forward(guest, tmp_path / name).open()
        assert precious.read_text() == "keep"
        with pytest.raises(SocketError, match=r"listen unix .*/no/s: bind: no such file or directory"):
            await forward(guest, tmp_path / "no" / "s").open()

    run(work())


def test_a_file_that_took_the_sockets_place_is_not_removed(guest: SshGuest, tmp_path: Path) -> None:
    async def work() -> None:
        path = tmp_path / "s"
        async with forwarded(guest, path):
            path.unlink()
            path.write_text("another's")
        assert path.read_text() == "another's"

    run(work())


def test_many_clients_at_once_get_their_own_bytes(guest: SshGuest, tmp_path: Path) -> None:
    async def work() -> None:
        data = [bytes([number]) * 300_000 for number in range(30)]
        async with forwarded(guest, tmp_path / "s") as path:
            assert await asyncio.gather(*(ask(path, one) for one in data)) == data
            assert guest.dials == 1

    run(work())


def test_the_client_may_end_its_half_first(guest: SshGuest, tmp_path: Path) -> None:
    async def work() -> None:
        async with forwarded(guest, tmp_path / "s", "/late") as path:
            assert await ask(path, b"x" * 1_000_000) == b"late 1000000"

    run(work())


def test_the_guest_may_end_its_half_first(guest: SshGuest, tmp_path: Path) -> None:
    async def work() -> None:
        ssh_guest.early_heard.clear()
        async with forwarded(guest, tmp_path / "s", "/early") as path, client(path) as (reader, writer):
            assert await reader.read(-1) == b"early"
            writer.write(b"still here" * 10_000)
            writer.write_eof()
            while not ssh_guest.early_heard:
                await asyncio.sleep(0.01)
            assert ssh_guest.early_heard == [b"still here" * 10_000]

    run(work())


def test_a_slow_reader_holds_the_guest_back_and_loses_nothing(guest: SshGuest, tmp_path: Path) -> None:
    sent = 0

    async def flood(_reader: Any, writer: Any) -> None:
        nonlocal sent
        for _ in range(200):
            writer.write(b"x" * 65536)
            await writer.drain()
            sent += 65536
        writer.write_eof()

    guest.sockets["/flood"] = flood

    async def work() -> None:
        async with forwarded(guest, tmp_path / "s", "/flood") as path, client(path, 4096) as (reader, _):
            await asyncio.sleep(0.5)
            assert sent < 8 << 20, "it waits"
            total = 0
            while data := await reader.read(1 << 20):
                total += len(data)
            assert total == 200 * 65536

    run(work())


def test_a_client_of_a_guest_that_does_not_come_is_closed(guest: SshGuest, tmp_path: Path) -> None:
    async def work() -> None:
        guest.down = True
        async with forwarded(guest, tmp_path / "s", patience=0.3) as path:
            assert await ask(path, b"anybody?") == b""
            guest.down = False
            assert await ask(path, b"now") == b"now"

    run(work())


def test_a_guest_that_dies_ends_its_clients_and_serves_the_next(guest: SshGuest, tmp_path: Path) -> None:
    async def work() -> None:
        async with forwarded(guest, tmp_path / "s") as path:
            async with served(path) as reader:
                guest.reboot()
                assert await reader.read(1) == b""
            assert await ask(path, b"again") == b"again"

    run(work())


def test_clients_are_bounded(guest: SshGuest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket_forward, "MAX_CLIENTS", 1)

    async def work() -> None:
        async with forwarded(guest, tmp_path / "s") as path, served(path):
            assert await ask(path, b"") == b""

    run(work())


def test_closing_ends_clients_in_every_state(guest: SshGuest, tmp_path: Path) -> None:
    async def work() -> None:
        path = tmp_path / "s"
        made = forward(guest, path)
        await made.open()
        async with served(path) as ended:
            guest.reboot()
            guest.silent = True
            async with client(path) as (waiting, _):
                await asyncio.sleep(0.1)
                await made.close()
                assert await ended.read(1) == b""
                assert await waiting.read(1) == b""

    run(work())


async def no_dial(*_: object) -> dict[str, object]:
    raise AssertionError("the guest is dialled only for a client")


def test_forwards_are_kept_by_path(guest: SshGuest, tmp_path: Path) -> None:
    async def work() -> None:
        forwards = SocketForwards(no_dial, LOG)
        paths = [str(tmp_path / name) for name in ("a", "b")]
        for path in paths:
            await forwards.open(path, guest.destination())
        await forwards.close(paths[0])
        assert not Path(paths[0]).exists()
        await forwards.close_all()
        assert not Path(paths[1]).exists()

    run(work())


def test_who_is_stopped_while_a_socket_is_made_leaves_none(guest: SshGuest, tmp_path: Path) -> None:
    async def work() -> None:
        path = tmp_path / "a"
        opening = asyncio.create_task(SocketForwards(no_dial, LOG).open(str(path), guest.destination()))
        await asyncio.sleep(0)
        assert path.exists()
        opening.cancel()
        await asyncio.wait((opening,))
        assert opening.cancelled()
        assert not path.exists()

    run(work())
