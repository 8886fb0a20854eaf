"""Sockets of the host that lead into a guest, with OpenSSH's own server there."""

import json
import socket
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from time import monotonic, sleep

import pytest

from tests.support import sshd as openssh
from tests.support.agent import GUEST_ADDR, Agent
from tests.support.daemon import Daemon
from tests.support.gvproxy import Gvproxy
from tests.support.netns import Network, wait_for
from tests.support.sshd import Sshd, answer_to

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(bool(openssh.missing()), reason=openssh.missing() or "available"),
]

MIB = 1 << 20


@pytest.fixture
def sshd(network: Network) -> Sshd:
    """Not started; its key is there, as a machine's is before the machine boots."""
    made = Sshd(network.guest, network.directory)
    if not made.key.exists():
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(made.key)], check=True)
    return made


def forward_flags(sshd: Sshd, path: Path) -> list[str]:
    return [
        *("-forward-sock", str(path), "-forward-dest", str(sshd.socket)),
        *("-forward-user", sshd.user, "-forward-identity", str(sshd.key)),
    ]


def ask(path: Path, data: bytes, timeout: float = 30.0) -> bytes:
    """Send, end the half, read to the end."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(timeout)
        sock.connect(str(path))
        sock.sendall(data)
        sock.shutdown(socket.SHUT_WR)
        answer = b""
        while piece := sock.recv(65536):
            answer += piece
        return answer


def test_a_client_that_is_early_waits_for_the_guest_and_its_server(network: Network, sshd: Sshd) -> None:
    path = network.directory / "api.sock"
    with Daemon(network, *forward_flags(sshd, path)) as daemon:
        assert path.stat().st_mode & 0o777 == 0o600
        with ThreadPoolExecutor() as pool:
            early = pool.submit(ask, path, b"is anybody there?")
            sleep(0.5)
            with Agent(network.guest, daemon.socket):
                sleep(0.5)
                assert not early.done()
                with sshd:
                    assert early.result(20) == answer_to(b"is anybody there?")
    assert not path.exists()


def test_many_clients_at_once_and_both_half_closes(network: Network, sshd: Sshd) -> None:
    path = network.directory / "api.sock"
    with (
        Daemon(network, *forward_flags(sshd, path)) as daemon,
        Agent(network.guest, daemon.socket),
        sshd,
        ThreadPoolExecutor(40) as pool,
    ):
        data = [bytes([number]) * (MIB // 4 + number) for number in range(40)]
        assert list(pool.map(lambda one: ask(path, one), data)) == [answer_to(one) for one in data]
        assert len(daemon.events("ssh connection opened")) == 1
        # The guest ends its half first, and hears the rest.
        with socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(20)
            sock.connect(str(path))
            sock.sendall(b"E")
            assert sock.recv(100) == b"early"
            assert sock.recv(100) == b""
            sock.sendall(b"y" * MIB)
        wait_for(lambda: sshd.heard.exists() and sshd.heard.read_bytes(), "the rest is heard")
        assert sshd.heard.read_bytes() == answer_to(b"y" * MIB)


def test_a_rebooted_guest_is_reached_again(network: Network, sshd: Sshd) -> None:
    path = network.directory / "api.sock"
    with Daemon(network, *forward_flags(sshd, path)) as daemon:
        for boot in range(3):
            with Agent(network.guest, daemon.socket):
                sshd.start()
                assert ask(path, b"boot %d" % boot) == answer_to(b"boot %d" % boot)
                # Power is cut: nothing is said.
                sshd.stop()
        assert len(daemon.events("ssh connection opened")) == 3


def test_a_guest_that_never_comes_up_ends_nothing(network: Network, sshd: Sshd) -> None:
    path, qemu = network.directory / "api.sock", network.directory / "qemu.sock"
    flags = ("-listen-qemu", f"unix://{qemu}", *forward_flags(sshd, path))
    with Gvproxy(network, *flags) as gvproxy, ThreadPoolExecutor() as pool:
        waiting = pool.submit(ask, path, b"hello?", 60.0)
        # Longer than the guest is asked for its address.
        sleep(5)
        assert gvproxy.process.poll() is None
        assert not waiting.done()
        began = monotonic()
        gvproxy.process.terminate()
        assert gvproxy.wait(3) == 0
        assert monotonic() - began < 1.5
        assert waiting.result(2) == b""
    assert not path.exists()


def test_a_key_that_the_guest_does_not_know_closes_the_client_and_says_why(
    network: Network, sshd: Sshd, tmp_path: Path
) -> None:
    other, path = tmp_path / "other", network.directory / "api.sock"
    subprocess.run(["ssh-keygen", "-q", "-t", "ecdsa", "-N", "", "-f", str(other)], check=True)
    flags = forward_flags(sshd, path)
    flags[-1] = str(other)
    with Daemon(network, *flags) as daemon, Agent(network.guest, daemon.socket), sshd:
        daemon.expect_errors = True
        assert ask(path, b"let me in") == b""
        (line,) = wait_for(lambda: daemon.events("client not connected to the guest"), "its line")
        assert line["error"].startswith(f"the guest refuses {sshd.user}: ")


def test_an_identity_that_is_no_key_is_a_failure_at_start(
    network: Network, sshd: Sshd, tmp_path: Path
) -> None:
    nonsense = tmp_path / "key"
    nonsense.write_text("nonsense")
    flags = forward_flags(sshd, network.directory / "api.sock")
    flags[-1] = str(nonsense)
    gvproxy = Gvproxy(network, *flags)
    gvproxy.start()
    assert gvproxy.wait() == 1
    assert gvproxy.last_words().startswith(f'gvproxy exiting: failed to parse identity "{nonsense}": ')
    assert not (network.directory / "api.sock").exists()


def test_a_file_in_the_sockets_place_is_a_failure_and_stays(network: Network, sshd: Sshd) -> None:
    path = network.directory / "precious"
    path.write_text("keep me")
    gvproxy = Gvproxy(network, *forward_flags(sshd, path))
    gvproxy.start()
    assert gvproxy.wait() == 1
    assert gvproxy.last_words() == f"gvproxy exiting: {path} exists and is not a socket: it is not replaced"
    assert path.read_text() == "keep me"
    path.unlink()


def test_the_api_exposes_a_socket_of_the_guest(network: Network, sshd: Sshd) -> None:
    path = network.directory / "exposed.sock"
    with Daemon(network) as daemon, Agent(network.guest, daemon.socket), sshd:
        remote = f"ssh-tunnel://{sshd.user}@{GUEST_ADDR}:22{sshd.socket}?key={sshd.key}"
        daemon.expose(str(path), remote, "unix")
        assert path.stat().st_mode & 0o777 == 0o600
        assert ask(path, b"through the API") == answer_to(b"through the API")
        again = {"local": str(path), "remote": remote, "protocol": "unix"}
        status, body = daemon.api("/services/forwarder/expose", again)
        assert (status, body) == (500, b"proxy already running for unix on %s\n" % str(path).encode())
        assert json.loads(daemon.api("/services/forwarder/all")[1]) == [again]
        assert daemon.api("/services/forwarder/unexpose", again) == (200, b"")
        assert not path.exists()
