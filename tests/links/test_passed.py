"""Sockets that other programs pass to the running daemon: which become links, and what is refused."""

import os
import socket
from collections.abc import Callable
from pathlib import Path
from time import monotonic

import pytest

from pipeline.links import passed
from pipeline.links.passed import HANDSHAKE_TIMEOUT, MAX_CLIENTS, PassedListener
from pipeline.links.probes import PROBE, PROBE_INTERVAL
from pipeline.wire import framing, offload
from tests.support.owner import Owner

FAILED = "link_handshake_failed"
KINDS = {"stream": socket.SOCK_STREAM, "packets": socket.SOCK_SEQPACKET, "datagrams": socket.SOCK_DGRAM}


@pytest.fixture
def listener(owner: Owner, tmp_path: Path) -> PassedListener:
    sock = socket.socket(socket.AF_UNIX)
    sock.bind(str(tmp_path / "s"))
    sock.listen(100)
    made = PassedListener(sock)
    owner.open(made)
    return made


@pytest.fixture
def connect(tmp_path: Path) -> Callable[[], socket.socket]:
    def client() -> socket.socket:
        sock = socket.socket(socket.AF_UNIX)
        sock.settimeout(5)
        sock.connect(str(tmp_path / "s"))
        return sock

    return client


@pytest.fixture
def give(connect: Callable[[], socket.socket]) -> Callable[..., socket.socket]:
    def send(*fds: int) -> socket.socket:
        client = connect()
        socket.send_fds(client, [b"\0"], fds)
        return client

    return send


@pytest.mark.usefixtures("listener")
@pytest.mark.parametrize("kind", KINDS)
def test_the_kind_of_the_socket_says_how_frames_stand_on_it(
    owner: Owner, give: Callable[..., socket.socket], kind: str
) -> None:
    ours, guest = socket.socketpair(socket.AF_UNIX, KINDS[kind])
    client = give(ours.fileno())
    ours.close()
    arrival = owner.guest()
    assert client.recv(1) == b"", "the client need not stay"
    head = b"\0\0\0\5" if kind == "stream" else b""
    assert arrival.link.framing is (framing.QEMU if kind == "stream" else None)
    guest.send(head + b"hello")
    assert owner.frames(1) == [b"hello"]
    assert arrival.link.send([head + b"reply"])
    assert guest.recv(100) == head + b"reply"
    assert arrival.protocol == "fd"


@pytest.mark.parametrize("kind", KINDS)
def test_with_the_option_each_passed_socket_has_virtio_net_headers(
    owner: Owner, tmp_path: Path, give: Callable[..., socket.socket], kind: str
) -> None:
    sock = socket.socket(socket.AF_UNIX)
    sock.bind(str(tmp_path / "s"))
    sock.listen()
    owner.open(PassedListener(sock, vnet=offload.CSUM))
    ours, guest = socket.socketpair(socket.AF_UNIX, KINDS[kind])
    give(ours.fileno())
    ours.close()
    link = owner.guest().link
    header = bytes(range(12))
    guest.send((b"\0\0\0\x11" if kind == "stream" else b"") + header + b"hello")
    assert owner.frames(1) == [b"hello"]
    assert (link.vnet_len, link.guest_features) == (12, offload.CSUM)
    assert link.framing == (framing.QEMU if kind == "stream" else offload.FRAMING)
    guest.close()


def test_a_guest_with_virtio_net_headers_is_probed_with_one(
    owner: Owner, tmp_path: Path, give: Callable[..., socket.socket]
) -> None:
    sock = socket.socket(socket.AF_UNIX)
    sock.bind(str(tmp_path / "s"))
    sock.listen()
    listener = PassedListener(sock, vnet=0)
    owner.open(listener)
    ours, guest = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    give(ours.fileno())
    ours.close()
    owner.guest()
    listener.on_timer(listener.deadline())
    assert guest.recv(100) == bytes(12) + PROBE
    guest.close()


@pytest.mark.usefixtures("listener")
def test_a_tcp_connection_may_be_a_link(owner: Owner, give: Callable[..., socket.socket]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        guest = socket.create_connection(server.getsockname())
        accepted, _ = server.accept()
        give(accepted.fileno())
        accepted.close()
        guest.sendall(b"\0\0\0\2hi")
        assert owner.frames(1) == [b"hi"]


@pytest.mark.usefixtures("listener")
def test_the_guest_is_the_process_that_passed_the_socket(
    owner: Owner, give: Callable[..., socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(passed.peer, "identity", lambda sock: f"process of {sock.getsockname()}")
    ours, _guest = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    client = give(ours.fileno())
    assert owner.guest().identity == f"process of {client.getpeername()}"


@pytest.mark.usefixtures("listener")
def test_a_link_never_waits_although_the_other_process_makes_the_socket_blocking(
    owner: Owner, give: Callable[..., socket.socket]
) -> None:
    ours, guest = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    give(ours.fileno())
    link = owner.guest().link
    os.set_blocking(ours.fileno(), True)  # both processes share this flag
    assert link.read_burst() is None
    while not link.blocked:
        assert link.send([bytes(1000)])
    guest.close()


def pipe_end() -> int:
    return os.pipe()[0]


def unconnected() -> int:
    return socket.socket(socket.AF_UNIX, socket.SOCK_STREAM).detach()


def listening() -> int:
    return socket.create_server(("127.0.0.1", 0)).detach()


def udp() -> int:
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.connect(("127.0.0.1", 9))
    return sock.detach()


@pytest.mark.usefixtures("listener")
@pytest.mark.parametrize(
    ("make", "why"),
    [
        (pipe_end, "the descriptor is neither a socket nor a tap"),
        (unconnected, "the socket is not connected"),
        (listening, "the socket is not connected"),
        (udp, "a packet or datagram socket must be a unix socket"),
    ],
)
def test_what_cannot_be_a_link_is_refused_and_closed(
    owner: Owner, give: Callable[..., socket.socket], make: Callable[[], int], why: str
) -> None:
    fd = make()
    before = len(os.listdir("/proc/self/fd"))
    client = give(fd)
    owner.wait(lambda: owner.refused)
    assert owner.refused == [(f"passed descriptor: {why}", FAILED)]
    assert client.recv(1) == b""
    client.close()
    assert len(os.listdir("/proc/self/fd")) == before
    os.close(fd)


@pytest.mark.usefixtures("listener")
def test_several_descriptors_are_refused_and_closed(owner: Owner, give: Callable[..., socket.socket]) -> None:
    pairs = [socket.socketpair() for _ in range(3)]
    before = len(os.listdir("/proc/self/fd"))
    give(*(ours.fileno() for ours, _ in pairs)).close()
    owner.wait(lambda: owner.refused)
    assert owner.refused == [("passed descriptor: the message has several descriptors", FAILED)]
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.usefixtures("listener")
def test_a_message_without_a_descriptor_and_a_client_that_leaves_are_refused(
    owner: Owner, connect: Callable[[], socket.socket]
) -> None:
    connect().sendall(b"POST /connect")
    owner.wait(lambda: owner.refused)
    connect().close()
    owner.wait(lambda: len(owner.refused) == 2)
    assert [text for text, _ in owner.refused] == [
        "passed descriptor: the message has no descriptor",
        "passed descriptor: the client left",
    ]
    assert owner.guests == []


def test_a_silent_client_is_refused_after_a_while(
    owner: Owner, listener: PassedListener, connect: Callable[[], socket.socket]
) -> None:
    client = connect()
    owner.wait(lambda: listener.deadline() < float("inf"))
    assert listener.deadline() <= monotonic() + HANDSHAKE_TIMEOUT
    listener.on_timer(listener.deadline())
    assert owner.refused == [("passed descriptor: the client was silent", FAILED)]
    assert client.recv(1) == b""


@pytest.mark.usefixtures("listener")
def test_the_number_of_waiting_clients_is_bounded(owner: Owner, connect: Callable[[], socket.socket]) -> None:
    clients = [connect() for _ in range(MAX_CLIENTS + 1)]
    owner.wait(lambda: owner.refused)
    assert owner.refused == [("too many clients wait", FAILED)]
    ours, guest = socket.socketpair()
    socket.send_fds(clients[0], [b"\0"], [ours.fileno()])
    assert owner.guest().peer == "@", "those that wait are served"
    guest.close()


def test_the_end_of_a_datagram_guest_is_seen_although_the_system_does_not_report_it(
    owner: Owner, listener: PassedListener, give: Callable[..., socket.socket]
) -> None:
    ours, guest = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    give(ours.fileno())
    ours.close()
    owner.guest()
    assert listener.deadline() <= monotonic() + PROBE_INTERVAL
    listener.on_timer(listener.deadline())
    assert guest.recv(100) == PROBE
    assert owner.hung_up == []
    guest.close()
    listener.on_timer(listener.deadline())
    assert owner.hung_up == ["cannot write packet to socket: connection refused"]
    assert listener.deadline() == float("inf")


def test_a_guest_that_does_not_read_is_not_probed(
    owner: Owner, listener: PassedListener, give: Callable[..., socket.socket]
) -> None:
    ours, guest = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    give(ours.fileno())
    link = owner.guest().link
    while not link.blocked:
        link.send([bytes(1000)])
    kept = link.backlog_bytes
    listener.on_timer(listener.deadline())
    assert link.backlog_bytes == kept
    guest.close()


@pytest.mark.usefixtures("listener")
def test_clients_do_not_outlive_the_listener(owner: Owner, connect: Callable[[], socket.socket]) -> None:
    client = connect()
    owner.poller.run(0.05)
    owner.close()
    assert client.recv(1) == b""
