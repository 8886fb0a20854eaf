"""How the agent dials: URL forms, the request, and what it does not wait for."""

import os
import socket
from pathlib import Path

import pytest

from guest import link
from guest.link import Link, LinkError

REQUEST = b"POST %s HTTP/1.1\r\nHost: \r\nUser-Agent: Go-http-client/1.1\r\nContent-Length: 0\r\n\r\n"


class FakeVsock:
    """Stands for an AF_VSOCK socket: records where it was to go and leads to a socketpair."""

    def __init__(self) -> None:
        self.far, self._near = socket.socketpair()
        self.address: object = None

    def connect(self, address: object) -> None:
        self.address = address

    def setsockopt(self, *_: object) -> None:
        raise PermissionError

    def sendall(self, data: bytes) -> None:
        self._near.sendall(data)

    def detach(self) -> int:
        return self._near.detach()

    def __enter__(self) -> "FakeVsock":
        return self

    def __exit__(self, *_: object) -> None:
        return


@pytest.fixture
def vsock(monkeypatch: pytest.MonkeyPatch) -> FakeVsock:
    fake = FakeVsock()
    real = socket.socket
    monkeypatch.setattr(
        "guest.link.socket.socket",
        lambda family, kind: fake if family == socket.AF_VSOCK else real(family, kind),
    )
    return fake


@pytest.mark.parametrize(
    "url, address, request_head",
    [
        ("vsock://2:1024/connect", (2, 1024), REQUEST % b"/connect"),
        ("vsock://3:99/other/path", (3, 99), REQUEST % b"/other/path"),
        ("vsock://:1024/connect", (2, 1024), REQUEST % b"/connect"),
        ("vsock://2/connect", (2, 1024), REQUEST % b"/connect"),
        ("vsock://2:6656", (2, 6656), b""),
    ],
)
def test_a_vsock_url_names_cid_port_and_path(
    vsock: FakeVsock, url: str, address: tuple[int, int], request_head: bytes
) -> None:
    made = link.dial(url)
    made.close()
    assert vsock.address == address
    assert vsock.far.recv(4096) == request_head
    vsock.far.close()


def test_a_unix_url_always_asks_for_connect_and_reads_no_reply(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "host sock"))
        listener.listen()
        made = link.dial(f"unix://{tmp_path}/host%20sock")
        far, _ = listener.accept()
        with far:
            assert far.recv(4096) == REQUEST % b"/connect"
            far.sendall(b"a frame, not a reply")
            assert os.read(made.read_fd, 100) == b"a frame, not a reply"
            assert not os.get_blocking(made.read_fd)
        made.close()


@pytest.mark.parametrize("url", ["tcp://127.0.0.1:1/connect", "nonsense", "vsock://x:y/connect"])
def test_other_urls_are_refused(url: str) -> None:
    with pytest.raises(LinkError):
        link.dial(url)


def test_a_missing_socket_is_an_os_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        link.dial(f"unix://{tmp_path}/none")


def test_a_program_is_started_with_its_flags_and_killed_at_the_end(tmp_path: Path) -> None:
    script = tmp_path / "child"
    script.write_text('#!/bin/sh\necho "$$ $@"\nexec cat\n')
    script.chmod(0o755)
    made = link.dial(f"stdio:{script}?listen-stdio=accept&empty=")
    os.set_blocking(made.read_fd, True)
    pid, *arguments = os.read(made.read_fd, 4096).split()
    assert arguments == [b"-listen-stdio=accept", b"-empty="]
    os.write(made.write_fd, b"there and back")
    assert os.read(made.read_fd, 4096) == b"there and back"
    made.close()
    assert not Path(f"/proc/{int(pid)}").exists()


def test_a_program_that_is_not_there_is_an_os_error_and_leaks_nothing() -> None:
    before = os.listdir("/proc/self/fd")
    with pytest.raises(FileNotFoundError):
        link.dial("stdio:/no/such/program")
    assert os.listdir("/proc/self/fd") == before


def test_close_closes_a_socket_once() -> None:
    near, far = socket.socketpair()
    fd = near.detach()
    Link(fd, fd).close()
    assert far.recv(1) == b""
    far.close()
