"""The whole daemon is replaced while guests use it. They notice only that their connections are reset."""

import json
import socket
import time
from collections.abc import Iterator

import pytest

from tests.e2e.test_healing import Machine, datagrams, kill, names, new_connection, traffic
from tests.e2e.test_ssh import ask, forward_flags
from tests.support import foreign, sshd
from tests.support.agent import GATEWAY_ADDR, GUEST_ADDR, Agent, address
from tests.support.daemon import Daemon
from tests.support.netns import INTERNET_ADDR, Network, wait_for
from tests.support.restarts import await_end
from tests.support.servers import DATA, ECHO, UDP_ECHO, Servers

pytestmark = pytest.mark.e2e

STATIC, EXPOSED, UDP = 9001, 9002, 9003
MIB = 1 << 20
FORWARDS = f'stack: {{forwards: {{"127.0.0.1:{STATIC}": "{GUEST_ADDR}:{ECHO}"}}}}\n'


class Restartable(Daemon):
    """A daemon that is restarted."""

    def restart(self) -> int:
        """Restart, and return the process id of the successor. The old processes are gone then."""
        old = self.workers_now()
        count = len(self.events("taken over from a predecessor"))
        status, content = self.api("/restart", {})
        assert status == 200, content
        wait_for(lambda: len(self.events("taken over from a predecessor")) > count, "the line", 30)
        for pid in old:
            await_end(pid)
        return int(json.loads(content)["pid"])

    def workers_now(self) -> list[int]:
        return list(self.processes().values())


@pytest.fixture(params=["separate", "auto"])
def daemon(request: pytest.FixtureRequest, network: Network, outside: Servers) -> Iterator[Restartable]:
    path = network.directory / "config.yaml"
    path.write_text(FORWARDS)
    with Restartable(network, "-config", str(path), "-placement", request.param) as made:
        made.expose(f"127.0.0.1:{EXPOSED}", f"{GUEST_ADDR}:{ECHO}")
        made.expose(f"127.0.0.1:{UDP}", f"{GUEST_ADDR}:{UDP_ECHO}", "udp")
        yield made


def forwarded(network: Network) -> None:
    """Clients of all forwards reach the guest."""
    for port in (STATIC, EXPOSED):
        with network.host.connect("127.0.0.1", port) as sock:
            sock.settimeout(10)
            sock.sendall(b"inward")
            assert sock.recv(100) == b"inward"

    def ask() -> bytes:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.settimeout(0.5)
            sock.connect(("127.0.0.1", UDP))
            for _ in range(20):
                sock.send(b"ping")
                try:
                    return sock.recv(100)
                except (TimeoutError, ConnectionRefusedError):
                    continue
        return b""

    assert network.host.call(ask) == b"ping"


def all_works(network: Network) -> None:
    new_connection(network)
    datagrams(network)
    names(network)
    forwarded(network)


def test_a_guest_with_traffic_keeps_its_link_and_its_address(
    daemon: Restartable, agent: Agent, inside: Servers, network: Network
) -> None:
    before = daemon.api("/leases")
    own = address(agent.guest)
    all_works(network)
    with traffic(network) as echoes:
        daemon.restart()
        wait_for(lambda: all(echo.error for echo in echoes), "all connections end", 20)
        # None of them has ended in order: that would be bytes that are missing.
        assert {type(echo.error) for echo in echoes} <= {ConnectionResetError, BrokenPipeError}
        assert daemon.api("/leases") == before
        assert address(agent.guest) == own
        all_works(network)
    assert agent.process.poll() is None
    (line,) = daemon.events("taken over from a predecessor")
    assert (line["links"], line["forwards"]) == (1, 3)
    assert daemon.events("guest connected")[1:] == []
    assert daemon.events("guest disconnected") == []
    # And once more, with everything of a successor.
    daemon.restart()
    all_works(network)
    assert daemon.api("/leases") == before


def refusals(daemon: Restartable) -> list[str]:
    return [str(line["error"]) for line in daemon.events("not restarted: nothing has changed")]


def test_a_successor_that_refuses_leaves_connections_alone(
    daemon: Restartable, agent: Agent, inside: Servers, network: Network
) -> None:
    daemon.expect_errors = True
    config = network.directory / "config.yaml"
    answers = []
    with traffic(network) as echoes:
        texts = (
            "limits: {max-tcp-flows: many}",
            f'stack: {{forwards: {{"203.0.113.9:80": "{GUEST_ADDR}:80"}}}}',
        )
        for text in texts:
            config.write_text(text)
            status, content = daemon.api("/restart", {})
            assert status == 500, content
            answers.append(content.decode().strip())
        # Lines of the log may come a moment later.
        wait_for(lambda: len(refusals(daemon)) == len(texts), "the lines of the log", 10)
        assert refusals(daemon) == answers
        count = {echo: echo.blocks for echo in echoes}
        wait_for(lambda: all(echo.blocks > count[echo] + 2 for echo in echoes), "all go on", 20)
        all_works(network)
    assert daemon.events("taken over from a predecessor") == []


@pytest.mark.parametrize("kind", ["qemu", "bess", "vfkit"])
def test_guests_of_other_links_go_on(network: Network, outside: Servers, kind: str) -> None:
    path, own_path = network.directory / f"{kind}.sock", network.directory / "machine.sock"
    scheme = {"qemu": "unix", "bess": "unixpacket", "vfkit": "unixgram"}[kind]
    flags = ("-listen-qemu", "")
    with Restartable(network, *flags, f"-listen-{kind}", f"{scheme}://{path}") as daemon:
        made = {
            "qemu": lambda: foreign.qemu(network.guest, path),
            "bess": lambda: foreign.bess(network.guest, path),
            "vfkit": lambda: foreign.vfkit(network.guest, path, own_path),
        }[kind]
        with made() as guest:
            guest.ping()
            for _ in range(2):
                daemon.restart()
                guest.ping()
                new_connection(network)
        wait_for(lambda: not json.loads(daemon.api("/cam")[1]), "the guest is missed", 20)
        # The next guest arrives at the same socket.
        with made() as guest:
            guest.ping()
            new_connection(network)


def test_a_stream_that_is_cut_within_a_frame_goes_on(network: Network, outside: Servers) -> None:
    with Restartable(network) as daemon:
        machine = Machine(network, daemon)
        frame = machine.ask()
        machine.send(frame)
        assert machine.answered()
        for part in (2, 30):
            left = machine.send(frame, part=part)
            time.sleep(0.2)
            daemon.restart()
            machine.sock.sendall(left)
            assert machine.answered()
        machine.sock.close()


def test_a_tap_in_a_namespace_goes_on(network: Network, outside: Servers) -> None:
    with Restartable(network, "-link", f"tap+eth0?netns={network.guest.name}") as daemon:
        network.guest.ip("address", "add", f"{GUEST_ADDR}/24", "dev", "eth0")
        network.guest.ip("route", "add", "default", "via", GATEWAY_ADDR)
        before = network.guest.run("ip", "-o", "link", "show", "eth0").stdout
        new_connection(network)
        daemon.restart()
        new_connection(network)
        assert network.guest.run("ip", "-o", "link", "show", "eth0").stdout == before
    assert "eth0" not in network.guest.run("ip", "-o", "link").stdout, "the tap went with the daemon"


POLICY = """
egress-policy:
  default: deny
  rules:
    - {action: allow, names: ["www.example.test"]}
"""


def test_names_that_guests_know_hold_after_a_restart(network: Network, outside: Servers) -> None:
    """A program looks a name up once, and connects for as long as it runs."""
    path = network.directory / "names.yaml"
    path.write_text(POLICY)
    with Restartable(network, "-config", str(path)) as daemon, Agent(network.guest, daemon.socket) as agent:
        assert agent.run("connect", INTERNET_ADDR, ECHO)["errno"] != ""
        assert agent.run("resolve", GATEWAY_ADDR, "www.example.test", "A", "udp")["answers"] == [
            INTERNET_ADDR
        ]
        assert agent.run("connect", INTERNET_ADDR, ECHO)["errno"] == ""
        for _ in range(2):
            daemon.restart()
            assert agent.run("connect", INTERNET_ADDR, ECHO)["errno"] == ""
        # The flow that was refused at first is refused for another guest.
        with Agent(network.guests[1], daemon.socket, mac="02:00:00:00:00:02") as other:
            assert other.run("connect", INTERNET_ADDR, ECHO)["errno"] != ""


def test_no_link_gets_a_number_that_a_rule_means_for_another_one(network: Network, outside: Servers) -> None:
    """Rules about links (link:N) outlive a restart. Links are numbered on, also after ingress has died."""
    with Restartable(network) as daemon:
        daemon.expect_errors = True

        def come_and_go() -> int:
            count = len(daemon.events("guest connected"))
            with socket.socket(socket.AF_UNIX) as machine:
                machine.connect(str(daemon.qemu_socket))
                wait_for(lambda: len(daemon.events("guest connected")) > count, "the link")
            return int(daemon.events("guest connected")[-1]["link"])

        numbers = [come_and_go() for _ in range(3)]
        daemon.restart()
        numbers.append(come_and_go())
        daemon.restart()
        numbers.append(come_and_go())
        kill(daemon, "ingress")
        numbers.append(come_and_go())
        assert numbers == sorted(set(numbers)), numbers


def test_a_card_on_vhost_user_goes_on_after_its_monitor_has_connected_again(
    network: Network, outside: Servers
) -> None:
    path = network.directory / "vhost.sock"
    flags = ("-listen-vhost-user", f"unix://{path}")
    with Restartable(network, *flags) as daemon, foreign.vhost_user(network.guest, path) as guest:
        guest.ping()
        inode = path.stat().st_ino
        for times in (2, 3):
            daemon.restart()
            wait_for(lambda times=times: len(daemon.events("guest connected")) >= times, "the card", 20)
            guest.ping()
            assert guest.run("transfer", INTERNET_ADDR, DATA, MIB, MIB)["errors"] == []
        assert path.stat().st_ino == inode
    assert not path.exists()


@pytest.mark.skipif(bool(sshd.missing()), reason=sshd.missing() or "available")
def test_a_forward_over_ssh_leads_into_the_guest_after_a_restart(network: Network, outside: Servers) -> None:
    path = network.directory / "inward.sock"
    server = sshd.Sshd(network.guest, network.directory)
    server.start()
    try:
        with (
            Restartable(network, *forward_flags(server, path)) as daemon,
            Agent(network.guest, daemon.socket),
        ):
            assert ask(path, b"before") == sshd.answer_to(b"before")
            inode = path.stat().st_ino
            for data in (b"one", b"two"):
                with socket.socket(socket.AF_UNIX) as under_way:
                    under_way.settimeout(30)
                    under_way.connect(str(path))
                    under_way.sendall(b"half of")
                    daemon.restart()
                    # This connection was the old daemon's.
                    assert under_way.recv(100) == b""
                assert ask(path, data) == sshd.answer_to(data)
            assert path.stat().st_ino == inode
        assert not path.exists()
    finally:
        server.stop()
