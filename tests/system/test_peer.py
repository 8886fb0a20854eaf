"""Who is at the other end of a socket."""

import os
import socket
import subprocess
import sys
from pathlib import Path

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


def test_links_over_tcp_from_one_address_are_one_peers() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        clients = [socket.create_connection(listener.getsockname()) for _ in range(2)]
        accepted = [listener.accept()[0] for _ in range(2)]
        assert {peer.identity(sock) for sock in accepted} == {"address 127.0.0.1"}
        for sock in clients + accepted:
            sock.close()


def test_a_socket_without_a_peer_has_no_identity() -> None:
    with socket.socket(socket.AF_INET) as lonely:
        assert peer.identity(lonely) == ""
    with socket.socket(socket.AF_UNIX) as lonely:
        assert peer.identity(lonely) in ("", f"process {os.getpid()}")
