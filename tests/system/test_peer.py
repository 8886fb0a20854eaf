"""Who is at the other end of a socket."""

import os
import socket
import subprocess
import sys
from pathlib import Path
from unittest import mock

import pytest

from pipeline.system import peer

_CONNECT = """
import socket, sys
for _ in range(2):
    sock = socket.socket(socket.AF_UNIX)
    sock.connect(sys.argv[1])
    globals().setdefault("kept", []).append(sock)
sys.stdin.read()
"""


def test_two_links_of_one_process_are_one_peers(tmp_path: Path) -> None:
    path = str(tmp_path / "s")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()
        child = subprocess.Popen([sys.executable, "-c", _CONNECT, path], stdin=subprocess.PIPE)
        try:
            first, second = listener.accept()[0], listener.accept()[0]
            with first, second:
                assert peer.identity(first) == peer.identity(second) == f"process {child.pid}"
        finally:
            child.communicate(b"")


def test_a_pair_that_this_process_made_says_nothing_of_its_peer() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        assert peer.identity(ours) == ""


@pytest.mark.skipif(sys.platform != "linux", reason="127.0.0.2 is an address of this host on Linux only")
@pytest.mark.parametrize(("family", "host"), [(socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::")])
def test_all_loopback_addresses_are_one_peer(family: socket.AddressFamily, host: str) -> None:
    both = family == socket.AF_INET6
    with socket.create_server((host, 0), family=family, dualstack_ipv6=both) as listener:
        here = ("127.0.0.1", listener.getsockname()[1])
        sources = ["127.0.0.1", "127.0.0.2", "127.9.9.9"]
        clients = [socket.create_connection(here, source_address=(source, 0)) for source in sources]
        accepted = [listener.accept()[0] for _ in clients]
        assert {peer.identity(sock) for sock in accepted} == {"loopback"}
        for sock in clients + accepted:
            sock.close()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("10.0.0.7", "address 10.0.0.7"),
        ("::ffff:10.0.0.7", "address 10.0.0.7"),
        ("2001:db8::1", "address 2001:db8::1"),
        ("fe80::1%eth0", "address fe80::1%eth0"),
        ("::1", "loopback"),
        ("::ffff:127.3.0.1", "loopback"),
    ],
)
def test_one_address_in_two_forms_is_one_peer(text: str, expected: str) -> None:
    with mock.patch.object(socket.socket, "getpeername", return_value=(text, 5)), socket.socket() as sock:
        assert peer.identity(sock) == expected


def test_a_socket_without_a_peer_has_no_identity() -> None:
    with socket.socket(socket.AF_INET) as lonely:
        assert peer.identity(lonely) == ""
    with socket.socket(socket.AF_UNIX) as lonely:
        assert peer.identity(lonely) in ("", f"process {os.getpid()}")
