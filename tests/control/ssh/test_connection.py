"""ssh connections to a guest whose server is in this process: shared, lost, refused, waited for."""

import asyncio
import os
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import asyncssh
import pytest
import structlog
from structlog.testing import capture_logs

from pipeline.control.ssh import connection as ssh
from pipeline.control.ssh.connection import SshConnection, Streams
from pipeline.control.ssh.destination import Destination, SshError, parse
from pipeline.go.text import GoError
from pipeline.ipc import forward_messages, messages
from tests.support.ssh_guest import ADDRESS, SshGuest

LOG = structlog.get_logger()


@pytest.fixture
def guest(tmp_path: Path) -> SshGuest:
    return SshGuest(tmp_path)


def run(work: Coroutine[Any, Any, None]) -> None:
    async def within() -> None:
        async with asyncio.timeout(20):
            await work

    asyncio.run(within())


async def ask(streams: Streams, data: bytes) -> bytes:
    reader, writer = streams
    writer.write(data)
    writer.write_eof()
    return await reader.read(-1)


# --- destinations --------------------------------------------------------------------------------


def test_a_url_names_user_guest_socket_and_key() -> None:
    assert parse("ssh-tunnel://root@192.168.127.2:22/run/podman/podman.sock?key=/k") == Destination(
        "root", "192.168.127.2", "/run/podman/podman.sock", "/k"
    )
    text = "ssh-tunnel://a%40b:p%3Aw@10.0.0.2:2222/s%20t?key=%2Fk&passphrase=x%26y&secure=true"
    assert parse(text) == Destination(
        "a@b", "10.0.0.2", "/s t", "/k", 2222, passphrase="x&y", password="p:w", secure=True
    )


@pytest.mark.parametrize(
    ("remote", "words"),
    [
        ("ssh-tunnel://root@192.168.127.2/s", "key not provided for unix-ssh connection"),
        ("ssh-tunnel://root@192.168.127.2/s?key=", "key not provided for unix-ssh connection"),
        ("ssh-tunnel://root@192.168.127.2?key=/k", "remote uri must contain a path to a socket file"),
        ("ssh-tunnel://root@192.168.127.2/?key=/k", "remote uri must contain a path to a socket file"),
        ("ssh-tunnel://root@vm/s?key=/k", "invalid remote addr: root@vm has no IPv4 address"),
        ("ssh-tunnel://root@[::1/s?key=/k", "invalid remote addr"),
        (
            "ssh-tunnel://root@192.168.127.2:x/s?key=/k",
            'strconv.ParseUint: parsing "x": invalid syntax',
        ),
    ],
)
def test_what_is_wrong_with_a_url_is_said(remote: str, words: str) -> None:
    with pytest.raises(GoError) as refused:
        parse(remote)
    assert str(refused.value).startswith(words)


@pytest.mark.parametrize("kind", ["ssh-rsa", "ecdsa-sha2-nistp256", "ssh-ed25519"])
@pytest.mark.parametrize("form", ["openssh", "pkcs8-pem"])
def test_keys_of_every_kind_are_read(tmp_path: Path, kind: str, form: str) -> None:
    made = asyncssh.generate_private_key(kind)
    made.write_private_key(str(tmp_path / "key"), form)
    assert ssh.read_key(str(tmp_path / "key")).public_data == made.public_data


def test_a_key_with_a_passphrase_needs_it(tmp_path: Path) -> None:
    path = str(tmp_path / "key")
    made = asyncssh.generate_private_key("ssh-ed25519")
    made.write_private_key(path, passphrase="secret")
    assert ssh.read_key(path, "secret").public_data == made.public_data
    for wrong in ("", "other"):
        with pytest.raises(SshError, match=f'failed to parse identity "{path}"'):
            ssh.read_key(path, wrong)


def test_what_is_no_key_is_named(tmp_path: Path) -> None:
    path = tmp_path / "key"
    with pytest.raises(SshError, match=f'failed to parse identity "{path}": open {path}: no such file'):
        ssh.read_key(str(path))
    path.write_text("nonsense")
    with pytest.raises(SshError, match=f'failed to parse identity "{path}"'):
        ssh.read_key(str(path))


def test_a_user_that_ssh_has_no_form_for_is_an_error_of_the_forward(guest: SshGuest) -> None:
    async def work() -> None:
        connection = SshConnection(guest.destination()._replace(user="\x01"), guest.dial, LOG)
        with pytest.raises(SshError, match="the guest cannot be asked"):
            await connection.open()
        await connection.close()

    run(work())


# --- connections ---------------------------------------------------------------------------------


def test_channels_share_one_connection(guest: SshGuest) -> None:
    async def work() -> None:
        connection = SshConnection(guest.destination(), guest.dial, LOG)
        opened = await asyncio.gather(*(connection.open() for _ in range(20)))
        answers = await asyncio.gather(
            *(ask(streams, b"%d" % number * 1000) for number, (streams, _) in enumerate(opened))
        )
        assert answers == [b"%d" % number * 1000 for number in range(20)]
        assert guest.dials == 1
        await connection.close()

    run(work())


def test_a_guest_that_is_not_up_yet_is_waited_for(guest: SshGuest) -> None:
    async def work() -> None:
        guest.down = True
        connection = SshConnection(guest.destination(), guest.dial, LOG)
        waiting = [asyncio.create_task(connection.open()) for _ in range(3)]
        while guest.dials < 3:
            await asyncio.sleep(0.01)
        guest.down = False
        for task in waiting:
            streams, release = await task
            assert await ask(streams, b"hello") == b"hello"
            release()
        assert guest.dials == 4, "they share the attempts"
        await connection.close()

    run(work())


def test_a_guest_that_never_answers_costs_its_clients_their_patience(guest: SshGuest) -> None:
    async def work() -> None:
        guest.down = True
        connection = SshConnection(guest.destination(), guest.dial, LOG, patience=0.5)
        with pytest.raises(SshError, match=r"the guest did not answer within 0\.5 s"):
            await connection.open()
        dials = guest.dials
        await asyncio.sleep(0.5)
        assert guest.dials == dials, "nobody waits: nobody tries"
        guest.down = False
        streams, _ = await connection.open()
        assert await ask(streams, b"later") == b"later"
        await connection.close()

    run(work())


def test_a_client_that_gives_up_ends_the_attempts(guest: SshGuest) -> None:
    async def work() -> None:
        guest.silent = True
        connection = SshConnection(guest.destination(), guest.dial, LOG)
        task = asyncio.create_task(connection.open())
        while not guest.dials:
            await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await asyncio.sleep(0.1)
        assert connection._attempts is not None
        assert connection._attempts.done()
        await connection.close()

    run(work())


def test_a_rebooted_guest_gets_a_new_connection(guest: SshGuest) -> None:
    async def work() -> None:
        connection = SshConnection(guest.destination(), guest.dial, LOG)
        for number in range(1, 4):
            streams, release = await connection.open()
            assert await ask(streams, b"hello") == b"hello"
            release()
            assert guest.dials == number
            guest.reboot()
            if number == 2:
                await asyncio.sleep(0.05)  # noticed before the next client, or by it
        await connection.close()

    run(work())


def test_a_connection_that_is_silent_is_replaced_and_its_channels_live_on(
    guest: SshGuest, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def work() -> None:
        connection = SshConnection(guest.destination(), guest.dial, LOG)
        (reader, writer), release = await connection.open()
        held = connection._held
        assert held is not None

        async def silence(*_: object, **__: object) -> None:
            await asyncio.sleep(60)

        monkeypatch.setattr(ssh, "CHANNEL_TIMEOUT", 0.1)
        monkeypatch.setattr(held.connection, "open_unix_connection", silence)
        streams, _ = await connection.open()
        assert await ask(streams, b"new") == b"new"
        assert guest.dials == 2
        writer.write(b"old")
        assert await reader.read(3) == b"old"
        assert not held.connection.is_closed()
        release()
        await held.connection.wait_closed()
        await connection.close()

    run(work())


def test_a_socket_that_the_guest_does_not_have_is_an_error_and_the_connection_stays(
    guest: SshGuest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ssh, "CHANNEL_PAUSE", 0.01)

    async def work() -> None:
        connection = SshConnection(guest.destination("/nothing"), guest.dial, LOG)
        for _ in range(2):
            with pytest.raises(SshError, match="the guest refuses /nothing"):
                await connection.open()
        assert guest.dials == 1
        await connection.close()

    run(work())


def test_a_key_that_the_guest_does_not_know_is_an_error_at_once(guest: SshGuest, tmp_path: Path) -> None:
    asyncssh.generate_private_key("ssh-ed25519").write_private_key(str(tmp_path / "other"))

    async def work() -> None:
        other = guest.destination()._replace(key=str(tmp_path / "other"))
        connection = SshConnection(other, guest.dial, LOG)
        with pytest.raises(SshError, match="the guest refuses core"):
            await connection.open()
        assert guest.dials == 1
        os.unlink(other.key)
        with pytest.raises(SshError, match="failed to parse identity"):
            await connection.open()
        await connection.close()

    run(work())


@pytest.fixture
def known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the host's known_hosts file is; it does not exist yet."""
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / ".ssh").mkdir()
    return tmp_path / ".ssh" / "known_hosts"


def test_a_host_key_is_checked_where_that_is_asked_for_and_it_is_known(guest: SshGuest, known: Path) -> None:
    other = asyncssh.generate_private_key("ssh-ed25519").export_public_key().decode()
    right = guest.host_key.export_public_key().decode()

    async def work() -> None:
        with capture_logs() as lines:
            connection = SshConnection(guest.destination(secure=True), guest.dial, LOG, patience=1)
            for wrong in (f"{ADDRESS} {other}", f"@revoked {ADDRESS} {right}"):
                known.write_text(wrong)
                with pytest.raises(SshError, match="the guest refuses core"):
                    await connection.open()
            known.write_text(f"{ADDRESS} {right}")
            streams, _ = await connection.open()
            assert await ask(streams, b"x") == b"x"
            await connection.close()
        assert not [line for line in lines if line["log_level"] == "warning"]

    run(work())


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, "open {path}: no such file or directory"),
        ("", "{path} has no entry for 192.168.127.2 port 22"),
        ("192.168.127.3,[192.168.127.2]:2222 {key}", "{path} has no entry for 192.168.127.2 port 22"),
        ("nonsense", "{path}: Invalid known hosts entry: nonsense"),
    ],
)
def test_secure_without_an_entry_in_known_hosts_connects_and_warns_that_nothing_is_checked(
    guest: SshGuest, known: Path, content: str | None, reason: str
) -> None:
    if content is not None:
        known.write_text(content.format(key=guest.host_key.export_public_key().decode()))

    async def work() -> None:
        with capture_logs() as lines:
            connection = SshConnection(guest.destination(secure=True), guest.dial, LOG, patience=1)
            streams, _ = await connection.open()
            assert await ask(streams, b"x") == b"x"
            await connection.close()
        assert [line["error"] for line in lines if line["log_level"] == "warning"] == [
            reason.format(path=known)
        ]

    run(work())


def test_an_entry_for_another_port_is_found_by_its_port(known: Path) -> None:
    key = asyncssh.generate_private_key("ssh-ed25519").export_public_key().decode()
    to = Destination("core", ADDRESS, "/s", "/k", 2222, secure=True)
    known.write_text(f"[{ADDRESS}]:2222 {key}")
    assert ssh.known_hosts(to, str(known))
    with pytest.raises(SshError, match=r"has no entry for 192\.168\.127\.2 port 2223"):
        ssh.known_hosts(to._replace(port=2223), str(known))


def test_dialling_hands_one_end_of_a_pair_to_the_listen_worker() -> None:
    async def work() -> None:
        handed: list[int] = []

        async def request(worker: str, op: messages.Request, fds: Any = ()) -> dict[str, Any]:
            assert (worker, op) == ("listen", forward_messages.Tunnel("192.168.127.2", 22))
            handed.append(os.dup(fds[0].fileno()))
            return {}

        sock = await ssh.dialler(request)("192.168.127.2", 22)
        os.write(handed[0], b"x")
        assert sock.recv(1) == b"x"
        os.close(handed[0])
        assert sock.recv(1) == b"", "nobody else holds the other end"
        sock.close()

    run(work())


def test_a_key_that_is_a_fifo_or_a_device_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    """A guest may name the path of a key: a thread that waited for it held up the end of the program."""
    os.mkfifo(tmp_path / "key")
    with pytest.raises(SshError, match=r"failed to parse identity .*: it is a FIFO"):
        ssh.read_key(str(tmp_path / "key"))
    with pytest.raises(SshError, match=r"failed to parse identity .*: it is a device"):
        ssh.read_key("/dev/zero")
    to = Destination("user", "192.168.127.2", "/s", "key")
    with pytest.raises(SshError, match="it is a FIFO"):
        ssh.known_hosts(to, str(tmp_path / "key"))


def test_a_key_of_more_than_64_kib_is_refused_before_it_is_read_whole(tmp_path: Path) -> None:
    path = tmp_path / "key"
    path.write_bytes(b"x" * ssh.MAX_KEY)
    with pytest.raises(SshError, match=r"Invalid private key|Unrecognized"):
        ssh.read_key(str(path))
    with path.open("ab") as file:
        file.truncate(1 << 40)
    with pytest.raises(SshError, match=r"it is too long \(allowed: 64 KiB\)"):
        ssh.read_key(str(path))


@pytest.mark.parametrize("opened", ["/dev/zero", "fifo"])
def test_a_key_of_another_kind_is_not_even_opened(
    opened: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Opening alone may have an effect, as with a tape or a watchdog."""
    os.mkfifo(tmp_path / "fifo")
    with monkeypatch.context() as patch:
        patch.setattr(os, "open", None)
        with pytest.raises(SshError, match="it is a"):
            ssh.read_key(str(tmp_path / opened))


@pytest.mark.parametrize("key", ["key", "@key", "./key", "%00", "/k%00"])
def test_a_client_names_the_absolute_path_of_a_key(key: str) -> None:
    with pytest.raises(GoError, match=r"for unix-ssh connection: (the path|abstract)"):
        parse(f"ssh-tunnel://u@192.168.127.2/s?key={key}")
