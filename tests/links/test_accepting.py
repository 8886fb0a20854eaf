"""Listeners behind listening sockets: who gets in, who waits, and what a lack of descriptors does."""

import errno
import os
import socket
from collections.abc import Callable
from pathlib import Path
from time import monotonic
from typing import Any

import pytest

from pipeline.ipc import messages
from pipeline.ipc.channel import ControlChannel
from pipeline.ipc.socket_pair import socket_pair
from pipeline.links.accepting import PAUSE, StreamListener, peer_text
from pipeline.links.seqpacket import bess_listener
from pipeline.wire.framing import LE16, QEMU
from tests.support.owner import Owner


def listener(path: Path, kind: socket.SocketKind = socket.SOCK_STREAM) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, kind)
    sock.bind(str(path))
    sock.listen(8)
    return sock


def connect(path: Path, kind: socket.SocketKind = socket.SOCK_STREAM) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, kind)
    sock.settimeout(5.0)
    sock.connect(str(path))
    return sock


def test_a_qemu_guest_speaks_from_the_first_byte(owner: Owner, tmp_path: Path) -> None:
    owner.open(StreamListener("qemu", listener(tmp_path / "s"), QEMU))
    guest = connect(tmp_path / "s")
    guest.sendall(b"\0\0\0\5hello\0\0\0\3you")
    assert owner.frames(2) == [b"hello", b"you"]
    assert owner.guest().protocol == "qemu"
    assert owner.guest().link.framing is QEMU
    assert owner.guest().peer == "@"


def test_several_guests_are_served_at_once_and_one_after_the_other(owner: Owner, tmp_path: Path) -> None:
    owner.open(StreamListener("le16", listener(tmp_path / "s"), LE16))
    first, second = connect(tmp_path / "s"), connect(tmp_path / "s")
    owner.wait(lambda: len(owner.guests) == 2)
    first.close()
    assert owner.end_of(owner.guests[0]) == "cannot read size from socket: EOF"
    second.sendall(b"\2\0ok")
    assert owner.frames(1) == [b"ok"]
    connect(tmp_path / "s")
    owner.wait(lambda: len(owner.guests) == 2)


def test_with_once_a_second_guest_waits_in_the_backlog_for_ever(owner: Owner, tmp_path: Path) -> None:
    owner.open(StreamListener("qemu", listener(tmp_path / "s"), QEMU, once=True))
    first, second = connect(tmp_path / "s"), connect(tmp_path / "s")
    guest = owner.guest()
    first.close()
    owner.end_of(guest)
    owner.poller.run(0.05)
    assert owner.guests == []
    second.sendall(b"\0\0\0\2no")  # nobody reads it, and nobody says no


def test_a_bess_guest_sends_packets(owner: Owner, tmp_path: Path) -> None:
    owner.open(bess_listener(listener(tmp_path / "s", socket.SOCK_SEQPACKET)))
    guest = connect(tmp_path / "s", socket.SOCK_SEQPACKET)
    guest.send(b"one frame")
    assert owner.frames(1) == [b"one frame"]
    assert owner.guest().link.framing is None
    assert owner.guest().link.send([b"another"])
    assert guest.recv(100) == b"another"
    guest.close()
    assert owner.end_of(owner.guest()) == "cannot read size from socket: EOF"


def test_a_socket_that_is_connected_already_is_its_own_guest(owner: Owner) -> None:
    ours, theirs = socket.socketpair()
    owner.open(StreamListener("qemu", ours, QEMU))
    theirs.sendall(b"\0\0\0\2hi")
    assert owner.frames(1) == [b"hi"]
    theirs.close()
    owner.end_of(owner.guest())
    assert not owner.poller.callbacks


class Broken:
    """A listening socket whose accept() fails as often as it is told."""

    def __init__(self, sock: socket.socket, failures: list[int]) -> None:
        self._sock = sock
        self._failures = failures

    def accept(self) -> Any:
        if self._failures:
            code = self._failures.pop(0)
            raise OSError(code, os.strerror(code))
        return self._sock.accept()

    def __getattr__(self, name: str) -> Callable[..., Any]:
        return getattr(self._sock, name)  # type: ignore[no-any-return]


@pytest.mark.parametrize("code", [errno.EMFILE, errno.EPERM, errno.EPROTO, errno.ENETDOWN])
def test_what_ails_the_system_or_one_connection_is_a_pause_and_no_end(
    owner: Owner, tmp_path: Path, code: int
) -> None:
    sock: Any = Broken(listener(tmp_path / "s"), [code])
    door = owner.open(StreamListener("qemu", sock, QEMU))
    connect(tmp_path / "s")
    owner.wait(lambda: not owner.poller.callbacks)
    assert monotonic() < door.deadline() <= monotonic() + PAUSE
    door.on_timer(door.deadline() - 0.01)
    assert not owner.poller.callbacks
    door.on_timer(door.deadline())
    owner.guest()
    assert door.deadline() == float("inf")
    assert owner.failed == []


def test_a_listener_that_is_broken_is_reported(owner: Owner, tmp_path: Path) -> None:
    sock: Any = Broken(listener(tmp_path / "s"), [errno.EINVAL])
    owner.open(StreamListener("qemu", sock, QEMU))
    connect(tmp_path / "s")
    owner.wait(lambda: owner.failed)
    assert owner.failed == ["qemu accept error: invalid argument"]
    assert not owner.poller.callbacks


def test_an_ipv4_peer_of_a_socket_for_both_families_has_its_plain_address() -> None:
    with socket.create_server(("", 0), family=socket.AF_INET6, dualstack_ipv6=True) as server:
        for address, text in (("127.0.0.1", "127.0.0.1"), ("::1", "[::1]")):
            client = socket.create_connection((address, server.getsockname()[1]))
            accepted, peer = server.accept()
            assert peer_text(accepted) == f"{text}:{peer[1]}"
            client.close()
            accepted.close()


def test_peers_are_named_for_the_log() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        client = socket.create_connection(server.getsockname())
        accepted, peer = server.accept()
        assert peer_text(accepted) == f"127.0.0.1:{peer[1]}"
        client.close()
        accepted.close()
    assert peer_text(accepted) == "@"
    one, two = socket.socketpair()
    assert peer_text(one) == "@"
    one.close()
    two.close()


def test_a_peer_at_a_path_that_is_not_utf_8_can_be_reported(tmp_path: Path) -> None:
    path = os.fsencode(tmp_path) + b"/\xff"
    with socket.socket(socket.AF_UNIX) as server, socket.socket(socket.AF_UNIX) as client:
        server.bind(str(tmp_path / "s"))
        server.listen()
        client.bind(path)
        client.connect(str(tmp_path / "s"))
        accepted, _ = server.accept()
        with accepted:
            assert peer_text(accepted) == f"{tmp_path}/\N{REPLACEMENT CHARACTER}"
            event = messages.GuestEvent("left", "qemu", "gone", peer_text(accepted))
            ours, theirs = socket_pair()
            with ours, theirs:
                ControlChannel(ours).send(event.encode())
                ((found, _),) = ControlChannel(theirs).receive()
    assert found == event.encode()


@pytest.mark.parametrize("opened", [False, True])
def test_closing_an_listener_leaves_no_descriptor(tmp_path: Path, opened: bool) -> None:
    sock = listener(tmp_path / "s")
    door = StreamListener("qemu", sock, QEMU)
    if opened:
        owner = Owner()
        owner.open(door)
        owner.close()
    else:
        door.close()
    assert sock.fileno() == -1


def test_a_system_that_cannot_be_asked_whether_a_socket_listens_is_asked_for_its_peer(
    owner: Owner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> int:
        raise OSError(errno.ENOPROTOOPT, "Protocol not available")

    monkeypatch.setattr(socket.socket, "getsockopt", refuse)
    ours, theirs = socket.socketpair()
    owner.open(StreamListener("le16", ours, LE16))
    assert len(owner.guests) == 1, "the connection is the guest"
    theirs.close()
    owner.open(StreamListener("le16", listener(tmp_path / "s"), LE16))
    guest = connect(tmp_path / "s")
    owner.wait(lambda: len(owner.guests) == 2)
    guest.close()
