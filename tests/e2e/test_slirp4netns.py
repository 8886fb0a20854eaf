"""gvtap-slirp4netns as its callers run it: user namespaces, the host's loopback, forwards, and its end."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from perf import compiled
from tests.support.agent import run_client
from tests.support.machine import skip_without_user_namespaces
from tests.support.netns import Namespace, Network, new_shared_memory, shared_memory, wait_for
from tests.support.servers import Servers

pytestmark = pytest.mark.e2e

PROGRAM = compiled.command("gvtap-slirp4netns")
GATEWAY, OWN = "10.0.2.2", "10.0.2.100"
PING = ("ping", "-n", "-c", "1", "-W", "3")


class Target:
    """A process in a user and a network namespace of its own, started from the host's namespace."""

    def __init__(self, host: Namespace) -> None:
        skip_without_user_namespaces()
        own = os.stat("/proc/self/ns/user").st_ino
        self.process = host.popen(["unshare", "-r", "-n", "sleep", "600"])
        self.pid = self.process.pid
        wait_for(lambda: os.stat(f"/proc/{self.pid}/ns/user").st_ino != own, "the user namespace")
        wait_for(lambda: Path(f"/proc/{self.pid}/comm").read_text() == "sleep\n", "the namespaces")

    def run(self, *argv: str, check: bool = True) -> str:
        words = ["nsenter", f"--target={self.pid}", "--preserve-credentials", "-U", "-n", *argv]
        return subprocess.run(words, check=check, capture_output=True, text=True, timeout=30).stdout

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(5)


@contextlib.contextmanager
def running(network: Network, *words: object) -> Iterator["subprocess.Popen[bytes]"]:
    """The program, ready; it must end by SIGTERM or have ended with status 0."""
    before = shared_memory()
    readable, writable = os.pipe()
    process = network.host.popen([*PROGRAM, "-r", str(writable), *map(str, words)], pass_fds=(writable,))
    os.close(writable)
    try:
        with open(readable, "rb") as ready:
            assert ready.read() == b"1"
        yield process
    finally:
        process.terminate()
        assert process.wait(10) == 0
    assert not new_shared_memory(before)


@contextlib.contextmanager
def target(network: Network) -> Iterator[Target]:
    made = Target(network.host)
    try:
        yield made
    finally:
        made.kill()


def ask(path: Path, request: object) -> dict[str, object]:
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))
        client.sendall(json.dumps(request).encode())
        client.shutdown(socket.SHUT_WR)
        found: dict[str, object] = json.loads(b"".join(iter(lambda: client.recv(4096), b"")))
        return found


def reads(text: str) -> list[str]:
    """A program that reads what the server at host:port sends."""
    host, port = text.rsplit(":", 1)
    words = f"import socket; print(socket.create_connection(('{host}', {port}), 5).recv(9).decode())"
    return ["python3", "-c", words]


@contextlib.contextmanager
def greeting(network: Network, address: str) -> Iterator[int]:
    """A server of the host that sends a word to each client."""
    server = network.host.call(lambda: socket.create_server((address, 0)))

    def serve() -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = server.accept()
                client.sendall(b"hello")
                client.close()

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield server.getsockname()[1]
    finally:
        server.shutdown(socket.SHUT_RDWR)
        server.close()
        thread.join()


def test_a_namespace_of_a_user_is_configured_and_reaches_the_hosts_loopback(network: Network) -> None:
    with (
        target(network) as inside,
        greeting(network, "127.0.0.1") as port,
        running(network, "-c", "--mtu", 65520, inside.pid, "tap11"),
    ):
        shown = inside.run("ip", "address")
        assert f"inet {OWN}/24" in shown
        assert "mtu 65520" in shown
        assert "inet 127.0.0.1/8" in shown
        inside.run(*PING, GATEWAY)
        assert inside.run(*reads(f"{GATEWAY}:{port}")) == "hello\n"
    assert "tap11" not in inside.run("ip", "-o", "link", check=False)


def test_without_the_hosts_loopback_its_gateway_answers_pings_alone(network: Network) -> None:
    with (
        target(network) as inside,
        greeting(network, "127.0.0.1") as port,
        running(network, "-c", "--disable-host-loopback", inside.pid, "tap0"),
    ):
        inside.run(*PING, GATEWAY)
        assert inside.run(*reads(f"{GATEWAY}:{port}"), check=False) == ""


def test_a_namespace_by_its_path_gets_its_address_by_dhcp(network: Network) -> None:
    guest = network.guest
    with running(network, "--netns-type=path", f"/run/netns/{guest.name}", "tap0"):
        assert "inet 10.0.2" not in guest.run("ip", "address", "show", "tap0").stdout
        guest.run("udhcpc", "-q", "-n", "-i", "tap0", "-s", "/bin/true")
        lease = guest.run("udhcpc", "-q", "-n", "-i", "tap0", "-s", "/bin/true").stderr
        assert "lease of 10.0.2.15 obtained" in lease


def test_names_resolve_at_the_third_address_alone(network: Network, outside: Servers) -> None:
    guest = network.guest
    with running(network, "-c", "--netns-type=path", f"/run/netns/{guest.name}", "tap0"):
        for how in ("udp", "tcp"):
            answer = run_client(guest, "resolve", "10.0.2.3", "www.example.test", "A", how)
            assert answer["answers"] == ["198.18.0.2"]


def test_ipv6_comes_with_its_own_addresses(network: Network) -> None:
    with target(network) as inside, running(network, "-c", "-6", inside.pid, "tap0"):

        def has_address() -> bool:
            shown = inside.run("ip", "address", "show", "tap0")
            return "inet6 fd00::" in shown and "tentative" not in shown

        wait_for(has_address, "an address", 10)
        inside.run(*PING, "fd00::2")


def test_forwards_are_opened_listed_and_closed(network: Network) -> None:
    path = network.directory / "api.sock"
    arguments = {"proto": "tcp", "host_addr": "127.0.0.1", "host_port": 8080, "guest_port": 80}
    serve = "import socket; s = socket.create_server(('', 80)); s.accept()[0].sendall(b'hello')"
    with target(network) as inside, running(network, "-c", "-a", path, inside.pid, "tap0"):
        words = ["nsenter", f"--target={inside.pid}", "--preserve-credentials", "-U", "-n"]
        server = subprocess.Popen([*words, "python3", "-c", serve])
        wait_for(lambda: ":80 " in inside.run("ss", "-Htln"), "the server")
        assert ask(path, {"execute": "add_hostfwd", "arguments": arguments}) == {"return": {"id": 1}}
        with network.host.connect("127.0.0.1", 8080) as client:
            assert client.recv(9) == b"hello"
        server.wait(5)
        listed = {"id": 1, "guest_addr": OWN, **arguments}
        assert ask(path, {"execute": "list_hostfwd"}) == {"return": {"entries": [listed]}}
        assert ask(path, {"execute": "remove_hostfwd", "arguments": {"id": 1}}) == {"return": {}}
        with pytest.raises(ConnectionRefusedError):
            network.host.connect("127.0.0.1", 8080)
    assert not path.exists()


def test_the_socket_of_a_successor_stays(network: Network, tmp_path: Path) -> None:
    path = tmp_path / "api.sock"
    with target(network) as inside:
        with running(network, "-c", "-a", path, inside.pid, "tap0"):
            path.unlink()
            successor = socket.socket(socket.AF_UNIX)
            successor.bind(str(path))
        assert path.exists()
        successor.close()


def test_it_ends_with_its_namespace(network: Network) -> None:
    with target(network) as inside, running(network, "-c", inside.pid, "tap0") as process:
        inside.kill()
        assert process.wait(10) == 0


def test_it_ends_when_exit_fd_hangs_up(network: Network) -> None:
    readable, writable = os.pipe()
    with target(network) as inside:
        process = network.host.popen(
            [*PROGRAM, "-c", "-e", str(readable), str(inside.pid), "tap0"], pass_fds=(readable,)
        )
        os.close(readable)
        wait_for(lambda: "tap0" in inside.run("ip", "-o", "link"), "the tap")
        os.write(writable, b"no end yet")
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(1)
        os.close(writable)
        assert process.wait(10) == 0


def test_one_descriptor_may_be_both_and_a_closed_one_is_named(network: Network) -> None:
    ours, theirs = socket.socketpair()
    number = str(theirs.fileno())
    with target(network) as inside, ours:
        words = [*PROGRAM, "-c", "-e", number, "-r", number, str(inside.pid), "tap0"]
        process = network.host.popen(words, pass_fds=(theirs.fileno(),))
        theirs.close()
        ours.settimeout(10)
        assert ours.recv(10) == b"1"
        ours.close()
        assert process.wait(10) == 0
        done = network.host.run(*PROGRAM, "-c", "-r", "77", str(inside.pid), "tap0", check=False)
        assert done.returncode == 1
        assert "--ready-fd=77: bad file descriptor" in done.stderr


def test_the_workers_end_with_a_program_that_was_killed(network: Network) -> None:
    with target(network) as inside:
        process = network.host.popen([*PROGRAM, "-c", str(inside.pid), "tap0"])
        wait_for(lambda: "tap0" in inside.run("ip", "-o", "link"), "the tap")
        process.send_signal(signal.SIGKILL)
        process.wait(5)
        wait_for(lambda: "tap0" not in inside.run("ip", "-o", "link"), "the tap goes")


def test_a_target_that_does_not_exist_is_named(network: Network) -> None:
    done = network.host.run(*PROGRAM, "-c", "4194304", "tap0", check=False)
    assert done.returncode == 1
    assert "/proc/4194304/ns/net: no such file or directory" in done.stderr
