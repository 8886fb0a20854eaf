"""vfkit over real sockets: who the peer is, what is no frame, and one machine after the other."""

import errno
import gc
import os
import socket
import sys
from pathlib import Path
from time import monotonic
from typing import Any

import pytest

from pipeline.links.base import LinkClosed
from pipeline.links.datagram import LOOK_INTERVAL, RETRY_INTERVAL, VfkitListener
from pipeline.links.probes import PROBE
from pipeline.links.protocols import companions
from pipeline.wire import offload
from tests.support.in_child import in_child
from tests.support.owner import Owner


class Machine:
    """The far end: a bound datagram socket."""

    def __init__(self, folder: Path, name: str = "vm") -> None:
        self.path = folder / f"{name}.sock"
        self.network = str(folder / "net.sock")
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.sock.bind(str(self.path))
        self.sock.settimeout(5.0)

    def send(self, *frames: bytes) -> None:
        for frame in frames:
            self.sock.sendto(frame, self.network)

    def leave(self) -> None:
        self.sock.close()
        self.path.unlink()


def listener(folder: Path, once: bool = False) -> VfkitListener:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    sock.bind(str(folder / "net.sock"))
    return VfkitListener(sock, *companions("vfkit"), once)


@pytest.mark.parametrize("handshake", [(), (b"VFKT",)])
def test_the_first_datagram_names_the_peer(
    owner: Owner, tmp_path: Path, handshake: tuple[bytes, ...]
) -> None:
    owner.open(listener(tmp_path))
    machine = Machine(tmp_path)
    machine.send(*handshake, b"frame one", b"frame two")
    assert owner.guest().peer == str(machine.path)
    assert owner.frames(2) == [b"frame one", b"frame two"]
    assert owner.guest().link.send([b"to the guest"])
    assert machine.sock.recv(100) == b"to the guest"


def test_a_handshake_alone_makes_a_guest_and_is_no_frame(owner: Owner, tmp_path: Path) -> None:
    owner.open(listener(tmp_path))
    machine = Machine(tmp_path)
    machine.send(b"VFKT")
    assert owner.guest().link.read_burst() is None
    machine.send(b"VFKT", b"VFKTx")
    assert owner.frames(1) == [b"VFKTx"]


def test_nobody_is_a_guest_before_the_first_datagram(owner: Owner, tmp_path: Path) -> None:
    owner.open(listener(tmp_path))
    owner.poller.run(0.05)
    assert owner.guests == []


@pytest.mark.skipif(os.geteuid() != 0 or sys.platform == "darwin", reason="needs root of Linux")
def test_a_peer_that_this_process_may_not_reach_is_connected_elsewhere(tmp_path: Path) -> None:
    def run() -> list[object]:
        owner = Owner()
        door = owner.open(listener(tmp_path))
        machine = Machine(tmp_path)
        machine.send(b"VFKT", b"frame")
        machine.path.chmod(0o700)
        os.seteuid(65534)
        owner.wait(lambda: owner.connecting)
        door.on_connected("no such file")
        found: list[object] = [owner.refused]
        owner.wait(lambda: len(owner.connecting) > 1)
        os.seteuid(0)
        machine.sock.settimeout(5)
        owner.connecting[1][1].connect(str(machine.path))
        os.seteuid(65534)
        door.on_connected("")
        found += [owner.guest().peer == str(machine.path), owner.frames(1)[0].decode()]
        door.on_timer(door.deadline() + 10)
        found.append(machine.sock.recv(100) == PROBE)
        machine.sock.close()
        door.on_timer(door.deadline() + 10)
        return [*found, owner.hung_up]

    refused = [["vfkit accept error: no such file", "link_handshake_failed"]]
    gone = ["cannot write packet to socket: connection refused"]
    assert in_child(run) == [refused, True, "frame", True, gone]


def test_only_the_peer_is_heard(owner: Owner, tmp_path: Path) -> None:
    owner.open(listener(tmp_path))
    machine = Machine(tmp_path)
    machine.send(b"mine")
    assert owner.frames(1) == [b"mine"]
    with pytest.raises(PermissionError):
        Machine(tmp_path, "other").send(b"not mine")


def test_a_sender_without_an_address_is_refused_and_the_next_one_served(owner: Owner, tmp_path: Path) -> None:
    owner.open(listener(tmp_path))
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as nameless:
        nameless.sendto(b"frame", str(tmp_path / "net.sock"))
    owner.wait(lambda: owner.refused)
    assert owner.refused == [("vfkit socket address is empty", "link_handshake_failed")]
    machine = Machine(tmp_path)
    machine.send(b"frame")
    assert owner.frames(1) == [b"frame"]


def test_a_sender_that_is_gone_already_is_refused(owner: Owner, tmp_path: Path) -> None:
    owner.open(listener(tmp_path))
    machine = Machine(tmp_path)
    machine.send(b"VFKT")
    machine.leave()
    owner.wait(lambda: owner.refused)
    machine = Machine(tmp_path)
    machine.send(b"frame")
    assert owner.frames(1) == [b"frame"]


def test_a_peer_that_is_gone_closes_the_link(owner: Owner, tmp_path: Path) -> None:
    owner.open(listener(tmp_path))
    machine = Machine(tmp_path)
    machine.send(b"frame")
    guest = owner.guest()
    machine.leave()
    with pytest.raises(LinkClosed, match="cannot write packet"):
        guest.link.send([b"x"])


@pytest.mark.parametrize("restarted", [False, True], ids=["gone", "another one under its name"])
def test_a_peer_that_went_silently_is_noticed(owner: Owner, tmp_path: Path, restarted: bool) -> None:
    door = owner.open(listener(tmp_path))
    machine = Machine(tmp_path)
    machine.send(b"frame")
    owner.guest()
    now = monotonic() + LOOK_INTERVAL
    assert door.deadline() <= now
    door.on_timer(now)
    assert owner.hung_up == [], "it is still there"
    machine.leave()
    if restarted:
        # Keeps the file system from giving the new socket the old number.
        (tmp_path / "between").touch()
        Machine(tmp_path)
    door.on_timer(now + LOOK_INTERVAL)
    assert owner.hung_up == ["the socket of the peer is gone"]
    door.on_timer(door.deadline())
    assert door.deadline() == float("inf"), "it waits for the next one"


def test_one_machine_after_the_other_is_served(owner: Owner, tmp_path: Path) -> None:
    gc.collect()  # what other tests have left to it
    before = len(os.listdir("/proc/self/fd"))
    door = owner.open(listener(tmp_path))
    for number in range(3):
        machine = Machine(tmp_path, f"vm{number}")
        machine.send(b"VFKT", b"frame %d" % number)
        guest = owner.guest()
        assert owner.frames(1) == [b"frame %d" % number]
        assert guest.link.send([b"answer"])
        assert machine.sock.recv(100) == b"answer"
        machine.leave()
        door.on_timer(monotonic() + 1)
        assert owner.guests == []
        assert door.deadline() < float("inf")
        door.on_timer(door.deadline())
    assert len(os.listdir("/proc/self/fd")) < before + 20


def test_for_a_program_with_one_machine_there_is_no_second(owner: Owner, tmp_path: Path) -> None:
    door = owner.open(listener(tmp_path, once=True))
    machine = Machine(tmp_path)
    machine.send(b"frame")
    owner.guest()
    machine.leave()
    door.on_timer(monotonic() + 1)
    assert owner.guests == []
    assert not owner.poller.callbacks


class FullQueue:
    """A socket as macOS has it: a full queue is ENOBUFS, and nothing tells when it has room."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self.error: OSError | None = None

    def __getattr__(self, name: str) -> object:
        return getattr(self._sock, name)

    def send(self, frame: bytes) -> int:
        if self.error is not None:
            raise self.error
        return self._sock.send(frame)


def behind_a_queue(owner: Owner, path: Path) -> tuple[VfkitListener, "Machine", Any, FullQueue]:
    """A machine that has said something, and its link, whose queue can be full."""
    door = owner.open(listener(path))
    machine = Machine(path)
    machine.send(b"frame")
    link: Any = owner.guest().link
    link._sock = queue = FullQueue(link._sock)
    return door, machine, link, queue


def test_a_full_queue_that_does_not_say_when_it_has_room_is_tried_again(owner: Owner, tmp_path: Path) -> None:
    door, machine, link, queue = behind_a_queue(owner, tmp_path)
    assert door.deadline() - monotonic() > RETRY_INTERVAL, "no retry while nothing waits"
    queue.error = OSError(errno.ENOBUFS, "No buffer space available")
    assert link.send([b"one", b"two"])
    soon = door.deadline()
    assert soon - monotonic() <= RETRY_INTERVAL
    door.on_timer(soon)
    assert link.blocked
    assert door.deadline() > soon, "not at once again"
    queue.error = None
    door.on_timer(door.deadline())
    assert not link.blocked
    assert [machine.sock.recv(10) for _ in range(2)] == [b"one", b"two"]
    assert door.deadline() - monotonic() > RETRY_INTERVAL


def test_a_machine_that_is_found_gone_by_a_retry_is_hung_up(owner: Owner, tmp_path: Path) -> None:
    door, _, link, queue = behind_a_queue(owner, tmp_path)
    queue.error = OSError(errno.ENOBUFS, "No buffer space available")
    link.send([b"one"])
    queue.error = OSError(errno.ECONNRESET, "Connection reset by peer")
    door.on_timer(door.deadline())
    assert owner.hung_up == ["cannot write packet to socket: connection reset by peer"]


@pytest.mark.parametrize("vnet", [None, offload.CSUM])
def test_a_connected_socket_is_the_only_guest_and_its_end_is_seen(owner: Owner, vnet: int | None) -> None:
    ours, guest = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    guest.settimeout(5)
    door = VfkitListener(ours, *companions("vfkit"), vnet=vnet)
    owner.open(door)
    header = b"" if vnet is None else bytes(12)
    guest.send(header + b"hello")
    assert owner.frames(1) == [b"hello"]
    assert owner.guest().peer == "@"
    assert owner.guest().link.vnet_len == len(header)
    door.on_timer(door.deadline())
    assert guest.recv(100) == header + PROBE
    guest.close()
    door.on_timer(door.deadline())
    assert owner.hung_up == ["cannot write packet to socket: connection refused"]
    assert door.deadline() == float("inf")
    assert owner.failed == []


def test_each_machine_on_a_socket_with_the_option_has_headers(owner: Owner, tmp_path: Path) -> None:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    sock.bind(str(tmp_path / "net.sock"))
    owner.open(VfkitListener(sock, *companions("vfkit"), vnet=offload.CSUM | offload.TSO4))
    machine = Machine(tmp_path)
    machine.send(b"VFKT", bytes(12) + b"frame")
    assert owner.frames(1) == [b"frame"]
    assert owner.guest().link.guest_features == offload.CSUM | offload.TSO4
    assert owner.guest().link.features == offload.FEATURES | offload.UFO


def test_a_listener_that_takes_over_a_guest_serves_the_next_one_too(owner: Owner, tmp_path: Path) -> None:
    """As after the death of ingress: the socket is still connected to the machine."""
    machine = Machine(tmp_path)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    sock.bind(str(tmp_path / "net.sock"))
    sock.connect(str(machine.path))
    door = owner.open(VfkitListener(sock, *companions("vfkit")))
    guest = owner.guest()
    assert guest.peer == str(machine.path)
    machine.send(b"first")
    assert owner.frames(1) == [b"first"]
    machine.leave()
    owner.leave(guest.link)
    door.on_timer(door.deadline())
    other = Machine(tmp_path, "other")
    other.send(b"second")
    assert owner.frames(1) == [b"second"]
