"""Files of sockets: what an ended program left is replaced, and nothing else is, whoever is at it at once."""

import errno
import fcntl
import os
import signal
import socket
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pipeline.config import merge, options
from pipeline.config.file import ConfigError
from pipeline.control.ssh import socket_forward
from pipeline.control.ssh.destination import SocketError
from pipeline.go import flags
from pipeline.host import listener
from pipeline.links import addresses
from pipeline.links.addresses import AddressError
from pipeline.system import socket_file

KINDS = {"unix": socket.SOCK_STREAM, "unixpacket": socket.SOCK_SEQPACKET, "unixgram": socket.SOCK_DGRAM}
KILLED = """
import os, signal, socket, sys
sock = socket.socket(socket.AF_UNIX, int(sys.argv[2]))
sock.bind(sys.argv[1])
if int(sys.argv[2]) != socket.SOCK_DGRAM:
    sock.listen()
os.kill(os.getpid(), signal.SIGKILL)
"""


def abandon(path: Path, kind: socket.SocketKind) -> None:
    """Leave the file that a program leaves which is killed."""
    ended = subprocess.run([sys.executable, "-c", KILLED, str(path), str(int(kind))], check=False)
    assert ended.returncode == -signal.SIGKILL
    assert stat.S_ISSOCK(path.stat().st_mode)


def bind(scheme: str, path: Path) -> socket.socket:
    """Bind as the daemon does for guests and clients."""
    url = f"{scheme}://{path}"
    return addresses.bind_datagram(url) if scheme == "unixgram" else addresses.listen(url)


@pytest.mark.parametrize("scheme", KINDS)
@pytest.mark.parametrize("left", KINDS)
def test_the_socket_file_of_a_killed_program_is_replaced(tmp_path: Path, scheme: str, left: str) -> None:
    path = tmp_path / "s"
    abandon(path, KINDS[left])
    assert socket_file.is_abandoned(str(path))
    with bind(scheme, path) as sock:
        assert sock.getsockname() == str(path)
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert not socket_file.is_abandoned(str(path))
        with socket.socket(socket.AF_UNIX, KINDS[scheme]) as client:
            client.connect(str(path))
    assert [each.name for each in tmp_path.iterdir()] == ["s"], "nothing else is left there"


@pytest.mark.parametrize("scheme", KINDS)
@pytest.mark.parametrize("serving", KINDS)
def test_a_socket_that_somebody_serves_is_refused_and_does_not_notice(
    tmp_path: Path, scheme: str, serving: str
) -> None:
    path = tmp_path / "s"
    with bind(serving, path) as served:
        inode = path.stat().st_ino
        with pytest.raises(AddressError, match=f"{path}: bind: address already in use"):
            bind(scheme, path)
        with pytest.raises(listener.ListenError, match="address already in use"):
            listener.bind_unix(str(path))
        with pytest.raises(SocketError, match="address already in use"):
            socket_forward.bind(str(path))
        assert path.stat().st_ino == inode
        with pytest.raises(BlockingIOError):
            # Neither a connection nor a datagram: a guest of one program must not end the other.
            _ = served.recv(1) if serving == "unixgram" else served.accept()


def test_a_socket_that_does_not_listen_yet_is_somebodys(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as early:
        early.bind(str(tmp_path / "s"))
        assert not socket_file.is_abandoned(str(tmp_path / "s"))


def test_a_datagram_socket_with_a_peer_is_somebodys(tmp_path: Path) -> None:
    with bind("unixgram", tmp_path / "peer") as peer, bind("unixgram", tmp_path / "s") as sock:
        sock.connect(peer.getsockname())
        assert not socket_file.is_abandoned(str(tmp_path / "s"))


@pytest.mark.parametrize("what", ["file", "directory", "fifo", "dangling", "link"])
def test_what_is_no_socket_is_never_removed(tmp_path: Path, what: str) -> None:
    path = tmp_path / "s"
    match what:
        case "file":
            path.write_text("precious")
        case "directory":
            path.mkdir()
        case "fifo":
            os.mkfifo(path)
        case "dangling":
            path.symlink_to(tmp_path / "nothing")
        case "link":
            abandon(tmp_path / "other", socket.SOCK_STREAM)
            path.symlink_to(tmp_path / "other")
    before = path.lstat()
    for scheme in KINDS:
        with pytest.raises(AddressError, match="address already in use"):
            bind(scheme, path)
    with pytest.raises(listener.ListenError, match="exists and is not a socket"):
        listener.bind_unix(str(path))
    with pytest.raises(SocketError, match="exists and is not a socket"):
        socket_forward.bind(str(path))
    assert path.lstat() == before


def test_forwards_of_unix_sockets_replace_what_a_killed_program_left(tmp_path: Path) -> None:
    path = tmp_path / "s"
    abandon(path, socket.SOCK_STREAM)
    with listener.bind_unix(str(path)):
        assert not socket_file.is_abandoned(str(path))
    with socket_forward.bind(str(path)):
        assert not socket_file.is_abandoned(str(path))


def test_hyperkits_socket_is_replaced_only_when_nobody_serves_it(tmp_path: Path) -> None:
    url = f"vsock://null:1024{tmp_path}"
    abandon(tmp_path / "00000002.00000400", socket.SOCK_STREAM)
    with addresses.listen(url), pytest.raises(AddressError, match="address already in use"):
        addresses.listen(url)


@pytest.mark.parametrize(
    ("flag", "scheme"), [("qemu", "unix"), ("bess", "unixpacket"), ("vfkit", "unixgram")]
)
def test_the_check_of_guests_sockets_lets_what_was_left_pass(tmp_path: Path, flag: str, scheme: str) -> None:
    path = tmp_path / "s"
    abandon(path, KINDS[scheme])
    words = [f"-listen-{flag}", f"{scheme}://{path}"]
    merge.build(flags.parse(options.START, words), words)
    assert path.exists(), "looking changes nothing"
    path.unlink()
    with bind(scheme, path), pytest.raises(ConfigError, match="already exists"):
        merge.build(flags.parse(options.START, words), words)


def test_of_many_programs_that_replace_a_file_at_once_one_succeeds_and_serves(tmp_path: Path) -> None:
    path = tmp_path / "s"
    for _ in range(20):
        path.unlink(missing_ok=True)
        with socket.socket(socket.AF_UNIX) as abandoned:
            abandoned.bind(str(path))
        outcomes, compete = os.pipe()
        begin, begun = os.pipe()
        end, ended = os.pipe()
        children = []
        for _ in range(6):
            if pid := os.fork():
                children.append(pid)
                continue
            outcome = b"?"
            try:
                os.close(begun)
                os.close(ended)
                sock = socket.socket(socket.AF_UNIX)
                os.read(begin, 1)
                try:
                    socket_file.bind(sock, str(path), 0o600)
                    sock.listen()
                    outcome = b"won"
                except OSError as error:
                    outcome = b"refused" if error.errno == errno.EADDRINUSE else str(error).encode()
                os.write(compete, outcome + b"\n")
                os.read(end, 1)  # the winner serves until all are done
            finally:
                os._exit(0)
        for fd in (compete, begin, end, begun):
            os.close(fd)
        said = b""
        while said.count(b"\n") < 6:
            piece = os.read(outcomes, 1000)
            assert piece, "all have ended"
            said += piece
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(path))
        os.close(ended)
        os.close(outcomes)
        for pid in children:
            os.waitpid(pid, 0)
        assert sorted(said.split()) == [b"refused"] * 5 + [b"won"]


def test_a_directory_that_another_program_has_locked_holds_nobody_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def wait(*_: object) -> None:
        raise AssertionError("an event loop would stand still")

    monkeypatch.setattr(time, "sleep", wait)
    holder = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    fcntl.flock(holder, fcntl.LOCK_EX)
    binders = (
        *(lambda path, scheme=scheme: bind(scheme, path) for scheme in KINDS),
        lambda path: listener.bind_unix(str(path)),
        lambda path: socket_forward.bind(str(path)),
    )
    for number, binder in enumerate(binders):
        path = tmp_path / str(number)
        abandon(path, socket.SOCK_STREAM)
        with binder(path):
            assert not socket_file.is_abandoned(str(path))
    os.close(holder)


def test_without_the_lock_the_new_file_of_another_program_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "s"
    real = socket_file.is_abandoned
    theirs: list[socket.socket] = []

    def look(name: str) -> bool:
        """Another program replaces the file behind our look."""
        found = real(name)
        if found:
            path.unlink()
            theirs.append(bind("unix", path))
        return found

    abandon(path, socket.SOCK_STREAM)
    monkeypatch.setattr(socket_file, "is_abandoned", look)
    socket_file._remove_abandoned(str(path))
    with theirs[0], socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))


def test_at_the_end_a_file_of_another_program_stays(tmp_path: Path) -> None:
    path = tmp_path / "s"
    path.write_text("mine")
    mine = socket_file.identity(str(path))
    (tmp_path / "new").write_text("theirs")
    os.replace(tmp_path / "new", path)
    assert not socket_file.remove(str(path), mine)
    assert path.read_text() == "theirs"
    assert socket_file.remove(str(path), socket_file.identity(str(path)))
    assert not socket_file.remove(str(path), mine)


def test_a_successors_file_stays_even_if_it_has_the_number_of_ours(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with bind("unix", path):
        mine = socket_file.OwnFile(str(path))
    # Our socket is closed, and its file is removed by hand: file systems give its number to the next file.
    path.unlink()
    with bind("unix", path):
        assert not mine.remove()
        assert path.exists()
        theirs = socket_file.OwnFile(str(path))
        assert theirs.remove()
        assert not path.exists()
        assert not theirs.remove()


def test_a_file_that_somebody_has_written_again_stays(tmp_path: Path) -> None:
    path = tmp_path / "pid"
    for content, removed in ((b"12", True), (b"13", False), (b"123", False), (b"", False)):
        path.write_bytes(b"12")
        mine = socket_file.OwnFile(str(path), content=b"12")
        path.write_bytes(content)
        assert mine.remove() == removed
        assert path.exists() != removed


def test_a_file_that_may_not_be_removed_stays_and_costs_no_descriptor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_path: str) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    path = tmp_path / "s"
    path.touch()
    before = len(os.listdir("/proc/self/fd"))
    mine = socket_file.OwnFile(str(path))
    with monkeypatch.context() as patch:
        patch.setattr(os, "unlink", refuse)
        assert not mine.remove()
    assert path.exists()
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_file_that_vanishes_after_a_failed_bind_is_an_error_of_the_bind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "s"

    def bind_in_use(*_: object) -> None:
        """Another program removes its file after the system has refused ours."""
        raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))

    monkeypatch.setattr(socket_file, "bind", bind_in_use)
    with pytest.raises(listener.ListenError, match="address already in use"):
        listener.bind_unix(str(path))
    with pytest.raises(SocketError, match="address already in use"):
        socket_forward.bind(str(path))


def test_an_own_file_holds_one_descriptor_until_it_is_removed(tmp_path: Path) -> None:
    path = tmp_path / "s"
    path.touch()
    before = len(os.listdir("/proc/self/fd"))
    mine = socket_file.OwnFile(str(path))
    assert len(os.listdir("/proc/self/fd")) == before + 1
    assert mine.remove()
    assert len(os.listdir("/proc/self/fd")) == before
    gone = socket_file.OwnFile(str(path))
    assert not gone.remove()
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize(
    ("path", "for_clients", "for_the_user"),
    [
        ("/run/app.sock", "", ""),
        ("", "the path is missing", "the path is missing"),
        ("app.sock", "the path is not absolute (allowed: an absolute path)", ""),
        ("./app.sock", "the path is not absolute (allowed: an absolute path)", ""),
        ("@app", *["abstract names are not supported (allowed: an absolute path)"] * 2),
        ("\0app", *["the path has a NUL byte"] * 2),
        ("/run/a\0b", *["the path has a NUL byte"] * 2),
    ],
)
def test_what_is_wrong_with_a_path_is_said(path: str, for_clients: str, for_the_user: str) -> None:
    assert socket_file.fault(path) == for_clients
    assert socket_file.fault(path, relative=True) == for_the_user


@pytest.mark.parametrize("path", ["", "app.sock", "@app", "\0app", "/tmp/a\0b"])
def test_a_forward_needs_an_absolute_path_and_leaves_nothing_elsewhere(
    path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(listener.ListenError, match=r"the path|abstract names"):
        listener.bind_unix(path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("url", ["unix://@app", "unix:///tmp/a%00b", "unix://%00app"])
def test_the_command_line_takes_no_abstract_names(url: str) -> None:
    parsed = flags.parse(options.START, ["-listen", url])
    with pytest.raises(ConfigError, match=r"abstract names are not supported|NUL byte|missing path"):
        merge.build(parsed)
