"""A daemon on an acted macOS between real guests and servers: kqueue, pipes, streams between its processes.

See tests.support.other_system. A ping to outside is not among it: Linux gives sockets their own identifiers.
"""

import json
from collections.abc import Iterator

import pytest

from tests.support import foreign
from tests.support.agent import GATEWAY_ADDR, GUEST_ADDR, Agent, run_client
from tests.support.daemon import Daemon
from tests.support.netns import INTERNET_ADDR, Network, wait_for
from tests.support.servers import DATA, ECHO, HTTP, LATE, PAGE, RESET, SLOW, UDP_ECHO, Servers

pytestmark = pytest.mark.e2e

MIB = 1 << 20
LOCAL = "127.0.0.1"


@pytest.fixture(params=["separate", "auto"])
def daemon(request: pytest.FixtureRequest, network: Network, outside: Servers) -> Iterator[Daemon]:
    """The daemon as on macOS; stopped and audited behind the test."""
    with Daemon(network, "-placement", request.param, system="darwin") as made:
        yield made


def test_a_guest_reaches_what_is_outside(agent: Agent) -> None:
    assert agent.run("transfer", INTERNET_ADDR, DATA, 8 * MIB, 8 * MIB, 8)["errors"] == []
    assert agent.run("late", INTERNET_ADDR, SLOW, 4 * MIB) == {"answer": f"late {4 * MIB}"}
    assert agent.run("reset", INTERNET_ADDR, RESET) == {"errno": "ECONNRESET"}
    assert agent.run("connect", INTERNET_ADDR, 9)["errno"] == "ECONNREFUSED"
    for size in (1, 1400, 8000):
        assert agent.run("udp", INTERNET_ADDR, UDP_ECHO, size, 10)["received"] == 10, size
    assert agent.run("burst", INTERNET_ADDR, UDP_ECHO, "1400*30,0,7*5", 3)["received"] == 108


def test_names_are_resolved(agent: Agent) -> None:
    for protocol in ("udp", "tcp"):
        found = agent.run("resolve", GATEWAY_ADDR, "www.example.test", "A", protocol)
        assert found["answers"] == [INTERNET_ADDR], protocol
    # Too long for a datagram: the resolver asks upstream over TCP.
    assert len(agent.run("resolve", GATEWAY_ADDR, "many.example.test", "A", "tcp")["answers"]) == 100


def test_the_host_reaches_servers_in_the_guest(daemon: Daemon, network: Network, inside: Servers) -> None:
    daemon.expose(f"{LOCAL}:9000", f"{GUEST_ADDR}:{DATA}")
    daemon.expose(f"{LOCAL}:9001", f"{GUEST_ADDR}:{LATE}")
    daemon.expose(f"{LOCAL}:9002", f"{GUEST_ADDR}:{HTTP}")
    daemon.expose(f"{LOCAL}:9003", f"{GUEST_ADDR}:{UDP_ECHO}", "udp")
    assert run_client(network.host, "transfer", LOCAL, 9000, MIB, MIB, 20)["errors"] == []
    assert run_client(network.host, "late", LOCAL, 9001, MIB) == {"answer": f"late {MIB}"}
    assert network.host.run("curl", "-sS", f"http://{LOCAL}:9002/").stdout.encode() == PAGE
    assert run_client(network.host, "udp", LOCAL, 9003, 1400, 10)["received"] == 10


def test_two_egress_workers_share_the_connections(network: Network, outside: Servers) -> None:
    flags = ("-egress-workers", "2", "-tcp-workers", "2")
    with (
        Daemon(network, *flags, system="darwin") as daemon,
        Agent(network.guest, daemon.socket) as agent,
    ):
        inside = Servers(agent.guest, network.directory)
        daemon.expose(f"{LOCAL}:9000", f"{GUEST_ADDR}:{ECHO}")
        socks = [network.host.connect(LOCAL, 9000) for _ in range(6)]
        for number, sock in enumerate(socks):
            sock.sendall(b"%d" % number)
        assert [sock.recv(100) for sock in socks] == [b"%d" % number for number in range(6)]
        for sock in socks:
            sock.close()
        inside.close()


def test_vfkit_machines_come_one_after_the_other(network: Network, outside: Servers) -> None:
    path, own_path = network.directory / "vfkit.sock", network.directory / "machine.sock"
    with Daemon(network, "-listen-vfkit", f"unixgram://{path}", system="darwin") as daemon:
        for _ in range(2):
            with foreign.vfkit(network.guest, path, own_path) as guest:
                guest.ping()
                assert guest.run("transfer", INTERNET_ADDR, DATA, MIB, MIB, 2)["errors"] == []
            wait_for(lambda: json.loads(daemon.api("/cam")[1]) == {}, "the machine is missed")
