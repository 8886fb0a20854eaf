"""resolv.conf and hosts: what is read, when it is read again, and what is left out."""

import os
import socket
from pathlib import Path

import pytest

from pipeline.host import name_files
from pipeline.host.name_files import HostsFile, Server, ServerList, parse_hosts, parse_resolv_conf, server_of


def write(path: Path, text: str) -> str:
    """Replace a file as editors and network managers do: a new one under the old name."""
    new = path.with_suffix(".new")
    new.write_text(text)
    os.replace(new, path)
    return str(path)


@pytest.mark.parametrize(
    "text, servers",
    [
        ("", []),
        ("nameserver 10.0.0.1\nnameserver\t10.0.0.2 # second\n", ["10.0.0.1", "10.0.0.2"]),
        ("search a b\n# nameserver 1.1.1.1\n;nameserver 2.2.2.2\noptions edns0\nnameserver ::1", ["::1"]),
        ("nameserver\nnameservers 1.1.1.1\n", []),
        ("\n".join(f"nameserver 10.0.0.{n}" for n in range(9)), ["10.0.0.0", "10.0.0.1", "10.0.0.2"]),
    ],
)
def test_name_servers_are_read_as_the_c_library_does(text: str, servers: list[str]) -> None:
    assert parse_resolv_conf(text) == servers


@pytest.mark.parametrize("name", ["ns.example", "", "300.1.1.1", "1.1.1.1:53", "\udcff", "a\0b"])
def test_server_that_is_no_address_is_none(name: str) -> None:
    assert server_of(name) is None


def test_servers_have_a_socket_address() -> None:
    assert server_of("10.0.0.1", 5353) == Server(socket.AF_INET, ("10.0.0.1", 5353))
    assert server_of("::1") == Server(socket.AF_INET6, ("::1", 53, 0, 0))


def test_changed_file_is_read_again_but_looked_at_once_a_second(tmp_path: Path) -> None:
    path = tmp_path / "resolv.conf"
    servers = ServerList(write(path, "nameserver 10.0.0.1\n"))
    assert servers.refresh(100.0)
    assert not servers.refresh(102.0)
    write(path, "nameserver 10.0.0.2\n")
    assert servers.refresh(103.5)
    assert servers.servers == (Server(socket.AF_INET, ("10.0.0.2", 53)),)
    write(path, "nameserver 10.0.0.3\n")
    assert not servers.refresh(104.4)
    assert servers.refresh(104.5)
    write(path, "# a comment\nnameserver 10.0.0.3\n")
    assert not servers.refresh(200.0)


def test_file_that_vanishes_and_comes_back_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "resolv.conf"
    servers = ServerList(write(path, "nameserver 10.0.0.1\n"))
    servers.refresh(0)
    path.unlink()
    assert servers.refresh(2)
    assert servers.servers == (Server(socket.AF_INET, ("127.0.0.1", 53)),)
    write(path, "nameserver 10.0.0.1\n")
    assert servers.refresh(4)


def test_own_addresses_are_never_servers(tmp_path: Path) -> None:
    path = write(tmp_path / "resolv.conf", "nameserver 192.168.127.1\nnameserver 10.0.0.2\n")
    servers = ServerList(path, {"192.168.127.1"})
    servers.refresh(0)
    assert [server.address[0] for server in servers.servers] == ["10.0.0.2"]


def test_directory_or_missing_file_gives_no_names(tmp_path: Path) -> None:
    assert not HostsFile(str(tmp_path)).refresh(0)
    assert not HostsFile(str(tmp_path / "nothing")).refresh(0)


def test_hosts_file_gives_names_and_aliases_in_lower_case() -> None:
    text = """
    127.0.0.1 localhost  # here
    10.0.0.5\tNas.Home nas
    fd00::5   nas.home
    10.0.0.5 nas.home
    fe80::1%eth0 scoped
    nonsense name
    10.0.0.6
    #10.0.0.7 commented
    """
    nas, six = bytes((10, 0, 0, 5)), bytes.fromhex("fd" + "00" * 14 + "05")
    assert parse_hosts(text) == {"localhost": [b"\x7f\0\0\1"], "nas.home": [nas, six], "nas": [nas]}


def test_hosts_file_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(name_files, "MAX_HOST_NAMES", 3)
    names = parse_hosts("10.0.0.1 a b c d e\n10.0.0.2 a f\n" + "".join(f"10.1.0.{n} a\n" for n in range(200)))
    assert list(names) == ["a", "b", "c"]
    many = parse_hosts("".join(f"10.1.0.{n} a\n" for n in range(200)))
    assert len(many["a"]) == name_files.MAX_ADDRESSES


def test_new_names_are_noticed(tmp_path: Path) -> None:
    path = tmp_path / "hosts"
    hosts = HostsFile(write(path, "10.0.0.1 a.b\n"))
    assert hosts.refresh(0)
    write(path, "10.0.0.2 a.b\n")
    assert hosts.refresh(1)
    assert hosts.names == {"a.b": [bytes((10, 0, 0, 2))]}
