"""The program on systems that are acted: what loads, what runs, and what is said where it cannot run.

See tests.support.other_system for what that shows and what not. More of it, with namespaces, is in
tests/e2e/test_other_systems.py.
"""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.wire import ip
from tests.support.daemon import errors
from tests.support.netns import ROOT, new_shared_memory, shared_memory, wait_for
from tests.support.raw_guest import RawGuest

HOST = ip.parse_ipv4("192.168.127.254")
"""Stands for the host's 127.0.0.1."""
READY = '"waiting for clients..."'
SECONDS = 30.0


def command(system: str, *words: str) -> list[str]:
    return [sys.executable, "-m", "tests.support.other_system", system, *words]


def run(system: str, *words: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        command(system, *words), cwd=ROOT, capture_output=True, text=True, timeout=SECONDS, check=False
    )


@pytest.mark.parametrize("system", ["darwin", "win32"])
def test_every_module_loads(system: str) -> None:
    done = run(system, "import")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {}


# --- Windows ----------------------------------------------------------------------------


def test_windows_is_told_what_is_missing_and_what_works(tmp_path: Path) -> None:
    done = run("win32", "run", "start", "-listen", f"unix://{tmp_path}/s", "-ssh-port", "-1")
    assert done.returncode == 1
    assert "fork()" in done.stderr
    assert "WSL 2" in done.stderr
    assert "Traceback" not in done.stderr


def test_windows_can_look_at_a_configuration(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("stack:\n  mtu: 1500\n")
    done = run("win32", "run", "config", "check", str(path))
    assert (done.returncode, done.stdout) == (0, f"{path}: ok\n"), done.stderr


# --- macOS ------------------------------------------------------------------------------


def test_macos_has_no_packet_sockets_and_says_so(tmp_path: Path) -> None:
    links = ("-listen", f"unix://{tmp_path}/s", "-listen-bess", f"unixpacket://{tmp_path}/b")
    done = run("darwin", "run", "start", "-ssh-port", "-1", *links)
    assert done.returncode == 1
    assert "this system has no packet sockets (SOCK_SEQPACKET)" in done.stderr
    assert os.listdir(tmp_path) == []


@contextlib.contextmanager
def echo_server() -> Iterator[int]:
    """The port of a TCP and UDP echo on 127.0.0.1."""
    stream = socket.create_server(("127.0.0.1", 0))
    port = stream.getsockname()[1]
    datagrams = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    datagrams.bind(("127.0.0.1", port))

    def serve_stream() -> None:
        sock, _ = stream.accept()
        with sock, contextlib.suppress(ConnectionResetError):
            while data := sock.recv(65536):
                sock.sendall(data)

    def serve_datagram() -> None:
        data, peer = datagrams.recvfrom(65536)
        datagrams.sendto(data, peer)

    threads = [threading.Thread(target=serve, daemon=True) for serve in (serve_stream, serve_datagram)]
    for thread in threads:
        thread.start()
    yield port
    for thread in threads:
        thread.join(10)
        assert not thread.is_alive()
    stream.close()
    datagrams.close()


@pytest.mark.parametrize("placement", ["separate", "auto"])
def test_macos_serves_a_guest_and_leaves_nothing(placement: str, tmp_path: Path) -> None:
    before = shared_memory()
    log = tmp_path / "log"
    qemu = tmp_path / "qemu"
    flags = ("-listen", f"unix://{tmp_path}/s", "-listen-qemu", f"unix://{qemu}", "-ssh-port", "-1")
    with log.open("wb") as out:
        daemon = subprocess.Popen(
            command("darwin", "run", "start", *flags, "-placement", placement),
            cwd=ROOT,
            stdout=out,
            stderr=out,
        )
    try:
        wait_for(lambda: daemon.poll() is not None or READY in log.read_text(), "ready", SECONDS)
        with echo_server() as port, RawGuest(qemu, 2) as guest:
            stream = guest.connect(HOST, 40000, port)
            assert stream.echoes(b"one")
            assert stream.echoes(bytes(range(256)) * 5)
            guest.send(guest.datagram(HOST, 40001, port, b"a datagram"))
            wait_for(lambda: any(b"a datagram" in frame for frame in guest.receive(0.1)), "the echo")
            stream.reset()
    finally:
        daemon.send_signal(signal.SIGTERM)
        status = daemon.wait(10)
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert status == 0, lines
    assert not errors(lines)
    assert sorted(os.listdir(tmp_path)) == ["log"]
    assert not new_shared_memory(before)
