"""`gvtap-pipeline attach`: a namespace gets a tap of a running daemon, and loses it again."""

import contextlib
import json
import os
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.system.tap import IFF_NO_PI, Tap
from tests.support.agent import run_client
from tests.support.daemon import Daemon, program
from tests.support.netns import INTERNET_ADDR, Namespace, Network, wait_for
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
