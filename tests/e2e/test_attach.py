"""`gvtap-pipeline attach`: a namespace gets a tap of a running daemon, and loses it again."""

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
from subprocess import PIPE
from typing import Any

import pytest

from pipeline.system.tap import IFF_NO_PI, Tap
from tests.support.agent import run_client
from tests.support.daemon import Daemon, program
from tests.support.machine import skip_without_user_namespaces
from tests.support.netns import INTERNET_ADDR, ROOT, Namespace, Network, wait_for
from tests.support.servers import DATA, UDP_ECHO, Servers

pytestmark = pytest.mark.e2e

MIB = 1 << 20
IFF_TUN = 1


@pytest.fixture
def daemon(network: Network) -> Iterator[Daemon]:
    """A daemon that takes taps."""
    with Daemon(network, "-link", f"fd+unix://{network.directory}/taps") as made:
        yield made


@contextlib.contextmanager
def attached(network: Network, *words: object) -> Iterator["subprocess.Popen[bytes]"]:
    """The command after it has said that it is ready."""
    argv = [*program(), "attach", "-socket", f"unix://{network.directory}/taps", *map(str, words)]
    process = network.host.popen(argv, stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None
        assert process.stdout.readline().endswith(b" is ready\n")
        yield process
    finally:
        process.terminate()
        assert process.wait(10) == 0


def links(daemon: Daemon) -> int:
    return len(set(json.loads(daemon.api("/cam")[1]).values()))


def test_a_namespace_gets_its_address_by_dhcp_and_loses_its_tap(
    network: Network, daemon: Daemon, outside: Servers
) -> None:
    guest = network.guest
    with attached(network, guest.name, "--iface", "eth7"):
        assert "inet 192.168.127." in guest.run("ip", "address", "show", "eth7").stdout
        assert run_client(guest, "transfer", INTERNET_ADDR, DATA, 8 * MIB, 8 * MIB)["errors"] == []
        assert run_client(guest, "udp", INTERNET_ADDR, UDP_ECHO, 100, 3)["received"] == 3
        assert sum(daemon.gauge("link_guest_offload").values()) == 1
    assert "eth7" not in guest.run("ip", "-o", "link").stdout
    wait_for(lambda: links(daemon) == 0, "the end of the link")


def test_a_process_in_its_own_user_namespace_is_attached_until_it_ends(
    network: Network, daemon: Daemon
) -> None:
    skip_without_user_namespaces()
    target = network.host.popen(["unshare", "-r", "-n", "sleep", "600"])

    def run(*argv: str) -> str:
        words = ["nsenter", f"--target={target.pid}", "--preserve-credentials", "-U", "-n", *argv]
        return subprocess.run(words, check=True, capture_output=True, text=True, timeout=30).stdout

    wait_for(lambda: Path(f"/proc/{target.pid}/comm").read_text() == "sleep\n", "the namespaces")
    with attached(network, target.pid, "--address", "192.168.127.77/24") as process:
        assert "inet 192.168.127.77/24" in run("ip", "address", "show", "tap0")
        run("ping", "-n", "-c", "1", "-W", "3", "192.168.127.1")
        target.send_signal(signal.SIGKILL)
        target.wait(5)
        assert process.wait(10) == 0
    wait_for(lambda: links(daemon) == 0, "the end of the link")


def test_it_ends_when_its_namespace_is_deleted(network: Network, daemon: Daemon) -> None:
    gone = Namespace(f"{network.guest.name}-gone")
    try:
        with attached(network, f"/run/netns/{gone.name}", "--address", "192.168.127.78/24") as process:
            gone.close()
            assert process.wait(10) == 0
    finally:
        with contextlib.suppress(subprocess.CalledProcessError):
            gone.close()
    wait_for(lambda: links(daemon) == 0, "the end of the link")


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (IFF_TUN | IFF_NO_PI, "the tap must have IFF_TAP and IFF_NO_PI"),
        (0, "the descriptor of a tap: file descriptor in bad state"),
    ],
    ids=["tun", "without an interface"],
)
def test_a_passed_tap_that_cannot_be_a_link_is_refused(
    network: Network, daemon: Daemon, flags: int, words: str
) -> None:
    def make() -> int:
        return Tap.open("tap9", flags).fd if flags else os.open("/dev/net/tun", os.O_RDWR)

    with socket.socket(socket.AF_UNIX) as client:
        client.connect(f"{network.directory}/taps")
        fd = network.guest.call(make)
        socket.send_fds(client, [b"x"], [fd])
        os.close(fd)
        assert client.recv(1) == b""
    wait_for(lambda: daemon.events("guest refused"), "the refusal")
    assert daemon.events("guest refused")[0]["reason"] == f"passed descriptor: {words}"


def test_a_passed_tap_cannot_block_the_daemon(network: Network, daemon: Daemon) -> None:
    def make() -> Tap:
        made = Tap.open("tap9")
        made.set_up()
        return made

    tap = network.guest.call(make)
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(f"{network.directory}/taps")
        socket.send_fds(client, [b"x"], [tap.fd])
        assert client.recv(1) == b""
    for _ in range(3):
        os.set_blocking(tap.fd, True)
        network.guest.run("ping", "-n", "-c", "1", "-W", "1", "192.168.127.1", check=False)
        assert daemon.api("/cam")[0] == 200
    tap.close()


def start(network: Network, *words: object, **options: Any) -> "subprocess.Popen[str]":
    """The command, in the host's namespace."""
    argv = [*program(), "attach", *map(str, words)]
    # With nohup, the tests ignore SIGHUP, and so would the command.
    return network.host.popen(argv, stdout=PIPE, stderr=PIPE, text=True, preexec_fn=_heed_hangup, **options)


def _heed_hangup() -> None:
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


def end_of(process: "subprocess.Popen[str]") -> tuple[int, str]:
    """The status and the last line of a command that ends by itself."""
    _, errors = process.communicate(timeout=30)
    return process.returncode, errors.splitlines()[-1]


def interfaces(namespace: Namespace) -> str:
    return namespace.run("ip", "-o", "link").stdout


def test_a_file_of_the_working_directory_does_not_run(
    network: Network, daemon: Daemon, tmp_path: Path
) -> None:
    mark = tmp_path / "ran"
    for name in ("select.py", "guest.py", "logging.py"):
        (tmp_path / name).write_text(f"open({str(mark)!r}, 'w')\nraise SystemExit(3)\n")
    argv = [sys.executable, "-P", "-m", "pipeline", "attach", "-socket", f"unix://{network.directory}/taps"]
    for places in (str(ROOT), f"{ROOT}{os.pathsep}"):
        # An empty entry of PYTHONPATH means the working directory too. -P does not remove it.
        env = {**os.environ, "PYTHONPATH": str(ROOT)}
        code = f"import os, sys; os.environ['PYTHONPATH'] = {places!r}; from pipeline import cli; "
        code += f"os.chdir({str(tmp_path)!r}); sys.exit(cli.main(sys.argv[1:]))"
        words = [sys.executable, "-P", "-c", code, *argv[4:], network.guest.name]
        process = network.host.popen(words, stdout=PIPE, text=True, env=env)
        assert process.stdout.readline() == "tap0 is ready\n"
        process.terminate()
        assert process.wait(10) == 0
    assert not mark.exists()


@contextlib.contextmanager
def persistent(namespace: Namespace) -> Iterator[None]:
    """A tap0 that somebody else has made."""
    namespace.ip("tuntap", "add", "tap0", "mode", "tap")
    try:
        yield
    finally:
        namespace.run("ip", "link", "delete", "tap0", check=False)


def test_an_interface_that_exists_is_refused_and_stays(network: Network, daemon: Daemon) -> None:
    with persistent(network.guest):
        process = start(network, "-socket", f"unix://{network.directory}/taps", network.guest.name)
        status, line = end_of(process)
        assert status == 1
        assert f"-iface: tap0 exists already in /run/netns/{network.guest.name}: choose another name" in line
        assert "tap0" in interfaces(network.guest)


def test_an_interface_of_the_same_name_that_came_later_stays(network: Network, daemon: Daemon) -> None:
    with contextlib.ExitStack() as stack:
        with attached(network, network.guest.name, "-address", "192.168.127.77/24"):
            network.guest.ip("link", "set", "tap0", "name", "moved")
            stack.enter_context(persistent(network.guest))
        assert "tap0" in interfaces(network.guest)
        assert "moved" not in interfaces(network.guest)


class Foreign(threading.Thread):
    """A unix socket that does not take taps. It reads, answers and closes."""

    def __init__(self, path: Path, answer: bytes) -> None:
        super().__init__(daemon=True)
        self._answer = answer
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.bind(str(path))
        self._socket.listen()
        self.start()

    def run(self) -> None:
        client, _ = self._socket.accept()
        with client, self._socket:
            client.recv(1)
            client.sendall(self._answer)


@pytest.mark.parametrize("answer", [b"", b"HTTP/1.1 400 Bad Request"], ids=["closes", "answers"])
def test_a_socket_that_does_not_take_taps_is_not_ready(network: Network, answer: bytes) -> None:
    path = network.directory / f"foreign{len(answer)}"
    foreign = Foreign(path, answer)
    process = start(network, "-socket", f"unix://{path}", "-address", "192.168.127.9/24", network.guest.name)
    output, errors = process.communicate(timeout=30)
    foreign.join(5)
    assert (process.returncode, output) == (1, "")
    assert "take taps" in errors
    assert f"-link fd+unix://{path}" in errors
    assert "tap0" not in interfaces(network.guest)


def test_a_socket_of_another_link_is_not_ready(network: Network) -> None:
    path = network.directory / "qemu"
    with Daemon(network, "-listen-qemu", f"unix://{path}"):
        words = ("-socket", f"unix://{path}", "-address", "192.168.127.9/24", network.guest.name)
        status, line = end_of(start(network, *words))
    assert status == 1
    assert f"the socket {path} does not take taps" in line
    assert "tap0" not in interfaces(network.guest)


def is_ready(process: "subprocess.Popen[str]") -> bool:
    assert process.stdout is not None
    return bool(process.stdout.readline() == "tap0 is ready\n")


@pytest.mark.parametrize("kind", ["pid", "path"])
def test_it_fails_when_the_daemon_ends(network: Network, kind: str) -> None:
    sleeper = network.guest.popen(["sleep", "600"])
    target = str(sleeper.pid) if kind == "pid" else network.guest.name
    with Daemon(network, "-link", f"fd+unix://{network.directory}/taps"):
        wait_for(lambda: Path(f"/proc/{sleeper.pid}/comm").read_text() == "sleep\n", "the namespace")
        words = ("-socket", f"unix://{network.directory}/taps", "-address", "192.168.127.9/24", target)
        process = start(network, *words)
        assert is_ready(process)
    status, line = end_of(process)
    assert status == 1
    assert "the tap tap0 is gone: the daemon at" in line


@pytest.mark.parametrize("kind", ["pid", "path"])
def test_it_fails_when_the_dhcp_client_was_killed(network: Network, daemon: Daemon, kind: str) -> None:
    sleeper = network.guest.popen(["sleep", "600"])
    wait_for(lambda: Path(f"/proc/{sleeper.pid}/comm").read_text() == "sleep\n", "the namespace")
    target = str(sleeper.pid) if kind == "pid" else network.guest.name
    process = start(network, "-socket", f"unix://{network.directory}/taps", target)
    assert is_ready(process)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    (client,) = map(int, children)
    os.kill(client, signal.SIGKILL)
    status, line = end_of(process)
    assert (status, "the DHCP client was killed by signal 9" in line) == (1, True), line
    assert "tap0" not in interfaces(network.guest)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP], ids=["TERM", "HUP"])
def test_a_signal_while_the_daemon_takes_the_tap_removes_it(network: Network, number: signal.Signals) -> None:
    path = network.directory / f"slow-{number.name}"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        listener.settimeout(20)
        words = ("-socket", f"unix://{path}", "-address", "192.168.127.9/24", network.guest.name)
        process = start(network, *words)
        client, _ = listener.accept()
        with client:
            _, fds, _, _ = socket.recv_fds(client, 1, 1)
            try:
                assert "tap0" in interfaces(network.guest)
                process.send_signal(number)
                assert process.wait(10) == 0
                assert "tap0" not in interfaces(network.guest), "the daemon's descriptor is still open"
            finally:
                for fd in fds:
                    os.close(fd)


@pytest.mark.parametrize(
    ("words", "status", "text"),
    [
        (["GUEST"], 2, "-socket is missing"),
        (["-socket", "unix:///nonexistent", "GUEST"], 1, "cannot pass the tap to the daemon at /nonexistent"),
        (["-socket", "unix:///s", "4194304"], 1, "/proc/4194304/ns/net: no such file"),
        (["-socket", "unix:///s", "-mtu", "9", "GUEST"], 2, "mtu is out of range: 9"),
        (["-socket", "unix:///s", "-iface", "a/b", "GUEST"], 2, "not a name of an interface"),
        (["-socket", "unix:///s", "-address", "x", "GUEST"], 2, "'x'"),
    ],
)
def test_what_is_wrong_is_said(network: Network, words: list[str], status: int, text: str) -> None:
    argv = [network.guest.name if word == "GUEST" else word for word in words]
    done = network.host.run(*program(), "attach", *argv, check=False)
    assert (done.returncode, text in done.stderr) == (status, True), done.stderr
    assert "tap0" not in network.guest.run("ip", "-o", "link").stdout
