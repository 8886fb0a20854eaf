"""Unix forwards of a running daemon: it replaces no socket that is served, and removes only its own."""

import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.lone_daemon import LoneDaemon

EXPOSE, UNEXPOSE = (f"/services/forwarder/{name}" for name in ("expose", "unexpose"))
REMOTES = ["tcp://192.168.127.2:80", "ssh-tunnel://u@192.168.127.2/s?key=/nothing"]


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LoneDaemon]:
    """One for all tests, in a directory of its own."""
    with LoneDaemon(tmp_path_factory.mktemp("daemon")) as made:
        yield made


def wish(path: Path | str, remote: str) -> dict[str, str]:
    return {"local": str(path), "remote": remote, "protocol": "unix"}


@pytest.mark.parametrize("remote", REMOTES)
@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_DGRAM, socket.SOCK_SEQPACKET])
def test_expose_replaces_no_socket_that_a_program_serves(
    daemon: LoneDaemon, remote: str, kind: socket.SocketKind, tmp_path: Path
) -> None:
    path = tmp_path / "served"
    with socket.socket(socket.AF_UNIX, kind) as served:
        served.bind(str(path))
        before = path.stat().st_ino
        status, text = daemon.post(EXPOSE, wish(path, remote))
        assert (status, b"address already in use" in text) == (500, True)
        assert path.stat().st_ino == before
        assert daemon.post(UNEXPOSE, wish(path, remote)) == (500, b"proxy not found\n")
        assert path.exists()


@pytest.mark.parametrize("remote", REMOTES)
def test_unexpose_leaves_what_others_put_in_the_place_of_the_socket(
    daemon: LoneDaemon, remote: str, tmp_path: Path
) -> None:
    path = tmp_path / "forward"
    for successor in ("file", "socket"):
        assert daemon.post(EXPOSE, wish(path, remote)) == (200, b"")
        path.unlink()
        with socket.socket(socket.AF_UNIX) as other:
            if successor == "socket":
                other.bind(str(path))
            else:
                path.write_text("precious")
            assert daemon.post(UNEXPOSE, wish(path, remote)) == (200, b"")
            assert path.exists()
        path.unlink()


@pytest.mark.parametrize("remote", REMOTES)
def test_unexpose_removes_its_own_socket(daemon: LoneDaemon, remote: str, tmp_path: Path) -> None:
    path = tmp_path / "forward"
    assert daemon.post(EXPOSE, wish(path, remote)) == (200, b"")
    assert daemon.post(UNEXPOSE, wish(path, remote)) == (200, b"")
    assert not path.exists()


@pytest.mark.parametrize("remote", REMOTES)
@pytest.mark.parametrize("local", ["", "rel.sock", "./rel.sock", "@abs", "\0abs", "unix://rel.sock"])
def test_a_local_path_that_is_not_absolute_is_refused(daemon: LoneDaemon, remote: str, local: str) -> None:
    status, text = daemon.post(EXPOSE, wish(local, remote))
    assert status == 500
    assert text.startswith(b"listen unix ")
    assert any(word in text for word in (b"the path ", b"abstract names"))
    assert not Path("rel.sock").exists()


@pytest.mark.parametrize("kind", ["zero", "fifo"])
def test_a_client_of_a_forward_whose_key_is_a_device_costs_nothing_and_holds_up_no_end(
    kind: str, tmp_path: Path
) -> None:
    os.mkfifo(tmp_path / "fifo")
    key = "/dev/zero" if kind == "zero" else tmp_path / "fifo"
    path = tmp_path / "forward"
    with LoneDaemon(tmp_path) as daemon:
        assert daemon.post(EXPOSE, wish(path, f"ssh-tunnel://u@192.168.127.2/s?key={key}")) == (200, b"")
        before = resident(daemon.process.pid)
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(10)
            client.connect(str(path))
            assert client.recv(1) == b""
        assert resident(daemon.process.pid) - before < 20 << 20
        daemon.process.send_signal(signal.SIGTERM)
        assert daemon.process.wait(5) == 0
        daemon.start()
        daemon.wait_until_ready()


def resident(pid: int) -> int:
    """Bytes of memory that a process has."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
