"""The daemon's files: their modes under any umask, links that it does not follow, and what it removes."""

import os
import socket
import stat
from pathlib import Path

import pytest

from tests.support.lone_daemon import LoneDaemon
from tests.support.netns import wait_for


def files(tmp_path: Path) -> dict[str, Path]:
    return {name: tmp_path / name for name in ("pid-file", "log-file", "pcap", "state-file")}


def flags(paths: dict[str, Path]) -> list[str]:
    return [word for name, path in paths.items() for word in (f"-{name}", str(path))]


@pytest.mark.parametrize("umask", [0o000, 0o077])
def test_files_have_the_same_modes_under_any_umask(umask: int, tmp_path: Path) -> None:
    paths = files(tmp_path)
    with LoneDaemon(tmp_path, *flags(paths), umask=umask) as daemon:
        wait_for(paths["log-file"].exists, "the log")
        made = {name: stat.S_IMODE(path.stat().st_mode) for name, path in paths.items() if path.exists()}
        assert made == {"pid-file": 0o644, "log-file": 0o600, "pcap": 0o600}
        assert stat.S_IMODE(daemon.socket.stat().st_mode) == 0o600
        assert paths["pid-file"].read_text() == str(daemon.process.pid)
    assert not paths["pid-file"].exists()
    assert not daemon.socket.exists()


@pytest.mark.parametrize("name", ["pid-file", "log-file", "state-file"])
def test_a_symbolic_link_is_refused_at_the_start_and_its_target_stays(name: str, tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.write_text("precious")
    path = files(tmp_path)[name]
    path.symlink_to(target)
    text = LoneDaemon(tmp_path, f"-{name}", str(path)).refusal()
    assert "symbolic link, which is not followed" in text
    assert str(path) in text
    assert target.read_text() == "precious"
    assert path.is_symlink()


def test_the_pid_file_of_a_killed_run_is_written_again_with_its_mode(tmp_path: Path) -> None:
    path = tmp_path / "pid"
    path.write_text("12345678901234567890")
    path.chmod(0o666)
    with LoneDaemon(tmp_path, "-pid-file", str(path)) as daemon:
        assert path.read_text() == str(daemon.process.pid)
        assert stat.S_IMODE(path.stat().st_mode) == 0o644
    assert not path.exists()


def test_at_its_end_the_daemon_leaves_the_files_of_a_successor(tmp_path: Path) -> None:
    pid_path = tmp_path / "pid"
    with LoneDaemon(tmp_path, "-pid-file", str(pid_path)) as daemon:
        for path in (daemon.socket, pid_path):
            path.unlink()
        with socket.socket(socket.AF_UNIX) as successor:
            successor.bind(str(daemon.socket))
            successor.listen()
            pid_path.write_text("successor")
            daemon.stop()
            assert daemon.socket.exists()
            assert pid_path.read_text() == "successor"
            with socket.socket(socket.AF_UNIX) as client:
                client.connect(str(daemon.socket))
        daemon.start()
        daemon.socket.unlink()
        daemon.wait_until_ready()


def test_at_its_end_the_daemon_leaves_a_pid_file_that_a_successor_has_written_again(tmp_path: Path) -> None:
    pid_path = tmp_path / "pid"
    with LoneDaemon(tmp_path, "-pid-file", str(pid_path)) as daemon:
        before = pid_path.stat().st_ino
        pid_path.write_text("successor")
        assert pid_path.stat().st_ino == before
        daemon.stop()
        assert pid_path.read_text() == "successor"
    assert "file not removed" in daemon.errors()


@pytest.mark.parametrize(("path", "kind"), [("/dev/stdout", "pipe"), ("/proc/self/fd/1", "file")])
def test_the_log_may_go_to_a_descriptor_by_its_path(path: str, kind: str, tmp_path: Path) -> None:
    reader, writer = os.pipe()
    if kind == "file":
        os.close(writer)
        writer = os.open(tmp_path / "out", os.O_RDWR | os.O_CREAT)
    os.write(writer, b"before\n")
    with LoneDaemon(tmp_path, "-log-file", path, stdout=writer):
        os.close(writer)
    with open(reader, "rb") as pipe:
        text = pipe.read() if kind == "pipe" else (tmp_path / "out").read_bytes()
    assert text.startswith(b"before\n{")
    assert b'"stopped"' in text


def test_a_capture_to_standard_output_removes_no_device(tmp_path: Path) -> None:
    path = tmp_path / "out.pcap"
    with path.open("wb") as out, LoneDaemon(tmp_path, "-pcap", "/dev/stdout", stdout=out) as daemon:
        assert daemon.process.poll() is None
    assert path.read_bytes()[:4].hex() == "d4c3b2a1"
    assert Path("/dev/stdout").is_symlink()
