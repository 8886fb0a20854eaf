"""gvtap-gvproxy: gvproxy's life and its words, driven as its users do."""

import os
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from time import monotonic

import pytest

from tests.support import foreign
from tests.support.agent import GUEST_MAC, Agent
from tests.support.gvproxy import Gvproxy, Notified
from tests.support.netns import INTERNET_ADDR, Network, wait_for
from tests.support.servers import DATA, Servers

pytestmark = pytest.mark.e2e

MIB = 1 << 20
EOF = "cannot read size from socket: EOF"


@pytest.fixture
def notified(network: Network) -> Iterator[Notified]:
    made = Notified(network.directory / "notify.sock")
    yield made
    made.close()


@pytest.fixture
def hang_ups_heard() -> Iterator[None]:
    """Children hear of SIGHUP even if the tests run under nohup, which has all of them ignore it."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


def gone(text: str, peer: str = "@") -> str:
    return f"gvproxy exiting: cannot receive packets from {peer}, disconnecting: {text}"


# --- the guest leaves ----------------------------------------------------------------------------


def test_it_ends_with_its_qemu_guest_and_tells_all_of_it(
    network: Network, outside: Servers, notified: Notified
) -> None:
    path, api, pid = (network.directory / name for name in ("qemu.sock", "api.sock", "gvproxy.pid"))
    flags = ("-mtu", "1500", "-listen", f"unix://{api}", "-listen-qemu", f"unix://{path}")
    with Gvproxy(network, *flags, "-pid-file", str(pid), "-notification", notified.url) as gvproxy:
        assert pid.read_text() == str(gvproxy.process.pid)
        with foreign.qemu(network.guest, path) as guest:
            guest.ping()
            assert guest.run("transfer", INTERNET_ADDR, DATA, MIB, MIB)["errors"] == []
            # A second one is taken by the system's backlog and never served.
            second = socket.socket(socket.AF_UNIX)
            second.connect(str(path))
        assert gvproxy.wait() == 0
    assert gvproxy.last_words() == gone(EOF)
    assert not [file for file in (path, api, pid) if file.exists()]
    wait_for(lambda: len(notified.events()) == 3, "three notifications")
    assert notified.events() == [
        {"notification_type": "ready"},
        {"notification_type": "connection_established", "mac_address": GUEST_MAC},
        {"notification_type": "connection_closed", "mac_address": GUEST_MAC},
    ]
    second.close()


def test_it_ends_with_its_bess_guest(network: Network) -> None:
    path = network.directory / "bess.sock"
    with Gvproxy(network, "-listen-bess", f"unixpacket://{path}") as gvproxy:
        with foreign.bess(network.guest, path) as guest:
            guest.ping()
        assert gvproxy.wait() == 0
    assert gvproxy.last_words() == gone(EOF)
    assert not path.exists()


def test_it_ends_with_its_vfkit_guest(network: Network) -> None:
    path, own = network.directory / "vfkit.sock", network.directory / "machine.sock"
    with Gvproxy(network, "-listen-vfkit", f"unixgram://{path}") as gvproxy:
        with foreign.vfkit(network.guest, path, own) as guest:
            guest.ping()
        assert gvproxy.wait() == 0
    assert not path.exists()


def test_it_is_the_child_of_its_guest_on_standard_input_and_output(
    network: Network, outside: Servers, notified: Notified
) -> None:
    gvproxy = Gvproxy(network, "-listen-stdio=accept", "-ssh-port=-1", f"-notification={notified.url}")
    # The guest's agent starts the program in its own namespace: it has to get back into the host's.
    script = network.directory / "child"
    script.write_text(
        f'#!/bin/sh\nexec {" ".join(network.host.command(gvproxy.argv))} 2>"{gvproxy.log_path}"'
    )
    script.chmod(0o755)
    agent = Agent(network.guest, network.directory / "none.sock", "-url", f"stdio:{script}")
    agent.start()
    agent.wait_for_address()
    agent.run("transfer", INTERNET_ADDR, DATA, 4 * MIB, 4 * MIB, 2)
    pids = {line["pid"] for line in gvproxy.lines()}
    # Also kills its child, as gvforwarder does.
    agent.stop()
    wait_for(lambda: not any(os.path.exists(f"/proc/{pid}") for pid in pids), "all of it is gone")
    assert notified.events()[0] == {"notification_type": "ready"}


def test_the_end_of_standard_input_is_an_error_of_the_hypervisor_and_status_0(
    network: Network, notified: Notified
) -> None:
    gvproxy = Gvproxy(network, "-listen-stdio", "accept", "-notification", notified.url)
    gvproxy.start(stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    gvproxy.wait_until_ready()
    out, _ = gvproxy.process.communicate(timeout=5)
    assert gvproxy.process.returncode == 0
    assert out == b"", "nothing may be printed among the frames"
    assert gvproxy.last_words() == gone(EOF, "remote")
    wait_for(lambda: len(notified.events()) == 2, "two notifications")
    assert notified.events()[1] == {"notification_type": "hypervisor_error"}


def test_vpnkit_clients_and_connect_guests_may_leave(network: Network) -> None:
    path, api = network.directory / "vpnkit.sock", network.directory / "api.sock"
    with Gvproxy(network, "-listen-vpnkit", f"unix://{path}", "-listen", f"unix://{api}") as gvproxy:
        with foreign.stream(network.guest, "vpnkit", path) as guest:
            guest.ping()
        with Agent(network.guests[1], api) as agent:
            agent.guest.run("ping", "-n", "-c", "1", "-W", "2", "192.168.127.1")
        assert gvproxy.process.poll() is None
        gvproxy.process.terminate()
        assert gvproxy.wait(2) == 0
    assert gvproxy.last_words() == "gvproxy exiting: signal caught"


# --- signals -------------------------------------------------------------------------------------


@pytest.mark.usefixtures("hang_ups_heard")
@pytest.mark.parametrize(
    ("number", "status"),
    [(signal.SIGTERM, 0), (signal.SIGINT, 0), (signal.SIGHUP, 0), (signal.SIGQUIT, 2)],
)
def test_a_signal_ends_it_at_once_with_a_peer_connected(
    network: Network, number: signal.Signals, status: int
) -> None:
    path, pid = network.directory / "qemu.sock", network.directory / "gvproxy.pid"
    with Gvproxy(network, "-listen-qemu", f"unix://{path}", "-pid-file", str(pid)) as gvproxy:
        peer = socket.socket(socket.AF_UNIX)
        peer.connect(str(path))
        wait_for(lambda: any(line["event"] == "guest connected" for line in gvproxy.lines()), "the peer")
        began = monotonic()
        gvproxy.process.send_signal(number)
        if number == signal.SIGQUIT:
            assert gvproxy.wait(3) == status
            text = gvproxy.log_path.read_text()
            assert "most recent call first" in text
            assert '"gvproxy exiting: signal caught"' in text.splitlines()[-1]
        else:
            assert gvproxy.wait(3) == status
            assert gvproxy.last_words() == "gvproxy exiting: signal caught"
        assert monotonic() - began < 1.5
        assert peer.recv(1) == b""
    assert not path.exists()
    assert not pid.exists()


def test_one_process_has_its_name(network: Network) -> None:
    with Gvproxy(network, "-listen-qemu", f"unix://{network.directory}/qemu.sock") as gvproxy:
        assert gvproxy.comm() == "gvtap-gvproxy"
        found = subprocess.run(["pgrep", "gvproxy"], capture_output=True, text=True).stdout.split()
        assert str(gvproxy.process.pid) in found
        assert not set(map(str, gvproxy.children())) & set(found)


def test_a_link_of_another_name_gives_the_process_that_name(network: Network) -> None:
    link = network.directory / "gvproxy"
    gvproxy = Gvproxy(network, "-listen-qemu", f"unix://{network.directory}/qemu.sock")
    (place,) = (index for index, word in enumerate(gvproxy.argv) if word.endswith("/gvtap-gvproxy"))
    link.symlink_to(gvproxy.argv[place])
    gvproxy.argv[place] = str(link)
    with gvproxy:
        assert gvproxy.comm() == "gvproxy"


# --- failures ------------------------------------------------------------------------------------


def fails(network: Network, *flags: str, status: int = 1) -> str:
    """The last line of a run that ends by itself."""
    gvproxy = Gvproxy(network, *flags)
    gvproxy.start()
    assert gvproxy.wait(10) == status, gvproxy.log_path.read_text()
    return gvproxy.last_words()


def test_a_failure_at_run_time_is_named_and_has_a_status(network: Network, notified: Notified) -> None:
    taken: Path = network.directory / "taken.sock"
    taken.touch()
    where = network.directory / "no" / "such"
    words = fails(network, "-listen", f"unix://{taken}")
    assert words == f"gvproxy exiting: cannot listen: listen unix {taken}: bind: address already in use"
    assert fails(network, "-pid-file", f"{where}/pid").startswith(f"cannot write pid file {where}/pid")
    words = fails(network, "-listen-vfkit", f"unixgram://{where}/sock", "-notification", notified.url)
    assert words.startswith(f"gvproxy exiting: cannot listen: listen unixgram {where}/sock: bind: no such")
    wait_for(lambda: len(notified.events()) == 2, "two notifications")
    assert [event["notification_type"] for event in notified.events()] == ["ready", "hypervisor_error"]
    assert taken.exists()
    taken.unlink()


def test_a_forward_that_cannot_be_bound_is_a_failure(network: Network) -> None:
    def bind() -> socket.socket:
        return socket.create_server(("127.0.0.1", 2222))

    with network.host.call(bind):
        words = fails(network, "-ssh-port", "2222")
    assert words == "gvproxy exiting: listen tcp 127.0.0.1:2222: bind: address already in use"


def test_a_worker_that_dies_is_a_failure(network: Network) -> None:
    with Gvproxy(network, "-listen-qemu", f"unix://{network.directory}/qemu.sock") as gvproxy:
        os.kill(gvproxy.children()[0], signal.SIGKILL)
        assert gvproxy.wait() == 1
    assert gvproxy.last_words() == "gvproxy exiting: worker ingress died"


# --- the start -----------------------------------------------------------------------------------


def test_the_guests_socket_is_there_when_everything_behind_it_works(network: Network) -> None:
    path, api = network.directory / "qemu.sock", network.directory / "api.sock"
    flags = ("-ssh-port", "2222", "-listen", f"unix://{api}", "-listen-qemu", f"unix://{path}")
    gvproxy = Gvproxy(network, *flags)
    gvproxy.start()
    wait_for(path.exists, "the guest's socket", every=0.001)
    assert api.exists()
    network.host.connect("127.0.0.1", 2222).close()
    gvproxy.process.terminate()
    assert gvproxy.wait() == 0


def test_the_log_goes_to_a_file_that_is_emptied_first(network: Network) -> None:
    path = network.directory / "file.log"
    path.write_text("old\n")
    gvproxy = Gvproxy(network, "-log-file", str(path), "-listen-qemu", f"unix://{network.directory}/q.sock")
    gvproxy.start()
    wait_for(lambda: "waiting for clients..." in path.read_text(), "it is ready")
    gvproxy.process.terminate()
    assert gvproxy.wait() == 0
    assert "old" not in path.read_text()
    assert gvproxy.log_path.read_text() == ""


def test_podmans_command_line_works(network: Network) -> None:
    path = network.directory / "podman-gvproxy.sock"
    pid, log = network.directory / "gvproxy.pid", network.directory / "podman.log"
    flags = ("-mtu", "1500", "-ssh-port", "2223", "-listen-qemu", f"unix://{path}")
    gvproxy = Gvproxy(network, *flags, "-pid-file", str(pid), "-log-file", str(log))
    gvproxy.start()
    wait_for(path.exists, "the guest's socket")
    assert int(pid.read_text()) == gvproxy.process.pid
    children = gvproxy.children()
    # podman's way to stop it.
    gvproxy.process.kill()
    gvproxy.wait()
    wait_for(lambda: not any(os.path.exists(f"/proc/{child}") for child in children), "nothing is left", 5)
    path.unlink()
    pid.unlink()
