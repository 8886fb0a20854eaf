"""Sockets from URLs: kinds, modes, words of failure, and machines' sockets with an injected family."""

import os
import socket
import stat
from pathlib import Path
from typing import Any

import pytest

from pipeline.links import addresses
from pipeline.links.addresses import AddressError

GUID = "00000400-FACB-11E6-BD58-64006A7986D3"


@pytest.mark.parametrize(
    ("scheme", "kind"), [("unix", socket.SOCK_STREAM), ("unixpacket", socket.SOCK_SEQPACKET)]
)
def test_a_path_becomes_a_listening_socket_for_its_owner_alone(
    tmp_path: Path, scheme: str, kind: socket.SocketKind
) -> None:
    url = f"{scheme}://{tmp_path}/a%20b"
    with addresses.listen(url) as sock:
        assert sock.type == kind
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
        assert not sock.getblocking()
        assert stat.S_IMODE((tmp_path / "a b").stat().st_mode) == 0o600
    assert addresses.socket_path(url) == f"{tmp_path}/a b"


def test_a_datagram_socket_is_bound(tmp_path: Path) -> None:
    with addresses.bind_datagram(f"unixgram://{tmp_path}/s") as sock:
        assert sock.type == socket.SOCK_DGRAM
        assert stat.S_IMODE((tmp_path / "s").stat().st_mode) == 0o600


def test_the_umask_is_as_it_was(tmp_path: Path) -> None:
    before = os.umask(0o022)
    try:
        addresses.listen(f"unix://{tmp_path}/s").close()
        assert os.umask(0o022) == 0o022
    finally:
        os.umask(before)


def test_a_path_that_exists_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "s"
    path.write_text("precious")
    with pytest.raises(AddressError) as refused:
        addresses.listen(f"unix://{path}")
    assert str(refused.value) == f"cannot listen: listen unix {path}: bind: address already in use"
    assert path.read_text() == "precious"


def test_the_url_of_a_chosen_port_keeps_its_option() -> None:
    with addresses.listen("tcp://127.0.0.1:0?vnet=csum") as sock:
        port = sock.getsockname()[1]
        assert addresses.bound_url(sock, "tcp://127.0.0.1:0?vnet=csum") == f"tcp://127.0.0.1:{port}?vnet=csum"
        assert addresses.bound_url(sock, "tcp://127.0.0.1:0") == f"tcp://127.0.0.1:{port}"


def test_tcp_listens_on_one_address() -> None:
    with addresses.listen("tcp://127.0.0.1:0") as sock:
        assert sock.getsockname()[0] == "127.0.0.1"
    assert addresses.socket_path("tcp://127.0.0.1:1") == ""


@pytest.mark.parametrize("host", ["0.0.0.0", "[::]", ""])
@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
def test_a_tcp_wildcard_takes_clients_of_both_families(host: str, address: str) -> None:
    with addresses.listen(f"tcp://{host}:0") as sock:
        socket.create_connection((address, sock.getsockname()[1]), 10).close()


@pytest.mark.parametrize(
    ("scheme", "address", "other"), [("tcp4", "127.0.0.1", "::1"), ("tcp6", "::1", "127.0.0.1")]
)
def test_a_scheme_of_one_family_listens_on_that_alone(scheme: str, address: str, other: str) -> None:
    with addresses.listen(f"{scheme}://:0") as sock:
        port = sock.getsockname()[1]
        socket.create_connection((address, port), 10).close()
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection((other, port), 10)


def test_a_name_of_both_families_is_its_ipv4_address_as_in_go(monkeypatch: pytest.MonkeyPatch) -> None:
    lookup = socket.getaddrinfo

    def found(host: str | bytes, *words: Any, **options: Any) -> Any:
        if host != b"both.example":
            return lookup(host, *words, **options)
        rows = [lookup(address, *words, **options) for address in ("::1", "127.0.0.1")]
        return [row for found in rows for row in found]

    monkeypatch.setattr(addresses.socket, "getaddrinfo", found)
    with addresses.listen("tcp://both.example:0") as sock:
        assert sock.getsockname()[0] == "127.0.0.1"


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("http://a", "unexpected scheme 'http'"),
        ("unixgram:///s", "unexpected scheme 'unixgram'"),
        ("unix://", "the path is missing"),
        ("tcp://127.0.0.1", "the port is missing"),
        ("vsock://1024", "want vsock"),
        ("vsock://a:1", "want vsock"),
        ("vsock://:99999999999", "want vsock"),
    ],
)
def test_what_is_wrong_is_said(url: str, words: str) -> None:
    with pytest.raises(AddressError, match=words):
        addresses.listen(url)


class MachineSocket:
    """Stands for a socket of a family that this system may not have."""

    made: list["MachineSocket"] = []  # noqa: RUF012  emptied by the fixture

    def __init__(self, *words: int) -> None:
        self.words = words
        self.address: Any = None
        self.listening = False
        MachineSocket.made.append(self)

    def bind(self, address: Any) -> None:
        self.address = address

    def listen(self, _backlog: int) -> None:
        self.listening = True

    def setblocking(self, _flag: bool) -> None:
        return


@pytest.fixture
def machine_sockets(monkeypatch: pytest.MonkeyPatch) -> list[MachineSocket]:
    MachineSocket.made.clear()
    monkeypatch.setattr(addresses.socket, "socket", MachineSocket)
    return MachineSocket.made


@pytest.mark.parametrize(("url", "address"), [("vsock://:1024", (-1, 1024)), ("vsock://3:5", (3, 5))])
def test_vsock_binds_to_a_context_and_a_port(
    url: str, address: object, machine_sockets: list[MachineSocket], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(addresses.socket, "AF_VSOCK", 40, raising=False)
    monkeypatch.setattr(addresses.socket, "VMADDR_CID_ANY", -1, raising=False)
    addresses.listen(url)
    (made,) = machine_sockets
    assert made.words == (40, socket.SOCK_STREAM, 0)
    assert (made.address, made.listening) == (address, True)
    assert addresses.socket_path(url) == ""


def test_hyper_v_binds_a_service_for_every_machine(
    machine_sockets: list[MachineSocket], monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(AddressError, match="no Hyper-V sockets"):
        addresses.listen(f"vsock://{GUID}")
    monkeypatch.setattr(addresses.socket, "AF_HYPERV", 34, raising=False)
    monkeypatch.setattr(addresses.socket, "HV_PROTOCOL_RAW", 1, raising=False)
    monkeypatch.setattr(addresses.socket, "HV_GUID_WILDCARD", "all", raising=False)
    addresses.listen(f"vsock://{GUID}")
    assert machine_sockets[-1].words == (34, socket.SOCK_STREAM, 1)
    assert machine_sockets[-1].address == ("all", GUID)


def test_without_vsock_that_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(addresses.socket, "AF_VSOCK", raising=False)
    with pytest.raises(AddressError, match="this system has no vsock sockets"):
        addresses.listen("vsock://:1024")


def test_hyperkits_name_for_a_port_is_a_file_in_its_directory(tmp_path: Path) -> None:
    url = f"vsock://null:1024{tmp_path}"
    path = tmp_path / "00000002.00000400"
    assert addresses.socket_path(url) == str(path)
    addresses.listen(url).close()
    # hyperkit's own name: a socket of a run before is in the way of nobody.
    with addresses.listen(url) as sock:
        assert sock.getsockname() == str(path)
    path.unlink()
    path.write_text("no socket")
    with pytest.raises(AddressError, match="address already in use"):
        addresses.listen(url)


def test_hyperkits_directory_may_be_in_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(addresses.socket, "AF_VSOCK", raising=False)
    monkeypatch.setenv("VM_DIRECTORY", str(tmp_path))
    with addresses.listen("vsock://:1024") as sock:
        assert sock.getsockname() == str(tmp_path / "00000002.00000400")
