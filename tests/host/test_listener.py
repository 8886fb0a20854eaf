"""Bound sockets of forwards: forms of the local address, texts of errors, files that stay."""

import errno
import os
import socket
import stat
from pathlib import Path
from typing import Any

import pytest

from pipeline.host import listener
from pipeline.system import inet


@pytest.mark.parametrize(
    "local, host, port",
    [
        ("127.0.0.1:80", "127.0.0.1", 80),
        (":8080", "", 8080),
        ("[::1]:1", "::1", 1),
        ("localhost:0", "localhost", 0),
    ],
)
def test_split(local: str, host: str, port: int) -> None:
    assert listener.split(local) == (host, port)


@pytest.mark.parametrize(
    "local, text",
    [("x", "address x: missing port in address"), ("::1:80", "too many colons"), ("a:b", "unknown port"),
     ("a:70000", "invalid port")],
)  # fmt: skip
def test_split_names_what_is_wrong(local: str, text: str) -> None:
    with pytest.raises(listener.ListenError, match=text):
        listener.split(local)


def test_tcp_listens_and_udp_is_bound() -> None:
    with listener.bind_inet("tcp", "127.0.0.1:0") as tcp, listener.bind_inet("udp", "127.0.0.1:0") as udp:
        with socket.create_connection(tcp.getsockname()):
            assert tcp.type == socket.SOCK_STREAM
        assert udp.getsockname()[1]
        assert not udp.getblocking()


WILDCARDS = ["0.0.0.0:0", "[::]:0", ":0", "[::ffff:0.0.0.0]:0", "[0:0::0]:0"]


@pytest.mark.parametrize("local", WILDCARDS)
@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
def test_every_wildcard_takes_tcp_clients_of_both_families(local: str, address: str) -> None:
    with (
        listener.bind_inet("tcp", local) as sock,
        socket.create_connection((address, sock.getsockname()[1])),
    ):
        sock.setblocking(True)
        peer, _ = sock.accept()
        peer.close()


@pytest.mark.parametrize("local", WILDCARDS)
@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
def test_every_wildcard_takes_udp_clients_of_both_families(local: str, address: str) -> None:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with listener.bind_inet("udp", local) as sock, socket.socket(family, socket.SOCK_DGRAM) as client:
        client.sendto(b"hello", (address, sock.getsockname()[1]))
        sock.setblocking(True)
        assert sock.recv(10) == b"hello"


@pytest.mark.parametrize("kind", ["tcp", "udp"])
def test_a_network_of_one_family_listens_on_that_alone(kind: str) -> None:
    with listener.bind_inet(f"{kind}4", ":0") as four:
        assert four.family == socket.AF_INET
        port = four.getsockname()[1]
        with pytest.raises(listener.ListenError, match="address already in use"):
            listener.bind_inet(kind, f"[::]:{port}")
        with listener.bind_inet(f"{kind}6", f"[::]:{port}") as six:
            assert six.family == socket.AF_INET6
            assert six.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY) == 1


@pytest.mark.parametrize("kind", ["tcp", "udp"])
def test_two_wildcards_of_one_port_conflict_however_they_are_written(kind: str) -> None:
    with listener.bind_inet(kind, "0.0.0.0:0") as first:
        for host in ("[::]", "", "0.0.0.0"):
            local = f"{host}:{first.getsockname()[1]}"
            with pytest.raises(listener.ListenError) as caught:
                listener.bind_inet(kind, local)
            assert str(caught.value) == f"listen {kind} {local}: bind: address already in use"


@pytest.mark.parametrize("local", WILDCARDS)
def test_a_host_without_ipv6_listens_on_ipv4(local: str, monkeypatch: pytest.MonkeyPatch) -> None:
    made = socket.socket

    def without_ipv6(family: int = -1, *words: Any, **options: Any) -> socket.socket:
        if family == socket.AF_INET6:
            raise OSError(errno.EAFNOSUPPORT, "Address family not supported by protocol")
        return made(family, *words, **options)

    monkeypatch.setattr(inet.socket, "socket", without_ipv6)
    with listener.bind_inet("tcp", local) as sock:
        assert sock.getsockname()[0] == "0.0.0.0"


@pytest.mark.parametrize("network, address", [("tcp4", "::1"), ("udp6", "127.0.0.1")])
def test_an_address_of_the_other_family_is_refused_in_gos_words(network: str, address: str) -> None:
    host = f"[{address}]" if ":" in address else address
    with pytest.raises(listener.ListenError, match=f"address {address}: no suitable address found"):
        listener.bind_inet(network, f"{host}:0")


def test_an_ipv4_address_written_as_an_ipv6_one_is_an_ipv4_one() -> None:
    with listener.bind_inet("tcp", "[::ffff:127.0.0.1]:0") as sock:
        assert sock.getsockname()[0] == "127.0.0.1"


def test_the_ipv4_address_of_a_name_comes_first_as_in_go() -> None:
    with listener.bind_inet("tcp", "localhost:0", ["::1", "127.0.0.1"]) as sock:
        assert sock.getsockname()[0] == "127.0.0.1"
    with listener.bind_inet("tcp6", "localhost:0", ["::1", "127.0.0.1"]) as sock:
        assert sock.getsockname()[0] == "::1"


def test_an_address_in_use_is_said_in_the_known_words() -> None:
    with listener.bind_inet("tcp", "127.0.0.1:0") as first:
        local = f"127.0.0.1:{first.getsockname()[1]}"
        with pytest.raises(listener.ListenError) as caught:
            listener.bind_inet("tcp", local)
    assert str(caught.value) == f"listen tcp {local}: bind: address already in use"


def test_a_foreign_address_is_said_in_the_known_words() -> None:
    with pytest.raises(listener.ListenError) as caught:
        listener.bind_inet("tcp", "192.0.2.1:5")
    assert str(caught.value) == "listen tcp 192.0.2.1:5: bind: cannot assign requested address"


@pytest.mark.parametrize(
    "protocol, local, text",
    [
        ("tcp", "x", "listen tcp: address x: missing port in address"),
        ("udp", "x", "address x: missing port in address"),
        ("tcp", "nowhere.invalid:1", "listen tcp: lookup nowhere.invalid: no such host"),
        ("udp", "nowhere.invalid:1", "lookup nowhere.invalid: no such host"),
    ],
)
def test_a_local_address_that_is_none_is_said_in_the_known_words(
    protocol: str, local: str, text: str
) -> None:
    with pytest.raises(listener.ListenError) as caught:
        listener.bind_inet(protocol, local)
    assert str(caught.value) == text


@pytest.mark.parametrize("protocol", ["tcp", "udp"])
def test_a_name_is_bound_at_the_addresses_found_for_it(protocol: str) -> None:
    with listener.bind_inet(protocol, "somewhere.example:0", ["192.0.2.1", "127.0.0.2"]) as sock:
        assert sock.getsockname()[0] == "127.0.0.2", "the first of them is not this host's"
    with pytest.raises(listener.ListenError, match=r"lookup somewhere\.example: no such host"):
        listener.bind_inet(protocol, "somewhere.example:0", [])


def test_nothing_is_looked_up_where_that_would_hold_up_everybody(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    lookup = socket.getaddrinfo

    def record(*words: Any, **options: Any) -> Any:
        asked.append(options.get("flags", 0) & socket.AI_NUMERICHOST)
        return lookup(*words, **options)

    monkeypatch.setattr(socket, "getaddrinfo", record)
    with pytest.raises(listener.ListenError, match="lookup localhost: no such host"):
        listener.bind_inet("tcp", "localhost:0")
    listener.bind_inet("tcp", "localhost:0", ["127.0.0.1"]).close()
    assert asked
    assert all(asked)


def test_a_unix_socket_has_mode_0600_and_replaces_a_dead_one(tmp_path: Path) -> None:
    path = tmp_path / "sock"
    listener.bind_unix(str(path)).close()
    with listener.bind_unix(str(path)):
        assert stat.S_IMODE(os.stat(path).st_mode) == 0o600


def test_a_file_that_is_no_socket_stays(tmp_path: Path) -> None:
    path = tmp_path / "precious"
    path.write_text("data")
    with pytest.raises(listener.ListenError, match="not a socket"):
        listener.bind_unix(str(path))
    assert path.read_text() == "data"


def test_a_directory_that_does_not_exist_is_named(tmp_path: Path) -> None:
    with pytest.raises(listener.ListenError, match="no such file or directory"):
        listener.bind_unix(str(tmp_path / "no" / "sock"))
