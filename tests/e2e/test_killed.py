"""After SIGKILL of the supervisor: the daemon starts again, on the files that it left."""

import os
import signal
import time
from pathlib import Path

import pytest

from tests.support.agent import Agent
from tests.support.daemon import Daemon
from tests.support.netns import Network, wait_for

pytestmark = pytest.mark.e2e


def kill(daemon: Daemon) -> None:
    """SIGKILL; the workers end by themselves."""
    workers = daemon.workers()
    os.kill(daemon.process.pid, signal.SIGKILL)
    daemon.process.wait()
    wait_for(lambda: not any(Path(f"/proc/{pid}").exists() for pid in workers.values()), "workers end")


@pytest.mark.parametrize("guests", ["qemu", "bess", "vpnkit"])
def test_after_sigkill_it_starts_on_every_socket_file_that_was_left(network: Network, guests: str) -> None:
    directory = network.directory / f"killed-{guests}"
    directory.mkdir()
    scheme = "unixpacket" if guests == "bess" else "unix"
    sockets = {name: directory / name for name in ("guests", "vfkit", "services", "link", "forward")}
    flags = [
        *("-listen-qemu", ""),
        *(f"-listen-{guests}", f"{scheme}://{sockets['guests']}"),
        *("-listen-vfkit", f"unixgram://{sockets['vfkit']}"),
        *("-services", f"unix://{sockets['services']}"),
        *("-link", f"le16+unix://{sockets['link']}"),
        *("-pid-file", str(directory / "pid")),
    ]
    daemon = Daemon(network, *flags, name=f"killed-{guests}")
    for _ in range(3):
        daemon.start()
        daemon.expose(str(sockets["forward"]), "tcp://192.168.127.2:80", "unix")
        assert (directory / "pid").read_text() == str(daemon.process.pid)
        assert all(path.is_socket() for path in sockets.values())
        kill(daemon)
        # The supervisor has bound all of them, and no other process can remove their files.
        assert all(path.is_socket() for path in sockets.values())
    with daemon:
        daemon.expose(str(sockets["forward"]), "tcp://192.168.127.2:80", "unix")
        with Agent(network.guest, daemon.socket):
            pass
    assert list(directory.iterdir()) == []


def test_a_second_daemon_is_refused_and_the_first_one_serves_on(network: Network) -> None:
    flags = ("-services", f"unix://{network.directory}/two-services.sock")
    with Daemon(network, *flags, name="two") as first:
        inode = first.socket.stat().st_ino
        second = Daemon(network, *flags, name="two")
        second.log_path = network.directory / "second.log"
        with pytest.raises(AssertionError, match="already exists"):
            second.start()
        second.flags[second.flags.index("-listen-qemu") + 1] = ""
        with pytest.raises(AssertionError, match="address already in use"):
            second.start()
        assert second.process.wait(5) == 1
        time.sleep(0.1)
        assert first.socket.stat().st_ino == inode
        with Agent(network.guest, first.socket):
            assert first.api("/leases")[0] == 200
