"""Guests on every kind of link, served by one daemon: one after the other, and several at once."""

import json
import socket
import subprocess
import sys
from pathlib import Path
from time import sleep

import pytest

from pipeline.wire import framing
from tests.support import foreign
from tests.support.daemon import Daemon, program
from tests.support.netns import INTERNET_ADDR, Network, wait_for
from tests.support.servers import DATA, Servers

pytestmark = pytest.mark.e2e

MIB = 1 << 20
OTHER = {"address": "192.168.127.9", "mac": "5a:94:ef:e4:0c:99"}


def move_data(guest: foreign.Foreign) -> None:
    guest.ping()
    assert guest.run("transfer", INTERNET_ADDR, DATA, 2 * MIB, 2 * MIB, 2)["errors"] == []


def macs(daemon: Daemon) -> set[str]:
    return set(json.loads(daemon.api("/cam")[1]))


def test_bess_guests_are_served_one_after_the_other_and_at_once(network: Network, outside: Servers) -> None:
    path = network.directory / "bess.sock"
    with Daemon(network, "-listen-qemu", "", "-listen-bess", f"unixpacket://{path}") as daemon:
        for _ in range(2):
            with foreign.bess(network.guest, path) as guest:
                move_data(guest)
            wait_for(lambda: not macs(daemon), "the guest is forgotten")
        with foreign.bess(network.guest, path) as one, foreign.bess(network.guests[1], path, **OTHER) as two:
            move_data(one)
            two.ping("192.168.127.2")
    assert not path.exists()


def test_vfkit_machines_are_served_one_after_the_other(network: Network, outside: Servers) -> None:
    path, own_path = network.directory / "vfkit.sock", network.directory / "machine.sock"
    with Daemon(network, "-listen-vfkit", f"unixgram://{path}") as daemon:
        assert path.stat().st_mode & 0o777 == 0o600
        for _ in range(3):
            with foreign.vfkit(network.guest, path, own_path) as guest:
                move_data(guest)
            wait_for(lambda: not macs(daemon), "the machine is missed")
    assert not path.exists()


def test_vpnkit_clients_are_served_while_another_does_not_finish_its_handshake(
    network: Network, outside: Servers
) -> None:
    path = network.directory / "vpnkit.sock"
    with Daemon(network, "-listen-qemu", "", "-listen-vpnkit", f"unix://{path}") as daemon:
        silent = socket.socket(socket.AF_UNIX)
        silent.connect(str(path))
        silent.send(b"VMN3T")
        with (
            foreign.stream(network.guest, "vpnkit", path) as one,
            foreign.stream(network.guests[1], "vpnkit", path, **OTHER) as two,
        ):
            move_data(one)
            two.ping("192.168.127.2")
        silent.close()
        wait_for(lambda: daemon.events("guest refused"), "the handshake is given up")
        assert daemon.gauge("link_handshake_failed")["ingress"] == 1
    assert not path.exists()


def test_guests_on_links_of_different_kinds_reach_each_other(network: Network, outside: Servers) -> None:
    stream, packets = network.directory / "le16.sock", network.directory / "bess.sock"
    links = ("-link", f"le16+unix://{stream}", "-link", f"bess+unixpacket://{packets}")
    with (
        Daemon(network, *links) as daemon,
        foreign.qemu(network.guest, daemon.qemu_socket) as one,
    ):
        with foreign.stream(network.guests[1], "le16", stream, **OTHER) as two:
            two.ping("192.168.127.2")
            move_data(two)
        with foreign.bess(network.guests[1], packets, **OTHER) as two:
            two.ping("192.168.127.2")
            one.ping("192.168.127.9")
            move_data(two)
    assert not stream.exists()
    assert not packets.exists()


@pytest.mark.parametrize("kind", foreign.PASSED)
def test_guests_whose_sockets_are_passed_to_the_running_daemon(
    network: Network, outside: Servers, kind: str
) -> None:
    path = network.directory / "fd.sock"
    with Daemon(network, "-link", f"fd+unix://{path}") as daemon:
        assert path.stat().st_mode & 0o777 == 0o600
        for _ in range(2):
            with (
                foreign.passed(network.guest, kind, path) as one,
                foreign.passed(network.guests[1], kind, path, **OTHER) as two,
            ):
                move_data(one)
                two.ping("192.168.127.2")
            wait_for(lambda: not macs(daemon), "the guests are missed", 20)
        connected = daemon.events("guest connected")
        assert {line["protocol"] for line in connected} == {"fd"}
        assert len({line["opened_by"] for line in connected}) == 4, "each process is a guest"
    assert not path.exists()


def test_a_passed_descriptor_that_is_not_a_link_is_refused(network: Network) -> None:
    path = network.directory / "fd.sock"
    with Daemon(network, "-link", f"fd+unix://{path}") as daemon, path.with_suffix(".txt").open("w") as file:
        client = socket.socket(socket.AF_UNIX)
        client.settimeout(10)
        client.connect(str(path))
        socket.send_fds(client, [b"\0"], [file.fileno()])
        assert client.recv(1) == b""
        (line,) = wait_for(lambda: daemon.events("guest refused"), "the line")
        assert line["reason"] == "passed descriptor: the descriptor is neither a socket nor a tap"
        assert daemon.gauge("link_handshake_failed")["ingress"] == 1


def test_sockets_passed_as_systemd_does_are_listened_on(network: Network, outside: Servers) -> None:
    daemon = Daemon(network, "-listen", "fd://api", "-listen-qemu", "fd://vm", name="passed")
    paths = {name: network.directory / f"passed-{name}.sock" for name in ("api", "vm", "more")}
    passed = []
    for path in paths.values():
        sock = socket.socket(socket.AF_UNIX)
        sock.bind(str(path))
        sock.listen(5)
        passed.append(sock)
    # The numbers that a service manager gives: 3, 4 and 5.
    script = (
        "import os, sys\n"
        "fds = [int(text) for text in sys.argv[1].split(',')]\n"
        "spare = [os.dup(fd) for fd in fds]\n"
        "spare = [fd if fd > 20 else os.dup2(fd, fd + 40) for fd in spare]\n"
        "for number, fd in enumerate(spare, 3): os.dup2(fd, number)\n"
        "os.environ |= {'LISTEN_PID': str(os.getpid()), 'LISTEN_FDS': '3', 'LISTEN_FDNAMES': 'api:vm:more'}\n"
        "os.execv(sys.argv[2], sys.argv[2:])\n"
    )
    numbers = ",".join(str(sock.fileno()) for sock in passed)
    argv = [sys.executable, "-c", script, numbers, *program(), "start", *daemon.flags]
    with daemon.log_path.open("wb") as log:
        process = network.host.popen(
            argv, stdout=log, stderr=log, pass_fds=[sock.fileno() for sock in passed]
        )
    wait_for(lambda: daemon.events("waiting for clients..."), "the daemon is ready")
    (unused,) = daemon.events("a passed descriptor is not used")
    assert unused["descriptor"] == "5 (more)"
    for sock in passed:
        sock.close()
    with foreign.qemu(network.guest, paths["vm"]) as guest:
        move_data(guest)
        client = socket.socket(socket.AF_UNIX)
        client.connect(str(paths["api"]))
        client.sendall(b"GET /cam HTTP/1.1\r\nHost: a\r\n\r\n")
        assert client.recv(65536).startswith(b"HTTP/1.1 200 OK")
        client.close()
    process.terminate()
    assert process.wait(5) == 0
    assert not daemon.socket.exists()
    assert all(path.exists() for path in paths.values()), "files of who passed them"


def test_the_end_of_every_kind_of_guest_is_told_once_with_its_cause(network: Network) -> None:
    bess, vpnkit = network.directory / "bess.sock", network.directory / "vpnkit.sock"
    flags = ("-link", f"bess+unixpacket://{bess}", "-link", f"vpnkit+unix://{vpnkit}")
    with Daemon(network, *flags) as daemon:

        def told(count: int) -> list[list[str]]:
            wait_for(lambda: len(daemon.events("guest disconnected")) == count, "its end is noticed")
            lines = daemon.events("guest disconnected")
            assert {line["level"] for line in lines} == {"info"}
            return [[line["protocol"], line["peer"], line["error"]] for line in lines]

        def connected(path: Path, hello: bytes = b"", kind: int = socket.SOCK_STREAM) -> socket.socket:
            before = len(daemon.events("guest connected"))
            sock = socket.socket(socket.AF_UNIX, kind)
            sock.connect(str(path))
            if hello:
                sock.sendall(hello)
            wait_for(lambda: len(daemon.events("guest connected")) > before, "the guest is there")
            return sock

        request = framing.connect_request()
        client = framing.vpnkit_hello() + framing.vpnkit_command("0" * 36)
        gone = "cannot read size from socket: "
        leaving = [
            ("qemu", connected(daemon.qemu_socket), "EOF"),
            ("connect", connected(daemon.socket, request), "EOF"),
            ("bess", connected(bess, kind=socket.SOCK_SEQPACKET), "EOF"),
            # The daemon's part of the handshake is in the socket, unread.
            ("vpnkit", connected(vpnkit, client), "connection reset by peer"),
        ]
        staying = [connected(daemon.qemu_socket), connected(daemon.socket, request)]
        for count, (_, sock, _) in enumerate(leaving):
            sock.close()
            assert len(told(count + 1)) == count + 1
        expected = [[protocol, "@", gone + words] for protocol, _, words in leaving]
        assert told(4) == expected
    assert told(6)[:4] == expected
    assert {error for _, _, error in told(6)[4:]} == {"the daemon stops"}
    for sock in staying:
        sock.close()


def test_a_passed_connection_is_the_guest(network: Network, outside: Servers) -> None:
    ours, theirs = socket.socketpair()
    argv = [sys.executable, "-c", _QEMU_ON_FD, str(theirs.fileno())]
    daemon = Daemon(network, "-listen-qemu", f"fd://{ours.fileno()}", name="connected")
    with daemon.log_path.open("wb") as log:
        process = network.host.popen(
            [*program(), "start", *daemon.flags], stdout=log, stderr=log, pass_fds=[ours.fileno()]
        )
    ours.close()
    link = network.guest.popen(argv, pass_fds=[theirs.fileno()], stderr=subprocess.DEVNULL)
    theirs.close()
    wait_for(lambda: daemon.events("guest connected"), "the guest is there")
    wait_for(lambda: macs(daemon), "its frame is there")
    link.kill()
    wait_for(lambda: daemon.events("guest disconnected"), "its end is noticed")
    sleep(0.1)
    assert process.poll() is None
    process.terminate()
    assert process.wait(5) == 0


_QEMU_ON_FD = """
import socket, sys, time
sock = socket.socket(fileno=int(sys.argv[1]))
frame = b"\\xff" * 6 + bytes.fromhex("5a94efe40cee") + b"\\x08\\x06" + bytes(28)
sock.sendall(len(frame).to_bytes(4, "big") + frame)
time.sleep(60)
"""


@pytest.mark.parametrize("others", [True, False], ids=["with an API", "alone"])
def test_the_end_of_standard_input_ends_the_daemon_where_nobody_else_can_come(
    network: Network, others: bool
) -> None:
    api = ("-listen", f"unix://{network.directory}/stdio.sock") if others else ()
    argv = [*program(), "start", "-listen-stdio", "accept", "-ssh-port", "-1", "-ipv6", "off", *api]
    daemon = Daemon(network, name="stdio")
    with daemon.log_path.open("wb") as log:
        process = network.host.popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log)
    wait_for(lambda: daemon.events("guest connected"), "the guest is there")
    assert process.stdin is not None
    process.stdin.close()
    wait_for(lambda: daemon.events("guest disconnected"), "its end is noticed")
    if others:
        sleep(0.2)
        assert process.poll() is None
        process.terminate()
    assert process.wait(5) == 0
    assert process.stdout is not None
    assert process.stdout.read() == b""


def test_the_socket_files_are_for_their_owner_alone(network: Network) -> None:
    services = network.directory / "services.sock"
    with Daemon(network, "-services", f"unix://{services}") as daemon:
        for path in (daemon.socket, daemon.qemu_socket, services):
            assert path.stat().st_mode & 0o777 == 0o600, path
    assert not services.exists()


def test_an_address_in_use_is_a_failure_with_status_1_and_leaves_nothing(network: Network) -> None:
    taken: Path = network.directory / "taken.sock"
    taken.touch()
    daemon = Daemon(network, "-services", f"unix://{taken}", name="refused")
    with pytest.raises(AssertionError, match=f"cannot listen: listen unix {taken}: bind: address already"):
        daemon.start()
    assert daemon.process.wait(5) == 1
    daemon.check_remains({})
    assert taken.exists(), "a file of somebody else"
    taken.unlink()
